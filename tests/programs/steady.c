/* Ten lasting connections with checked exchanges, and one after the other short-lived ones (fifty exchanges), until the
 * harness tells slot 5. Word 0 counts exchanges, word 1 short-lived connections. */
#include "common.h"
#define LASTING 10

static int fds[LASTING];
static uint64_t positions[LASTING];
static void exchange_next(int fd, uint64_t *position, int key)
{
    static char bytes[8000];
    size_t length = 1 + *position % sizeof bytes;
    exchange(fd, bytes, *position, length, key);
    *position += length;
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    many_connections(fds, LASTING);
    warm_many(fds, LASTING);
    for (bool over = false; !over;) {
        char word = 0;
        if (is_server) recv_all(fds[0], &word, 1); /* the client decides */
        else word = atomic_load(&page->slot[5]) > 0, send_all(fds[0], &word, 1);
        over = word;
        for (int i = 0; i < LASTING; i++) exchange_next(fds[i], &positions[i], 2 * i);
        int fd = next_connection();
        uint64_t position = 0;
        for (int i = 0; i < 50; i++) exchange_next(fd, &position, 100);
        if (!is_server) nap(30);
        if (!is_server) {
            page->word[0] += LASTING + 50;
            page->word[1]++;
        }
        exchange_next(fd, &position, 100);
        close(fd);
    }
    for (int i = 0; i < LASTING; i++) close(fds[i]);
    say("done");
    return 0;
}
