/* A writer that nobody reads from is told EAGAIN within TCP's range, blocks within it, and POLLOUT stays away; it comes
 * when the reader has read. With SO_SNDTIMEO a blocked send gives up. */
#include "common.h"

static void scenario(int fd)
{
    if (is_server) {
        await(0);
        take_right(fd, 0, page->word[0], 5);
        tell(1);
        drain(fd, page->word[0], 1 << 20, 5, 1000);
        shutdown(fd, SHUT_WR);
        close(fd);
        return;
    }
    uint64_t taken = stuff(fd, 0, 1u << 30, 5, 30000);
    say("bounded %d, at least 64 KiB %d", taken < (256u << 20), taken >= 65536);
    struct pollfd look = { fd, POLLOUT, 0 };
    report("poll of a full socket", poll(&look, 1, 30));
    struct timeval time = { 0, 60000 };
    need(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
    uint64_t before = now_us();
    char *more = malloc(1 << 20);
    fill(more, taken, 1 << 20, 5);
    ssize_t sent = send(fd, more, 1 << 20, MSG_NOSIGNAL);
    uint64_t took = now_us() - before;
    say("send with a time-out: not all %d, EAGAIN or part %d", sent < 1 << 20, sent > 0 || errno == EAGAIN);
    say("it waited %d", took >= 50000 && took < 5000000);
    if (sent > 0) taken += sent;
    free(more);
    time.tv_usec = 0;
    need(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
    page->word[0] = taken;
    tell(0);
    report("poll while the reader reads", poll(&look, 1, 10000));
    say("%s", events_text(look.revents));
    await(1);
    send_pattern(fd, taken, 5000, 5);
    shut_and_close(fd);
}
PAIR_MAIN(scenario)
