/* One end is killed by SIGKILL; what the other end gets. The first argument names the case; the client is the one that dies.
 * The dying end leaves the time of its death in word 1. */
#include "common.h"

static void die_now(void)
{
    page->word[1] = now_us();
    tell(2);
    kill(getpid(), SIGKILL);
}
static void in_time(void)
{
    uint64_t took = now_us() - page->word[1];
    say("within 250 ms %d", took < 250000);
    if (took >= 250000) say("it took %lu ms", (unsigned long)took / 1000);
}
/* The writer has written 1 MB when it dies; the reader starts late. */
static void writer_dies(int fd)
{
    if (!is_server) {
        send_pattern(fd, 0, 1000 * 1000, 8);
        die_now();
    }
    await(2);
    while (!strchr("ZX?", state_of(page->pid[1], page->pid[1]))) nap(1);
    drain(fd, 0, 2000 * 1000, 8, 60000);
    char byte;
    report("recv again", recv(fd, &byte, 1, 0));
}
/* The same with a reader that reads all the time. */
static void writer_dies_reader_reads(int fd)
{
    if (!is_server) {
        send_pattern(fd, 0, 3 * 1000 * 1000, 8);
        die_now();
    }
    drain(fd, 0, 9000 * 1000, 8, 60000);
    in_time();
}
/* A reader blocked in recv, nothing in flight. */
static void idle_peer_dies(int fd)
{
    if (!is_server) {
        await(0);
        wait_state(page->pid[0], page->pid[0], 'S');
        die_now();
    }
    char byte;
    tell(0);
    report("recv", recv(fd, &byte, 1, 0));
    in_time();
    /* The kernel takes one send before it knows; what comes first may be a switch's own. */
    while (send(fd, "x", 1, MSG_NOSIGNAL) == 1) poll(&(struct pollfd){ fd, 0, 0 }, 1, 5000);
    say("send then %s", errno_name());
}
/* The reader dies while the writer waits for room. */
static void reader_dies_writer_waits(int fd)
{
    if (!is_server) {
        await(0);
        wait_state(page->pid[0], page->pid[0], 'S');
        die_now();
    }
    stuff(fd, 0, 1u << 30, 8, 50000);
    tell(0);
    char chunk[50000] = { 0 };
    ssize_t n;
    while ((n = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL)) > 0) {}
    say("send ended with ECONNRESET or EPIPE %d", errno == ECONNRESET || errno == EPIPE);
    in_time();
    report("send", send(fd, "x", 1, MSG_NOSIGNAL));
}
/* The reader dies with unread bytes: the writer gets ECONNRESET. */
static void reader_dies_unread(int fd)
{
    char bytes[10];
    if (!is_server) {
        await(0);
        wait_queued(fd, 5000);
        recv_all(fd, bytes, 10);
        die_now();
    }
    send_pattern(fd, 0, 5000, 8);
    tell(0);
    report("recv", recv(fd, bytes, sizeof bytes, 0));
    in_time();
    report("send", send(fd, "x", 1, MSG_NOSIGNAL));
}
/* The peer dies in the midst of two-way traffic: the stream up to the end is right. */
static void dies_in_traffic(int fd)
{
    static char buffer[20000];
    if (!is_server) {
        for (uint64_t at = 0; at < 5000000; at += 10000) {
            send_pattern(fd, at, 10000, 8);
            recv_all(fd, buffer, 100);
        }
        die_now();
    }
    uint64_t position = 0, answers = 0;
    for (;;) {
        ssize_t n = recv(fd, buffer, 10000, 0);
        if (n <= 0) {
            say("ended %s", n ? "with an error" : "EOF"), say("position %lu", (unsigned long)position);
            break;
        }
        if (!right(buffer, position, n, 8)) break;
        position += n;
        while (position / 10000 > answers) {
            if (send(fd, buffer, 100, MSG_NOSIGNAL) < 0) break;
            answers++;
        }
    }
    in_time();
}
static void scenario(int fd)
{
    static const struct named cases[] = {
        { "writer_dies", writer_dies }, { "writer_dies_reader_reads", writer_dies_reader_reads },
        { "idle_peer_dies", idle_peer_dies }, { "reader_dies_writer_waits", reader_dies_writer_waits },
        { "reader_dies_unread", reader_dies_unread }, { "dies_in_traffic", dies_in_traffic }, { 0 } };
    run_named(cases, fd);
    close(fd);
}
PAIR_MAIN(scenario)
