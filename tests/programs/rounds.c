/* Many messages of uneven sizes both ways on one connection: with TANDEM_DEBUG=failback=N many rounds of switch-over and
 * fail-back. Arguments: rounds. */
#include "common.h"

static void scenario(int fd)
{
    uint64_t mine = 0, theirs = 0, x = 88172645463325252ull;
    static char bytes[70000];
    int rounds = atoi(args[0]);
    for (int i = 0; i < rounds; i++) {
        size_t size[2];
        for (int side = 0; side < 2; side++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            size[side] = 1 + (i % 97 ? x % 3000 : x % sizeof bytes);
        }
        for (int turn = 0; turn < 2; turn++)
            if (turn == is_server) {
                send_pattern(fd, mine, size[turn], is_server);
                mine += size[turn];
            } else {
                recv_all(fd, bytes, size[turn]);
                if (!right(bytes, theirs, size[turn], !is_server)) die("round %d", i);
                theirs += size[turn];
            }
    }
    say("sent %lu received %lu", (unsigned long)mine, (unsigned long)theirs);
    shut_and_close(fd);
}
PAIR_MAIN(scenario)
