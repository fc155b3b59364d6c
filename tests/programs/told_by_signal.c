/* Readiness told by signals: SIGIO or a signal with its number, asked for by fcntl or ioctl, on a connection that is carried by then (or is
 * to be). */
#include "common.h"

static volatile int told_ones, bands;
static void on_signal(int number, siginfo_t *info, void *none)
{
    told_ones++;
    if (info->si_code == POLL_IN) bands |= 1;
}
static void scenario(int fd)
{
    if (is_server) {
        answer(fd);
        return;
    }
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
    need(sigaction(SIGIO, &action, NULL));
    need(sigaction(SIGRTMIN, &action, NULL));
    told_ones = bands = 0;
    report("owner", fcntl(fd, F_SETOWN, getpid()));
    say("owner is us %d", fcntl(fd, F_GETOWN) == getpid());
    int flags = need(fcntl(fd, F_GETFL));
    report("O_ASYNC", fcntl(fd, F_SETFL, flags | O_ASYNC));
    say("O_ASYNC %d", !!(fcntl(fd, F_GETFL) & O_ASYNC));
    /* The peer's answer to ask(1): a byte. */
    for (int i = 0; i < 20; i++) {
        char one = 1, byte;
        int before = told_ones;
        send_all(fd, &one, 1);
        uint64_t deadline = now_us() + 5000000;
        while ((told_ones == before || queued(fd) < 1) && now_us() < deadline) usleep(200);
        if (told_ones == before) say("message %d: no signal", i);
        recv_all(fd, &byte, 1);
    }
    say("told %d", told_ones >= 20);
    report("F_SETSIG", fcntl(fd, F_SETSIG, SIGRTMIN));
    ask(fd, 1);
    wait_queued(fd, 1);
    uint64_t deadline = now_us() + 5000000;
    while (!bands && now_us() < deadline) usleep(200);
    say("band %d", bands);
    char byte;
    recv_all(fd, &byte, 1);
    int off = 0, on = 1;
    report("FIOASYNC off", ioctl(fd, FIOASYNC, &off));
    int before = told_ones;
    ask(fd, 1);
    wait_queued(fd, 1);
    recv_all(fd, &byte, 1);
    nap(5);
    say("told while off %d", told_ones - before);
    report("FIOASYNC on", ioctl(fd, FIOASYNC, &on));
    ask(fd, 1);
    /* A thread that waits in recv is told by that alone. */
    wait_queued(fd, 1);
    deadline = now_us() + 5000000;
    while (told_ones == before && now_us() < deadline) usleep(200);
    say("told again %d", told_ones > before);
    recv_all(fd, &byte, 1);
    report("FIOASYNC off", ioctl(fd, FIOASYNC, &off));
    close(fd);
}
PAIR_MAIN(scenario)
