/* Calls that move bytes. */
#include <sys/sendfile.h>
#include <limits.h>

#define MOST 65536           /* one call's */
#define MOST_ON_THE_WAY 49152 /* what a socket takes, whatever its buffers; beyond, buffers decide: see do_stuff */

static const char *word_of(struct call *call, int at) { return at < call->op->count ? call->op->words[at] : ""; }
static long number_of(struct call *call, int at, long otherwise) { return at < call->op->count ? atol(call->op->words[at]) : otherwise; }
static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == '|') && (!at[length] || at[length] == '|')) return true;
    return false;
}
static int message_flags(struct call *call, int at)
{
    static const struct { const char *name; int flag; } names[] = {
        { "PEEK", MSG_PEEK }, { "WAITALL", MSG_WAITALL }, { "DONTWAIT", MSG_DONTWAIT }, { "NOSIGNAL", MSG_NOSIGNAL },
        { "MORE", MSG_MORE }, { "TRUNC", MSG_TRUNC }, { "OOB", MSG_OOB }, { "ERRQUEUE", MSG_ERRQUEUE }, { "EOR", MSG_EOR },
        { "ZEROCOPY", MSG_ZEROCOPY }, { "DONTROUTE", MSG_DONTROUTE }, { "CONFIRM", MSG_CONFIRM },
        { "WAITFORONE", MSG_WAITFORONE }, { "CMSG_CLOEXEC", MSG_CMSG_CLOEXEC }, { "CTRUNC", MSG_CTRUNC } };
    int flags = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (has_word(word_of(call, at), names[i].name)) flags |= names[i].flag;
    return flags;
}
static void put_result(struct call *call, long result)
{
    if (result < 0) put(call, "%s", errno_name());
    else put(call, "%ld", result);
}
/* SIGPIPE is blocked: one that came for this call is pending now. */
static void take_sigpipe(struct call *call)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    if (sigtimedwait(&set, NULL, &(struct timespec){ 0, 0 }) == SIGPIPE) put(call, " SIGPIPE");
}
static unsigned hash(const char *bytes, size_t length)
{
    unsigned h = 2166136261u;
    for (size_t i = 0; i < length; i++) h = (h ^ (uint8_t)bytes[i]) * 16777619u;
    return h;
}

