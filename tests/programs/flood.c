/* Many short connections with a few data calls each, the client's end reset at once: a meet each, that finds nobody where the
 * server has no switch. Then so many held open. Arguments: short ones, held ones. */
#include "common.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int count = atoi(args[0]), held = atoi(args[1]);
    int *fds = calloc(held, sizeof *fds);
    char byte = 'f';
    struct linger linger = { 1, 0 };
    for (int i = 0; i < count + held; i++) {
        int fd = next_connection();
        for (int call = 0; call < 4; call++) {
            if (!is_server) send_all(fd, &byte, 1);
            recv_all(fd, &byte, 1);
            if (is_server) send_all(fd, &byte, 1);
        }
        if (i >= count) { fds[i - count] = fd; continue; }
        if (is_server) recv(fd, &byte, 1, 0);
        else need(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
        close(fd);
    }
    if (!is_server) {
        tell(60);
        await(61);
    }
    for (int i = 0; i < held; i++) {
        if (is_server) recv(fds[i], &byte, 1, 0);
        close(fds[i]);
    }
    say("done");
    return 0;
}
