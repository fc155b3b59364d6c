/* 200 threads each blocked in recv on a connection of its own; one message on one of them wakes one thread: the others'
 * voluntary context switches stay as they were. */
#include "common.h"
#define THREADS 200

static int fds[THREADS];
static _Atomic int tids[THREADS], returned;

static void *reader(void *argument)
{
    int mine = (intptr_t)argument;
    char byte;
    tids[mine] = syscall(SYS_gettid);
    while (recv(fds[mine], &byte, 1, 0) == 1) atomic_fetch_add(&returned, 1);
    return NULL;
}
static long switches(int tid)
{
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    FILE *file = fopen(path, "r");
    long count = -1;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "voluntary_ctxt_switches: %ld", &count);
    if (file) fclose(file);
    return count;
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    many_connections(fds, THREADS);
    warm_many(fds, THREADS);
    if (is_server) {
        for (int i = 0; i < 5; i++) {
            await_count(0, i + 1);
            send_all(fds[i * 41], "t", 1);
        }
        await(1);
        for (int i = 0; i < THREADS; i++) close(fds[i]);
        say("done");
        return 0;
    }
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) threads[i] = start(reader, (void *)i);
    for (int i = 0; i < 5; i++) {
        long before[THREADS];
        all_asleep(tids, THREADS);
        for (int t = 0; t < THREADS; t++) before[t] = switches(tids[t]);
        returned = 0;
        tell(0);
        wait_changed(&returned, 0);
        nap(30);
        int woken = 0;
        for (int t = 0; t < THREADS; t++) woken += switches(tids[t]) != before[t];
        say("returned %d, woken %d", returned, woken);
    }
    tell(1);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    say("done");
    return 0;
}
