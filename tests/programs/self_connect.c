/* A socket connected to itself: what it writes, it reads. Alone. */
#include "common.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    for (int round = 0; round < 3; round++) {
        int fd = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t length = sizeof at;
        need(bind(fd, (void *)&at, sizeof at));
        need(getsockname(fd, (void *)&at, &length));
        need(connect(fd, (void *)&at, sizeof at));
        char bytes[1000];
        for (int i = 0; i < 60; i++) {
            send_pattern(fd, i * 1000, 1000, 20);
            recv_all(fd, bytes, 1000);
            if (!right(bytes, i * 1000, 1000, 20)) die("wrong");
            if (i % 20 == 10) nap(20);
        }
        shutdown(fd, SHUT_WR);
        report("end", recv(fd, bytes, 1, 0));
        close(fd);
    }
    say("done");
    return 0;
}
