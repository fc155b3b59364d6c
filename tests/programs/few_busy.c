/* Three hundred connections to a server that takes one event at a time from its epoll set. Two of them are busy all the time; whatever comes
 * on another is answered all the same, before long. */
#include "common.h"
#define ALL 300
#define BUSY 2
#define ASKED 60

static int fds[ALL];
static volatile int over;

static void back_and_forth(int fd)
{
    char byte = 'b';
    send_all(fd, &byte, 1);
    recv_all(fd, &byte, 1);
}

static void *keep_busy(void *fd)
{
    while (!over) back_and_forth(*(int *)fd);
    return NULL;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    if (!is_server) {
        while (!page->port) nap(1);
        many_connections(fds, ALL);
        for (int round = 0; round < 12; round++)
            for (int i = 0; i < ALL; i++) back_and_forth(fds[i]);
        nap(50);
        pthread_t threads[BUSY];
        for (int i = 0; i < BUSY; i++) threads[i] = start(keep_busy, &fds[i * (ALL / 2)]);
        int late = 0;
        for (int i = 0; i < ASKED; i++) {
            // One after the other, each far from the last.
            uint64_t before = now_us();
            back_and_forth(fds[1 + (i * 67 + 5) % (ALL / 2 - 1) + i % 2 * (ALL / 2)]);
            late += now_us() - before > 1000000;
        }
        over = 1;
        for (int i = 0; i < BUSY; i++) join(threads[i]);
        for (int i = 0; i < ALL; i++) close(fds[i]);
        say("%d asked, %d late", ASKED, late);
        return 0;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC)), ended = 0;
    publish(listener = new_listener(INADDR_LOOPBACK, 0, 2048));
    need(epoll_ctl(set, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener }));
    while (ended < ALL) {
        struct epoll_event event;
        if (epoll_wait(set, &event, 1, 10000) != 1) die("%d ended, then nothing for 10 s", ended);
        int fd = event.data.fd;
        char byte;
        if (fd == listener) {
            fd = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
            no_delay(fd);
            need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.fd = fd }));
        } else if (recv(fd, &byte, 1, 0) == 1) {
            send_all(fd, &byte, 1);
        } else {
            close(fd);
            ended++;
        }
    }
    say("ended %d", ended);
    return 0;
}
