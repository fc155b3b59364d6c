// Births, doublings and deaths of descriptors, the bulk ones included.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *when) {
    printf("%s:", when);
    for (int fd = 0; fd < 64; fd++) if (fcntl(fd, F_GETFD) >= 0) printf(" %d%s", fd, fcntl(fd, F_GETFD) & FD_CLOEXEC ? "c" : "");
    puts("");
}

int main(void) {
    int pair[2];
    show("start");
    socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(pair), pipe2(pair, O_CLOEXEC), eventfd(0, 0), open("/dev/null", O_RDONLY | O_CLOEXEC), openat(AT_FDCWD, "/dev/null", O_RDONLY);
    show("made");
    printf("%d %d %d %d\n", dup(3), dup2(3, 20), dup3(4, 21, O_CLOEXEC), fcntl(3, F_DUPFD, 30));
    printf("%d %d %d\n", fcntl(3, F_DUPFD_CLOEXEC, 31), dup2(5, 5), fcntl(3, F_GETFL));
    show("doubled");
    printf("%d %d\n", (int)syscall(SYS_close, 20), (int)syscall(SYS_dup, 3));
    FILE *stream = fdopen(3, "r+"), *file = fopen("/dev/null", "r");
    printf("%d\n", stream ? fclose(stream) : -9);
    file = freopen("/etc/hostname", "r", file), printf("%d\n", file != NULL), fclose(file);
    show("streams");
    int fd = open("/tmp", O_TMPFILE | O_RDWR, 0640);
    struct stat status = {0};
    fstat(fd, &status), printf("mode %o\n", status.st_mode & 0777), close(fd);
    printf("%d\n", close_range(30, 31, 0)), show("range");
    closefrom(10), show("from");
    printf("%d\n", close_range(3, ~0u, 0)), show("all");
    puts("done");
    return 0;
}
