/* Edge-triggered, read as tokio reads: after a short read the next edge is waited for, unless the end was told. The peer sends more
 * than the receive buffer holds and shuts down at once: on TCP its FIN comes when there is room, and is an edge of its own. */
#include "common.h"
#define BYTES (3 << 20)

static void scenario(int fd)
{
    static char bytes[BYTES];
    if (is_server) {
        send_pattern(fd, 0, BYTES, 1);
        shutdown(fd, SHUT_WR);
        tell(0);
        report("end", recv(fd, bytes, 1, 0));
        close(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    nap(100);
    size_t total = 0;
    bool told = false;
    for (bool over = false; !over;) {
        if (need(epoll_wait(set, &event, 1, 10000)) == 0) break;
        told |= (event.events & EPOLLRDHUP) != 0;
        while (event.events & EPOLLIN) {
            /* No more than is there when it is asked for: what is read in full has not shown that nothing is left. */
            ssize_t n = recv(fd, bytes + total, BYTES - total < 200000 ? BYTES - total + 1 : 200000, MSG_DONTWAIT);
            if (n > 0) total += n;
            over = n == 0;
            if (n < 200000 && !told) break;
            if (n <= 0) break;
        }
    }
    say("bytes %zu, right %d, end told %d", total, right(bytes, 0, total, 1), told);
    close(set);
    shut_and_close(fd);
}
PAIR_MAIN(scenario)
