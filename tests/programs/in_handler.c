/* A signal handler makes calls on the very connection that the thread it interrupts is in a call on: nothing hangs, and every byte of
 * both comes. The stream's bytes are below 128; a handler's are 255. First argument: the handlers' calls do not `wait`, or `may`. */
#include "common.h"
#include <sys/time.h>
#define BYTES (6u << 20)
#define PIECE 5000
#define MARK 255

static volatile int connection = -1;
static volatile long sent, refused, odd;
static bool waits;

static void on_signal(int number)
{
    int error = errno, there = 0, fd = connection;
    char byte;
    unsigned char mark = MARK;
    if (fd < 0) return;
    ioctl(fd, FIONREAD, &there);
    struct pollfd look = { fd, POLLIN | POLLOUT, 0 };
    poll(&look, 1, 0);
    ssize_t seen = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    odd += seen < 0 && errno != EAGAIN && errno != EINTR;
    if (!is_server) {
        ssize_t n = send(fd, &mark, 1, MSG_NOSIGNAL | (waits ? 0 : MSG_DONTWAIT));
        if (n == 1) sent++;
        else refused++;
        odd += n < 0 && errno != EAGAIN && (errno != EINTR || !waits);
    }
    errno = error;
}
static void storm(int us)
{
    struct itimerval every = { { 0, us }, { 0, us } };
    need(setitimer(ITIMER_REAL, &every, NULL));
}
static void scenario(int fd)
{
    static unsigned char bytes[PIECE * 3];
    waits = !strcmp(args[0], "may");
    sent = refused = odd = 0;
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    need(sigaction(SIGALRM, &action, NULL));
    connection = fd;
    storm(is_server ? 700 : 300);
    uint64_t at = 0, marks = 0, wrong = 0;
    if (is_server) {
        for (ssize_t n; (n = recv(fd, bytes, 1 + at % sizeof bytes, 0)) != 0;) {
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) die("recv: %s", errno_name());
            for (ssize_t i = 0; i < n; i++) {
                if (bytes[i] == MARK) marks++;
                else wrong += bytes[i] != (byte_at(at++, 60) & 127);
            }
        }
        storm(0);
        connection = -1;
        await(1);
        say("%lu bytes, wrong %lu, every mark %d, odd %ld", (unsigned long)at, (unsigned long)wrong, marks == page->word[2], odd);
    } else {
        while (at < BYTES) {
            fill(bytes, at, PIECE, 60);
            for (int i = 0; i < PIECE; i++) bytes[i] &= 127;
            for (size_t put = 0; put < PIECE;) {
                ssize_t n = send(fd, bytes + put, PIECE - put, MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR) continue;
                if (n <= 0) die("send: %s", errno_name());
                put += n;
            }
            at += PIECE;
        }
        storm(0);
        connection = -1;
        page->word[2] = sent;
        tell(1);
        say("marks %d, odd %ld", sent > 10, odd);
    }
    if (is_server) close(fd);
    else shut_and_close(fd);
}
PAIR_MAIN(scenario)
