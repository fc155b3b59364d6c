/* A blocking send of 8 MB is under way, partly done, while the other direction's ping-pongs make both switches meet;
 * then non-blocking writes into a full buffer, whose reader starts late. */
#include "common.h"
#define LARGE (8u << 20)

static void *large_writer(void *argument)
{
    char *buffer = malloc(LARGE);
    fill(buffer, 0, LARGE, 4);
    report("large send", send(*(int *)argument, buffer, LARGE, MSG_NOSIGNAL));
    free(buffer);
    return NULL;
}
static void scenario(int fd)
{
    char word[8];
    if (is_server) {
        pthread_t thread = start(large_writer, &fd);
        for (int i = 0; i < 8; i++) recv_all(fd, word, sizeof word); /* calls of the other direction meanwhile */
        tell(0);
        join(thread);
        /* full buffers, nobody reads */
        await(1);
        uint64_t taken = stuff(fd, LARGE, 1u << 30, 4, 64 * 1024);
        say("bounded %d", taken < (256u << 20));
        page->word[0] = taken;
        tell(2);
        drain(fd, 0, 2, 0, 1); /* the end */
        send_pattern(fd, LARGE + taken, 1000, 4);
        close(fd);
        return;
    }
    for (int i = 0; i < 8; i++) {
        send_all(fd, "12345678", 8);
        nap(3);
    }
    await(0);
    drain(fd, 0, LARGE, 4, 70001);
    tell(1);
    await(2);
    uint64_t position = LARGE + page->word[0];
    take_right(fd, LARGE, page->word[0], 4);
    shutdown(fd, SHUT_WR);
    drain(fd, position, 2000, 4, 300);
    close(fd);
}
PAIR_MAIN(scenario)
