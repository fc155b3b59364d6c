/* Signals under a blocking recv, send and the polling calls: restarted, or EINTR, as each handler says.
 * The thread that sends the signals looks in /proc until the main thread sleeps. */
#include "common.h"
#include "kicks.h"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* siginterrupt, sigset: programs use them */

static int connection;
static _Atomic int kick; /* signals to send */
static int kinds[8];

/* Sends each signal when the main thread sleeps, then (if it went to sleep again) asks the peer for data. */
static void *kicker(void *nothing)
{
    take_no_signal();
    for (int i = 0; i < kick; i++) kick_main(kinds[i]);
    main_sleeps(); /* in the restarted call, or in the await of finish() */
    tell(0);
    return NULL;
}
static pthread_t begin_kicks(int count, const int *signals)
{
    caught = 0;
    kick = count;
    memcpy(kinds, signals, count * sizeof *signals);
    return start(kicker, NULL);
}
/* The data the peer sends when told: taken here if the call under test ended without it. */
static void finish(const char *what, pthread_t thread, bool taken)
{
    char byte;
    join(thread);
    if (!taken) recv_all(connection, &byte, 1);
    say("%s: caught %d", what, caught);
}
enum call { RECV, READ, RECVMSG, POLL, PPOLL, SELECT, EPOLL, PEEK_CALL, WAITALL };
static void one(const char *what, enum call call, int count, const int *signals)
{
    char bytes[4];
    struct iovec part = { bytes, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    fd_set set;
    FD_ZERO(&set);
    FD_SET(connection, &set);
    struct pollfd look = { connection, POLLIN, 0 };
    static int waiting = -1;
    struct epoll_event event = { .events = EPOLLIN };
    if (waiting < 0) waiting = need(epoll_create1(EPOLL_CLOEXEC));
    if (call == EPOLL) need(epoll_ctl(waiting, EPOLL_CTL_ADD, connection, &event));
    pthread_t thread = begin_kicks(count, signals);
    long result = -1;
    bool taken = false;
    switch (call) {
    case RECV: result = report(what, recv(connection, bytes, 1, 0)), taken = result == 1; break;
    case READ: result = report(what, read(connection, bytes, 1)), taken = result == 1; break;
    case RECVMSG: result = report(what, recvmsg(connection, &message, 0)), taken = result == 1; break;
    case PEEK_CALL: result = report(what, recv(connection, bytes, 1, MSG_PEEK)); break;
    case WAITALL: result = report(what, recv(connection, bytes, 1, MSG_WAITALL)), taken = result == 1; break;
    case POLL: report(what, poll(&look, 1, 8000)); break;
    case PPOLL: report(what, ppoll(&look, 1, NULL, NULL)); break;
    case SELECT: report(what, select(connection + 1, &set, NULL, NULL, &(struct timeval){ 8, 0 })); break;
    case EPOLL: report(what, epoll_wait(waiting, &event, 1, 8000)); break;
    }
    finish(what, thread, taken);
    if (call == EPOLL) need(epoll_ctl(waiting, EPOLL_CTL_DEL, connection, NULL));
    tell(1); /* the peer's next byte */
}
static void timeout(int milliseconds)
{
    struct timeval time = { milliseconds / 1000, milliseconds % 1000 * 1000 };
    need(setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
}
#define SIGNALS(...) sizeof((int[]){ __VA_ARGS__ }) / sizeof(int), (int[]){ __VA_ARGS__ }
#define BYTES 23

static void receive_cases(void)
{
    set_action(SIGUSR1, SA_RESTART);
    one("recv, SA_RESTART", RECV, SIGNALS(SIGUSR1, SIGUSR1, SIGUSR1));
    one("read, SA_RESTART", READ, SIGNALS(SIGUSR1));
    one("recvmsg, SA_RESTART", RECVMSG, SIGNALS(SIGUSR1));
    one("peek, SA_RESTART", PEEK_CALL, SIGNALS(SIGUSR1));
    one("waitall, SA_RESTART", WAITALL, SIGNALS(SIGUSR1));
    set_action(SIGUSR1, 0);
    one("recv, no SA_RESTART", RECV, SIGNALS(SIGUSR1));
    one("read, no SA_RESTART", READ, SIGNALS(SIGUSR1));
    set_action(SIGUSR1, SA_RESTART);
    timeout(8000);
    one("recv, SA_RESTART and SO_RCVTIMEO", RECV, SIGNALS(SIGUSR1));
    timeout(0);
    one("recv, SO_RCVTIMEO off again", RECV, SIGNALS(SIGUSR1));
    set_action(SIGUSR2, 0);
    one("recv, both kinds: restart", RECV, SIGNALS(SIGUSR1, SIGUSR1));
    one("recv, both kinds: restart, then not", RECV, SIGNALS(SIGUSR1, SIGUSR2));
    one("recv, both kinds: not", RECV, SIGNALS(SIGUSR2));
    signal(SIGUSR2, count_signal); /* BSD: restarts */
    one("recv, signal()", RECV, SIGNALS(SIGUSR2));
    siginterrupt(SIGUSR2, 1);
    one("recv, siginterrupt 1", RECV, SIGNALS(SIGUSR2));
    siginterrupt(SIGUSR2, 0);
    one("recv, siginterrupt 0", RECV, SIGNALS(SIGUSR2));
    sysv_signal(SIGUSR2, count_signal); /* no restart, once */
    one("recv, sysv_signal", RECV, SIGNALS(SIGUSR2));
    sigset(SIGUSR2, count_signal);
    one("recv, sigset", RECV, SIGNALS(SIGUSR2));
    signal(SIGUSR2, SIG_DFL);
    set_action(SIGUSR1, SA_RESTART);
    one("poll", POLL, SIGNALS(SIGUSR1));
    one("ppoll", PPOLL, SIGNALS(SIGUSR1));
    one("select", SELECT, SIGNALS(SIGUSR1));
    one("epoll_wait", EPOLL, SIGNALS(SIGUSR1));
    set_action(SIGUSR1, SA_RESETHAND | SA_RESTART);
    one("recv, SA_RESETHAND", RECV, SIGNALS(SIGUSR1));
    set_action(SIGUSR1, SA_RESTART | SA_SIGINFO);
    one("recv, SA_SIGINFO", RECV, SIGNALS(SIGUSR1));
}
static void scenario(int fd)
{
    if (is_server) {
        for (int i = 1; i <= BYTES; i++) {
            await_count(0, pass * BYTES + i);
            send_all(fd, "z", 1);
            await_count(1, pass * BYTES + i);
        }
        close_after_peer(fd);
        return;
    }
    connection = fd;
    this_is_main();
    receive_cases();
    close(fd);
}
PAIR_MAIN(scenario)
