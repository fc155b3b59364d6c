/* exit, _exit, quick_exit, abort and exec (CLOEXEC) straight after a write: every written byte is delivered. */
#include "common.h"

static void scenario(int fd)
{
    if (!is_server) {
        if (arg_count > 1) await(0); /* a reader that starts when the writer is no more */
        if (arg_count > 1) nap(30);
        drain(fd, 0, 1 << 30, 9, 10000);
        close(fd);
        return;
    }
    send_pattern(fd, 0, 700000, 9);
    tell(0);
    if (!strcmp(args[0], "exit")) exit(3);
    if (!strcmp(args[0], "_exit")) _exit(4);
    if (!strcmp(args[0], "quick_exit")) quick_exit(5);
    if (!strcmp(args[0], "abort")) { setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }); abort(); }
    if (!strcmp(args[0], "exec")) { execl("/bin/echo", "echo", "executed", NULL); _exit(99); }
    if (!strcmp(args[0], "return")) return;
    die("no such case");
}
PAIR_MAIN(scenario)
