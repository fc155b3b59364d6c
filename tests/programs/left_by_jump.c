/* A blocking receive is left by siglongjmp out of a signal handler, as clients of old give up: the connection goes on, and
 * a close is seen by the peer at once. The next connection is none the worse. */
#include "common.h"
#include <setjmp.h>

static sigjmp_buf back;
static void jump(int number) { siglongjmp(back, number); }

static void scenario(int fd)
{
    char byte;
    if (is_server) {
        if (pass) {
            await(0);
            send_all(fd, "y", 1);
        }
        report("end", recv(fd, &byte, 1, 0));
        close(fd);
        return;
    }
    signal(SIGALRM, jump);
    if (!sigsetjmp(back, 1)) {
        struct itimerval soon = { { 0, 0 }, { 0, 50000 } };
        need(setitimer(ITIMER_REAL, &soon, NULL));
        recv(fd, &byte, 1, 0);
        say("came to its end");
    }
    say("left");
    tell(0);
    if (pass) {
        recv_all(fd, &byte, 1);
        say("then %c", byte);
    }
    close(fd);
}
PAIR_MAIN(scenario)
