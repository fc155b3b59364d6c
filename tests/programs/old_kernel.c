/* Waits where the newest calls are missing (epoll_pwait2: Linux 5.11; futex_waitv: 5.16), as on an older kernel or behind a container's
 * filter. The filter comes by instructions of this program's own, so that nobody hooks it. */
#include "raw_filter.h"

static void look(const char *what, int set, int milliseconds)
{
    struct epoll_event event;
    uint64_t began = now_us();
    int n = report(what, epoll_wait(set, &event, 1, milliseconds));
    if (n == 1) say("  data %d %s", event.data.u32, events_text(event.events));
    if (n == 0 && now_us() - began < milliseconds * 999ull) say("  too early");
}

static void scenario(int fd)
{
    char bytes[64];
    if (is_server) {
        answer(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 1 };
    report("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    look("nothing, at once", set, 0);
    look("nothing", set, 30);
    ask(fd, 10);
    look("ten bytes", set, 5000);
    recv_all(fd, bytes, 10);
    look("nothing again", set, 15);
    ask(fd, 3);
    look("more came", set, -1);
    recv_all(fd, bytes, 3);
    struct epoll_event none;
    struct timespec brief = { 0, 1500000 };
    report("the missing call itself", epoll_pwait2(set, &none, 1, &brief, NULL));
    struct pollfd entry = { fd, POLLIN, 0 };
    report("poll", poll(&entry, 1, 15));
    need(close(set));
    ask(fd, 5);
    recv_all(fd, bytes, 5);
    close(fd);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    forbid(SYS_epoll_pwait2, 449 /* futex_waitv */, SECCOMP_RET_ERRNO | (unsigned)atoi(args[0]));
    each_pass(argv, scenario);
    say("done");
    return 0;
}
