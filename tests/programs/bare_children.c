/* Children by vfork and by clone, in the parent's memory or with a copy of it, close the socket and end or become another program: the
 * parent's goes on. */
#include "common.h"

static char stack[1 << 16];

static int closes(void *fd)
{
    close(*(int *)fd);
    return 7;
}
static void ended(const char *what, pid_t child)
{
    int status = 0;
    if (child > 0) need(waitpid(child, &status, 0));
    say("%s: %d", what, child > 0 ? WEXITSTATUS(status) : -1);
}
static void exchange_some(int fd)
{
    char bytes[200];
    ask(fd, 200);
    recv_all(fd, bytes, sizeof bytes);
}
static void *vforks(void *fd)
{
    pid_t child = vfork();
    if (!child) {
        usleep(30000);
        closes(fd);
        _exit(3);
    }
    ended("another thread's", child);
    return NULL;
}
static void scenario(int fd)
{
    if (is_server) {
        answer(fd);
        return;
    }
    for (int round = 0; round < 3; round++) {
        pid_t child = vfork();
        if (!child) {
            close(fd);
            execlp("false", "false", NULL);
            _exit(9);
        }
        ended("vfork, another program", child);
        exchange_some(fd);
        if (!(child = vfork())) _exit(closes(&fd));
        ended("vfork", child);
        exchange_some(fd);
        ended("clone, own memory", clone(closes, stack + sizeof stack, SIGCHLD, &fd));
        exchange_some(fd);
        pthread_t thread = start(vforks, &fd);
        usleep(10000);
        int twin = need(dup(fd));
        exchange_some(twin);
        close(twin);
        join(thread);
        exchange_some(fd);
    }
    /* From here on nobody knows whether a child runs in this memory. */
    ended("clone", clone(closes, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &fd));
    exchange_some(fd);
    close(fd);
}
PAIR_MAIN(scenario)
