/* A registered number is closed while the socket lives on by another: its entry stays and reports (epoll(7), question 6), cannot
 * be reached any more, and the number can be registered anew for something else. */
#include "common.h"

static void look(int set, const char *what)
{
    struct epoll_event events[8];
    int n = need(epoll_wait(set, events, 8, 10000)), old = 0, fresh = 0, other = 0;
    for (int i = 0; i < n; i++) {
        old += events[i].data.u64 == 1;
        fresh += events[i].data.u64 == 2;
        other += events[i].data.u64 > 2;
    }
    say("%s: old %d, new %d, other %d", what, old, fresh, other);
}
static void connected_pair(int ends[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listening = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    need(bind(listening, (struct sockaddr *)&address, size));
    need(listen(listening, 1));
    need(getsockname(listening, (struct sockaddr *)&address, &size));
    ends[1] = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    need(connect(ends[1], (struct sockaddr *)&address, size));
    ends[0] = need(accept(listening, NULL, NULL));
    close(listening);
}
static void scenario(int fd)
{
    char bytes[64];
    if (!is_server) {
        send_all(fd, "one", 3);
        await(0);
        send_all(fd, "two", 3);
        recv_all(fd, bytes, 1);
        send_all(fd, "three", 5);
        report("end", recv(fd, bytes, 1, 0));
        close(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC)), ends[2];
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.u64 = 1 }));
    look(set, "one came");
    recv_all(fd, bytes, 3);
    int kept = need(fcntl(fd, F_DUPFD, 200));
    close(fd);
    tell(0);
    wait_queued(kept, 3);
    look(set, "two came");
    recv_all(kept, bytes, 3);
    report("del", epoll_ctl(set, EPOLL_CTL_DEL, fd, &(struct epoll_event){ 0 }));
    connected_pair(ends);
    need(dup2(ends[0], fd));
    if (ends[0] != fd) close(ends[0]);
    report("add the number anew", epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.u64 = 2 }));
    send_all(ends[1], "p", 1);
    look(set, "the new one");
    report("read", read(fd, bytes, sizeof bytes));
    send_all(kept, "y", 1);
    wait_queued(kept, 5);
    look(set, "three came");
    recv_all(kept, bytes, 5);
    report("nothing", epoll_wait(set, &(struct epoll_event){ 0 }, 1, 50));
    close(kept);
    report("gone", epoll_wait(set, &(struct epoll_event){ 0 }, 1, 50));
    close(ends[1]);
    close(set);
    close(fd);
}
PAIR_MAIN(scenario)
