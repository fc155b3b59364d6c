// loop pipe|file COUNT: so many pairs of write and read.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments) {
    char buffer[64] = {0};
    int pairs = atoi(arguments[2]), pipes[2], file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    pipe(pipes);
    if (*arguments[1] == 'p')
        for (int i = 0; i < pairs; i++) write(pipes[1], buffer, 64), read(pipes[0], buffer, 64);
    else
        for (int i = 0; i < pairs; i++) write(file, buffer, 64), pread(file, buffer, 64, 0);
    return 0;
}
