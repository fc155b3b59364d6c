/* FIN has come while bytes are still unread: data, then EOF, and a poll loop that reads little at a time does not spin,
 * before or after the end. */
#include "common.h"

static void scenario(int fd)
{
    char bytes[1000];
    if (is_server) {
        send_pattern(fd, 0, 40000, 16);
        shutdown(fd, SHUT_WR);
        tell(0);
        close_after_peer(fd);
        return;
    }
    await(0);
    struct pollfd look = { fd, POLLRDHUP, 0 };
    report("poll", poll(&look, 1, 10000));
    say("%s", events_text(look.revents));
    int set = need(epoll_create1(EPOLL_CLOEXEC)), returns = 0, reads = 0;
    struct epoll_event event = { .events = EPOLLIN };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    for (uint64_t position = 0;;) {
        if (epoll_wait(set, &event, 1, 10000) != 1) die("no event at %lu", (unsigned long)position);
        returns++;
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n < 0) {
            if (errno != EAGAIN) die("recv %s", errno_name());
            continue;
        }
        reads++;
        if (n == 0) {
            say("EOF at %lu", (unsigned long)position);
            break;
        }
        if (!right(bytes, position, n, 16)) break;
        position += n;
    }
    say("events without data: %s", returns - reads < 10 ? "few" : "spins");
    /* after the end it is readable for ever, natively too; asked for output only, it says output only */
    event.events = EPOLLOUT | EPOLLET;
    need(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    report("epoll_wait", epoll_wait(set, &event, 1, 1000));
    say("%s", events_text(event.events & ~EPOLLRDHUP));
    close(set);
    close(fd);
}
PAIR_MAIN(scenario)
