/* Two threads read 64-byte records from one connection, two write them to it, both directions at once, across the
 * switch-over: every record once, each whole where TCP keeps it whole: reads and writes of the record's size, and never more
 * on the way than fits one segment (a full buffer or a segment's end splits a record natively too). */
#include "common.h"
#define RECORD 64
#define RECORDS 4000 /* a writing thread */
#define ON_THE_WAY 300

struct end { int fd; int thread; };
static _Atomic uint8_t seen[2 * RECORDS];
static _Atomic int broken, doubled, total;
static _Atomic uint64_t written; /* of all passes, as the words 10 and 11 of the page: what each end has read */

static void *writer(void *argument)
{
    struct end *end = argument;
    for (uint32_t i = 0; i < RECORDS; i++) {
        char record[RECORD];
        uint32_t number = end->thread * RECORDS + i;
        memcpy(record, &number, sizeof number);
        fill(record + sizeof number, number, RECORD - sizeof number, 3);
        atomic_fetch_add(&written, 1);
        while (written > page->word[10 + !is_server] + ON_THE_WAY) sched_yield();
        send_all(end->fd, record, RECORD);
    }
    return NULL;
}
static void *reader(void *argument)
{
    struct end *end = argument;
    for (;;) {
        char record[RECORD];
        ssize_t n = recv(end->fd, record, RECORD, 0);
        if (n == 0) return NULL;
        if (n < 0) die("recv %s", errno_name());
        uint32_t number = 0;
        memcpy(&number, record, sizeof number);
        if (n != RECORD || number >= 2 * RECORDS || !right(record + sizeof number, number, RECORD - sizeof number, 3))
            atomic_fetch_add(&broken, 1);
        else if (atomic_fetch_add(&seen[number], 1))
            atomic_fetch_add(&doubled, 1);
        atomic_fetch_add(&total, 1);
        atomic_fetch_add(&page->word[10 + is_server], 1);
    }
}
static void scenario(int fd)
{
    struct end ends[2] = { { fd, 0 }, { fd, 1 } };
    pthread_t readers[2], writers[2];
    memset(seen, 0, sizeof seen);
    broken = doubled = total = 0;
    for (int i = 0; i < 2; i++) {
        readers[i] = start(reader, &ends[i]);
        writers[i] = start(writer, &ends[i]);
    }
    for (int i = 0; i < 2; i++) join(writers[i]);
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 2; i++) join(readers[i]);
    int missing = 0;
    for (int i = 0; i < 2 * RECORDS; i++) missing += !seen[i];
    say("records %d, broken %d, doubled %d, missing %d", total, broken, doubled, missing);
    close(fd);
}
PAIR_MAIN(scenario)
