/* What every two-ended test program shares: roles, a page of memory beside the connection for hand-shakes, warm-up,
 * position-dependent content, and printing of what was observed (never times, addresses or descriptor numbers that vary).
 *
 *   program server|client|alone DIRECTORY PASSES [ARGUMENT...]
 *
 * PASSES is a comma list; each entry is one connection: a number of ping-pongs before the scenario, or `w`: ping-pongs
 * until the harness says that the connection is carried (or that it need not be). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

#define SLOTS 64
struct page {
    _Atomic uint32_t port;   /* the server's, in host order */
    _Atomic uint32_t asking; /* the program: how many warm-ups wait for the harness */
    _Atomic uint32_t go;     /* the harness: how many may end */
    _Atomic uint32_t expect; /* the program: connections that the present warm-up warms */
    _Atomic uint32_t pid[2]; /* server, client */
    _Atomic uint32_t slot[SLOTS];
    _Atomic uint64_t word[SLOTS];
};
static struct page *page;
static bool is_server;
static int pass;         /* number of the connection, from 0 */
static const char *warm; /* its entry in PASSES */
static int listener = -1;
static int arg_count;
static char **args;

static void say(const char *form, ...)
{
    va_list list;
    va_start(list, form);
    flockfile(stdout);
    if (warm) printf("[%s] ", warm);
    vprintf(form, list);
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
    va_end(list);
}
#define die(...) (say("DIED: " __VA_ARGS__), _exit(99))
static const char *name_of(int error) { return error ? strerrorname_np(error) : "0"; }
#define errno_name() name_of(errno)
#define need(call) ({ typeof(call) need_ = (call); if (need_ == (typeof(need_))-1) die("%s: %s", #call, errno_name()); need_; })
/* "recv 10", or "recv EAGAIN" */
#define report(what, call) ({ errno = 0; long report_ = (call); if (report_ < 0) say("%s %s", what, errno_name()); else say("%s %ld", what, report_); report_; })

static void nap(int milliseconds)
{
    struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    while (nanosleep(&time, &time) && errno == EINTR) {}
}
static uint64_t now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000ull + time.tv_nsec / 1000;
}

