/* SIGSTOP and SIGCONT with no handler under epoll_wait (EINTR), poll and recv (nothing). The server stops the client. */
#include "common.h"

static void stop_and_continue(int slot)
{
    await(slot);
    int pid = page->pid[1];
    wait_state(pid, pid, 'S');
    need(kill(pid, SIGSTOP));
    wait_state(pid, pid, 'T');
    need(kill(pid, SIGCONT));
    wait_state(pid, pid, 'S');
}
static void scenario(int fd)
{
    char byte;
    if (is_server) {
        for (int slot = 0; slot < 4; slot++) {
            stop_and_continue(slot);
            send_all(fd, "s", 1);
        }
        close_after_peer(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    tell(0);
    report("epoll_wait", epoll_wait(set, &event, 1, 10000));
    recv_all(fd, &byte, 1);
    tell(1);
    report("poll", poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 10000));
    recv_all(fd, &byte, 1);
    tell(2);
    report("recv", recv(fd, &byte, 1, 0));
    tell(3);
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    report("select", select(fd + 1, &in, NULL, NULL, &(struct timeval){ 10, 0 }));
    recv_all(fd, &byte, 1);
    close(set);
    close(fd);
}
PAIR_MAIN(scenario)
