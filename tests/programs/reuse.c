/* The same four-tuple again within milliseconds, some hundred times: the client's port is fixed, each connection is reset
 * after a different number of exchanges, each exchange bears the connection's number. */
#include "common.h"
#define ROUNDS 300

int main(int argc, char **argv)
{
    begin(argc, argv);
    struct sockaddr_in mine = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int refused = 0, on = 1;
    if (is_server) publish(listener = new_listener(INADDR_LOOPBACK, 0, 64));
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t bytes[4];
        int exchanges = i % 9 + (i % 50 == 49 ? 60 : 0);
        if (is_server) {
            int fd = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
            for (int e = 0; e < exchanges; e++) {
                recv_all(fd, bytes, sizeof bytes);
                if (bytes[0] != i || bytes[1] != (uint32_t)e) die("bytes of connection %u in %u", bytes[0], i);
                send_all(fd, bytes, sizeof bytes);
            }
            errno = 0;
            ssize_t n = recv(fd, bytes, 1, 0);
            if (n != -1 || errno != ECONNRESET) die("end of %u: %zd %s", i, n, errno_name());
            close(fd);
            tell(0);
            continue;
        }
        while (!page->port) nap(1);
        int fd = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        need(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
        need(bind(fd, (void *)&mine, sizeof mine));
        socklen_t length = sizeof mine;
        need(getsockname(fd, (void *)&mine, &length));
        struct sockaddr_in at = mine;
        at.sin_port = htons(page->port);
        need(connect(fd, (void *)&at, sizeof at));
        no_delay(fd);
        for (int e = 0; e < exchanges; e++) {
            uint32_t out[4] = { i, e, 0, 0 };
            send_all(fd, out, sizeof out);
            recv_all(fd, bytes, sizeof bytes);
            if (bytes[0] != i || bytes[1] != (uint32_t)e) die("answer of connection %u in %u", bytes[0], i);
            if (exchanges > 20 && e == 20) nap(20);
        }
        reset_on_close(fd);
        close(fd);
        if (i % 3 == 0) await_count(0, i + 1);
    }
    say("done");
    return 0;
}
