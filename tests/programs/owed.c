/* The writer has written all that is taken without blocking and then only waits in epoll (poll, select: first argument):
 * whatever the switch still owes TCP must be pumped by that wait. The reader starts late. */
#include "common.h"

static bool wait_for(int fd, int set, bool out)
{
    if (!strcmp(args[0], "epoll")) {
        struct epoll_event event = { .events = EPOLLIN | (out ? EPOLLOUT : 0) };
        need(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
        return need(epoll_wait(set, &event, 1, 10000)) == 1;
    }
    if (!strcmp(args[0], "poll")) return need(poll(&(struct pollfd){ fd, POLLIN | (out ? POLLOUT : 0), 0 }, 1, 10000)) == 1;
    fd_set in, may;
    FD_ZERO(&in);
    FD_ZERO(&may);
    FD_SET(fd, &in);
    if (out) FD_SET(fd, &may);
    return need(select(fd + 1, &in, &may, NULL, &(struct timeval){ 10, 0 })) > 0;
}
static void scenario(int fd)
{
    char bytes[8];
    const uint64_t whole = 6 << 20;
    if (is_server) {
        int set = need(epoll_create1(EPOLL_CLOEXEC));
        need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN }));
        nonblocking(fd, true);
        uint64_t done = stuff(fd, 0, whole, 13, 40000);
        tell(0);
        while (done < whole) {
            if (!wait_for(fd, set, true)) die("no room within 10 s at %lu", (unsigned long)done);
            char chunk[40000];
            size_t n = sizeof chunk < whole - done ? sizeof chunk : whole - done;
            fill(chunk, done, n, 13);
            ssize_t sent = send(fd, chunk, n, MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN) die("send %s", errno_name());
            if (sent > 0) done += sent;
        }
        if (!wait_for(fd, set, false)) die("no answer within 10 s");
        nonblocking(fd, false);
        recv_all(fd, bytes, 1);
        say("answered");
        close(set);
    } else {
        await(0);
        nap(10);
        drain(fd, 0, whole, 13, 33333);
        send_all(fd, "y", 1);
        report("end", recv(fd, bytes, 1, 0));
    }
    close(fd);
}
PAIR_MAIN(scenario)
