/* A SAN provider that needs no device: what is put goes by datagrams to the peer process, whose thread lays it down and says so. It behaves
 * as verbs does where the switch could notice: puts are under way for a while, land in order, and are lost with either process;
 * orders are done by a thread; a forked child can call nothing. With it the switch's part between hosts is tested where there is no RDMA.
 *
 * STAND_IN_NAME, when it is compiled: what it is called; else it stands in for verbs.
 *
 * TANDEM_STAND_IN_DELAY=N: each put is on its way for N microseconds more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "tandem_provider.h"

#ifndef STAND_IN_NAME
#define STAND_IN_NAME "verbs"
#endif
#define COMPANIONS 8192
#define MEMORIES 4096
#define REMOTES 512
#define DEPTH 64
#define PIECE (64u << 10)
#define RETRIES_NS 30000000ull

/* Past the switch's hooks, which hide our descriptors from everybody else. */
static struct {
    ssize_t (*read)(int, void *, size_t);
    ssize_t (*write)(int, const void *, size_t);
    ssize_t (*recvmsg)(int, struct msghdr *, int);
    ssize_t (*sendmsg)(int, const struct msghdr *, int);
    int (*poll)(struct pollfd *, nfds_t, int);
} real;

struct memory { uint64_t key, cookie; uint8_t *base; uint64_t bytes; struct tandem_domain *domain; bool open, puts; };
struct remote { uint64_t key, bytes; bool taken; };
struct tandem_domain { uint64_t cookie; int companions; struct remote remotes[REMOTES]; };
struct order { uint64_t key, offset, token, due; uint32_t bytes, note, flags, sent; const uint8_t *from; uint8_t immediate[TANDEM_IMMEDIATE_BYTES]; };
struct tandem_companion {
    struct tandem_domain *domain;
    uint64_t cookie, id, peer;
    struct sockaddr_un to;
    bool ready, connected, dead, closing, wants_room;
    uint64_t dies_at;                                   /* nobody acknowledges any more, which a device finds out by and by */
    struct order orders[DEPTH];
    uint32_t first, count;                              /* still to be sent, or on their way */
    uint64_t sent, acked;                               /* pieces; those that have landed */
    struct { uint64_t at, token; } reports[DEPTH * 4];
    uint32_t report_first, report_count;
    uint64_t came, told;                                /* pieces that have come; those acknowledged */
};
struct tandem_queue { uint64_t cookie; };

enum { PIECE_OF_PUT = 1, ACK, NAK };
struct header { uint32_t kind, flags; uint64_t to, from, key, offset, number; uint32_t bytes, note; };

static const struct tandem_host *host;
static struct tandem_provider table;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner;
static int bell = -1, wake = -1, sock = -1;
static char path[100];
static struct tandem_queue queue;
static struct tandem_companion *companions[COMPANIONS];
static struct memory memories[MEMORIES];
static uint64_t next_id, next_key;
static struct tandem_completion *told;
static uint32_t told_first, told_count, told_room;
static _Atomic uint32_t told_any;
static pthread_t thread;
static bool running, leave;
static uint64_t delay_ns;

static bool ours(void) { return owner == getpid(); }
static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}
static void ring(int fd) { uint64_t one = 1; real.write(fd, &one, sizeof one); }
static void hush(int fd) { uint64_t all; real.read(fd, &all, sizeof all); }

