/* EPOLLEXCLUSIVE entries, ONESHOT re-armed by another thread, edges with partial reads, MOD and DEL and their errors,
 * several events at once, a dup in the set. `tolerant` as argument: an edge without news may come, and several events
 * in any order, as epoll allows. */
#include "common.h"

static int set, connection;
static int by_data(const void *one, const void *other)
{
    return (int)((const struct epoll_event *)one)->data.u32 - (int)((const struct epoll_event *)other)->data.u32;
}
static int look(const char *what, int milliseconds)
{
    struct epoll_event events[4];
    int n = epoll_wait(set, events, 4, milliseconds);
    say("%s: %d", what, n);
    if (arg_count && n > 1) qsort(events, n, sizeof *events, by_data);
    for (int i = 0; i < n; i++) say("  data %d %s", events[i].data.u32, events_text(events[i].events));
    return n;
}
static void quiet(const char *what)
{
    struct epoll_event events[4];
    int n = epoll_wait(set, events, 4, 20);
    if (n == 1 && arg_count) n = epoll_wait(set, events, 4, 20);
    say("%s: %s", what, n ? "NOT quiet" : "quiet");
}
static int control(const char *what, int op, int fd, unsigned events, int data)
{
    struct epoll_event event = { .events = events, .data.u32 = data };
    return report(what, epoll_ctl(set, op, fd, &event));
}
static void *rearm(void *nothing)
{
    control("re-arm", EPOLL_CTL_MOD, connection, EPOLLIN | EPOLLONESHOT, 6);
    return NULL;
}
static void scenario(int fd)
{
    char bytes[64];
    connection = fd;
    if (is_server) {
        answer(fd);
        return;
    }
    set = need(epoll_create1(EPOLL_CLOEXEC));
    control("add edge", EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, 1);
    control("add again", EPOLL_CTL_ADD, fd, EPOLLIN, 1);
    look("edge, nothing", 0);
    ask(fd, 10);
    look("edge, ten bytes", 5000);
    quiet("edge, seen");
    recv_all(fd, bytes, 4);
    quiet("edge, partly read");
    ask(fd, 3);
    look("edge, more came", 5000);
    wait_queued(fd, 9);
    recv_all(fd, bytes, 9);
    report("empty", recv(fd, bytes, 1, MSG_DONTWAIT));
    quiet("edge, read");
    control("mod to out edge", EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLET, 2);
    look("out edge", 1000);
    quiet("out edge, seen");
    control("mod to the same", EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLET, 3);
    look("out edge anew", 1000);
    control("mod to level", EPOLL_CTL_MOD, fd, EPOLLIN, 4);
    ask(fd, 2);
    look("level", 5000);
    look("level again", 5000);
    wait_queued(fd, 2);
    recv_all(fd, bytes, 2);
    quiet("level, read");
    control("mod to oneshot", EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, 5);
    ask(fd, 2);
    look("oneshot", 5000);
    wait_queued(fd, 2);
    quiet("oneshot, spent");
    join(start(rearm, NULL));
    look("oneshot, re-armed by another thread", 5000);
    recv_all(fd, bytes, 2);
    control("mod to nothing", EPOLL_CTL_MOD, fd, 0, 7);
    ask(fd, 1);
    wait_queued(fd, 1);
    quiet("nothing asked");
    recv_all(fd, bytes, 1);
    control("del", EPOLL_CTL_DEL, fd, 0, 0);
    control("del again", EPOLL_CTL_DEL, fd, 0, 0);
    control("mod of none", EPOLL_CTL_MOD, fd, EPOLLIN, 0);
    control("add exclusive", EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE, 8);
    control("mod exclusive", EPOLL_CTL_MOD, fd, EPOLLIN, 8);
    ask(fd, 1);
    look("exclusive", 5000);
    recv_all(fd, bytes, 1);
    quiet("exclusive, read");
    control("add exclusive oneshot", EPOLL_CTL_ADD, 0, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 8);
    int twin = need(dup(fd));
    control("add a dup", EPOLL_CTL_ADD, twin, EPOLLIN, 9);
    ask(fd, 1);
    wait_queued(fd, 1);
    struct epoll_event events[4];
    int n = epoll_wait(set, events, 4, 5000), sum = 0;
    for (int i = 0; i < n; i++) sum += events[i].data.u32;
    say("both: %d, sum of data %d", n, sum);
    recv_all(twin, bytes, 1);
    close(twin);
    quiet("dup closed");
    control("itself", EPOLL_CTL_ADD, set, EPOLLIN, 0);
    report("no room", epoll_wait(set, events, 0, 0));
    report("bad descriptor", epoll_wait(999, events, 1, 0));
    control("add a bad descriptor", EPOLL_CTL_ADD, 999, EPOLLIN, 0);
    need(shutdown(fd, SHUT_WR));
    nap(20); /* the kernel tells one number after the other */
    look("the end", 5000);
    report("end", recv(fd, bytes, 1, 0));
    close(fd);
    quiet("closed");
    close(set);
}
PAIR_MAIN(scenario)
