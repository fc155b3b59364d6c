/* A server that forks for each connection, as PostgreSQL does: serves CONNECTIONS one after the other, exchanges 8 MESSAGES (or
 * so many) with each, and says how many page faults a child had. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(it) ((it) ? (void)0 : (perror(#it), exit(1)))

enum { SIZE = 64 };

static int messages = 8;
static void talk(int fd, int first) {
    char bytes[SIZE] = {0};
    for (int i = 0; i < messages; i++) {
        if (first)
            CHECK(send(fd, bytes, SIZE, 0) == SIZE);
        CHECK(recv(fd, bytes, SIZE, MSG_WAITALL) == SIZE);
        if (!first)
            CHECK(send(fd, bytes, SIZE, 0) == SIZE);
    }
}

int main(int count, char **words) {
    int connections = count > 1 ? atoi(words[1]) : 100;
    if (count > 2) messages = atoi(words[2]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 16) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    pid_t client = fork();
    if (client == 0) {
        close(listener);
        for (int i = 0; i < connections; i++) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            CHECK(connect(fd, (struct sockaddr *)&address, length) == 0);
            talk(fd, 1);
            close(fd);
        }
        _exit(0);
    }
    struct rusage before, after;
    CHECK(getrusage(RUSAGE_CHILDREN, &before) == 0);
    for (int i = 0; i < connections; i++) {
        int fd = accept(listener, NULL, NULL), status;
        CHECK(fd >= 0);
        pid_t child = fork();
        if (child == 0) {
            close(listener);
            talk(fd, 0);
            _exit(0);
        }
        close(fd);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    CHECK(getrusage(RUSAGE_CHILDREN, &after) == 0);
    printf("%ld page faults a child\n", (after.ru_minflt - before.ru_minflt) / connections);
    return waitpid(client, NULL, 0) == client ? 0 : 1;
}