/* Hand-shakes by the page: slot N is told at most once a pass. */
static void tell(int slot)
{
    atomic_fetch_add(&page->slot[slot], 1);
    syscall(SYS_futex, &page->slot[slot], FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
static void await_count(int slot, uint32_t count)
{
    uint64_t deadline = now_us() + 30000000;
    uint32_t seen;
    while ((seen = atomic_load(&page->slot[slot])) < count) {
        struct timespec time = { 0, 100000000 };
        if (now_us() > deadline) die("nobody told %d", slot);
        syscall(SYS_futex, &page->slot[slot], FUTEX_WAIT, seen, &time, NULL, 0);
    }
}
static void await(int slot) { await_count(slot, pass + 1); }

/* Content: a byte follows from its position and a key, so that every byte is known. */
static uint8_t byte_at(uint64_t position, uint32_t key)
{
    uint64_t x = position + ((uint64_t)key << 40);
    x *= 0x9e3779b97f4a7c15ull;
    return (x >> 56) ^ (x >> 24);
}
static void fill(void *to, uint64_t position, size_t length, uint32_t key)
{
    for (size_t i = 0; i < length; i++) ((uint8_t *)to)[i] = byte_at(position + i, key);
}
static _Atomic int wrong_ones;
/* Says where wrong bytes come from, if they belong elsewhere in the same stream. */
static void explain_wrong(const uint8_t *bytes, uint64_t position, size_t length, uint32_t key)
{
    if (atomic_fetch_add(&wrong_ones, 1) > 3) return;
    size_t look = length < 8 ? length : 8;
    for (uint64_t from = 0; look == 8 && from < position + (8 << 20); from++) {
        size_t same = 0;
        while (same < look && bytes[same] == byte_at(from + same, key)) same++;
        if (same == look) {
            say("WRONG BYTE at %lu: those of %lu", (unsigned long)position, (unsigned long)from);
            return;
        }
    }
    say("WRONG BYTE at %lu: %02x %02x", (unsigned long)position, bytes[0], length > 1 ? bytes[1] : 0);
}
static bool right(const void *from, uint64_t position, size_t length, uint32_t key)
{
    for (size_t i = 0; i < length; i++)
        if (((const uint8_t *)from)[i] != byte_at(position + i, key)) {
            explain_wrong((const uint8_t *)from + i, position + i, length - i, key);
            return false;
        }
    return true;
}

static void send_all(int fd, const void *from, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = send(fd, (const char *)from + done, length - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) { poll(&(struct pollfd){ fd, POLLOUT, 0 }, 1, -1); continue; }
        if (n <= 0) die("send_all: %s after %zu of %zu", errno_name(), done, length);
        done += n;
    }
}
static size_t recv_upto(int fd, void *to, size_t length) /* until length, EOF or an error */
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = recv(fd, (char *)to + done, length - done, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) { poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1); continue; }
        if (n <= 0) break;
        done += n;
    }
    return done;
}
static void recv_all(int fd, void *to, size_t length)
{
    errno = 0;
    size_t done = recv_upto(fd, to, length);
    if (done < length) die("recv_all: %zu of %zu, %s", done, length, errno_name());
}
static void send_pattern(int fd, uint64_t position, size_t length, uint32_t key)
{
    char *buffer = malloc(length ? length : 1);
    fill(buffer, position, length, key);
    send_all(fd, buffer, length);
    free(buffer);
}
/* Reads up to length bytes (or all until the end), checks them, says how many and how it ended. */
static uint64_t drain(int fd, uint64_t position, uint64_t length, uint32_t key, size_t chunk)
{
    char *buffer = malloc(chunk);
    uint64_t done = 0;
    const char *end = "enough";
    while (done < length) {
        ssize_t n = recv(fd, buffer, chunk < length - done ? chunk : length - done, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) { poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1); continue; }
        if (n < 0) { end = errno_name(); break; }
        if (n == 0) { end = "EOF"; break; }
        if (!right(buffer, position + done, n, key)) { end = "WRONG"; break; }
        done += n;
    }
    say("drained %lu, %s", (unsigned long)done, end);
    free(buffer);
    return done;
}
/* Sees the other end's end, with nothing before it, then closes. */
static void close_after_peer(int fd)
{
    drain(fd, 0, 1, 0, 1);
    close(fd);
}
static void shut_and_close(int fd)
{
    shutdown(fd, SHUT_WR);
    close_after_peer(fd);
}
/* Reads exactly length bytes, whose number is no part of the outcome. */
static void take_right(int fd, uint64_t position, uint64_t length, uint32_t key)
{
    char *buffer = malloc(100000);
    uint64_t left = length;
    while (left) {
        size_t n = left < 100000 ? left : 100000;
        recv_all(fd, buffer, n);
        if (!right(buffer, position + length - left, n, key)) break;
        left -= n;
    }
    say("all that was taken came, right %d", left == 0);
    free(buffer);
}
/* One message each way, the client's first, checked. The client's content has this key, the server's the next. */
static void exchange(int fd, void *bytes, uint64_t position, size_t length, uint32_t key)
{
    if (is_server) recv_all(fd, bytes, length);
    if (is_server && !right(bytes, position, length, key)) die("wrong");
    send_pattern(fd, position, length, key + is_server);
    if (!is_server) recv_all(fd, bytes, length);
    if (!is_server && !right(bytes, position, length, key + 1)) die("wrong");
}
/* The peer in answer() sends so many bytes. */
static void ask(int fd, int bytes)
{
    send_all(fd, (char[]){ bytes }, 1);
}
static void answer(int fd)
{
    char bytes[256] = { 0 };
    uint8_t count;
    while (recv(fd, &count, 1, 0) == 1) send_all(fd, bytes, count);
    close(fd);
}
static int queued(int fd)
{
    int n = -1;
    need(ioctl(fd, FIONREAD, &n));
    return n;
}
static void wait_queued(int fd, int least)
{
    uint64_t deadline = now_us() + 10000000;
    while (queued(fd) < least) {
        if (now_us() > deadline) die("only %d of %d bytes queued", queued(fd), least);
        nap(1);
    }
}
static const char *events_text(unsigned events)
{
    static __thread char text[96];
    snprintf(text, sizeof text, "%s%s%s%s%s%s", events & POLLIN ? "IN " : "", events & POLLPRI ? "PRI " : "",
             events & POLLOUT ? "OUT " : "", events & POLLERR ? "ERR " : "", events & POLLHUP ? "HUP " : "",
             events & POLLRDHUP ? "RDHUP " : "");
    if (events & POLLNVAL) strcat(text, "NVAL ");
    return text[0] ? text : "none";
}
static void nonblocking(int fd, bool on)
{
    int flags = need(fcntl(fd, F_GETFL));
    need(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}
/* Writes without blocking until the socket takes no more; the number of bytes taken. */
static uint64_t stuff(int fd, uint64_t position, uint64_t most, uint32_t key, size_t chunk)
{
    char *buffer = malloc(chunk);
    uint64_t done = 0;
    for (int refused = 0; done < most;) {
        size_t n = chunk < most - done ? chunk : most - done;
        fill(buffer, position + done, n, key);
        ssize_t sent = send(fd, buffer, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) { /* what is on its way to the peer's buffer may still make room */
            if (++refused == 4) break;
            nap(10);
            continue;
        }
        refused = 0;
        if (sent < 0) die("stuff: %s", errno_name());
        done += sent;
    }
    free(buffer);
    return done;
}

/* Waits until a thread of this process (or another) sleeps: seen so twice. */
static char state_of(int pid, int tid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    FILE *file = fopen(path, "r");
    if (!file) return '?';
    char state = '?', *end;
    if (fgets(text, sizeof text, file) && (end = strrchr(text, ')'))) state = end[2];
    fclose(file);
    return state;
}
static void wait_state(int pid, int tid, char state)
{
    uint64_t deadline = now_us() + 10000000;
    for (int seen = 0; seen < 3;) {
        seen = state_of(pid, tid) == state ? seen + 1 : 0;
        if (now_us() > deadline) die("thread never in state %c", state);
        nap(3);
    }
}
/* Other threads do what is waited for, within 5 s or not at all: the program says what it then sees. */
static void wait_changed(_Atomic int *value, int from)
{
    uint64_t deadline = now_us() + 5000000;
    while (*value == from && now_us() < deadline) nap(1);
}
static void all_asleep(_Atomic int *tids, int count)
{
    for (int i = 0; i < count; i++) {
        while (!tids[i]) nap(1);
        uint64_t deadline = now_us() + 5000000;
        while (state_of(getpid(), tids[i]) != 'S' && now_us() < deadline) nap(1);
    }
    nap(20);
}

static void plain_ping_pongs(int fd, int count)
{
    char bytes[16] = { 0 };
    for (int i = 0; i < count; i++) {
        if (is_server) recv_all(fd, bytes, sizeof bytes);
        send_all(fd, bytes, sizeof bytes);
        if (!is_server) recv_all(fd, bytes, sizeof bytes);
    }
}
static void warm_many(int *fds, int count)
{
    char bytes[16] = { 0 };
    if (is_server) {
        do
            for (int i = 0; i < count; i++) {
                recv_all(fds[i], bytes, sizeof bytes);
                send_all(fds[i], bytes, sizeof bytes);
            }
        while (bytes[0] != 'L');
        return;
    }
    atomic_store(&page->expect, count);
    uint32_t asked = atomic_fetch_add(&page->asking, 1) + 1;
    for (bool last = false; !last;) {
        last = atomic_load(&page->go) >= asked;
        for (int round = 0; round < 20; round++)
            for (int i = 0; i < count; i++) {
                bytes[0] = last && round == 19 ? 'L' : 'p';
                send_all(fds[i], bytes, sizeof bytes);
                recv_all(fds[i], bytes, sizeof bytes);
            }
        if (!last) nap(2);
    }
}
static void warm_up(int fd) { warm_many(&fd, 1); }
static void warm_as_told(int fd)
{
    if (warm[0] == 'w') warm_up(fd);
    else plain_ping_pongs(fd, atoi(warm));
}

/* Where the server is: this host, or what the harness says, for ends that are on two. */
static uint32_t server_address(void)
{
    const char *said = getenv("TANDEM_TESTS_ADDRESS");
    return said ? ntohl(inet_addr(said)) : INADDR_LOOPBACK;
}
static int new_listener(uint32_t address, int port, int backlog)
{
    int fd = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), on = 1;
    need(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address) };
    need(bind(fd, (void *)&at, sizeof at));
    need(listen(fd, backlog));
    return fd;
}
static void publish(int fd)
{
    struct sockaddr_in at;
    socklen_t length = sizeof at;
    need(getsockname(fd, (void *)&at, &length));
    atomic_store(&page->port, ntohs(at.sin_port));
}
static void no_delay(int fd)
{
    int on = 1;
    need(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
}
static void reset_on_close(int fd)
{
    struct linger linger = { 1, 0 };
    need(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
}
static int raw_connect(void)
{
    uint64_t deadline = now_us() + 20000000;
    while (!atomic_load(&page->port)) {
        if (now_us() > deadline) die("no server");
        nap(1);
    }
    int fd = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(page->port), .sin_addr.s_addr = htonl(server_address()) };
    need(connect(fd, (void *)&at, sizeof at));
    return fd;
}
static int next_connection(void)
{
    if (is_server && listener < 0) publish(listener = new_listener(INADDR_LOOPBACK, 0, 1024));
    int fd = is_server ? need(accept4(listener, NULL, NULL, SOCK_CLOEXEC)) : raw_connect();
    no_delay(fd);
    return fd;
}
static void many_connections(int *fds, int count)
{
    for (int i = 0; i < count; i++) fds[i] = next_connection();
}
static pthread_t start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    if (pthread_create(&thread, &attributes, body, argument)) die("no thread");
    return thread;
}
static void join(pthread_t thread) { pthread_join(thread, NULL); }

