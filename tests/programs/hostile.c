/* A peer that writes anything into the memory that it shares, while the other end runs.
 *
 *   hostile victim PORT-FILE                    serves for ever, in five manners; says nothing unless something is wrong
 *   hostile attacker PORT SEED SECONDS          connections to it, and threads that scribble; says how much it did
 *   hostile honest PORT SECONDS                 connections to it whose every byte is checked
 *
 * Both ends use time limits of two seconds, so that a call that takes much longer hangs. What comes from an attacker is garbage and
 * may end at any time; the victim must live, answer the honest, and sleep when nobody writes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_S 2
#define HANG_S 40
#define MANNERS 5
/* As policyd/protocol/src/pair.rs has it; the witness below fails when it is otherwise. */
#define CONTROL 1024
#define CONNS 8192
#define SMALL_AT ((size_t)CONTROL * CONNS)
#define SMALL (64ul << 10)
#define BIG_AT (1032ul << 20)
#define BIG (4ul << 20)
#define NEWS_AT (17416ul << 20)
#define FIRST_AT (NEWS_AT + 4096)
#define FIRST 1024

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
static void nap_us(long us)
{
    struct timespec t = { us / 1000000, us % 1000000 * 1000 };
    nanosleep(&t, NULL);
}
static uint64_t roll(uint64_t *dice)
{
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    return *dice;
}
static void fail(const char *what)
{
    printf("WRONG: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    if (getenv("HOSTILE_STOPS")) raise(SIGSTOP); /* for a debugger */
    _exit(1);
}
static pthread_t start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    if (pthread_create(&thread, &small, body, argument)) fail("pthread_create");
    return thread;
}
static void limits(int fd)
{
    struct timeval limit = { LIMIT_S, 0 };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* Which call each thread is in, since when: somebody looks for one that does not come back. */
static struct { _Atomic double since; const char *_Atomic name; } calls[4096];
static _Atomic int next_call;
static __thread int own_call = -1;
static void in_call(const char *name)
{
    if (own_call < 0) own_call = atomic_fetch_add(&next_call, 1) % 4096;
    calls[own_call].name = name;
    calls[own_call].since = name ? now() : 0;
}
static void *look_for_hangs(void *none)
{
    for (;;) {
        nap_us(500000);
        for (int i = 0; i < 4096; i++) {
            double since = calls[i].since;
            const char *name = calls[i].name;
            if (name && since > 0 && now() - since > HANG_S && calls[i].since == since) {
                errno = 0;
                fail(name);
            }
        }
    }
    return none;
}
#define CALL(name, ...) ({ in_call(name); __auto_type result_ = __VA_ARGS__; int errno_ = errno; in_call(NULL); errno = errno_; result_; })

/* ---- the victim ---- */
static int set;
static void echo_blocking(int fd, int flags)
{
    char bytes[70000];
    ssize_t n;
    while ((n = CALL("recv", recv(fd, bytes, sizeof bytes, 0))) > 0)
        for (ssize_t sent = 0, m; sent < n; sent += m)
            if ((m = CALL("send", send(fd, bytes + sent, n - sent, MSG_NOSIGNAL))) < 0) return;
}
static void echo_polling(int fd)
{
    static __thread char bytes[70000];
    size_t held = 0;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    for (double until = now() + LIMIT_S; now() < until;) {
        struct pollfd look = { fd, (held < sizeof bytes ? POLLIN : 0) | (held ? POLLOUT : 0), 0 };
        if (CALL("poll", poll(&look, 1, 1000)) <= 0) continue;
        if (look.revents & POLLIN && held < sizeof bytes) {
            ssize_t n = CALL("recv, non-blocking", recv(fd, bytes + held, sizeof bytes - held, 0));
            if (n == 0 || (n < 0 && errno != EAGAIN)) return;
            if (n > 0) held += n, until = now() + LIMIT_S;
        }
        if (look.revents & POLLOUT && held) {
            ssize_t n = CALL("send, non-blocking", send(fd, bytes, held, MSG_NOSIGNAL));
            if (n < 0 && errno != EAGAIN) return;
            if (n > 0) memmove(bytes, bytes + n, held -= n);
        }
        if (look.revents & (POLLERR | POLLNVAL) || (look.revents & POLLHUP && !(look.revents & POLLIN))) return;
    }
}
static void echo_carefully(int fd)
{
    char bytes[4096];
    for (;;) {
        ssize_t seen = CALL("peek", recv(fd, bytes, sizeof bytes, MSG_PEEK));
        if (seen <= 0) break;
        char again[4096];
        ssize_t n = CALL("recv, all", recv(fd, again, seen, MSG_WAITALL));
        if (n <= 0) break;
        if (CALL("send", send(fd, again, n, MSG_NOSIGNAL)) != n) break;
    }
    shutdown(fd, SHUT_WR);
    while (CALL("recv, to the end", recv(fd, bytes, sizeof bytes, 0)) > 0) {}
}
struct job { int fd; unsigned manner; };
static void *serve_one(void *argument)
{
    struct job job = *(struct job *)argument;
    free(argument);
    switch (job.manner) {
    case 0: limits(job.fd); echo_blocking(job.fd, 0); break;
    case 1: echo_polling(job.fd); break;
    default: limits(job.fd); echo_carefully(job.fd);
    }
    CALL("close", close(job.fd));
    return NULL;
}
/* Both epoll manners: level-triggered and edge-triggered in one set. */
static void *serve_set(void *none)
{
    static char bytes[70000];
    for (;;) {
        struct epoll_event found[64];
        int n = CALL("epoll_wait", epoll_wait(set, found, 64, 1000));
        for (int i = 0; i < n; i++) {
            int fd = (int)found[i].data.u64;
            bool edge = found[i].data.u64 >> 32, over = false;
            for (;;) {
                ssize_t got = CALL("recv, in epoll", recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
                if (got < 0 && errno == EAGAIN) break;
                /* What finds no room is dropped; the honest never fill it. */
                if (got <= 0 || (CALL("send, in epoll", send(fd, bytes, got, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0 && errno != EAGAIN)) {
                    over = true;
                    break;
                }
                if (!edge) break;
            }
            if (over) CALL("close, in epoll", close(fd));
        }
    }
    return none;
}
static void victim(const char *file)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    if (bind(listener, (void *)&at, size) || listen(listener, 512) || getsockname(listener, (void *)&at, &size)) fail("listen");
    set = epoll_create1(0);
    start(serve_set, NULL);
    FILE *out = fopen(file, "w");
    fprintf(out, "%d", ntohs(at.sin_port));
    fclose(out);
    for (unsigned count = 0;; count++) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            if (errno == EMFILE) fail("accept");
            continue;
        }
        if (count % MANNERS >= 3) {
            struct epoll_event event = { EPOLLIN | EPOLLRDHUP | (count % MANNERS == 4 ? EPOLLET : 0), { .u64 = (uint64_t)(count % MANNERS == 4) << 32 | fd } };
            epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
            continue;
        }
        struct job *job = malloc(sizeof *job);
        *job = (struct job){ fd, count % MANNERS };
        pthread_detach(start(serve_one, job));
    }
}

/* ---- the others ---- */
static struct sockaddr_in target;
static double end;
static _Atomic uint64_t connections, exchanged, scribbles, broken, given;
static int connected(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    limits(fd);
    if (connect(fd, (void *)&target, sizeof target)) {
        close(fd);
        return -1;
    }
    return fd;
}
/* Sends so much and takes it back; false when that does not come to pass. */
static bool exchange(int fd, char *bytes, size_t size, char *back)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t n = CALL("send", send(fd, bytes + sent, size - sent, MSG_NOSIGNAL));
        if (n <= 0) return false;
        sent += n;
    }
    for (size_t got = 0; got < size;) {
        ssize_t n = CALL("recv", recv(fd, back + got, size - got, 0));
        if (n <= 0) return false;
        got += n;
    }
    return true;
}
static void *attack(void *argument)
{
    uint64_t dice = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 1;
    static __thread char bytes[40000], back[40000];
    while (now() < end) {
        int fd = connected();
        if (fd < 0) continue;
        connections++;
        int rounds = 5 + roll(&dice) % 200;
        for (int i = 0; i < rounds && now() < end; i++) {
            size_t size = 1 + roll(&dice) % (roll(&dice) % 8 ? 500 : sizeof bytes);
            if (!exchange(fd, bytes, size, back)) {
                broken++;
                break;
            }
            exchanged += size;
        }
        switch (roll(&dice) % 4) {
        case 0: shutdown(fd, SHUT_WR); CALL("recv, to the end", recv(fd, back, sizeof back, 0)); break;
        case 1: { struct linger reset = { 1, 0 }; setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset); break; }
        case 2: send(fd, bytes, 3000, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        CALL("close", close(fd));
    }
    return NULL;
}
/* Every mapping of pairs that this process has. */
static int pairs(char **found, int most)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    while (fgets(line, sizeof line, maps) && count < most) {
        unsigned long from, to;
        if (strstr(line, "memfd:tandem-pair") && sscanf(line, "%lx-%lx", &from, &to) == 2 && to - from > NEWS_AT) found[count++] = (char *)from;
    }
    fclose(maps);
    return count;
}
static uint64_t value(uint64_t *dice, _Atomic uint64_t *words, _Atomic uint64_t *word)
{
    uint64_t is = *word;
    switch (roll(dice) % 14) {
    case 0: return roll(dice);
    case 1: return roll(dice) % 12;
    case 2: return is + 1;
    case 3: return is - 1;
    case 4: return is + (1ul << roll(dice) % 64);
    case 5: return is ^ (1ul << roll(dice) % 64);
    case 6: return UINT64_MAX - (1ul << roll(dice) % 63);
    case 7: return UINT64_MAX;
    case 8: return words[roll(dice) % 128];
    case 9: return 0;
    case 10: return is + roll(dice) % (1 << 18);
    case 11: return is - roll(dice) % (1 << 18);
    case 12: return (is & ~7ul) + roll(dice) % 8;
    default: return SMALL_AT + roll(dice) % (64 * SMALL);
    }
}
static bool gently; /* one word, then a while: switch-overs come to their ends */
static void *scribble(void *argument)
{
    uint64_t dice = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 77;
    char *bases[8];
    while (now() < end) {
        int count = pairs(bases, 8);
        if (!count) {
            nap_us(2000);
            continue;
        }
        for (int burst = 0; burst < 200 && now() < end; burst++) {
            char *base = bases[roll(&dice) % count];
            unsigned long conn = roll(&dice) % 24;
            _Atomic uint64_t *words = (_Atomic uint64_t *)(base + conn * CONTROL);
            int times = gently ? 1 : 1 + roll(&dice) % 20;
            for (int i = 0; i < times; i++) {
                _Atomic uint64_t *word = words + roll(&dice) % 128;
                /* Words that were never used say nothing. */
                if (!*word && roll(&dice) % 4) continue;
                *word = value(&dice, words, word);
                scribbles++;
            }
            if (roll(&dice) % 8 == 0) memset(base + FIRST_AT + conn * 2 * FIRST + roll(&dice) % FIRST, (int)roll(&dice), FIRST);
            unsigned kind = roll(&dice) % 64;
            unsigned role = roll(&dice) % 2;
            if (kind < 6) ((_Atomic uint64_t *)(base + NEWS_AT))[roll(&dice) % 256] = roll(&dice);
            if (kind == 7) memset(base + SMALL_AT + role * SMALL * CONNS + conn * SMALL, (int)roll(&dice), 4096);
            if (kind == 8) madvise(base + SMALL_AT + role * SMALL * CONNS + conn * SMALL, SMALL, MADV_REMOVE);
            if (kind == 9) madvise(base + BIG_AT + (roll(&dice) % 4) * BIG, BIG, MADV_REMOVE);
            if (kind == 11) madvise(base + FIRST_AT + (conn & ~1ul) * 2 * FIRST, 4096, MADV_REMOVE);
            if (kind == 10) madvise(base + (conn & ~3ul) * CONTROL, 4096, MADV_REMOVE);
            nap_us(gently ? 3000 + roll(&dice) % 5000 : roll(&dice) % 1500);
        }
    }
    return NULL;
}
/* The library sees what goes by syscall(), too. */
static long bare(long number, long a, long b, long c)
{
#ifdef __x86_64__
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#else
    return -ENOSYS;
#endif
}
/* What goes to a waker is what it writes to. On each channel of a pair (a seqpacket socket without a name, hidden from us by the library,
 * so by bare system calls): descriptors that are no eventfd, and full ones that would make the waker wait. */
