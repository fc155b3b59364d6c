/* One connection is taken out of one epoll set and put into another, in turns, as programs do that pass connections between
 * event loops; at times it is in both. Whoever has it is told of every message. */
#include "common.h"
#define ROUNDS 400

static void scenario(int fd)
{
    if (!is_server) {
        char byte;
        for (int i = 0; i < ROUNDS; i++) {
            send_all(fd, "m", 1);
            recv_all(fd, &byte, 1);
        }
        close(fd);
        return;
    }
    int sets[2] = { need(epoll_create1(EPOLL_CLOEXEC)), need(epoll_create1(EPOLL_CLOEXEC)) };
    struct epoll_event event;
    bool edge = pass % 2;
    int missed = 0;
    for (int i = 0; i < ROUNDS; i++) {
        char byte;
        int at = i % 2;
        event = (struct epoll_event){ .events = EPOLLIN | (edge ? EPOLLET : 0), .data.u64 = i };
        need(epoll_ctl(sets[at], EPOLL_CTL_ADD, fd, &event));
        if (i % 7 == 3) need(epoll_ctl(sets[!at], EPOLL_CTL_ADD, fd, &event));
        int n = need(epoll_wait(sets[at], &event, 1, 2000));
        missed += n != 1 || event.data.u64 != (uint64_t)i;
        if (i % 7 == 3) missed += need(epoll_wait(sets[!at], &event, 1, 2000)) != 1;
        recv_all(fd, &byte, 1);
        need(epoll_ctl(sets[at], EPOLL_CTL_DEL, fd, &event));
        if (i % 7 == 3) need(epoll_ctl(sets[!at], EPOLL_CTL_DEL, fd, &event));
        send_all(fd, "y", 1);
    }
    say("%d missed", missed);
    close(sets[0]);
    close(sets[1]);
    close(fd);
}
PAIR_MAIN(scenario)
