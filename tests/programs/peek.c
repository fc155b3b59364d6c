/* PEEK that spans what came before and after a switch-over; PEEK until n bytes; SO_PEEK_OFF; MSG_TRUNC discards. */
#include "common.h"
#define WHOLE 4000

static void scenario(int fd)
{
    static char peeked[WHOLE], taken[WHOLE];
    if (is_server) {
        for (int at = 0; at < WHOLE; at += 500) {
            send_pattern(fd, at, 500, 2);
            if (at < 1500) nap(1);
        }
        await(0);
        send_pattern(fd, WHOLE, 1000, 2);
        await(1);
        send_pattern(fd, WHOLE + 1000, 60, 2);
        close_after_peer(fd);
        return;
    }
    for (ssize_t n = 0, last = -1; n < WHOLE;) {
        n = need(recv(fd, peeked, WHOLE, MSG_PEEK));
        if (n < last) say("peek shrank");
        last = n;
        sched_yield();
    }
    say("peeked right %d", right(peeked, 0, WHOLE, 2));
    report("peek waitall", recv(fd, peeked, WHOLE, MSG_PEEK | MSG_WAITALL));
    /* reads and peeks of uneven sizes by turns */
    int position = 0;
    for (int size = 1; position + size <= WHOLE - 100; size = size * 5 / 3 + 1) {
        report("peek", recv(fd, peeked, size, MSG_PEEK));
        report("take", recv(fd, taken, size, 0));
        say("same %d right %d", !memcmp(peeked, taken, size), right(taken, position, size, 2));
        position += size;
    }
    recv_all(fd, taken, WHOLE - position);
    say("rest right %d", right(taken, position, WHOLE - position, 2));
    report("peek of nothing", recv(fd, peeked, 10, MSG_PEEK | MSG_DONTWAIT));

    tell(0);
    wait_queued(fd, 1000);
    struct iovec parts[2] = { { peeked, 7 }, { peeked + 7, 500 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    report("peek by iovecs", recvmsg(fd, &message, MSG_PEEK));
    say("right %d", right(peeked, WHOLE, 507, 2));
    report("discard", recv(fd, NULL, 300, MSG_TRUNC));
    report("take", recv(fd, taken, 300, 0));
    say("right %d", right(taken, WHOLE + 300, 300, 2));
    recv_all(fd, taken, 400);
    say("right %d", right(taken, WHOLE + 600, 400, 2));

    int off = 0;
    report("SO_PEEK_OFF", setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off));
    tell(1);
    wait_queued(fd, 60);
    for (int i = 0; i < 3; i++) {
        ssize_t n = recv(fd, peeked, 10, MSG_PEEK);
        say("peek at an offset %zd: first byte is of position %d", n, peeked[0] == (char)byte_at(WHOLE + 1000 + i * 10, 2) ? i * 10 : 0);
    }
    recv_all(fd, taken, 60);
    say("right %d", right(taken, WHOLE + 1000, 60, 2));
    shutdown(fd, SHUT_WR);
    close(fd);
}
PAIR_MAIN(scenario)
