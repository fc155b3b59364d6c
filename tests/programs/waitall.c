/* recv(10, MSG_WAITALL) entered with 4 bytes there and 6 to come; the same with SO_RCVLOWAT, for recv and for poll. */
#include "common.h"

static void pieces(int fd, int first, int slot, uint64_t position)
{
    await(20 + slot);
    send_pattern(fd, position, first, 1);
    tell(slot);
    await(slot + 1);
    nap(15);
    send_pattern(fd, position + first, 10 - first, 1);
}
static void scenario(int fd)
{
    char bytes[100];
    int ten = 10, one = 1;
    if (is_server) {
        pieces(fd, 4, 0, 0);
        /* Entered with nothing there. (Entered with 4, kernel TCP takes those and then wakes only for 10 more.) */
        await(22);
        wait_state(page->pid[1], page->pid[1], 'S');
        send_pattern(fd, 10, 4, 1);
        nap(15);
        send_pattern(fd, 14, 6, 1);
        await(23);
        send_pattern(fd, 50, 4, 1);
        await(3);
        nap(15);
        send_pattern(fd, 54, 16, 1);
        pieces(fd, 4, 4, 20);
        pieces(fd, 1, 6, 30);
        await(8);
        send_pattern(fd, 40, 5, 1); /* then the end: WAITALL comes back short */
        shut_and_close(fd);
        return;
    }
    tell(20);
    await(0);
    wait_queued(fd, 4);
    tell(1);
    report("waitall", recv(fd, bytes, 10, MSG_WAITALL));
    say("right %d", right(bytes, 0, 10, 1));

    need(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &ten, sizeof ten));
    tell(22);
    report("lowat", recv(fd, bytes, sizeof bytes, 0));
    say("right %d", right(bytes, 10, 10, 1));
    tell(23);
    wait_queued(fd, 4);
    tell(3);
    report("lowat entered with 4", recv(fd, bytes, sizeof bytes, 0));
    say("right %d", right(bytes, 50, 20, 1));

    tell(24);
    await(4);
    wait_queued(fd, 4);
    struct pollfd look = { fd, POLLIN, 0 };
    report("poll below the mark", poll(&look, 1, 0));
    tell(5);
    report("poll at the mark", poll(&look, 1, 5000));
    say("%s", events_text(look.revents));
    report("dontwait", recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
    say("right %d", right(bytes, 20, 10, 1));
    need(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));

    /* by iovecs, with one byte there */
    tell(26);
    await(6);
    wait_queued(fd, 1);
    struct iovec parts[3] = { { bytes, 3 }, { bytes + 3, 3 }, { bytes + 6, 4 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 3 };
    tell(7);
    report("recvmsg waitall", recvmsg(fd, &message, MSG_WAITALL));
    say("right %d", right(bytes, 30, 10, 1));

    tell(8);
    report("waitall at the end", recv(fd, bytes, 10, MSG_WAITALL));
    say("right %d", right(bytes, 40, 5, 1));
    report("end", recv(fd, bytes, 10, MSG_WAITALL));
    close(fd);
}
PAIR_MAIN(scenario)
