// A library whose constructor calls hooked functions, maybe before libtandem's own has run.
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

__attribute__((constructor)) static void start(void) {
    int pair[2];
    char c = '?';
    int made = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    write(pair[0], "x", 1);
    read(pair[1], &c, 1);
    int closed = close(pair[0]), copy = dup(pair[1]);
    close(copy);
    dprintf(1, "early: %d %c %d %d\n", made, c, closed, close(pair[1]));
}
