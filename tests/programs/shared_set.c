/* An epoll set that a program without a switch waits on too (fork and exec without the preload): it sees the registered
 * `data` values and no other. */
#include "common.h"
#define OURS 0x1122334455667788ull

static int helper(int set)
{
    struct epoll_event events[8];
    bool seen = false, foreign = false;
    for (int i = 0; i < 40 && !seen; i++) {
        int n = epoll_wait(set, events, 8, 50);
        for (int e = 0; e < n; e++) {
            seen |= events[e].data.u64 == OURS;
            foreign |= events[e].data.u64 != OURS;
        }
    }
    say("helper: seen %d, foreign %d", seen, foreign);
    return 0;
}
static void scenario(int fd)
{
    char byte;
    if (is_server) {
        for (int i = 0; i < 3; i++) {
            recv_all(fd, &byte, 1);
            send_all(fd, "h", 1);
        }
        close_after_peer(fd);
        return;
    }
    int set = need(epoll_create1(0)); /* inherited on purpose */
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = OURS };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    send_all(fd, "q", 1);
    report("epoll_wait", epoll_wait(set, &event, 1, 10000));
    recv_all(fd, &byte, 1);
    char number[16];
    snprintf(number, sizeof number, "%d", set);
    pid_t child = fork();
    if (child == 0) {
        unsetenv("LD_PRELOAD");
        execl("/proc/self/exe", "shared_set", "helper", number, NULL);
        _exit(98);
    }
    nap(30);
    send_all(fd, "q", 1);
    int status;
    need(waitpid(child, &status, 0));
    say("helper ended %d", status);
    report("epoll_wait", epoll_wait(set, &event, 1, 10000));
    say("ours %d", event.data.u64 == OURS);
    recv_all(fd, &byte, 1);
    send_all(fd, "q", 1);
    recv_all(fd, &byte, 1);
    close(set);
    close(fd);
}
int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "helper")) return helper(atoi(argv[2]));
    begin(argc, argv);
    each_pass(argv, scenario);
    say("done");
    return 0;
}
