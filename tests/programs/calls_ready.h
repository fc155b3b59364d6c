/* Calls that ask whether a socket is ready: after settle(), so the answer is TCP's whatever the time. */

static unsigned events_of(const char *list, bool epoll)
{
    static const struct { const char *name; unsigned flag; } names[] = {
        { "IN", POLLIN }, { "OUT", POLLOUT }, { "PRI", POLLPRI }, { "RDHUP", POLLRDHUP }, { "ERR", POLLERR }, { "HUP", POLLHUP },
        { "RDNORM", POLLRDNORM }, { "WRNORM", POLLWRNORM }, { "RDBAND", POLLRDBAND }, { "WRBAND", POLLWRBAND }, { "MSG", 0x400 } };
    unsigned events = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (has_word(list, names[i].name)) events |= names[i].flag;
    if (epoll && has_word(list, "ET")) events |= EPOLLET;
    if (epoll && has_word(list, "ONESHOT")) events |= EPOLLONESHOT;
    if (epoll && has_word(list, "EXCLUSIVE")) events |= EPOLLEXCLUSIVE;
    if (epoll && has_word(list, "WAKEUP")) events |= EPOLLWAKEUP;
    return events;
}
/* Whether there is room to write is the buffers' affair while much is on the way. */
static unsigned telling(struct call *call, unsigned events)
{
    bool buffers = !call->background && on_the_way(call->end, call->peer) > (atomic_load(&call->end->small) ? 0 : MOST_ON_THE_WAY)
                   && atomic_load(&call->peer->open);
    return buffers ? events & ~(POLLOUT | POLLWRNORM | POLLWRBAND) : events;
}
static void put_events(struct call *call, unsigned events)
{
    events = telling(call, events);
    put(call, " %s", events_text(events));
    if (events & ~(POLLIN | POLLPRI | POLLOUT | POLLERR | POLLHUP | POLLRDHUP | POLLNVAL)) put(call, "%x", events);
}
static void put_waited(struct call *call, long result, uint64_t began, long wait)
{
    if (!result && wait > 0 && now_us() - began < wait * 1000ul - 500) put(call, " EARLY");
}
static void do_poll(struct call *call)
{
    struct pollfd look = { call->fd, events_of(word_of(call, 1), false), 0x55 };
    long wait = number_of(call, 2, 0);
    uint64_t began = now_us();
    int n = poll(&look, 1, wait);
    put_events(call, look.revents);
    if (n < 0) put(call, " %s", errno_name());
    put_waited(call, n, began, wait);
}
static void do_ppoll(struct call *call)
{
    struct pollfd look = { call->fd, events_of(word_of(call, 1), false), 0x55 };
    long wait = number_of(call, 2, 0);
    struct timespec time = { wait / 1000, wait % 1000 * 1000000 };
    uint64_t began = now_us();
    int n = ppoll(&look, 1, wait < 0 ? NULL : &time, NULL);
    put_events(call, look.revents);
    if (n < 0) put(call, " %s", errno_name());
    put_waited(call, n, began, wait);
}
/* With others beside it: one that is never ready, one that always is, a negative one, the same again. */
static void do_polls(struct call *call)
{
    int ends[2], event = eventfd(1, EFD_CLOEXEC);
    need(pipe2(ends, O_CLOEXEC));
    unsigned events = events_of(word_of(call, 1), false);
    struct pollfd list[6] = { { ends[0], POLLIN, 0 }, { call->fd, events, 0 }, { -3, POLLIN, 0x33 }, { call->fd, POLLIN, 0 },
                              { event, POLLIN | POLLOUT, 0 }, { ends[1], POLLOUT, 0 } };
    poll(list, 6, number_of(call, 2, 0));
    for (int i = 0; i < 6; i++) put(call, ","), put_events(call, list[i].revents);
    close(ends[0]);
    close(ends[1]);
    close(event);
}
static void selecting(struct call *call, bool by_pselect)
{
    const char *which = word_of(call, 1);
    long wait = number_of(call, 2, 0);
    fd_set sets[3];
    static const char names[] = "rwx";
    for (int i = 0; i < 3; i++) {
        FD_ZERO(&sets[i]);
        if (call->fd >= 0 && strchr(which, names[i])) FD_SET(call->fd, &sets[i]);
    }
    struct timeval time = { wait / 1000, wait % 1000 * 1000 };
    struct timespec exact = { wait / 1000, wait % 1000 * 1000000 };
    int n = by_pselect ? pselect(call->fd + 1, &sets[0], &sets[1], &sets[2], &exact, NULL)
                       : select(call->fd + 1, &sets[0], &sets[1], &sets[2], &time);
    if (n < 0) { put(call, "%s", errno_name()); return; }
    bool buffers = !telling(call, POLLOUT);
    for (int i = 0; i < 3 && call->fd >= 0; i++)
        if (i == 1 && buffers) put(call, "?");
        else put(call, "%c", FD_ISSET(call->fd, &sets[i]) ? names[i] : '-');
    if (!buffers) put(call, " %d", n);
    if (!by_pselect && !n && (time.tv_sec || time.tv_usec)) put(call, " time left");
}
static void do_select(struct call *call) { selecting(call, false); }
static void do_pselect(struct call *call) { selecting(call, true); }

