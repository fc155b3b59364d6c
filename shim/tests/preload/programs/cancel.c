// cancel CALL: a thread that sleeps in the call is cancelled.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void clean(void *unused) { dprintf(1, "cleaned up\n"); }

static void *sleeper(void *call) {
    char c;
    int pair[2], listener = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    fd_set reads;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    bind(listener, (void *)&address, length), listen(listener, 1), getsockname(listener, (void *)&address, &length);
    struct pollfd entry = {pair[0], POLLIN};
    FD_ZERO(&reads); FD_SET(pair[0], &reads);
    pthread_cleanup_push(clean, NULL);
    if (!strcmp(call, "read")) read(pair[0], &c, 1);
    if (!strcmp(call, "recv")) recv(pair[0], &c, 1, 0);
    if (!strcmp(call, "accept")) accept(listener, NULL, NULL);
    if (!strcmp(call, "poll")) poll(&entry, 1, -1);
    if (!strcmp(call, "select")) select(pair[0] + 1, &reads, NULL, NULL, NULL);
    if (!strcmp(call, "epoll")) { struct epoll_event event; epoll_wait(set, &event, 1, -1); }
    if (!strcmp(call, "connect-accept")) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        connect(client, (void *)&address, length);
        int server = accept(listener, NULL, NULL);
        write(client, "x", 1), read(server, &c, 1), write(client, "x", 1), read(server, &c, 1);
        recv(server, &c, 1, 0);
    }
    if (!strcmp(call, "system")) system("exec sleep 20 >/dev/null 2>&1");
    if (!strcmp(call, "open")) open("cancel.fifo", O_RDONLY);
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t thread;
    void *result = NULL;
    char folder[] = "/tmp/cancelXXXXXX";
    chdir(mkdtemp(folder)), mkfifo("cancel.fifo", 0600);
    alarm(10);
    pthread_create(&thread, NULL, sleeper, arguments[1]);
    usleep(100000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    unlink("cancel.fifo"), rmdir(folder);
    dprintf(1, "%s\n", result == PTHREAD_CANCELED ? "cancelled" : "not cancelled");
    return 0;
}
