/* shutdown(WR) and the peer's late reply; shutdown(RD); close with unread data; which ends as kernel TCP's do.
 * The first argument names the case. */
#include "common.h"

static void late_reply(int fd)
{
    if (is_server) {
        drain(fd, 0, 1 << 20, 6, 3000);
        nap(20);
        send_pattern(fd, 0, 300000, 7);
        report("shutdown", shutdown(fd, SHUT_WR));
        report("send after it", send(fd, "x", 1, MSG_NOSIGNAL));
    } else {
        send_pattern(fd, 0, 200000, 6);
        report("shutdown", shutdown(fd, SHUT_WR));
        report("send after it", send(fd, "x", 1, MSG_NOSIGNAL));
        report("shutdown again", shutdown(fd, SHUT_WR));
        drain(fd, 0, 1 << 20, 7, 5000);
    }
}
static void read_side(int fd)
{
    char bytes[64];
    if (is_server) {
        send_pattern(fd, 0, 40, 6);
        tell(0);
        await(1);
        report("send to a shut reader", send(fd, bytes, 10, MSG_NOSIGNAL));
        tell(2);
        recv_all(fd, bytes, 20);
        say("right %d", right(bytes, 0, 20, 7));
        drain(fd, 20, 100, 7, 10);
    } else {
        await(0);
        wait_queued(fd, 40);
        report("shutdown(RD)", shutdown(fd, SHUT_RD));
        report("recv of what was there", recv(fd, bytes, 64, 0));
        report("recv then", recv(fd, bytes, 64, 0));
        struct pollfd look = { fd, POLLIN | POLLRDHUP, 0 };
        report("poll", poll(&look, 1, 0));
        say("%s", events_text(look.revents));
        tell(1);
        await(2);
        wait_queued(fd, 10);
        report("recv of later bytes", recv(fd, bytes, 64, 0));
        report("recv at last", recv(fd, bytes, 64, 0));
        send_pattern(fd, 0, 20, 7);
    }
}
/* A reset is an error first and a hang-up some instructions later: who is woken by the one may look before the other. */
static void report_reset(int fd)
{
    struct pollfd look = { fd, 0, 0 };
    report("poll", poll(&look, 1, 5000));
    if (!(look.revents & POLLHUP)) {
        usleep(20000);
        poll(&look, 1, 0);
    }
    say("%s", events_text(look.revents));
}
/* The end that reads nothing closes: the kernel sends RST. */
static void unread(int fd)
{
    char bytes[64];
    if (is_server) {
        send_pattern(fd, 0, 5000, 6);
        tell(0);
        report_reset(fd);
        report("recv", recv(fd, bytes, sizeof bytes, 0));
        report("recv again", recv(fd, bytes, sizeof bytes, 0));
        report("send", send(fd, bytes, 1, MSG_NOSIGNAL));
    } else {
        await(0);
        wait_queued(fd, 5000);
        recv_all(fd, bytes, 10);
        say("right %d", right(bytes, 0, 10, 6));
    }
}
/* SO_LINGER 0: RST even with nothing unread; what the peer has not read is lost or not as TCP says. */
static void abortive(int fd)
{
    char bytes[64];
    if (is_server) {
        report_reset(fd);
        int error = 0;
        socklen_t length = sizeof error;
        need(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
        say("SO_ERROR %s", name_of(error));
        report("recv", recv(fd, bytes, sizeof bytes, 0));
        report("send", send(fd, bytes, 1, MSG_NOSIGNAL));
    } else {
        reset_on_close(fd);
    }
}
/* Both directions closed at once, data in flight both ways. */
static void both_ways(int fd)
{
    send_pattern(fd, 0, 100000, is_server ? 6 : 7);
    report("shutdown", shutdown(fd, SHUT_WR));
    drain(fd, 0, 1 << 20, is_server ? 7 : 6, 777);
}
static void scenario(int fd)
{
    static const struct named cases[] = {
        { "late_reply", late_reply }, { "read_side", read_side }, { "unread", unread },
        { "abortive", abortive }, { "both_ways", both_ways }, { 0 } };
    run_named(cases, fd);
    report("close", close(fd));
}
PAIR_MAIN(scenario)