/* ---- epoll: sets are numbered, each end's process has its own ---- */
#define SETS 4
static int sets[2][SETS] = { { -1, -1, -1, -1 }, { -1, -1, -1, -1 } };
static int set_of(struct call *call, int at)
{
    int number = number_of(call, at, 0) & (SETS - 1), *set = &sets[call->end == &board->ends[1]][number];
    if (*set < 0) *set = need(epoll_create1(EPOLL_CLOEXEC));
    return *set;
}
/* epoll SET add|mod|del EVENTS; the data says which end's which descriptor it is */
static void do_epoll(struct call *call)
{
    const char *what = word_of(call, 2);
    int operation = !strcmp(what, "add") ? EPOLL_CTL_ADD : !strcmp(what, "mod") ? EPOLL_CTL_MOD : !strcmp(what, "del") ? EPOLL_CTL_DEL : 9;
    struct epoll_event event = { .events = events_of(word_of(call, 3), true), .data.u64 = 0x500000000 + call->op->slot };
    put_result(call, epoll_ctl(set_of(call, 1), operation, call->fd, &event));
}
static int by_number(const void *one, const void *other)
{
    uint64_t a = ((const struct epoll_event *)one)->data.u64, b = ((const struct epoll_event *)other)->data.u64;
    return a < b ? -1 : a > b;
}
/* Several events: in which order is not said by epoll. */
static void put_all(struct call *call, int n, struct epoll_event *events)
{
    if (n < 0) { put(call, "%s", errno_name()); return; }
    qsort(events, n, sizeof *events, by_number);
    int told = 0;
    for (int i = 0; i < n; i++) {
        if (!telling(call, events[i].events)) continue; /* room alone, which is the buffers' */
        told++;
        put(call, " %lx:", (unsigned long)(events[i].data.u64 - 0x500000000));
        put_events(call, events[i].events);
    }
    if (!told) put(call, "nothing");
}
static void do_epoll_wait(struct call *call)
{
    struct epoll_event events[8];
    long wait = number_of(call, 2, 0);
    uint64_t began = now_us();
    int n = epoll_wait(set_of(call, 1), events, 8, wait);
    put_all(call, n, events);
    put_waited(call, n, began, wait);
}
static void do_epoll_pwait2(struct call *call)
{
    struct epoll_event events[8];
    long wait = number_of(call, 2, 0);
    struct timespec time = { wait / 1000, wait % 1000 * 1000000 };
    put_all(call, epoll_pwait2(set_of(call, 1), events, 8, wait < 0 ? NULL : &time, NULL), events);
}
static void do_epoll_close(struct call *call)
{
    int *set = &sets[call->end == &board->ends[1]][number_of(call, 1, 0) & (SETS - 1)];
    if (*set >= 0) put_result(call, close(*set));
    *set = -1;
}
/* epoll_nest INNER OUTER EVENTS */
static void do_epoll_nest(struct call *call)
{
    struct epoll_event event = { .events = events_of(word_of(call, 3), true), .data.u64 = 0x500000000 + 16 };
    put_result(call, epoll_ctl(set_of(call, 2), EPOLL_CTL_ADD, set_of(call, 1), &event));
}
/* The set itself, in a poll. */
static void do_epoll_poll(struct call *call)
{
    struct pollfd look = { set_of(call, 1), POLLIN, 0 };
    poll(&look, 1, number_of(call, 2, 0));
    put(call, "%s", events_text(look.revents));
}
static void close_sets(void)
{
    for (int end = 0; end < 2; end++)
        for (int i = 0; i < SETS; i++) {
            if (sets[end][i] >= 0) close(sets[end][i]);
            sets[end][i] = -1;
        }
}
