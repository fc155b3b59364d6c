/* An epoll set that is there at a fork. First argument: `left`: the child has it and all connections, and uses none of them; `used`: the
 * child asks the set once, when there is nothing, and ends, then the parent has it for itself again. */
#include "common.h"

static int set = -1;
static char bytes[100000];

static pid_t begin_child(void)
{
    pid_t child = need(fork());
    if (child) return child;
    if (!strcmp(args[0], "used")) _exit(epoll_wait(set, &(struct epoll_event){ 0 }, 1, 0));
    for (;;) pause();
}
static void scenario(int fd)
{
    if (!is_server) {
        await(0);
        for (int round = 0; round < 4; round++) exchange(fd, bytes, 0, sizeof bytes, 2 * round);
        shut_and_close(fd);
        return;
    }
    if (set < 0) set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = pass };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    pid_t child = begin_child();
    int status = 0;
    if (!strcmp(args[0], "used")) need(waitpid(child, &status, 0));
    tell(0);
    for (int round = 0; round < 4; round++) {
        int n = need(epoll_wait(set, &event, 1, 10000));
        say("told of %d: %d", n, n == 1 && event.data.u64 == (uint64_t)pass);
        exchange(fd, bytes, 0, sizeof bytes, 2 * round);
    }
    if (strcmp(args[0], "used")) {
        kill(child, SIGTERM);
        need(waitpid(child, &status, 0));
    }
    say("the child ended: %d", status);
    close_after_peer(fd);
}
PAIR_MAIN(scenario)
