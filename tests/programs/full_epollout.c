/* A full socket registered for EPOLLOUT, level-triggered: epoll_wait sleeps until there is room, and does not spin. */
#include "common.h"

static void scenario(int fd)
{
    if (is_server) {
        await(0);
        take_right(fd, 0, page->word[0], 15);
        close_after_peer(fd);
        return;
    }
    uint64_t taken = stuff(fd, 0, 1u << 30, 15, 60000);
    int set = need(epoll_create1(EPOLL_CLOEXEC)), returns = 0;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    for (uint64_t end = now_us() + 100000; now_us() < end;) returns += epoll_wait(set, &event, 1, 20) > 0;
    say("returned while full: %s", returns == 0 ? "never" : returns < 10 ? "rarely" : "spins");
    page->word[0] = taken;
    tell(0);
    report("epoll_wait", epoll_wait(set, &event, 1, 10000));
    say("%s", events_text(event.events));
    close(set);
    close(fd);
}
PAIR_MAIN(scenario)
