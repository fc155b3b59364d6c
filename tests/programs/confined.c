/* A filter is there before the program, as a container's or a unit's: it kills who makes a call that the program itself never makes. First
 * argument: that call. Second, if any: the error that it gives instead. */
#include "raw_filter.h"

static int number_of(const char *name)
{
    static const struct { const char *name; int number; } known[] = {
        { "memfd_create", SYS_memfd_create }, { "eventfd2", SYS_eventfd2 }, { "madvise", SYS_madvise }, { "tkill", SYS_tkill },
        { "io_setup", SYS_io_setup }, { "epoll_pwait2", SYS_epoll_pwait2 }, { "geteuid", SYS_geteuid }, { "swapon", SYS_swapon },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return known[i].number;
    die("no call %s here", name);
}

static void scenario(int fd)
{
    char bytes[3000];
    if (is_server) {
        answer(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 5 };
    report("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    for (int i = 0; i < 30; i++) {
        ask(fd, 100);
        report("wait", epoll_wait(set, &event, 1, 5000));
        recv_all(fd, bytes, 100);
    }
    struct pollfd entry = { fd, POLLIN, 0 };
    report("poll", poll(&entry, 1, 10));
    ask(fd, 200);
    say("%zu", recv_upto(fd, bytes, 200));
    /* A new connection is as good as an old one, and so is another socket. */
    int datagrams = need(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    report("connect", connect(datagrams, (struct sockaddr *)&to, sizeof to));
    close(datagrams);
    close(set);
    close(fd);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    forbid(number_of(args[0]), -1, arg_count > 1 ? SECCOMP_RET_ERRNO | (unsigned)atoi(args[1]) : SECCOMP_RET_KILL_PROCESS);
    each_pass(argv, scenario);
    say("done");
    return 0;
}
