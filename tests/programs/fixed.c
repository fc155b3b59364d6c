/* One end of one connection with given ports (and device), driven by the harness step by step:
 *   fixed server DIRECTORY ROUNDS PORT KEY [DEVICE]
 *   fixed client DIRECTORY ROUNDS PORT KEY LOCAL-PORT ADDRESS [LOCAL-ADDRESS [DEVICE]]
 * Slots: 0 listening or connected, 1 rounds done, 2 (harness) close now, 3 closed, 4 (harness) exit. */
#include "common.h"

static void bind_to(int fd, const char *address, int port, const char *device)
{
    int on = 1;
    need(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    if (device) need(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device) + 1));
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
    inet_pton(AF_INET, address, &at.sin_addr);
    need(bind(fd, (void *)&at, sizeof at));
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    int rounds = atoi(argv[3]), port = atoi(args[0]), key = atoi(args[1]), on = 1, fd;
    int listening = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (is_server) {
        bind_to(listening, "0.0.0.0", port, arg_count > 2 ? args[2] : NULL);
        need(listen(listening, 5));
        tell(0);
        fd = need(accept4(listening, NULL, NULL, SOCK_CLOEXEC));
        close(listening);
    } else {
        fd = listening;
        bind_to(fd, arg_count > 4 ? args[4] : "0.0.0.0", atoi(args[2]), arg_count > 5 ? args[5] : NULL);
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
        inet_pton(AF_INET, args[3], &at.sin_addr);
        need(connect(fd, (void *)&at, sizeof at));
        tell(0);
    }
    no_delay(fd);
    char bytes[16];
    for (int i = 0; i < rounds; i++) {
        if (!is_server) send_pattern(fd, i * 16, 16, key);
        recv_all(fd, bytes, 16);
        if (!right(bytes, i * 16, 16, is_server ? key : key + 1)) die("round %d: another connection's bytes", i);
        if (is_server) send_pattern(fd, i * 16, 16, key + 1);
        if (i % 8 == 7) nap(2);
    }
    tell(1);
    await(2);
    if (is_server) shutdown(fd, SHUT_WR);
    else reset_on_close(fd);
    close(fd);
    tell(3);
    await(4);
    say("rounds %d right", rounds);
    return 0;
}
