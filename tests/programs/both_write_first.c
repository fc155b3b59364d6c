/* Both ends write before either reads, one thread each: 2 MB with default buffers; 85 KB where SO_SNDBUF is 8192.
 * No deadlock where kernel TCP has none. `small` as first argument takes the second. */
#include "common.h"

static void scenario(int fd)
{
    size_t length = 2 * 1000 * 1000;
    if (arg_count && !strcmp(args[0], "small")) {
        int small = 8192;
        length = 85 * 1000;
        need(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small));
    }
    send_pattern(fd, 0, length, is_server);
    say("written");
    drain(fd, 0, length, !is_server, 50000);
    shut_and_close(fd);
}
PAIR_MAIN(scenario)
