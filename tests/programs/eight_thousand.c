/* Many connections between two processes, held open.
 *
 *   eight_thousand server FOLDER LIMIT              echoes; LIMIT: its descriptors, by both limits, or (`300soft`) by the soft one
 *   eight_thousand client FOLDER LIMIT[soft] COUNT  COUNT connections, warm; then as many more as it gets
 *
 * In FOLDER: `port` by the server; the client exchanges something on all until there is `carried`, says `warm` and waits for `go`. Then each connection exchanges
 * once more, and the client opens connections until it gets no more, and says how many and why. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 20000
static char path[512];
static const char *in(const char *folder, const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}
static void die(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(1);
}
static void put(const char *file, int number)
{
    char aside[600];
    snprintf(aside, sizeof aside, "%s.new", file);
    FILE *out = fopen(aside, "w");
    fprintf(out, "%d", number);
    fclose(out);
    rename(aside, file);
}
static void serve(const char *folder)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
    if (bind(listener, (void *)&at, size) || listen(listener, 4096) || getsockname(listener, (void *)&at, &size)) die("listen");
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener };
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    put(in(folder, "port"), ntohs(at.sin_port));
    for (;;) {
        struct epoll_event found[256];
        int n = epoll_wait(set, found, 256, -1);
        for (int i = 0; i < n; i++) {
            char bytes[256];
            int fd = found[i].data.fd;
            if (fd == listener) {
                fd = accept(listener, NULL, NULL);
                if (fd < 0) die("accept");
                event = (struct epoll_event){ .events = EPOLLIN, .data.fd = fd };
                if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
                continue;
            }
            ssize_t got = recv(fd, bytes, sizeof bytes, 0);
            if (got > 0 && send(fd, bytes, got, MSG_NOSIGNAL) != got) die("send");
            if (got <= 0) close(fd);
        }
    }
}
static void exchange(int fd, int number)
{
    char bytes[32], back[32];
    int size = snprintf(bytes, sizeof bytes, "connection %d", number);
    if (send(fd, bytes, size, MSG_NOSIGNAL) != size) die("send");
    if (recv(fd, back, size, MSG_WAITALL) != size) die("recv");
    if (memcmp(bytes, back, size)) die("bytes");
}
static int fds[MOST];
int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit");
    limit.rlim_cur = atoi(argv[3]);
    if (!strstr(argv[3], "soft")) limit.rlim_max = limit.rlim_cur;
    if (setrlimit(RLIMIT_NOFILE, &limit)) die("setrlimit");
    if (!strcmp(argv[1], "server")) serve(argv[2]);
    int port, count = atoi(argv[4]);
    FILE *file = fopen(in(argv[2], "port"), "r");
    if (!file || fscanf(file, "%d", &port) != 1) die("port");
    fclose(file);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (int i = 0; i < count; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (fds[i] < 0 || connect(fds[i], (void *)&at, sizeof at)) die("connect");
        for (int round = 0; round < 6; round++) exchange(fds[i], i);
    }
    do {
        usleep(100000);
        for (int i = 0; i < count; i++) exchange(fds[i], i);
    } while (access(in(argv[2], "carried"), F_OK));
    put(in(argv[2], "warm"), count);
    while (access(in(argv[2], "go"), F_OK)) usleep(20000);
    for (int i = 0; i < count; i++) exchange(fds[i], i);
    int more = 0;
    for (; count + more < MOST; more++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) break;
        if (connect(fd, (void *)&at, sizeof at)) die("connect, of more");
        for (int round = 0; round < 5; round++) exchange(fd, more);
    }
    printf("%d connections, %d more, then %s\n", count, more, strerror(errno));
    return 0;
}
