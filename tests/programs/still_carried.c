/* What a program does before the switch-over that must not keep a connection on TCP. First argument: `exec`: it forks a child that
 * goes on as another program, and the socket is closed on the way; `zero`: it sets an option to what it was (as haproxy does). */
#include "common.h"
#include <netinet/tcp.h>

static pid_t other_program(void)
{
    pid_t pid = need(fork());
    if (pid) return pid;
    /* One that fails first: the child holds the socket still, and reads of it what it is given. */
    execl("/nowhere/at-all", "nobody", NULL);
    execl("/bin/sleep", "sleep", "600", NULL);
    _exit(127);
}
int main(int argc, char **argv)
{
    static char bytes[100000];
    begin(argc, argv);
    char *rest = strdup(argv[3]);
    for (pass = 0; (warm = strsep(&rest, ",")); pass++) {
        int fd = next_connection();
        pid_t child = 0;
        if (!strcmp(args[0], "exec") && is_server) child = other_program();
        if (!strcmp(args[0], "zero")) need(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){ 0 }, sizeof(unsigned)));
        warm_as_told(fd);
        for (int round = 0; round < 4; round++) exchange(fd, bytes, 0, sizeof bytes, 2 * round);
        say("exchanged");
        if (child) {
            int status;
            kill(child, SIGTERM);
            need(waitpid(child, &status, 0));
            say("the other program ended by signal %d", WTERMSIG(status));
        }
        if (is_server) close_after_peer(fd);
        else shut_and_close(fd);
    }
    say("done");
    return 0;
}