static void *give_descriptors(void *argument)
{
    uint64_t dice = 99;
    int ends[2];
    if (pipe2(ends, O_NONBLOCK)) fail("pipe");
    char page[65536] = { 0 };
    while (write(ends[1], page, sizeof page) > 0) {}
    fcntl(ends[1], F_SETFL, 0);
    while (now() < end) {
        /* The library takes a socket that is used so for one that leaves it: that happens amid all the rest. */
        for (int fd = 3; fd < 64; fd++) syscall(SYS_getpeername, fd, NULL, NULL);
        DIR *open = opendir("/proc/self/fd");
        for (struct dirent *entry; (entry = readdir(open));) {
            int fd = atoi(entry->d_name);
            struct sockaddr_storage name;
            socklen_t size = sizeof name;
            if (bare(SYS_getpeername, fd, (long)&name, (long)&size) || name.ss_family != AF_UNIX || size > sizeof(sa_family_t)) continue;
            uint32_t text[2] = { roll(&dice) % 40, roll(&dice) % 4 };
            struct iovec part = { text, sizeof text };
            char room[CMSG_SPACE(sizeof(int))] = { 0 };
            struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
            struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(rights), &ends[1], sizeof(int));
            if (bare(SYS_sendmsg, fd, (long)&message, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) given++;
        }
        closedir(open);
        nap_us(20000);
    }
    return argument;
}
static void *be_honest(void *argument)
{
    uint64_t dice = (uintptr_t)argument + 5;
    static __thread char bytes[3000], back[3000];
    while (now() < end) {
        int fd = connected();
        if (fd < 0) continue;
        connections++;
        /* It may be late where the machine is, but it comes. */
        struct timeval patient = { HANG_S, 0 };
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patient, sizeof patient);
        for (int i = 0; i < 100 && now() < end; i++) {
            size_t size = 1 + roll(&dice) % sizeof bytes;
            for (size_t at = 0; at < size; at++) bytes[at] = (char)roll(&dice);
            if (!exchange(fd, bytes, size, back)) fail("an honest connection");
            if (memcmp(bytes, back, size)) fail("an honest connection's bytes");
            exchanged += size;
            nap_us(1000);
        }
        close(fd);
    }
    return NULL;
}
static void ends_well(pthread_t *threads, int count)
{
    while (count--) pthread_join(threads[count], NULL);
}
int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    start(look_for_hangs, NULL);
    if (argc == 3 && !strcmp(argv[1], "victim")) victim(argv[2]);
    if (argc < 4) return 2;
    bool attacks = !strcmp(argv[1], "attacker");
    target = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    end = now() + atoi(argv[attacks ? 4 : 3]);
    pthread_t threads[16];
    int count = 0;
    uintptr_t seed = attacks ? strtoul(argv[3], NULL, 10) : 1;
    gently = seed % 2;
    for (uintptr_t i = 0; i < (attacks ? 10 : 5); i++) threads[count++] = start(attacks ? attack : be_honest, (void *)(seed * 100 + i));
    if (attacks) {
        for (uintptr_t i = 0; i < 2; i++) threads[count++] = start(scribble, (void *)(seed * 100 + 50 + i));
        threads[count++] = start(give_descriptors, NULL);
    }
    ends_well(threads, count);
    printf("%lu connections, %lu bytes, %lu words, %lu broken, %lu descriptors\n", connections, exchanged, scribbles, broken, given);
    return 0;
}
