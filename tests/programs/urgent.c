/* An urgent byte is in the sequence and not in what recv returns. */
#include "common.h"

static void scenario(int fd)
{
    char bytes[64] = { 0 };
    if (is_server) {
        send_all(fd, "abc", 3);
        report("urgent", send(fd, "X", 1, MSG_OOB));
        send_all(fd, "def", 3);
        await(0);
        send_pattern(fd, 0, 50000, 10);
        report("urgent", send(fd, "Y", 1, MSG_OOB));
        tell(1);
        send_pattern(fd, 50000, 50000, 10);
        shutdown(fd, SHUT_WR);
        drain(fd, 0, 100, 11, 10);
        close(fd);
        return;
    }
    struct pollfd look = { fd, POLLPRI, 0 };
    report("poll", poll(&look, 1, 5000));
    say("%s", events_text(look.revents));
    wait_queued(fd, 3);
    report("before the mark", recv(fd, bytes, sizeof bytes, 0));
    say("%.3s, at the mark %d", bytes, sockatmark(fd));
    report("urgent", recv(fd, bytes, 1, MSG_OOB));
    say("%c", bytes[0]);
    report("urgent again", recv(fd, bytes, 1, MSG_OOB));
    recv_all(fd, bytes, 3);
    say("%.3s", bytes);
    plain_ping_pongs(-1, 0);
    int inline_ = 1;
    need(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &inline_, sizeof inline_));
    tell(0);
    await(1);
    char *all = malloc(100001);
    recv_all(fd, all, 100001);
    say("right %d %c %d", right(all, 0, 50000, 10), all[50000], right(all + 50001, 50000, 50000, 10));
    report("end", recv(fd, bytes, 1, 0));
    send_pattern(fd, 0, 100, 11);
    free(all);
    close(fd);
}
PAIR_MAIN(scenario)
