/* A transparent proxy: takes what the firewall hands it, and goes on to the original destination with the client's own
 * address and port. Its two sockets mirror each other and are not one connection.
 *   proxy alone DIRECTORY - PORT */
#include "common.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int on = 1;
    int listening = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    need(setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    need(setsockopt(listening, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on));
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(args[0])) };
    need(bind(listening, (void *)&at, sizeof at));
    need(listen(listening, 5));
    tell(0);
    struct sockaddr_in client, server;
    socklen_t length = sizeof client;
    int ends[2];
    ends[0] = need(accept4(listening, (void *)&client, &length, SOCK_CLOEXEC));
    length = sizeof server;
    need(getsockname(ends[0], (void *)&server, &length));
    ends[1] = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    need(setsockopt(ends[1], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    need(setsockopt(ends[1], IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on));
    need(bind(ends[1], (void *)&client, sizeof client));
    need(connect(ends[1], (void *)&server, sizeof server));
    no_delay(ends[0]);
    no_delay(ends[1]);
    char bytes[4096];
    long relayed[2] = { 0, 0 };
    for (int open = 2; open;) {
        struct pollfd look[2] = { { ends[0], POLLIN, 0 }, { ends[1], POLLIN, 0 } };
        need(poll(look, 2, -1));
        for (int i = 0; i < 2; i++) {
            if (!(look[i].revents & (POLLIN | POLLHUP | POLLERR))) continue;
            ssize_t n = recv(ends[i], bytes, sizeof bytes, 0);
            if (n <= 0) { open = 0; break; }
            send_all(ends[!i], bytes, n);
            relayed[i] += n;
        }
    }
    say("relayed %ld and %ld", relayed[0], relayed[1]);
    close(ends[0]);
    close(ends[1]);
    return 0;
}