/* ---- out ---- */
static uint64_t on_the_way(struct end *from, struct end *to)
{
    int64_t n = atomic_load(&from->sent) - atomic_load(&to->rcvd);
    return n > 0 ? n : 0;
}
/* What would make the socket's buffers decide is not sent. */
static bool would_fill(struct call *call, long n)
{
    bool full = !call->background && on_the_way(call->end, call->peer) + n > MOST_ON_THE_WAY && atomic_load(&call->peer->open)
                && !atomic_load(&call->end->shut_wr) && atomic_load(&call->end->full) != atomic_load(&call->peer->rcvd) + 1;
    if (full) put(call, "not sent: too much on the way");
    return full;
}
/* What content stands at an offset of the stream: as if there had been neither ping-pongs nor do_stuff before it. */
static uint64_t place_of(struct end *end, uint64_t offset)
{
    bool behind = offset >= atomic_load(&end->stuff_from);
    return offset - atomic_load(&end->pings) - (behind ? atomic_load(&end->stuffed) : 0);
}
static int key_of(struct end *end) { return 1 + (end == &board->ends[1]); }
static char *content(struct call *call, long n)
{
    static __thread char bytes[MOST];
    fill(bytes, place_of(call->end, atomic_load(&call->end->sent)), n, 1 + (call->end == &board->ends[1]));
    return bytes;
}
static void sent(struct call *call, long result, int flags)
{
    int error = errno;
    if (result > 0) {
        atomic_fetch_add(&call->end->sent, result);
        if (flags & MSG_OOB) atomic_store(&call->end->oob, 1);
        if (!atomic_load(&call->peer->open)) atomic_store(&call->end->after_close, 1);
    }
    errno = error;
    put_result(call, result);
    if (result < 0) take_sigpipe(call);
}
static long size_of(struct call *call, int at)
{
    long n = number_of(call, at, 1);
    return n < 0 ? 0 : n > MOST ? MOST : n;
}
static int split(char *bytes, long n, int parts, struct iovec *list)
{
    if (parts < 1) parts = 1;
    if (parts > 64) parts = 64;
    long at = 0;
    for (int i = 0; i < parts; i++) {
        long size = i == parts - 1 ? n - at : (n / parts) * (i % 3) / 2; /* some are empty */
        list[i] = (struct iovec){ bytes + at, size };
        at += size;
    }
    return parts;
}
static void do_send(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 2);
    if (would_fill(call, n)) return;
    sent(call, send(call->fd, content(call, n), n, flags), flags);
}
static void do_write(struct call *call)
{
    long n = size_of(call, 1);
    if (would_fill(call, n)) return;
    sent(call, write(call->fd, content(call, n), n), 0);
}
static void do_writev(struct call *call)
{
    long n = size_of(call, 1);
    struct iovec list[64];
    if (would_fill(call, n)) return;
    int parts = split(content(call, n), n, number_of(call, 2, 3), list);
    sent(call, writev(call->fd, list, parts), 0);
}
static void do_pwritev2(struct call *call)
{
    long n = size_of(call, 1);
    struct iovec list[64];
    if (would_fill(call, n)) return;
    int parts = split(content(call, n), n, 3, list);
    int flags = has_word(word_of(call, 2), "NOWAIT") ? RWF_NOWAIT : has_word(word_of(call, 2), "HIPRI") ? RWF_HIPRI : 0;
    sent(call, pwritev2(call->fd, list, parts, number_of(call, 3, -1), flags), 0);
}
static void do_pwrite(struct call *call) { put_result(call, pwrite(call->fd, "x", 1, number_of(call, 1, 0))); }
static void do_sendmsg(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 3);
    struct iovec list[64];
    if (would_fill(call, n)) return;
    struct msghdr message = { .msg_iov = list, .msg_iovlen = split(content(call, n), n, number_of(call, 2, 3), list) };
    sent(call, sendmsg(call->fd, &message, flags), flags);
}
static void do_sendto(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 2);
    if (would_fill(call, n)) return;
    struct sockaddr_in elsewhere = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000009) };
    sent(call, sendto(call->fd, content(call, n), n, flags, (void *)&elsewhere, sizeof elsewhere), flags);
}
static void do_sendmmsg(struct call *call)
{
    long n = size_of(call, 1), count = number_of(call, 2, 2);
    int flags = message_flags(call, 3);
    if (count > 8) count = 8;
    if (n * count > MOST || would_fill(call, n * count)) return;
    char *bytes = content(call, n * count);
    struct iovec list[8];
    struct mmsghdr messages[8] = { 0 };
    for (int i = 0; i < count; i++) {
        list[i] = (struct iovec){ bytes + i * n, n };
        messages[i].msg_hdr.msg_iov = &list[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_len = 77;
    }
    int done = sendmmsg(call->fd, messages, count, flags), error = errno;
    long all = 0;
    for (int i = 0; i < done; i++) all += messages[i].msg_len;
    for (int i = 0; i < count; i++) put(call, "%u ", messages[i].msg_len);
    put(call, "in ");
    errno = error;
    long before = call->length;
    sent(call, done, flags);
    if (done > 0) atomic_fetch_add(&call->end->sent, all - done);
    (void)before;
}
static int file_of(const char *bytes, long n)
{
    int file = memfd_create("calls", MFD_CLOEXEC);
    if (write(file, bytes, n) != n || lseek(file, 0, SEEK_SET)) die("memfd");
    return file;
}
/* sendfile N [OFFSET]: an offset by pointer, else the file's own position */
static void do_sendfile(struct call *call)
{
    long n = size_of(call, 1), more = number_of(call, 3, 0);
    off_t offset = number_of(call, 2, -1), *at = offset < 0 ? NULL : &offset;
    if (would_fill(call, n)) return;
    int file = file_of(content(call, n), n);
    long result = sendfile(call->fd, file, at, n + more);
    int error = errno;
    put(call, "at %ld %ld: ", (long)offset, (long)lseek(file, 0, SEEK_CUR));
    close(file);
    errno = error;
    sent(call, result, 0);
}
static void do_splice_out(struct call *call)
{
    long n = size_of(call, 1);
    int ends[2];
    if (would_fill(call, n)) return;
    need(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    if (write(ends[1], content(call, n), n) != n) die("pipe");
    close(ends[1]);
    long result = splice(ends[0], NULL, call->fd, NULL, n + 10, has_word(word_of(call, 2), "NONBLOCK") ? SPLICE_F_NONBLOCK : 0);
    int error = errno;
    close(ends[0]);
    errno = error;
    sent(call, result, 0);
}
static void do_tee(struct call *call) { put_result(call, tee(call->fd, call->fd, 10, 0)); }
static void do_vmsplice(struct call *call)
{
    struct iovec part = { "x", 1 };
    put_result(call, vmsplice(call->fd, &part, 1, 0));
}
static void do_dprintf(struct call *call)
{
    long n = size_of(call, 1);
    if (n > 1000 || would_fill(call, n)) return;
    char *bytes = content(call, n), text[1001];
    for (long i = 0; i < n; i++) text[i] = 'a' + (uint8_t)bytes[i] % 26;
    text[n] = 0;
    sent(call, dprintf(call->fd, "%s", text), 0);
}
/* Addresses that are not the program's, and counts that are none; the compiler need not know. */
#define UNKNOWN(value) ({ typeof(value) unknown_ = (value); __asm__("" : "+r"(unknown_)); unknown_; })
static void do_badsend(struct call *call)
{
    long n = size_of(call, 1);
    const char *which = word_of(call, 2);
    struct iovec list[2] = { { "", 0 }, { (void *)16, n } };
    struct msghdr message = { .msg_iov = list, .msg_iovlen = 2 };
    if (!strcmp(which, "send")) sent(call, send(call->fd, UNKNOWN((void *)16), n, MSG_NOSIGNAL), 0);
    if (!strcmp(which, "write")) sent(call, write(call->fd, UNKNOWN((void *)16), n), 0);
    if (!strcmp(which, "writev")) sent(call, writev(call->fd, list, 2), 0);
    if (!strcmp(which, "sendmsg")) sent(call, sendmsg(call->fd, &message, MSG_NOSIGNAL), 0);
    if (!strcmp(which, "iov")) sent(call, writev(call->fd, UNKNOWN((void *)16), 2), 0);
    if (!strcmp(which, "null")) sent(call, writev(call->fd, UNKNOWN((void *)0), 1), 0);
    if (!strcmp(which, "msghdr")) sent(call, sendmsg(call->fd, UNKNOWN((void *)16), MSG_NOSIGNAL), 0);
    if (!strcmp(which, "count")) sent(call, writev(call->fd, list, UNKNOWN(-1)), 0);
    if (!strcmp(which, "many")) sent(call, writev(call->fd, UNKNOWN((struct iovec *)list), UNKNOWN(IOV_MAX + 1)), 0);
    if (!strcmp(which, "minus")) list[1] = (struct iovec){ "x", -1 }, sent(call, writev(call->fd, list, 2), 0);
}

/* ---- in ---- */
/* A call that would sleep, as far as the bytes go, is not made in the foreground. Told by what both ends have done, so natively
 * and under Tandem alike. */
static bool would_block(struct call *call, long n, int flags)
{
    struct end *me = call->end, *peer = call->peer;
    if (call->background || call->fd < 0 || flags & (MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE) || atomic_load(&me->nonblock) || atomic_load(&me->timeo)
        || atomic_load(&me->shut_rd) || atomic_load(&peer->shut_wr) || !atomic_load(&peer->open))
        return false;
    if (atomic_load(&peer->corked)) goto would;
    long there = atomic_load(&peer->oob) || atomic_load(&me->oddly) ? 0 : on_the_way(peer, me), low = atomic_load(&me->lowat);
    long wanted = flags & MSG_WAITALL ? n : low < n ? low : n;
    if (wanted < 1) wanted = 1; /* a recv of nothing waits, too; a read does not */
    if (there >= wanted) return false;
would:
    put(call, "not called: it would wait");
    return true;
}
static char *place(long n)
{
    static __thread char bytes[MOST + 64];
    memset(bytes, 0xee, n + 64);
    return bytes;
}
static void received(struct call *call, const char *bytes, long n, long result, int flags)
{
    int error = errno;
    if (result > 0 && !(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))) atomic_fetch_add(&call->end->rcvd, result);
    errno = error;
    put_result(call, result);
    if (result > 0) put(call, " %08x", hash(bytes, result < n ? result : n));
    /* Nothing else of the memory was touched. */
    long from = result > 0 ? result : 0;
    for (long i = from < n ? from : n; i < n + 64; i++)
        if ((uint8_t)bytes[i] != 0xee) {
            put(call, " BEYOND at %ld", i);
            break;
        }
}
static void do_recv(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 2);
    if (would_block(call, n, flags)) return;
    char *bytes = place(n);
    received(call, bytes, n, recv(call->fd, bytes, n, flags), flags);
}
static void do_read(struct call *call)
{
    long n = size_of(call, 1);
    if (n && would_block(call, n, 0)) return;
    char *bytes = place(n);
    received(call, bytes, n, read(call->fd, bytes, n), 0);
}
static void do_readv(struct call *call)
{
    long n = size_of(call, 1);
    struct iovec list[64];
    if (n && would_block(call, n, 0)) return;
    char *bytes = place(n);
    int parts = split(bytes, n, number_of(call, 2, 3), list);
    received(call, bytes, n, readv(call->fd, list, parts), 0);
}
static void do_preadv2(struct call *call)
{
    long n = size_of(call, 1);
    struct iovec list[64];
    bool nowait = has_word(word_of(call, 2), "NOWAIT");
    if (n && would_block(call, n, nowait ? MSG_DONTWAIT : 0)) return;
    char *bytes = place(n);
    int parts = split(bytes, n, 3, list);
    int flags = nowait ? RWF_NOWAIT : has_word(word_of(call, 2), "HIPRI") ? RWF_HIPRI : 0;
    received(call, bytes, n, preadv2(call->fd, list, parts, number_of(call, 3, -1), flags), 0);
}
static void do_pread(struct call *call)
{
    char byte;
    put_result(call, pread(call->fd, &byte, 1, number_of(call, 1, 0)));
}
static void do_recvmsg(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 3);
    struct iovec list[64];
    struct sockaddr_in from;
    char control[200];
    if (would_block(call, n, flags)) return;
    char *bytes = place(n);
    struct msghdr message = { .msg_iov = list, .msg_iovlen = split(bytes, n, number_of(call, 2, 3), list), .msg_name = &from,
                              .msg_namelen = sizeof from, .msg_control = control, .msg_controllen = sizeof control,
                              .msg_flags = 0x55 };
    long result = recvmsg(call->fd, &message, flags);
    received(call, bytes, n, result, flags);
    if (result >= 0)
        put(call, " name %u control %zu flags %x", message.msg_namelen, (size_t)message.msg_controllen, message.msg_flags);
}
static void do_recvfrom(struct call *call)
{
    long n = size_of(call, 1);
    int flags = message_flags(call, 2);
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    if (would_block(call, n, flags)) return;
    char *bytes = place(n);
    received(call, bytes, n, recvfrom(call->fd, bytes, n, flags, (void *)&from, &length), flags);
    put(call, " name %u", length);
}
static void do_recvmmsg(struct call *call)
{
    long n = size_of(call, 1), count = number_of(call, 2, 2);
    int flags = message_flags(call, 3);
    long wait = number_of(call, 4, -1);
    struct timespec time = { 0, wait * 1000000 };
    if (count > 8) count = 8;
    if (n * count > MOST || would_block(call, flags & MSG_WAITFORONE ? n : n ? n * count : MOST, flags | (flags & MSG_WAITFORONE ? 0 : MSG_WAITALL))) return;
    char *bytes = place(n * count);
    struct iovec list[8];
    struct mmsghdr messages[8] = { 0 };
    for (int i = 0; i < count; i++) {
        list[i] = (struct iovec){ bytes + i * n, n };
        messages[i].msg_hdr.msg_iov = &list[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_len = 77;
    }
    int done = recvmmsg(call->fd, messages, count, flags, wait < 0 ? NULL : &time), error = errno;
    for (int i = 0; i < count; i++) put(call, "%u ", messages[i].msg_len);
    put(call, "in ");
    long all = 0;
    unsigned h = 0;
    for (int i = 0; i < done; i++) all += messages[i].msg_len, h = h * 31 + hash(list[i].iov_base, messages[i].msg_len);
    if (!(flags & MSG_PEEK)) atomic_fetch_add(&call->end->rcvd, all);
    errno = error;
    put_result(call, done);
    if (done > 0) put(call, " %08x", h);
}
static void do_splice_in(struct call *call)
{
    long n = size_of(call, 1);
    bool nonblock = has_word(word_of(call, 2), "NONBLOCK");
    if (n && would_block(call, 1, 0)) return; /* SPLICE_F_NONBLOCK is about the pipe */
    int ends[2];
    need(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
    long result = splice(call->fd, NULL, ends[1], NULL, n, nonblock ? SPLICE_F_NONBLOCK : 0);
    int error = errno;
    char *bytes = place(n);
    if (result > 0 && read(ends[0], bytes, n) != result) put(call, "the pipe has another number, ");
    close(ends[0]);
    close(ends[1]);
    errno = error;
    received(call, bytes, n, result, 0);
}
static void do_badrecv(struct call *call)
{
    long n = size_of(call, 1);
    const char *which = word_of(call, 2);
    struct iovec list[2] = { { "", 0 }, { (void *)16, n } };
    struct msghdr message = { .msg_iov = list, .msg_iovlen = 2 };
    long result = -2;
    if (!strcmp(which, "recv")) result = recv(call->fd, UNKNOWN((void *)16), n, MSG_DONTWAIT);
    if (!strcmp(which, "trunc")) result = recv(call->fd, UNKNOWN((void *)0), n, MSG_DONTWAIT | MSG_TRUNC);
    if (!strcmp(which, "peektrunc")) result = recv(call->fd, UNKNOWN((void *)0), n, MSG_DONTWAIT | MSG_TRUNC | MSG_PEEK);
    if (!strcmp(which, "read")) result = read(call->fd, UNKNOWN((void *)16), n);
    if (!strcmp(which, "readv")) result = readv(call->fd, list, 2);
    if (!strcmp(which, "recvmsg")) result = recvmsg(call->fd, &message, MSG_DONTWAIT);
    if (!strcmp(which, "iov")) result = readv(call->fd, UNKNOWN((void *)16), 2);
    if (!strcmp(which, "msghdr")) result = recvmsg(call->fd, UNKNOWN((void *)16), MSG_DONTWAIT);
    if (!strcmp(which, "count")) result = readv(call->fd, list, UNKNOWN(-1));
    if (!strcmp(which, "many")) result = readv(call->fd, UNKNOWN((struct iovec *)list), UNKNOWN(IOV_MAX + 1));
    if (!strcmp(which, "null")) result = recv(call->fd, NULL, 0, MSG_DONTWAIT);
    if (!strcmp(which, "fionread")) result = ioctl(call->fd, FIONREAD, NULL);
    put_result(call, result);
    if (result > 0 && strcmp(which, "peektrunc")) atomic_fetch_add(&call->end->rcvd, result);
}
