/* Megabytes through a host whose own queue or filter drops segments, before and after a switch-over: few large calls first,
 * then ping-pongs, then both directions at once. */
#include "common.h"
#define LARGE (3 << 20)

static void *writer(void *argument)
{
    send_pattern(*(int *)argument, LARGE, 2 * LARGE, 24 + is_server);
    return NULL;
}
static void scenario(int fd)
{
    if (!is_server) send_pattern(fd, 0, LARGE, 24);
    else take_right(fd, 0, LARGE, 24);
    if (is_server) send_pattern(fd, 0, LARGE, 25);
    else take_right(fd, 0, LARGE, 25);
    warm_as_told(fd);
    pthread_t thread = start(writer, &fd);
    take_right(fd, LARGE, 2 * LARGE, 24 + !is_server);
    join(thread);
    plain_ping_pongs(fd, 50);
    shut_and_close(fd);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    warm = "w";
    scenario(next_connection());
    say("done");
    return 0;
}
