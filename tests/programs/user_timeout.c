/* A writer with TCP_USER_TIMEOUT whose peer stops reading is told ETIMEDOUT, by a send that sleeps. The option is set on a
 * connection that may be carried already. */
#include "common.h"
#include <netinet/tcp.h>

static void scenario(int fd)
{
    if (is_server) {
        await(0);
        close(fd);
        return;
    }
    unsigned most = 400;
    need(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &most, sizeof most));
    char *bytes = calloc(1, 16 << 20);
    ssize_t sent;
    while ((sent = send(fd, bytes, 16 << 20, MSG_NOSIGNAL)) > 0) {}
    say("%s", sent < 0 ? strerror(errno) : "?");
    free(bytes);
    tell(0);
    close(fd);
}
PAIR_MAIN(scenario)
