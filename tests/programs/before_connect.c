/* What a program does to a socket before it is connected holds for the connection: `epoll`: it is registered, edge-triggered
 * (nginx does so with its upstreams); `dup`: it has a second number, by which the program goes on. */
#include "common.h"

static int set, other;

static int prepared(void)
{
    int fd = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!strcmp(args[0], "dup")) {
        other = need(fcntl(fd, F_DUPFD_CLOEXEC, 0));
        return fd;
    }
    set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = 7 };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    return fd;
}
static int connected(void)
{
    if (is_server) return next_connection();
    while (!atomic_load(&page->port)) nap(1);
    int fd = prepared();
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(page->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    need(connect(fd, (void *)&at, sizeof at));
    no_delay(fd);
    return fd;
}
static void await_edge(const char *what)
{
    struct epoll_event event = { 0 };
    int n = need(epoll_wait(set, &event, 1, 10000));
    say("%s: %d, %s, data %d", what, n, events_text(event.events), (int)event.data.u64);
}
/* Each message is waited for by an edge, taken as a whole, and nothing is asked for behind it. */
static void by_edges(int fd)
{
    char bytes[1000];
    if (is_server) {
        for (int round = 0; round < 8; round++) {
            await(round);
            send_pattern(fd, 0, sizeof bytes, round);
        }
        await(8);
        close_after_peer(fd);
        return;
    }
    while (epoll_wait(set, &(struct epoll_event){ 0 }, 1, 50)) {} /* the warm-up's */
    for (int round = 0; round < 8; round++) {
        tell(round);
        await_edge("edge");
        wait_queued(fd, sizeof bytes);
        report("taken", recv(fd, bytes, sizeof bytes, 0));
        say("right %d", right(bytes, 0, sizeof bytes, round));
    }
    tell(8);
    shutdown(fd, SHUT_WR);
    await_edge("end");
    report("end", recv(fd, bytes, 1, 0));
    close(fd);
    close(set);
}
static void by_other_number(int fd)
{
    char bytes[100000];
    int turns[2] = { is_server ? fd : other, fd };
    for (int round = 0; round < 8; round++) exchange(turns[round % 2], bytes, 0, sizeof bytes, 2 * round);
    if (!is_server) {
        close(fd);
        exchange(other, bytes, 0, sizeof bytes, 50);
        shut_and_close(other);
    } else {
        exchange(fd, bytes, 0, sizeof bytes, 50);
        close_after_peer(fd);
    }
    say("exchanged");
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    char *rest = strdup(argv[3]);
    for (pass = 0; (warm = strsep(&rest, ",")); pass++) {
        int fd = connected();
        warm_as_told(fd);
        if (!strcmp(args[0], "dup")) by_other_number(fd);
        else by_edges(fd);
    }
    say("done");
    return 0;
}