/* Opens the page; the rest of main is the program's. */
static void begin(int argc, char **argv)
{
    if (argc < 4) { fprintf(stderr, "usage: %s server|client|alone DIRECTORY PASSES [ARGUMENT...]\n", argv[0]); exit(2); }
    is_server = !strcmp(argv[1], "server");
    char path[512];
    snprintf(path, sizeof path, "%s/page", argv[2]);
    int fd = need(open(path, O_RDWR | O_CLOEXEC));
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) die("page: %s", errno_name());
    close(fd);
    atomic_store(&page->pid[!is_server], getpid());
    arg_count = argc - 4;
    args = argv + 4;
}
/* One connection a pass; the scenario owns the descriptor. */
static void each_pass(char **argv, void (*scenario)(int fd))
{
    char *list = strdup(argv[3]), *rest = list, *entry;
    for (pass = 0; (entry = strsep(&rest, ",")); pass++) {
        warm = entry;
        int fd = next_connection();
        warm_as_told(fd);
        scenario(fd);
    }
    warm = NULL;
}
/* The case that the first argument names; the list ends with { 0 }. */
struct named { const char *name; void (*body)(int fd); };
static void run_named(const struct named *cases, int fd)
{
    for (; cases->name; cases++)
        if (!strcmp(args[0], cases->name)) cases->body(fd);
}
#define PAIR_MAIN(scenario) \
    int main(int argc, char **argv) \
    { \
        begin(argc, argv); \
        each_pass(argv, scenario); \
        say("done"); \
        return 0; \
    }
