/* The loads of scripts/bench-guest: blocking calls on one TCP connection. In C, with plain accept, because librspreload
 * knows no accept4; every connection is closed by its program, because under librspreload nobody else does. Before anything
 * is measured messages go back and forth for a while (LOAD_WARM_UP, seconds), so that whoever carries the connection has
 * taken it up.
 *
 *   load serve ADDRESS PORT                      serves one connection after the other, until killed
 *   load trips ADDRESS PORT SIZE COUNT           prints: median and 99th percentile of a round trip, microseconds
 *   load stream ADDRESS PORT CHUNK BYTES         prints: MB/s, until the server has read the last byte
 *   load idle ADDRESS PORT SECONDS               prints: "idle", and both ends wait for so long: what that costs is seen from outside
 *   load connect ADDRESS PORT COUNT              prints: median and slowest connect, microseconds
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct request {
    uint64_t size;  /* of a message, or of a chunk */
    uint64_t total; /* bytes of a stream; 0: messages go back until the client closes */
    uint64_t idle;  /* nothing is sent until the client says that it is over */
};

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "connection closed");
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void send_all(int fd, const char *buffer, size_t length)
{
    while (length > 0) {
        ssize_t done = send(fd, buffer, length, 0);
        if (done < 0)
            die("send");
        buffer += done;
        length -= (size_t)done;
    }
}

/* 0: the other end has closed before the first byte. */
static int receive_all(int fd, char *buffer, size_t length)
{
    for (size_t have = 0; have < length;) {
        errno = 0;
        ssize_t done = recv(fd, buffer + have, length - have, 0);
        if (done == 0 && have == 0)
            return 0;
        if (done <= 0)
            die("recv");
        have += (size_t)done;
    }
    return 1;
}

static void *allocated(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        die("calloc");
    return memory;
}

static struct sockaddr_in parsed(const char *address, const char *port)
{
    struct sockaddr_in parsed = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &parsed.sin_addr) != 1)
        die(address);
    return parsed;
}

static void no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void serve_one(int fd)
{
    struct request request;
    char message[64] = {0};
    while (!message[0]) {
        if (!receive_all(fd, message, sizeof message))
            return;
        send_all(fd, message, sizeof message);
    }
    if (!receive_all(fd, (char *)&request, sizeof request))
        return;
    if (request.idle) {
        receive_all(fd, message, 1);
        send_all(fd, message, 1);
        return;
    }
    char *buffer = allocated(1, request.size);
    if (request.total == 0) {
        while (receive_all(fd, buffer, request.size))
            send_all(fd, buffer, request.size);
    } else {
        for (uint64_t left = request.total; left > 0;) {
            ssize_t done = recv(fd, buffer, request.size, 0);
            if (done <= 0)
                die("recv");
            left -= (uint64_t)done;
        }
        send_all(fd, "!", 1);
    }
    free(buffer);
}

static void serve(const struct sockaddr_in *at)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (const struct sockaddr *)at, sizeof *at) < 0 || listen(listener, 128) < 0)
        die("listen");
    puts("listening");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            die("accept");
        no_delay(fd);
        serve_one(fd);
        close(fd);
    }
}

static int connected(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0)
        die("connect");
    no_delay(fd);
    return fd;
}

/* The last message says so. */
static void warm_up(int fd)
{
    const char *seconds = getenv("LOAD_WARM_UP");
    double until = now() + (seconds ? strtod(seconds, NULL) : 0.5) * 1e6;
    for (char message[64] = {0}; !message[0];) {
        message[0] = now() > until;
        char answer[sizeof message];
        send_all(fd, message, sizeof message);
        if (!receive_all(fd, answer, sizeof answer))
            die("recv");
    }
}

static void idle(int fd, double seconds)
{
    struct request request = {.size = 1, .idle = 1};
    struct pollfd nothing = {.fd = fd, .events = POLLIN};
    char answer;
    warm_up(fd);
    send_all(fd, (char *)&request, sizeof request);
    puts("idle");
    fflush(stdout);
    if (poll(&nothing, 1, (int)(seconds * 1e3)) != 0)
        die("poll");
    send_all(fd, "", 1);
    if (!receive_all(fd, &answer, 1))
        die("recv");
    close(fd);
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void trips(int fd, size_t size, size_t count)
{
    struct request request = {.size = size};
    char *buffer = allocated(1, size);
    double *took = allocated(count, sizeof *took);
    warm_up(fd);
    send_all(fd, (char *)&request, sizeof request);
    for (size_t i = 0; i < count; i++) {
        double before = now();
        send_all(fd, buffer, size);
        if (!receive_all(fd, buffer, size))
            die("recv");
        took[i] = now() - before;
    }
    close(fd);
    qsort(took, count, sizeof *took, ascending);
    printf("%.2f %.2f\n", took[count / 2], took[count * 99 / 100]);
}

static void stream(int fd, size_t chunk, uint64_t total)
{
    struct request request = {.size = chunk, .total = total};
    char *buffer = allocated(1, chunk), answer;
    warm_up(fd);
    double started = now();
    send_all(fd, (char *)&request, sizeof request);
    for (uint64_t left = total; left > 0;) {
        size_t part = left < chunk ? (size_t)left : chunk;
        send_all(fd, buffer, part);
        left -= part;
    }
    if (!receive_all(fd, &answer, 1))
        die("recv");
    double ended = now();
    close(fd);
    printf("%.2f\n", (double)total / (ended - started));
}

static void connects(const struct sockaddr_in *to, size_t count)
{
    double *took = allocated(count, sizeof *took);
    for (size_t i = 0; i < count; i++) {
        double before = now();
        int fd = connected(to);
        took[i] = now() - before;
        close(fd);
    }
    qsort(took, count, sizeof *took, ascending);
    printf("%.2f %.2f\n", took[count / 2], took[count - 1]);
}

/* One connection after the other, each for as long as a warm-up takes. */
static void meets(const struct sockaddr_in *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int fd = connected(to);
        warm_up(fd);
        close(fd);
    }
    printf("%zu\n", count);
}

int main(int count, char **words)
{
    const char *what = count > 3 ? words[1] : "";
    struct sockaddr_in at = count > 3 ? parsed(words[2], words[3]) : (struct sockaddr_in){0};
    if (count == 4 && strcmp(what, "serve") == 0)
        serve(&at);
    else if (count == 6 && strcmp(what, "trips") == 0)
        trips(connected(&at), strtoull(words[4], NULL, 10), strtoull(words[5], NULL, 10));
    else if (count == 6 && strcmp(what, "stream") == 0)
        stream(connected(&at), strtoull(words[4], NULL, 10), strtoull(words[5], NULL, 10));
    else if (count == 5 && strcmp(what, "idle") == 0)
        idle(connected(&at), strtod(words[4], NULL));
    else if (count == 5 && strcmp(what, "connect") == 0)
        connects(&at, strtoull(words[4], NULL, 10));
    else if (count == 5 && strcmp(what, "meet") == 0)
        meets(&at, strtoull(words[4], NULL, 10));
    else
        return fprintf(stderr, "usage: load serve|trips|stream|idle|connect|meet ADDRESS PORT ...\n"), 2;
    return 0;
}
