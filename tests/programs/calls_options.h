/* Socket options by name. */
#include <linux/sockios.h>

struct option { const char *name; int level, number, kind; };
enum { NUMBER, LINGER_KIND, TIME, TEXT_KIND };
#define SOCK(name) { #name, SOL_SOCKET, SO_##name, NUMBER }
#define TCPO(name) { #name, IPPROTO_TCP, TCP_##name, NUMBER }
static const struct option options[] = {
    { "LINGER", SOL_SOCKET, SO_LINGER, LINGER_KIND }, { "RCVTIMEO", SOL_SOCKET, SO_RCVTIMEO, TIME },
    { "SNDTIMEO", SOL_SOCKET, SO_SNDTIMEO, TIME }, { "CONGESTION", IPPROTO_TCP, TCP_CONGESTION, TEXT_KIND },
    { "ULP", IPPROTO_TCP, TCP_ULP, TEXT_KIND }, { "BINDTODEVICE", SOL_SOCKET, SO_BINDTODEVICE, TEXT_KIND },
    SOCK(DEBUG), SOCK(REUSEADDR), SOCK(TYPE), SOCK(ERROR), SOCK(DONTROUTE), SOCK(BROADCAST), SOCK(SNDBUF), SOCK(RCVBUF),
    SOCK(KEEPALIVE), SOCK(OOBINLINE), SOCK(NO_CHECK), SOCK(PRIORITY), SOCK(REUSEPORT), SOCK(PASSCRED), SOCK(RCVLOWAT),
    SOCK(SNDLOWAT), SOCK(ACCEPTCONN), SOCK(TIMESTAMP), SOCK(TIMESTAMPNS), SOCK(TIMESTAMPING), SOCK(PROTOCOL), SOCK(DOMAIN),
    SOCK(RXQ_OVFL), SOCK(PEEK_OFF), SOCK(LOCK_FILTER), SOCK(BUSY_POLL), SOCK(MAX_PACING_RATE), SOCK(ZEROCOPY), SOCK(MARK),
    SOCK(NOFCS), SOCK(SELECT_ERR_QUEUE), SOCK(WIFI_STATUS), SOCK(BINDTOIFINDEX), SOCK(PREFER_BUSY_POLL),
    TCPO(NODELAY), TCPO(MAXSEG), TCPO(CORK), TCPO(KEEPIDLE), TCPO(KEEPINTVL), TCPO(KEEPCNT), TCPO(SYNCNT), TCPO(LINGER2),
    TCPO(DEFER_ACCEPT), TCPO(WINDOW_CLAMP), TCPO(QUICKACK), TCPO(THIN_LINEAR_TIMEOUTS), TCPO(THIN_DUPACK), TCPO(USER_TIMEOUT),
    TCPO(REPAIR), TCPO(FASTOPEN), TCPO(TIMESTAMP), TCPO(NOTSENT_LOWAT), TCPO(SAVE_SYN), TCPO(FASTOPEN_CONNECT),
    TCPO(FASTOPEN_NO_COOKIE), TCPO(INQ), { "TX_DELAY", IPPROTO_TCP, 37, NUMBER },
    { "TOS", IPPROTO_IP, IP_TOS, NUMBER }, { "TTL", IPPROTO_IP, IP_TTL, NUMBER }, { "RECVERR", IPPROTO_IP, IP_RECVERR, NUMBER },
    { "MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, NUMBER }, { "FREEBIND", IPPROTO_IP, IP_FREEBIND, NUMBER },
    { "MINTTL", IPPROTO_IP, IP_MINTTL, NUMBER }, { "RECVTOS", IPPROTO_IP, IP_RECVTOS, NUMBER },
    { "PKTINFO", IPPROTO_IP, IP_PKTINFO, NUMBER }, { "NOSUCH", SOL_SOCKET, 9999, NUMBER }, { "NOTCP", IPPROTO_TCP, 9999, NUMBER },
    { "V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, NUMBER }, { "NOLEVEL", 250, 1, NUMBER },
};
static const struct option *option_named(const char *name)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!strcmp(options[i].name, name)) return &options[i];
    return NULL;
}
/* set NAME VALUE [SECOND]: times in milliseconds; linger: on, seconds */
static void do_set(struct call *call)
{
    const struct option *option = option_named(word_of(call, 1));
    if (!option) { put(call, "no such option"); return; }
    int value = number_of(call, 2, 1), result;
    struct linger linger = { value, number_of(call, 3, 0) };
    struct timeval time = { value / 1000, value % 1000 * 1000 };
    switch (option->kind) {
    case LINGER_KIND: result = setsockopt(call->fd, option->level, option->number, &linger, sizeof linger); break;
    case TIME: result = setsockopt(call->fd, option->level, option->number, &time, sizeof time); break;
    case TEXT_KIND: result = setsockopt(call->fd, option->level, option->number, word_of(call, 2), strlen(word_of(call, 2))); break;
    default: result = setsockopt(call->fd, option->level, option->number, &value, number_of(call, 3, sizeof value));
    }
    put_result(call, result);
    if (result) return;
    struct end *ends[2] = { call->end, call->op->actor == 'l' ? call->end : NULL };
    for (int i = 0; i < 2 && ends[i]; i++) {
        const char *name = option->name;
        if (!strcmp(name, "RCVLOWAT")) atomic_store(&ends[i]->lowat, value);
        if (!strcmp(name, "RCVTIMEO")) atomic_store(&ends[i]->timeo, value);
        if (!strcmp(name, "SNDBUF")) atomic_store(&ends[i]->small, 1);
        if (!strcmp(name, "RCVBUF")) atomic_store(&call->peer->small, 1);
        if (!strcmp(name, "NOTSENT_LOWAT")) atomic_store(&ends[i]->small, 1);
        if (!strcmp(name, "CORK")) atomic_store(&ends[i]->corked, value);
        if (!strcmp(name, "OOBINLINE") || !strcmp(name, "PEEK_OFF")) atomic_store(&ends[i]->oddly, 1);
    }
}
/* get NAME [ROOM] */
static void do_get(struct call *call)
{
    const struct option *option = option_named(word_of(call, 1));
    if (!option) { put(call, "no such option"); return; }
    union { int number; struct linger linger; struct timeval time; char text[64]; } value;
    memset(&value, 0xee, sizeof value);
    socklen_t length = number_of(call, 2, option->kind == NUMBER ? sizeof(int) : option->kind == TEXT_KIND ? sizeof value : sizeof value.time);
    if (option->kind == LINGER_KIND && call->op->count < 3) length = sizeof value.linger;
    put_result(call, getsockopt(call->fd, option->level, option->number, &value, &length));
    put(call, " %u:", length);
    switch (option->kind) {
    case LINGER_KIND: put(call, " %d %d", value.linger.l_onoff, value.linger.l_linger); break;
    case TIME: put(call, " %ld", (long)(value.time.tv_sec * 1000 + value.time.tv_usec / 1000)); break;
    case TEXT_KIND: put(call, " %.*s", (int)(length < 60 ? length : 60), value.text); break;
    default: put(call, " %d", value.number);
    }
}
