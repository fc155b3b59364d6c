/* One end of a connection between hosts, by calls of one kind; every byte is checked. Alone, or both ends of it as two processes:
 *
 *   between server|client ADDRESS PORT HOW COUNT BYTES [MORE]
 *
 * HOW: p (answers), o (one way), e (answers, by poll), s (answers, by select, without blocking), f (answers; a forked child does the last
 * third). COUNT messages of BYTES. MORE: the client waits so many seconds before it closes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

static char how;
static unsigned long offset_in, offset_out;

static unsigned char value(unsigned long at) { return (unsigned char)(at * 2654435761u >> 13); }

static void fail(const char *what)
{
    printf("%s: %s after %lu in, %lu out\n", what, strerror(errno), offset_in, offset_out);
    exit(1);
}

/* Until the connection is readable or writable, in this program's way. */
static void ready(int fd, short events)
{
    if (how == 'e') {
        struct pollfd entry = { fd, events, 0 };
        if (poll(&entry, 1, -1) != 1)
            fail("poll");
    } else if (how == 's') {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        if (select(fd + 1, events == POLLIN ? &set : NULL, events == POLLOUT ? &set : NULL, NULL, NULL) != 1)
            fail("select");
    }
}

static void in(int fd, unsigned char *buffer, long bytes)
{
    for (long got = 0; got < bytes;) {
        ready(fd, POLLIN);
        long n = recv(fd, buffer + got, bytes - got, 0);
        if (n < 0 && errno == EAGAIN && how == 's')
            continue;
        if (n < 0)
            fail("recv");
        if (n == 0) {
            printf("end of the stream after %lu\n", offset_in);
            exit(2);
        }
        for (long i = 0; i < n; i++, offset_in++)
            if (buffer[got + i] != value(offset_in)) {
                printf("WRONG byte at %lu: %d for %d\n", offset_in, buffer[got + i], value(offset_in));
                exit(3);
            }
        got += n;
    }
}

static void out(int fd, unsigned char *buffer, long bytes)
{
    for (long i = 0; i < bytes; i++)
        buffer[i] = value(offset_out + i);
    for (long sent = 0; sent < bytes;) {
        ready(fd, POLLOUT);
        long n = send(fd, buffer + sent, bytes - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN && how == 's')
            continue;
        if (n < 0)
            fail("send");
        sent += n;
        offset_out += n;
    }
}

/* The last third of the messages is a child's. */
static void hand_on(long message, long count)
{
    if (how != 'f' || message != count * 2 / 3)
        return;
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0)
        return;
    int status;
    waitpid(child, &status, 0);
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 9);
}

int main(int arguments, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (arguments < 7)
        return 64;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(words[3])) };
    inet_pton(AF_INET, words[2], &address.sin_addr);
    how = words[4][0];
    long count = atol(words[5]), bytes = atol(words[6]);
    unsigned char *buffer = malloc(bytes);
    bool server = strcmp(words[1], "server") == 0;
    int fd = -1, one = 1;
    if (server) {
        int listener = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (void *)&address, sizeof address) || listen(listener, 9))
            fail("listen");
        puts("listens");
        fd = accept(listener, NULL, NULL);
    } else {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (void *)&address, sizeof address))
            fail("connect");
    }
    if (how == 's')
        fcntl(fd, F_SETFL, O_NONBLOCK);
    for (long message = 0; message < count; message++) {
        if (server)
            in(fd, buffer, bytes);
        if (server ? how != 'o' : true)
            out(fd, buffer, bytes);
        if (!server && how != 'o')
            in(fd, buffer, bytes);
        hand_on(message, count);
    }
    if (!server && arguments > 7)
        sleep(atoi(words[7]));
    if (server) {
        ready(fd, POLLIN);
        long n = recv(fd, buffer, 1, 0);
        if (n < 0)
            fail("the end");
        printf("%lu in, then %ld\n", offset_in, n);
    } else {
        printf("%lu out, %lu in\n", offset_out, offset_in);
    }
    close(fd);
    return 0;
}