/* Under the lock, and so all below. */
static void tell(uint32_t kind, int32_t status, uint64_t cookie, uint64_t token, uint32_t note)
{
    if (told_first + told_count == told_room) {
        memmove(told, told + told_first, told_count * sizeof *told);
        told_first = 0;
        if (told_count == told_room) told = realloc(told, (told_room = told_room * 2 + 64) * sizeof *told);
    }
    told[told_first + told_count++] = (struct tandem_completion){ kind, status, cookie, token, note, 0 };
    if (!atomic_exchange(&told_any, 1)) ring(wake);
}
static struct tandem_companion *find_companion(uint64_t id)
{
    struct tandem_companion *found = companions[id % COMPANIONS];
    return found && found->id == id ? found : NULL;
}
static int say(const struct sockaddr_un *to, struct header *header, const void *bytes)
{
    struct iovec parts[2] = { { header, sizeof *header }, { (void *)bytes, bytes ? header->bytes : 0 } };
    struct msghdr message = { .msg_name = (void *)to, .msg_namelen = sizeof *to, .msg_iov = parts, .msg_iovlen = 2 };
    return real.sendmsg(sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

static void die(struct tandem_companion *companion, int error)
{
    if (companion->dead) return;
    companion->dead = true;
    companion->count = 0;
    /* What it has not acknowledged would be sent again by a device, in vain. */
    struct header no = { NAK, 0, companion->peer, companion->id, 0, 0, 0, 0, 0 };
    say(&companion->to, &no, NULL);
    tell(TANDEM_DEAD, -error, companion->cookie, 0, 0);
}

/* True: it is to be tried again soon. */
static bool send_acknowledgement(struct tandem_companion *companion)
{
    if (companion->told == companion->came || !companion->connected) return false;
    struct header header = { ACK, 0, companion->peer, companion->id, 0, 0, companion->came, 0, 0 };
    int error = say(&companion->to, &header, NULL);
    if (!error) companion->told = companion->came;
    return error == EAGAIN;
}
static bool send_orders(struct tandem_companion *companion)
{
    while (companion->count && !companion->dead) {
        struct order *order = &companion->orders[companion->first % DEPTH];
        if (order->due > now_ns()) return true;
        uint32_t left = order->bytes - order->sent, bytes = left < PIECE ? left : PIECE;
        bool last = bytes == left;
        struct header header = { PIECE_OF_PUT, last ? order->flags : 0, companion->peer, companion->id, order->key,
                                 order->offset + order->sent, companion->sent + 1, bytes, order->note };
        const uint8_t *from = order->flags & TANDEM_IMMEDIATE ? order->immediate : order->from;
        int error = say(&companion->to, &header, bytes ? from + order->sent : NULL);
        if (error == EAGAIN || error == ENOBUFS) return true;
        if (error) { if (!companion->dies_at) companion->dies_at = now_ns() + RETRIES_NS; return true; }
        companion->sent++;
        order->sent += bytes;
        if (!last) continue;
        if (order->flags & TANDEM_REPORT) {
            uint32_t at = (companion->report_first + companion->report_count++) % (DEPTH * 4);
            companion->reports[at].at = companion->sent, companion->reports[at].token = order->token;
        }
        companion->first++, companion->count--;
    }
    if (companion->wants_room && companion->count < DEPTH / 2 && !companion->dead) {
        companion->wants_room = false;
        tell(TANDEM_ROOM, 0, companion->cookie, 0, 0);
    }
    return false;
}
static void lay_down(struct tandem_companion *companion, struct header *header, const uint8_t *bytes)
{
    struct memory *memory = &memories[header->key % MEMORIES];
    if (header->bytes) {
        bool fits = memory->open && memory->puts && memory->key == header->key && memory->domain == companion->domain &&
                    header->offset <= memory->bytes && header->bytes <= memory->bytes - header->offset;
        if (!fits) { die(companion, EFAULT); return; }
        memcpy(memory->base + header->offset, bytes, header->bytes);
    }
    companion->came++;
    if (header->flags & TANDEM_NOTIFY) tell(TANDEM_NOTIFIED, 0, companion->cookie, 0, header->note);
}
static void acknowledged(struct tandem_companion *companion, uint64_t number)
{
    if (number > companion->acked && number <= companion->sent) companion->acked = number;
    while (companion->report_count && companion->reports[companion->report_first % (DEPTH * 4)].at <= companion->acked) {
        tell(TANDEM_LANDED, 0, companion->cookie, companion->reports[companion->report_first % (DEPTH * 4)].token, 0);
        companion->report_first++, companion->report_count--;
    }
}
static bool hear(void)
{
    static struct { struct header header; uint8_t bytes[PIECE]; } message;
    struct sockaddr_un from;
    struct iovec part = { &message, sizeof message };
    struct msghdr all = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1 };
    if (real.recvmsg(sock, &all, MSG_DONTWAIT) < (ssize_t)sizeof message.header) return false;
    struct header *header = &message.header;
    struct tandem_companion *companion = find_companion(header->to);
    bool known = companion && companion->connected && !companion->closing && !companion->dead && companion->peer == header->from;
    if (!known && header->kind == PIECE_OF_PUT) {
        struct header no = { NAK, 0, header->from, header->to, 0, 0, 0, 0, 0 };
        say(&from, &no, NULL);
    } else if (known && header->kind == PIECE_OF_PUT) {
        lay_down(companion, header, message.bytes);
    } else if (known && header->kind == ACK) {
        acknowledged(companion, header->number);
    } else if (known && header->kind == NAK && !companion->dies_at) {
        companion->dies_at = now_ns() + RETRIES_NS;
    }
    return true;
}
static void *work(void *unused)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        if (leave) { pthread_mutex_unlock(&lock); return unused; }
        bool soon = false;
        for (int i = 0; i < 200 && hear(); i++) soon = false;
        for (int i = 0; i < COMPANIONS; i++) {
            struct tandem_companion *companion = companions[i];
            if (!companion) continue;
            if (companion->closing) {
                /* What has landed is known to have landed. */
                if (!companion->dead && send_acknowledgement(companion)) { soon = true; continue; }
                tell(TANDEM_CLOSED, 0, companion->cookie, 0, 0);
                companion->domain->companions--;
                companions[i] = NULL;
                free(companion);
                continue;
            }
            if (!companion->connected) continue;
            if (companion->dies_at && !companion->dead) {
                if (now_ns() >= companion->dies_at) die(companion, ETIMEDOUT);
                else soon = true;
                continue;
            }
            soon |= send_acknowledgement(companion);
            soon |= send_orders(companion);
        }
        pthread_mutex_unlock(&lock);
        struct pollfd entries[2] = { { bell, POLLIN, 0 }, { sock, POLLIN, 0 } };
        real.poll(entries, 2, soon ? 1 : -1);
        if (entries[0].revents) hush(bell);
    }
}
static void begin(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    leave = false;
    running = pthread_create(&thread, NULL, work, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#define LOCKED(type, ...) ({ if (!ours()) return -ECHILD; pthread_mutex_lock(&lock); type result_ = ({ __VA_ARGS__ }); pthread_mutex_unlock(&lock); result_; })

static int32_t find_(void *c, const struct tandem_address *local) { (void)c; (void)local; return 1; }
static int32_t list_(void *c, struct tandem_served *served, uint32_t room) { (void)c; (void)served; (void)room; return 0; }
static int32_t check_(void *c, void *argument, void (*line)(void *, const char *, size_t))
{
    (void)c;
    line(argument, "a stand-in for tests", 20);
    return 0;
}
static int32_t stop_(void *c)
{
    (void)c;
    if (!ours() || !running) return 0;
    pthread_mutex_lock(&lock);
    leave = true;
    pthread_mutex_unlock(&lock);
    ring(bell);
    pthread_join(thread, NULL);
    running = false;
    return 0;
}
static int32_t start_(void *c) { (void)c; if (ours() && !running) begin(); return 0; }
static int32_t open_queue_(void *c, uint64_t cookie, struct tandem_queue **to) { (void)c; queue.cookie = cookie; *to = &queue; return ours() ? 0 : -ECHILD; }
static int32_t close_queue_(struct tandem_queue *q) { (void)q; return 0; }
static int32_t poll_(struct tandem_queue *q, struct tandem_completion *to, uint32_t room)
{
    (void)q;
    if (!ours()) return -ECHILD;
    if (!atomic_load(&told_any)) return 0;
    pthread_mutex_lock(&lock);
    uint32_t count = told_count < room ? told_count : room;
    memcpy(to, told + told_first, count * sizeof *to);
    told_first += count, told_count -= count;
    if (!told_count) {
        told_first = 0;
        if (atomic_exchange(&told_any, 0)) hush(wake);
    }
    pthread_mutex_unlock(&lock);
    return count;
}
static int32_t arm_(struct tandem_queue *q) { (void)q; return ours() ? 0 : -ECHILD; }
static int32_t wake_(struct tandem_queue *q) { (void)q; return wake; }
static int32_t open_domain_(struct tandem_queue *q, const struct tandem_address *local, uint64_t cookie, struct tandem_domain **to)
{
    (void)q; (void)local;
    return LOCKED(int32_t, struct tandem_domain *domain = calloc(1, sizeof *domain); domain->cookie = cookie; *to = domain;
                  tell(TANDEM_READY, 0, cookie, 0, 0); 0;);
}
static int32_t close_domain_(struct tandem_domain *domain)
{
    return LOCKED(int32_t, int32_t code = domain->companions ? -EBUSY : 0;
                  if (!code) { for (int i = 0; i < MEMORIES; i++) if (memories[i].domain == domain) memories[i].open = false;
                               tell(TANDEM_CLOSED, 0, domain->cookie, 0, 0); } code;);
}
static int32_t register_(struct tandem_domain *domain, void *base, uint64_t bytes, uint32_t rights, uint64_t cookie, uint32_t *number)
{
    return LOCKED(int32_t, uint64_t key = ++next_key; int32_t code = memories[key % MEMORIES].open ? -ENOBUFS : 0;
                  if (!code) { memories[key % MEMORIES] = (struct memory){ key, cookie, base, bytes, domain, true, rights & TANDEM_PEER_PUTS }; *number = key;
                               tell(TANDEM_READY, 0, cookie, 0, 0); } code;);
}
static int32_t release_(struct tandem_domain *domain, uint32_t number)
{
    return LOCKED(int32_t, struct memory *memory = &memories[number % MEMORIES]; int32_t code = memory->open && memory->domain == domain ? 0 : -EINVAL;
                  if (!code) { memory->open = false; tell(TANDEM_CLOSED, 0, memory->cookie, 0, 0); } code;);
}
static int32_t share_(struct tandem_domain *domain, uint32_t number, struct tandem_share *to)
{
    (void)domain;
    return LOCKED(int32_t, struct memory *memory = &memories[number % MEMORIES]; memset(to, 0, sizeof *to);
                  memcpy(to->bytes, &memory->key, 8); memcpy(to->bytes + 8, &memory->bytes, 8); int pid = getpid(); memcpy(to->bytes + 16, &pid, 4); 0;);
}
static int32_t adopt_(struct tandem_domain *domain, const struct tandem_share *share, uint32_t *remote, uint64_t *bytes)
{
    return LOCKED(int32_t, int32_t code = -ENOBUFS;
                  for (uint32_t i = 0; i < REMOTES && code; i++) if (!domain->remotes[i].taken) code = 0, *remote = i;
                  if (!code) { struct remote *place = &domain->remotes[*remote]; place->taken = true;
                               memcpy(&place->key, share->bytes, 8); memcpy(&place->bytes, share->bytes + 8, 8); *bytes = place->bytes; } code;);
}
static int32_t drop_(struct tandem_domain *domain, uint32_t remote)
{
    return LOCKED(int32_t, bool taken = remote < REMOTES && domain->remotes[remote].taken; if (taken) domain->remotes[remote].taken = false; taken ? 0 : -EINVAL;);
}
static int32_t create_(struct tandem_domain *domain, uint64_t cookie, struct tandem_companion **to)
{
    return LOCKED(int32_t, int32_t code = -ENOBUFS;
                  for (int i = 0; i < COMPANIONS && code; i++) if (!companions[++next_id % COMPANIONS]) code = 0;
                  if (!code) { struct tandem_companion *companion = calloc(1, sizeof *companion);
                               companion->domain = domain, companion->cookie = cookie, companion->id = next_id;
                               companions[next_id % COMPANIONS] = companion, domain->companions++, *to = companion; } code;);
}
static int32_t bind_(struct tandem_companion *c, const struct tandem_address *l, const struct tandem_address *r) { (void)c; (void)l; (void)r; return ours() ? 0 : -ECHILD; }
static int32_t set_option_(struct tandem_companion *c, int32_t l, int32_t n, const void *v, uint32_t b) { (void)c; (void)l; (void)n; (void)v; (void)b; return 0; }
static int32_t prepare_(struct tandem_companion *companion)
{
    return LOCKED(int32_t, companion->ready = true; tell(TANDEM_READY, 0, companion->cookie, 0, 0); 0;);
}
static int32_t endpoint_(struct tandem_companion *companion, struct tandem_blob *own)
{
    memset(own, 0, sizeof *own);
    memcpy(own->bytes, &companion->id, 8);
    memcpy(own->bytes + 8, path, sizeof path);
    own->used = 8 + sizeof path;
    return ours() ? 0 : -ECHILD;
}
static int32_t connect_(struct tandem_companion *companion, const struct tandem_blob *peer)
{
    return LOCKED(int32_t, memcpy(&companion->peer, peer->bytes, 8); companion->to.sun_family = AF_UNIX;
                  memcpy(companion->to.sun_path, peer->bytes + 8, sizeof path); companion->connected = true;
                  tell(TANDEM_CONNECTED, 0, companion->cookie, 0, 0); 0;);
}
static int32_t close_(struct tandem_companion *companion)
{
    int32_t code = LOCKED(int32_t, companion->closing = true; 0;);
    ring(bell);
    return code;
}
static int32_t describe_(struct tandem_companion *companion, char *text, uint32_t room)
{
    int written = snprintf(text, room, "stand-in %lu > %lu", (unsigned long)companion->id, (unsigned long)companion->peer);
    return written < (int)room ? written : (int)room;
}
static int32_t put_locked(struct tandem_companion *companion, const struct tandem_put *puts, uint32_t count)
{
    if (companion->dead || !companion->connected) return -EPIPE;
    if (companion->count + count > DEPTH || companion->report_count + companion->count + count > DEPTH * 4) {
        companion->wants_room = true;
        return -EAGAIN;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct tandem_put *put = &puts[i];
        if (put->kind != TANDEM_PUT || put->remote >= REMOTES || !companion->domain->remotes[put->remote].taken) return -EINVAL;
        struct order *order = &companion->orders[(companion->first + companion->count++) % DEPTH];
        *order = (struct order){ .key = companion->domain->remotes[put->remote].key, .offset = put->remote_offset, .token = put->token,
                                 .due = delay_ns ? now_ns() + delay_ns : 0, .bytes = put->bytes, .note = put->note, .flags = put->flags };
        if (put->flags & TANDEM_IMMEDIATE) memcpy(order->immediate, put->immediate, put->bytes);
        else order->from = memories[put->local % MEMORIES].base + put->local_offset;
    }
    return 0;
}
static int32_t put_(struct tandem_companion *companion, const struct tandem_put *puts, uint32_t count)
{
    int32_t code = LOCKED(int32_t, put_locked(companion, puts, count););
    if (code >= 0) ring(bell);
    return code;
}
static int32_t notify_(struct tandem_companion *companion, uint32_t note)
{
    static const uint8_t nothing;
    struct tandem_put put = { .kind = TANDEM_PUT, .flags = TANDEM_NOTIFY | TANDEM_IMMEDIATE, .immediate = &nothing, .note = note };
    return put_(companion, &put, 1);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }
static void in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    int all[] = { bell, wake, sock };
    for (int i = 0; i < 3; i++)
        if (all[i] >= 0) host->close_hidden(host->context, all[i]);
    bell = wake = sock = -1;
}
static bool open_process(void)
{
    static int opened;
    const char *delay = getenv("TANDEM_STAND_IN_DELAY");
    delay_ns = delay ? atol(delay) * 1000ull : 0;
    memset(companions, 0, sizeof companions), memset(memories, 0, sizeof memories);
    told_first = told_count = 0, atomic_store(&told_any, 0), running = false;
    next_id = next_key = 0;
    bell = host->hide(host->context, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    wake = host->hide(host->context, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), bytes = 4 << 20;
    struct sockaddr_un own = { .sun_family = AF_UNIX };
    const char *folder = getenv("TMPDIR");
    memset(path, 0, sizeof path);
    snprintf(path, sizeof path, "%s/stand-in.%s.%d.%d", folder ? folder : "/tmp", STAND_IN_NAME, getpid(), opened++);
    memcpy(own.sun_path, path, sizeof path);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    // Peers may be other users' programs.
    if (bind(fd, (void *)&own, sizeof own) || chmod(path, 0777)) return false;
    sock = host->hide(host->context, fd);
    owner = getpid();
    begin();
    return bell >= 0 && wake >= 0 && sock >= 0;
}

const struct tandem_provider *tandem_provider_open(const struct tandem_host *given)
{
    if (given->version != TANDEM_PROVIDER_VERSION) return NULL;
    if (owner == getpid()) return &table;
    bool first = !host;
    host = given;
    if (first) {
        void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
        real.read = dlsym(libc, "read"), real.write = dlsym(libc, "write"), real.poll = dlsym(libc, "poll");
        real.recvmsg = dlsym(libc, "recvmsg"), real.sendmsg = dlsym(libc, "sendmsg");
        pthread_atfork(before_fork, in_parent, in_child);
        table = (struct tandem_provider){ TANDEM_PROVIDER_VERSION, sizeof table, NULL, STAND_IN_NAME, find_, list_, check_, stop_, start_,
            open_queue_, close_queue_, poll_, arm_, wake_, open_domain_, close_domain_, register_, release_, share_, adopt_, drop_,
            create_, bind_, set_option_, prepare_, endpoint_, connect_, close_, describe_, put_, notify_ };
    }
    return open_process() ? &table : NULL;
}
