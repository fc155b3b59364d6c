/* Many connections between one pair of processes, every byte checked.
 *   crowd serve ADDRESS PORT           answers what comes, until killed
 *   crowd hold ADDRESS PORT COUNT      that many at once, each with messages back and forth; ends after SIGTERM
 *   crowd short ADDRESS PORT COUNT MS  one after the other: most are over in a moment, each fiftieth lives so long; then it waits
 *                                      for SIGTERM
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 64

static volatile sig_atomic_t over;

static void end(int signal) { over = signal; }

static void die(const char *what)
{
    printf("%s: %s\n", what, errno ? strerror(errno) : "the other end has closed, or other bytes came");
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int connected(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0) die("connect");
    no_delay(fd);
    return fd;
}

static void say(int fd, int number, unsigned round)
{
    unsigned message[MESSAGE / sizeof(unsigned)];
    for (unsigned i = 0; i < MESSAGE / sizeof(unsigned); i++) message[i] = (unsigned)number * 2654435761u + round * 40503u + i;
    if (send(fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE) die("send");
}

static void hear(int fd, int number, unsigned round)
{
    unsigned message[MESSAGE / sizeof(unsigned)];
    errno = 0;
    if (recv(fd, message, MESSAGE, MSG_WAITALL) != MESSAGE) die("recv");
    for (unsigned i = 0; i < MESSAGE / sizeof(unsigned); i++)
        if (message[i] != (unsigned)number * 2654435761u + round * 40503u + i) die("what came back");
}

static void hold(const struct sockaddr_in *to, int count)
{
    int *fds = calloc((size_t)count, sizeof *fds);
    unsigned round = 0;
    for (int i = 0; i < count; i++) fds[i] = connected(to);
    puts("connected");
    for (; !over || round < 6; round++) {
        for (int i = 0; i < count; i++) say(fds[i], i, round);
        for (int i = 0; i < count; i++) hear(fds[i], i, round);
    }
    for (int i = 0; i < count; i++) close(fds[i]);
    printf("%d connections, every byte right\n", count);
}

static void shorts(const struct sockaddr_in *to, int count, int life)
{
    for (int i = 0; i < count; i++) {
        int fd = connected(to);
        double until = now() + (i % 50 ? 0 : life / 1e3);
        for (unsigned round = 0; round < 5 || now() < until; round++) {
            say(fd, i, round);
            hear(fd, i, round);
        }
        close(fd);
    }
    printf("%d connections, every byte right\n", count);
    while (!over) pause();
}

/* A socket that does not block may have no room: then there will be some. */
static void answer(int fd, const char *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t sent = send(fd, bytes + done, count - done, MSG_NOSIGNAL);
        if (sent > 0) done += (size_t)sent;
        else if (errno == EAGAIN) poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1);
        else die("send");
    }
}

static void serve(const struct sockaddr_in *at)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), set = epoll_create1(EPOLL_CLOEXEC);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (const struct sockaddr *)at, sizeof *at) < 0 || listen(listener, 4096) < 0) die("listen");
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener });
    puts("listens");
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(set, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            char bytes[16 * MESSAGE];
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
                    no_delay(fd);
                    epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.fd = fd });
                }
                continue;
            }
            ssize_t got = recv(fd, bytes, sizeof bytes, 0);
            if (got > 0) {
                answer(fd, bytes, (size_t)got);
            } else if (got == 0 || errno != EAGAIN) {
                close(fd);
            }
        }
    }
}

int main(int count, char **words)
{
    struct rlimit files;
    struct sockaddr_in at = { .sin_family = AF_INET };
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, end);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count < 4 || inet_pton(AF_INET, words[2], &at.sin_addr) != 1) return 2;
    at.sin_port = htons((unsigned short)atoi(words[3]));
    if (strcmp(words[1], "serve") == 0) serve(&at);
    else if (strcmp(words[1], "hold") == 0 && count == 5) hold(&at, atoi(words[4]));
    else if (strcmp(words[1], "short") == 0 && count == 6) shorts(&at, atoi(words[4]), atoi(words[5]));
    else return 2;
    return 0;
}
