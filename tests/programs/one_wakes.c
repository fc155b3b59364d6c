/* 64 threads wait on one epoll set: one message returns one of them (EPOLLET and EPOLLONESHOT, where the kernel's count
 * is exact). With `recv`, 64 threads are blocked in recv on one connection: one returns. */
#include "common.h"
#define THREADS 64

static int set = -1, connection;
static _Atomic int returned, over, tids[THREADS];

static void *waiter(void *argument)
{
    tids[(intptr_t)argument] = syscall(SYS_gettid);
    while (!over) {
        struct epoll_event event;
        char byte;
        if (set >= 0) {
            int n = epoll_wait(set, &event, 1, -1);
            if (n < 1) die("epoll_wait %d %s", n, errno_name());
            if (event.data.u32 == 1) return NULL; /* the end */
            atomic_fetch_add(&returned, 1);
            n = recv(connection, &byte, 1, MSG_DONTWAIT);
            if (n != 1) say("woken for nothing: %d %s", n, n < 0 ? errno_name() : "");
        } else {
            ssize_t n = recv(connection, &byte, 1, 0);
            if (n != 1) return NULL;
            atomic_fetch_add(&returned, 1);
        }
    }
    return NULL;
}
static void scenario(int fd)
{
    char byte;
    if (is_server) {
        for (int i = 0; i < 3; i++) {
            await_count(0, 3 * pass + i + 1);
            send_all(fd, "w", 1);
        }
        await(3);
        close(fd);
        return;
    }
    connection = fd;
    bool recv_ = !strcmp(args[0], "recv"), oneshot = !strcmp(args[0], "oneshot");
    struct epoll_event event = { .events = EPOLLIN | (oneshot ? EPOLLONESHOT : EPOLLET), .data.u32 = 0 };
    int end = need(eventfd(0, EFD_CLOEXEC));
    set = -1;
    memset((void *)tids, 0, sizeof tids);
    if (!recv_) {
        set = need(epoll_create1(EPOLL_CLOEXEC));
        need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    }
    pthread_t threads[THREADS];
    over = 0;
    for (intptr_t i = 0; i < THREADS; i++) threads[i] = start(waiter, (void *)i);
    for (int i = 0; i < 3; i++) {
        all_asleep(tids, THREADS);
        returned = 0;
        tell(0);
        wait_changed(&returned, 0);
        nap(40);
        say("one message, returned %d", returned);
        if (oneshot) need(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    }
    over = 1;
    if (recv_) {
        tell(3); /* the peer closes: all see the end */
    } else {
        uint64_t one = 1;
        need(epoll_ctl(set, EPOLL_CTL_ADD, end, &(struct epoll_event){ .events = EPOLLIN, .data.u32 = 1 }));
        need(write(end, &one, sizeof one));
    }
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    if (!recv_) tell(3);
    report("end", recv(fd, &byte, 1, 0));
    if (set >= 0) close(set);
    close(end);
    close(fd);
}
PAIR_MAIN(scenario)
