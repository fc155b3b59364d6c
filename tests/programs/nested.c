/* epoll sets nested up to five deep, waited on at every depth; an epoll descriptor in poll and select. */
#include "common.h"
#define DEEP 5

static void scenario(int fd)
{
    char byte;
    if (is_server) {
        for (int i = 0; i < 3 * DEEP + 2; i++) {
            recv_all(fd, &byte, 1);
            send_all(fd, "n", 1);
        }
        close_after_peer(fd);
        return;
    }
    int set[DEEP], below = fd, deep = 0;
    struct epoll_event event;
    for (int i = 0; i < DEEP; i++) {
        set[i] = need(epoll_create1(EPOLL_CLOEXEC));
        event = (struct epoll_event){ .events = EPOLLIN, .data.u32 = 100 + i };
        if (report("add", epoll_ctl(set[i], EPOLL_CTL_ADD, below, &event)) < 0) break;
        below = set[i];
        deep++;
    }
    for (int level = 0; level < deep; level++)
        for (int round = 0; round < 3; round++) {
            report("quiet", epoll_wait(set[level], &event, 1, 0));
            send_all(fd, "q", 1);
            report("epoll_wait", epoll_wait(set[level], &event, 1, 10000));
            say("level %d data %d %s", level, event.data.u32, events_text(event.events));
            recv_all(fd, &byte, 1);
        }
    struct pollfd look = { set[0], POLLIN, 0 };
    report("poll of a quiet set", poll(&look, 1, 0));
    send_all(fd, "q", 1);
    report("poll of a set", poll(&look, 1, 10000));
    say("%s", events_text(look.revents));
    recv_all(fd, &byte, 1);
    fd_set in;
    FD_ZERO(&in);
    FD_SET(set[1], &in);
    send_all(fd, "q", 1);
    report("select of a set", select(set[1] + 1, &in, NULL, NULL, &(struct timeval){ 10, 0 }));
    recv_all(fd, &byte, 1);
    for (int left = deep; left < DEEP; left++) /* the server's count */
        for (int round = 0; round < 3; round++) {
            send_all(fd, "q", 1);
            recv_all(fd, &byte, 1);
        }
    for (int i = 0; i < DEEP; i++) close(set[i]);
    close(fd);
}
PAIR_MAIN(scenario)
