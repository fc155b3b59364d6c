/* What a program can see of descriptors: EMFILE exactly where natively, LISTEN_FDS-like numbers, close_range(3, ~0) and
 * the close loop of old daemons, /proc-free counting. The first argument names the case. */
#include "common.h"
#include <linux/close_range.h>

static int open_ones(void)
{
    int count = 0;
    for (int i = 0; i < 4096; i++) count += fcntl(i, F_GETFD) >= 0;
    return count;
}
static void exhaust(int fd)
{
    int list[256], count = 0, error = 0;
    for (; count < 256; count++) {
        list[count] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        error = errno;
        if (list[count] < 0) break;
    }
    say("opened %d, then %s", count, name_of(error));
    report("socket", socket(AF_INET, SOCK_STREAM, 0));
    report("dup", dup(fd));
    report("epoll_create", epoll_create1(0));
    report("dup2 beyond the limit", dup2(fd, 100));
    report("F_DUPFD beyond", fcntl(fd, F_DUPFD, 100));
    plain_ping_pongs(fd, 20);
    while (count) close(list[--count]);
}
static void scenario(int fd)
{
    char byte = 0;
    bool limit = !strcmp(args[0], "limit"), range = !strcmp(args[0], "close_range"), loop = !strcmp(args[0], "close_loop");
    if (is_server) {
        if (limit) plain_ping_pongs(fd, 20);
        close_after_peer(fd);
        return;
    }
    say("open %d", open_ones());
    if (limit) exhaust(fd);
    if (range) {
        report("close_range", close_range(3, ~0u, 0));
        say("open %d", open_ones());
    }
    if (loop) {
        int closed = 0;
        for (int i = 3; i < 20000; i++) closed += close(i) == 0;
        say("closed %d, open %d", closed, open_ones());
    }
    if (range || loop) report("send", send(fd, &byte, 1, MSG_NOSIGNAL));
    else close(fd);
    say("open %d", open_ones());
    int next = need(open("/dev/null", O_RDONLY));
    say("next number %d", next);
    close(next);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    if (!is_server && !strcmp(args[0], "limit")) need(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 40, 40 }));
    each_pass(argv, scenario);
    say("done");
    return 0;
}
