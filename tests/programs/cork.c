/* TCP_CORK (and MSG_MORE, and Nagle) over the switch-over: no byte stays behind, none comes twice, and uncorking delivers at once. */
#include "common.h"

static void cork(int fd, int on) { need(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on)); }
static void scenario(int fd)
{
    char bytes[16];
    if (!is_server) {
        char *all = malloc(100000);
        recv_all(fd, all, 3000);
        uint64_t took = now_us() - page->word[0];
        say("corked right %d, uncorked at once %d", right(all, 0, 3000, 12), took < 150000);
        send_all(fd, "y", 1);
        recv_all(fd, all, 1000);
        say("left corked right %d", right(all, 3000, 1000, 12));
        send_all(fd, "y", 1);
        recv_all(fd, all, 5000);
        say("more right %d", right(all, 4000, 5000, 12));
        drain(fd, 9000, 100000, 12, 1000);
        free(all);
        close(fd);
        return;
    }
    cork(fd, 1);
    for (int i = 0; i < 30; i++) send_pattern(fd, i * 100, 100, 12);
    page->word[0] = now_us();
    cork(fd, 0);
    recv_all(fd, bytes, 1);
    cork(fd, 1);
    for (int i = 0; i < 10; i++) send_pattern(fd, 3000 + i * 100, 100, 12); /* comes within 200 ms all the same */
    recv_all(fd, bytes, 1);
    cork(fd, 0);
    char piece[500];
    for (int i = 0; i < 10; i++) {
        fill(piece, 4000 + i * 500, 500, 12);
        need(send(fd, piece, 500, i < 9 ? MSG_MORE : 0));
    }
    int off = 0;
    need(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off));
    for (int i = 0; i < 100; i++) send_pattern(fd, 9000 + i * 7, 7, 12);
    cork(fd, 1);
    send_pattern(fd, 9700, 300, 12);
    shut_and_close(fd); /* pushes what is corked */
}
PAIR_MAIN(scenario)
