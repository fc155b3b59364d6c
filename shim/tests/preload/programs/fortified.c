// fortified right | CALL: the __*_chk names, with a count that fits and with one that does not.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    char *call = arguments[1], buffer[16];
    struct pollfd entries[2] = {{0}};
    volatile size_t wrong = strcmp(call, "right") ? 64 : 5;
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    write(pair[0], "0123456789012345678901234567890123456789", 40);
    entries[0].fd = pair[1], entries[0].events = POLLIN, entries[1].fd = -1;
    if (wrong == 5) {
        printf("read %zd\n", read(pair[1], buffer, wrong));
        printf("recv %zd\n", recv(pair[1], buffer, wrong, 0));
        printf("recvfrom %zd\n", recvfrom(pair[1], buffer, wrong, 0, NULL, NULL));
        printf("pread %zd\n", pread(pair[1], buffer, wrong, 0));
        printf("poll %d ppoll %d\n", poll(entries, wrong - 3, 0), ppoll(entries, wrong - 3, NULL, NULL));
        dprintf(1, "%zu %s %.3f\n", wrong, "printed", 1.5);
        return 0;
    }
    if (!strcmp(call, "read")) return read(pair[1], buffer, wrong);
    if (!strcmp(call, "pread")) return pread(pair[1], buffer, wrong, 0);
    if (!strcmp(call, "recv")) return recv(pair[1], buffer, wrong, 0);
    if (!strcmp(call, "recvfrom")) return recvfrom(pair[1], buffer, wrong, 0, NULL, NULL);
    if (!strcmp(call, "poll")) return poll(entries, wrong, 0);
    return ppoll(entries, wrong, NULL, NULL);
}
