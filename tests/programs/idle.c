/* A hundred warm connections between two processes, then silence: each end says what CPU time it used meanwhile.
 * Arguments: seconds, poll|epoll|recv (how the ends wait). */
#include "common.h"
#define CONNECTIONS 100

static int fds[CONNECTIONS];
static void *reader(void *argument)
{
    char byte;
    while (recv(fds[(intptr_t)argument], &byte, 1, 0) == 1) {}
    return NULL;
}
static long cpu_us(void)
{
    struct rusage used;
    need(getrusage(RUSAGE_SELF, &used));
    return used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec + used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec;
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    many_connections(fds, CONNECTIONS);
    warm_many(fds, CONNECTIONS);
    int ends[2]; /* the main thread's own silence */
    need(pipe(ends));
    pthread_t threads[CONNECTIONS];
    bool threaded = !strcmp(args[1], "recv");
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct pollfd look[CONNECTIONS];
    for (intptr_t i = 0; i < CONNECTIONS; i++) {
        if (threaded) threads[i] = start(reader, (void *)i);
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.fd = fds[i] };
        need(epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event));
        look[i] = (struct pollfd){ fds[i], POLLIN, 0 };
    }
    nap(200);
    tell(1);
    await_count(1, 2); /* both */
    int milliseconds = atoi(args[0]) * 1000;
    nap(50);
    long before = cpu_us();
    struct epoll_event event;
    if (threaded) nap(milliseconds);
    else if (!strcmp(args[1], "poll")) report("poll", poll(look, CONNECTIONS, milliseconds));
    else report("epoll_wait", epoll_wait(set, &event, 1, milliseconds));
    long used = cpu_us() - before;
    page->word[is_server] = used;
    tell(2);
    await_count(2, 2);
    for (int i = 0; i < CONNECTIONS; i++) shutdown(fds[i], SHUT_RDWR);
    if (threaded) for (int i = 0; i < CONNECTIONS; i++) join(threads[i]);
    say("done");
    return 0;
}
