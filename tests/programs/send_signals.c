/* Signals under a send that waits for room: restarted or EINTR; a partly done one returns what was taken. */
#include "common.h"

static _Atomic int caught;
static void handler(int signal) { atomic_fetch_add(&caught, 1); }
static pid_t main_tid;
static pthread_t main_thread;

static void *kicker(void *nothing)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    wait_state(getpid(), main_tid, 'S');
    pthread_kill(main_thread, SIGUSR1);
    uint64_t deadline = now_us() + 5000000;
    while (!caught && now_us() < deadline) nap(1);
    wait_state(getpid(), main_tid, 'S');
    tell(0); /* the peer reads all */
    return NULL;
}
static void scenario(int fd)
{
    bool restart = !strcmp(args[0], "restart"), partial = !strcmp(args[0], "partial");
    if (is_server) {
        await(0);
        await(1);
        char *bytes = malloc(90000);
        uint64_t done = 0;
        for (ssize_t n; (n = recv(fd, bytes, 90000, 0)) > 0; done += n)
            if (!right(bytes, done, n, 14)) break;
        free(bytes);
        shutdown(fd, SHUT_WR);
        await(2);
        say("all taken bytes came %d", done == page->word[5]);
        close(fd);
        return;
    }
    struct sigaction action = { .sa_handler = handler, .sa_flags = restart ? SA_RESTART : 0 };
    need(sigaction(SIGUSR1, &action, NULL));
    caught = 0;
    main_tid = syscall(SYS_gettid);
    main_thread = pthread_self();
    uint64_t taken = partial ? 0 : stuff(fd, 0, 1u << 30, 14, 50000);
    pthread_t thread = 0;
    size_t length = partial ? 100u << 20 : 20000;
    char *more = malloc(length);
    fill(more, taken, length, 14);
    if (restart) tell(1);
    thread = start(kicker, NULL);
    errno = 0;
    ssize_t n = send(fd, more, length, MSG_NOSIGNAL);
    if (partial) say("partly done %d", n > 0 && n < (ssize_t)length);
    else if (n < 0) say("send %s", errno_name());
    else say("send %zd", n);
    if (n > 0) taken += n;
    if (!restart) tell(1);
    join(thread);
    say("caught %d", caught);
    free(more);
    shutdown(fd, SHUT_WR);
    char byte;
    report("end", recv(fd, &byte, 1, 0));
    page->word[5] = taken;
    tell(2);
    close(fd);
}
PAIR_MAIN(scenario)
