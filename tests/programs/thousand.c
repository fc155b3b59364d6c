/* A hundred processes with ten connections each to one server. When the harness has stopped policyd (slots 60, 61), every
 * other process closes its connections and the rest die by SIGKILL: the server sees a thousand ends at once. */
#include "common.h"
#define PROCESSES 100
#define EACH 10
#define ALL (PROCESSES * EACH)

static void child(int number)
{
    int fds[EACH];
    char byte = 'c';
    many_connections(fds, EACH);
    for (int round = 0; round < 12; round++)
        for (int i = 0; i < EACH; i++) {
            send_all(fds[i], &byte, 1);
            recv_all(fds[i], &byte, 1);
        }
    tell(0);
    await(61);
    if (number % 2) kill(getpid(), SIGKILL);
    for (int i = 0; i < EACH; i++) close(fds[i]);
    tell(1);
    await(2);
    _exit(0);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    if (!is_server) {
        while (!page->port) nap(1);
        for (int i = 0; i < PROCESSES; i++) {
            pid_t pid = need(fork());
            if (!pid) child(i);
        }
        await_count(0, PROCESSES);
        nap(50);
        tell(60);
        await(61);
        int killed = 0, fine = 0, status;
        while (waitpid(-1, &status, 0) > 0) {
            killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
            fine += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        }
        say("killed %d, fine %d", killed, fine);
        return 0;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC)), ended = 0, errors = 0;
    publish(listener = new_listener(INADDR_LOOPBACK, 0, 2048));
    need(epoll_ctl(set, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener }));
    uint64_t stopped_at = 0, last = 0;
    while (ended < ALL) {
        struct epoll_event events[64];
        int n = epoll_wait(set, events, 64, 10000);
        if (n <= 0) die("%d ended, then nothing for 10 s", ended);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            char byte;
            if (fd == listener) {
                fd = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
                no_delay(fd);
                need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.fd = fd }));
                continue;
            }
            ssize_t got = recv(fd, &byte, 1, 0);
            if (got == 1) {
                send_all(fd, &byte, 1);
            } else if (got == 0 || errno != EAGAIN) {
                errors += got < 0;
                close(fd);
                ended++;
                last = now_us();
                if (!stopped_at) stopped_at = last;
            }
        }
    }
    say("ended %d, errors %d, all within 2 s %d", ended, errors, last - stopped_at < 2000000);
    tell(2);
    return 0;
}
