/* The two smallest loads on one TCP connection, with blocking calls, for scripts/bench.
 *
 *   socket_bench serve PORT                   serves one connection after the other, until killed
 *   socket_bench pingpong PORT SIZE COUNT     prints: round trips/s, 99th percentile in microseconds
 *   socket_bench stream PORT CHUNK BYTES      prints: MB/s, until the server has read the last byte
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct request {
    uint64_t size;  /* of a message, or of a chunk */
    uint64_t total; /* bytes of a stream; 0: ping-pong until the client closes */
};

enum { WARM_UP = 2000 };

static void die(const char *what)
{
    fprintf(stderr, "socket_bench: %s: %s\n", what, errno ? strerror(errno) : "connection closed");
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void write_all(int fd, const char *buffer, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, buffer, length);
        if (done < 0 && errno != EINTR)
            die("write");
        if (done > 0) {
            buffer += done;
            length -= (size_t)done;
        }
    }
}

/* 0: the other end has closed before the first byte */
static int read_all(int fd, char *buffer, size_t length)
{
    size_t have = 0;
    while (have < length) {
        ssize_t done = read(fd, buffer + have, length - have);
        if (done == 0 && have == 0)
            return 0;
        errno = done == 0 ? 0 : errno;
        if (done == 0 || (done < 0 && errno != EINTR))
            die("read");
        if (done > 0)
            have += (size_t)done;
    }
    return 1;
}

static char *filled(size_t size)
{
    char *buffer = malloc(size);
    if (!buffer)
        die("malloc");
    memset(buffer, 'x', size);
    return buffer;
}

static struct sockaddr_in address(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void serve_one(int fd)
{
    struct request request;
    if (!read_all(fd, (char *)&request, sizeof request))
        return;
    char *buffer = filled(request.size);
    if (request.total == 0) {
        while (read_all(fd, buffer, request.size))
            write_all(fd, buffer, request.size);
    } else {
        uint64_t left = request.total;
        while (left > 0) {
            ssize_t done = read(fd, buffer, request.size);
            if (done <= 0)
                die("read");
            left -= (uint64_t)done;
        }
        write_all(fd, "!", 1);
    }
    free(buffer);
}

static void serve(const char *port)
{
    struct sockaddr_in at = address(port);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 8) < 0)
        die("listen");
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            die("accept");
        no_delay(fd);
        serve_one(fd);
        close(fd);
    }
}

static int connected(const char *port)
{
    struct sockaddr_in to = address(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    no_delay(fd);
    return fd;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void pingpong(int fd, size_t size, size_t count)
{
    struct request request = {.size = size};
    char *buffer = filled(size);
    double *took = calloc(count, sizeof *took), started = 0;
    if (!took)
        die("calloc");
    write_all(fd, (char *)&request, sizeof request);
    for (size_t i = 0; i < WARM_UP + count; i++) {
        double before = now();
        if (i == WARM_UP)
            started = before;
        write_all(fd, buffer, size);
        if (!read_all(fd, buffer, size))
            die("read");
        if (i >= WARM_UP)
            took[i - WARM_UP] = now() - before;
    }
    double all = now() - started;
    qsort(took, count, sizeof *took, ascending);
    printf("%.0f %.2f\n", (double)count / all, took[count * 99 / 100] * 1e6);
}

static void stream(int fd, size_t chunk, uint64_t total)
{
    struct request request = {.size = chunk, .total = total};
    char *buffer = filled(chunk), answer;
    double started = now();
    write_all(fd, (char *)&request, sizeof request);
    for (uint64_t left = total; left > 0;) {
        size_t part = left < chunk ? (size_t)left : chunk;
        write_all(fd, buffer, part);
        left -= part;
    }
    if (!read_all(fd, &answer, 1))
        die("read");
    printf("%.0f\n", (double)total / (now() - started) / 1e6);
}

int main(int count, char **words)
{
    if (count == 3 && strcmp(words[1], "serve") == 0)
        serve(words[2]);
    else if (count == 5 && strcmp(words[1], "pingpong") == 0)
        pingpong(connected(words[2]), strtoull(words[3], NULL, 10), strtoull(words[4], NULL, 10));
    else if (count == 5 && strcmp(words[1], "stream") == 0)
        stream(connected(words[2]), strtoull(words[3], NULL, 10), strtoull(words[4], NULL, 10));
    else
        return fprintf(stderr, "usage: socket_bench serve PORT | pingpong PORT SIZE COUNT | stream PORT CHUNK BYTES\n"), 2;
    return 0;
}
