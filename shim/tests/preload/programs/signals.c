// Every way of setting a handler, and whether its flags came out as libc sets them.
#include <signal.h>
#include <stdio.h>

extern sighandler_t bsd_signal(int, sighandler_t), sysv_signal(int, sighandler_t), __sysv_signal(int, sighandler_t);
extern sighandler_t ssignal(int, sighandler_t), sigset(int, sighandler_t);
static void handler(int number) {}

static void show(const char *how) {
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    printf("%s: restart %d reset %d ours %d\n", how, !!(now.sa_flags & SA_RESTART), !!(now.sa_flags & SA_RESETHAND), now.sa_handler == handler);
}

int main(void) {
    struct sigaction action = {.sa_handler = handler};
    printf("%d\n", sigaction(SIGUSR1, &action, NULL)), show("sigaction");
    action.sa_flags = SA_RESTART, sigaction(SIGUSR1, &action, NULL), show("sigaction restarting");
    printf("%d\n", signal(SIGUSR1, SIG_IGN) == handler), show("signal");
    signal(SIGUSR1, handler), siginterrupt(SIGUSR1, 1), show("siginterrupt 1");
    siginterrupt(SIGUSR1, 0), show("siginterrupt 0");
    sysv_signal(SIGUSR1, handler), show("sysv_signal");
    __sysv_signal(SIGUSR1, handler), show("__sysv_signal");
    ssignal(SIGUSR1, handler), show("ssignal");
    sigset(SIGUSR1, handler), show("sigset");
    sigignore(SIGUSR1), show("sigignore");
    printf("%d %d\n", signal(SIGKILL, handler) == SIG_ERR, sigaction(999, &action, NULL));
    perror("refused");
    return 0;
}
