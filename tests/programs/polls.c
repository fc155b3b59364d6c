/* select with descriptors near FD_SETSIZE; poll with one descriptor twice, negative and closed ones; several at once. */
#include "common.h"

static void scenario(int fd)
{
    char bytes[64];
    if (is_server) {
        answer(fd);
        return;
    }
    int high = need(dup2(fd, FD_SETSIZE - 1));
    fd_set in, out, bad;
#define ASK(n) ask(fd, n), wait_queued(fd, n)
#define SETS() ({ FD_ZERO(&in); FD_ZERO(&out); FD_ZERO(&bad); FD_SET(high, &in); FD_SET(high, &out); FD_SET(high, &bad); })
    SETS();
    report("select, quiet", select(FD_SETSIZE, &in, &out, &bad, &(struct timeval){ 0, 0 }));
    say("%d %d %d", FD_ISSET(high, &in) != 0, FD_ISSET(high, &out) != 0, FD_ISSET(high, &bad) != 0);
    ASK(1);
    SETS();
    FD_SET(fd, &in);
    report("select, a byte, both numbers", select(FD_SETSIZE, &in, &out, NULL, NULL));
    say("%d %d %d", FD_ISSET(high, &in) != 0, FD_ISSET(high, &out) != 0, FD_ISSET(fd, &in) != 0);
    SETS();
    struct timespec none = { 0, 0 };
    report("pselect", pselect(FD_SETSIZE, &in, NULL, NULL, &none, NULL));
    SETS();
    report("select beyond nfds", select(FD_SETSIZE - 1, &in, NULL, NULL, &(struct timeval){ 0, 0 }));
    recv_all(high, bytes, 1);
    SETS();
    FD_ZERO(&out);
    struct timeval time = { 0, 30000 };
    report("select, times out", select(FD_SETSIZE, &in, NULL, NULL, &time));
    say("time left %ld, set cleared %d", (long)time.tv_sec * 1000000 + time.tv_usec, !FD_ISSET(high, &in));
    SETS();
    FD_SET(900, &in);
    report("select with a closed one", select(FD_SETSIZE, &in, NULL, NULL, &(struct timeval){ 0, 0 }));
    report("select of nothing", select(0, NULL, NULL, NULL, &(struct timeval){ 0, 1000 }));

    int ends[2];
    need(pipe(ends));
    struct pollfd list[6] = { { fd, POLLIN, 9 }, { -1, POLLIN, 9 }, { fd, POLLIN | POLLOUT, 9 }, { high, POLLOUT, 9 },
                              { 900, POLLIN, 9 }, { ends[0], POLLIN, 9 } };
    ASK(1);
    report("poll", poll(list, 6, 1000));
    for (int i = 0; i < 6; i++) say("  %d: %s", i, events_text(list[i].revents));
    recv_all(fd, bytes, 1);
    list[2].fd = list[3].fd = list[4].fd = -5;
    report("poll, quiet", poll(list, 6, 20));
    for (int i = 0; i < 6; i++) say("  %d: %s", i, events_text(list[i].revents));
    need(write(ends[1], "p", 1));
    report("poll, the pipe", poll(list, 6, 1000));
    for (int i = 0; i < 6; i++) say("  %d: %s", i, events_text(list[i].revents));
    ASK(1);
    report("poll, both", poll(list, 6, 1000));
    for (int i = 0; i < 6; i++) say("  %d: %s", i, events_text(list[i].revents));
    recv_all(fd, bytes, 1);
    struct pollfd fine = { fd, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND, 0 };
    report("poll, every kind", poll(&fine, 1, 1000));
    say("%x", fine.revents);
    fine.events = 0;
    report("poll, no kind", poll(&fine, 1, 10));
    report("ppoll", ppoll(&fine, 1, &none, NULL));
    report("poll of none", poll(NULL, 0, 5));
    close(ends[0]);
    close(ends[1]);
    close(high);
    need(shutdown(fd, SHUT_WR));
    fine.events = POLLIN | POLLRDHUP | POLLHUP;
    report("poll, the end", poll(&fine, 1, 5000));
    say("%s", events_text(fine.revents));
    report("end", recv(fd, bytes, 1, 0));
    close(fd);
}
PAIR_MAIN(scenario)
