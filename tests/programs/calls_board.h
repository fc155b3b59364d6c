/* What the processes of `calls` share, whose turn it is, and what is known of the two ends. */
#define TEXT (192u << 20)
#define WORDS_OF_A_CALL 8

struct end {
    _Atomic uint64_t sent, rcvd;         /* by the program, the ping-pongs included */
    _Atomic uint64_t pings;              /* bytes of ping-pongs sent */
    _Atomic uint64_t kernel_out;         /* what this end's kernel has taken to send */
    _Atomic uint64_t stuff_from, stuffed; /* where do_stuff began, and how much it wrote: no two times the same */
    _Atomic uint64_t full;               /* do_stuff filled it when the peer had read so much, + 1 */
    _Atomic uint32_t open;               /* descriptors, of all processes */
    _Atomic uint32_t sending;            /* threads inside a send, which `sent` will count */
    _Atomic uint32_t shut_wr, shut_rd, oob, lowat, timeo, nonblock, small, after_close, oddly, corked;
};
struct board {
    _Atomic uint32_t turn;
    _Atomic uint32_t ended;        /* processes that have ended a case */
    _Atomic uint32_t case_number, at, done;
    _Atomic uint32_t carried, uncarried;
    _Atomic uint64_t length;
    _Atomic uint64_t born; /* the child just forked has its own end alone */
    struct end ends[2];
    _Alignas(4096) char text[TEXT];
};
struct op {
    char actor;
    int slot, thread; /* thread: -1 in the foreground */
    int count;
    char *words[WORDS_OF_A_CALL];
    char *text;
};
struct schedule { char *name; struct op *ops; int count; };
struct call {
    struct op *op;
    int fd;
    struct end *end, *peer;
    bool background;
    char out[2000];
    size_t length;
};

void make_call(struct call *call);
enum { ROLE_A = 1, ROLE_B = 2 };
static struct board *board;
static int roles; /* which ends are this process's */
static const char *default_warm;
static bool between_hosts;
static bool is_child;
static char child_actor;
static uint32_t turn_base;
static struct schedule *current;
#define DESCRIPTORS 6
static int fds[2][DESCRIPTORS]; /* of this process, by end */
static int case_listener = -1;
static pid_t children[2];

static void put(struct call *call, const char *form, ...)
{
    va_list list;
    va_start(list, form);
    int n = vsnprintf(call->out + call->length, sizeof call->out - call->length, form, list);
    if (n > 0) call->length += n;
    if (call->length >= sizeof call->out) call->length = sizeof call->out - 1;
    va_end(list);
}
static void write_down(const char *form, ...)
{
    char line[3000];
    va_list list;
    va_start(list, form);
    int n = vsnprintf(line, sizeof line, form, list);
    va_end(list);
    uint64_t at = atomic_fetch_add(&board->length, n);
    if (at + n < TEXT) memcpy(board->text + at, line, n);
}

/* Past every hook: what the kernel itself knows of a socket. */
static long kernel_call(long number, long a, long b, long c, long d, long e)
{
#if defined __x86_64__
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return result;
#elif defined __aarch64__
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#endif
}
/* Offsets in struct tcp_info of linux/tcp.h, stable. */
struct known { uint64_t accepted, received, unsent; uint8_t state; bool valid; };
static struct known kernel_knows(int fd)
{
    char info[256] = { 0 };
    socklen_t length = sizeof info;
    if (fd < 0 || kernel_call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, (long)info, (long)&length) < 0 || length < 216)
        return (struct known){ 0 };
    uint64_t sent, again, received;
    uint32_t waiting;
    memcpy(&sent, info + 200, 8);
    memcpy(&again, info + 208, 8);
    memcpy(&waiting, info + 144, 4);
    memcpy(&received, info + 128, 8);
    return (struct known){ sent - again + waiting, received, waiting, info[0], true };
}
static int any_descriptor(int end)
{
    for (int i = 0; i < DESCRIPTORS; i++)
        if (fds[end][i] >= 0) return fds[end][i];
    return -1;
}
static void publish_kernel(void)
{
    for (int end = 0; end < 2; end++) {
        int fd = any_descriptor(end);
        if (fd < 0 || !(roles & (1 << end))) continue;
        struct known known = kernel_knows(fd);
        if (known.valid) atomic_store(&board->ends[end].kernel_out, known.accepted);
    }
}
/* TCP brings bytes in its own time. What a test sees must not depend on that: before each call its end has what the other
 * end's kernel was given, and knows of its FIN or RST. Past every hook, so that Tandem's own state is not touched. */
static void settle(struct call *call)
{
    struct end *me = call->end, *peer = call->peer;
    uint64_t last = 0, last_change = now_us();
    for (int look = 0;; look++) {
        struct known known = kernel_knows(call->fd);
        if (!known.valid || known.state == 10 || known.state == 7) return;
        bool come = known.received >= atomic_load(&peer->kernel_out);
        bool gone = !atomic_load(&peer->open);
        if (gone || atomic_load(&peer->shut_wr)) come = come && known.state != 1 && known.state != 4 && known.state != 5;
        if (gone && atomic_load(&me->after_close)) come = false; /* RST comes: state 7 */
        /* Many small segments wait for the first ones' acknowledgement: what the peer answers to them has come, too. */
        if (known.unsent && !atomic_load(&me->full) && !atomic_load(&me->corked)) come = false;
        if (come) return;
        if (known.received - known.unsent != last) last = known.received - known.unsent, last_change = now_us();
        if (now_us() - last_change > 40000) return;
        if (look < 20) sched_yield();
        else usleep(200);
    }
}

/* Between hosts what a companion carries comes in its own time, too, which no kernel knows: asked of whoever answers FIONREAD. */
static void settle_companion(struct call *call)
{
    struct end *me = call->end, *peer = call->peer;
    if (!between_hosts || call->fd < 0 || atomic_load(&me->shut_rd) || atomic_load(&peer->oob)) return;
    int last = -1;
    uint64_t last_change = now_us();
    for (int look = 0; now_us() - last_change < 40000; look++) {
        int64_t due = atomic_load(&peer->sent) - atomic_load(&me->rcvd);
        int n = 0;
        if (due <= 0 || ioctl(call->fd, FIONREAD, &n) < 0 || n >= due) return;
        if (n != last) last = n, last_change = now_us();
        if (look < 20) sched_yield();
        else usleep(200);
    }
}

static void pass_turn(uint32_t turn)
{
    atomic_store(&board->turn, turn);
    syscall(SYS_futex, &board->turn, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
static void await_turn(uint32_t turn)
{
    uint64_t deadline = 0;
    uint32_t seen;
    for (int look = 0; (seen = atomic_load(&board->turn)) < turn; look++) {
        if (look < 5) { sched_yield(); continue; }
        if (!deadline) deadline = now_us() + 9000000;
        if (now_us() > deadline) _exit(97);
        struct timespec time = { 0, 50000000 };
        syscall(SYS_futex, &board->turn, FUTEX_WAIT, seen, &time, NULL, 0);
    }
}
/* Nobody goes on before all have come here. */
static void all_meet(void)
{
    /* Two processes, or one with both ends. */
    if (roles == (ROLE_A | ROLE_B)) return;
    uint32_t before = atomic_fetch_add(&board->ended, 1);
    uint32_t wanted = before / 2 * 2 + 2;
    uint64_t deadline = now_us() + 9000000;
    while (atomic_load(&board->ended) < wanted) {
        if (now_us() > deadline) _exit(97);
        sched_yield();
    }
}

/* Whose call is it? A child's that was not forked, or has gone, is its parent's, which says so. */
static bool child_lives(char actor, int at)
{
    char parent = actor == 'c' ? 'a' : 'b';
    bool lives = false;
    for (int i = 0; i < at; i++) {
        struct op *op = &current->ops[i];
        if (op->actor == parent && op->thread < 0 && !strcmp(op->words[0], "fork")) lives = true;
        if (op->actor == actor && lives && op->thread < 0 && !strcmp(op->words[0], "exit")) lives = false;
    }
    return lives;
}
static bool mine(char actor, int at)
{
    if (!strcmp(current->ops[at].words[0], "exit") && child_lives(actor, at) && !is_child) actor = actor == 'c' ? 'a' : 'b';
    if (is_child) return actor == child_actor && child_lives(actor, at);
    switch (actor) {
    case 'a': return roles & ROLE_A;
    case 'b': case 'l': return roles & ROLE_B;
    case 'c': return roles & ROLE_A && !child_lives(actor, at);
    case 'd': return roles & ROLE_B && !child_lives(actor, at);
    }
    return false;
}
static void find_descriptor(struct call *call)
{
    char actor = call->op->actor;
    int end = actor == 'b' || actor == 'd' || actor == 'l';
    call->end = &board->ends[end];
    call->peer = &board->ends[!end];
    bool nobody = (actor == 'c' || actor == 'd') && !is_child;
    call->fd = nobody ? -1 : actor == 'l' ? case_listener : fds[end][call->op->slot];
    call->background = call->op->thread >= 0;
}

static void open_board(const char *role, const char *folder, const char *warming)
{
    roles = !strcmp(role, "alone") ? ROLE_A | ROLE_B : is_server ? ROLE_B : ROLE_A;
    default_warm = warming;
    between_hosts = getenv("TANDEM_TESTS_ADDRESS");
    char path[512];
    snprintf(path, sizeof path, "%s/calls", folder);
    int fd = need(open(path, O_RDWR | O_CLOEXEC));
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED) die("board: %s", errno_name());
    close(fd);
    if (roles & ROLE_B) publish(listener = new_listener(server_address(), 0, 64));
    /* SIGPIPE is caught in the act: see take_sigpipe(). */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
}
static void parse_op(struct op *op, char *line)
{
    op->text = strdup(line);
    op->thread = -1;
    char *rest = line, *word = strsep(&rest, " ");
    op->actor = *word++;
    if (*word >= '0' && *word <= '9') op->slot = *word++ - '0';
    if (*word == '&') op->thread = word[1] ? word[1] - '0' : 0;
    if (op->slot >= DESCRIPTORS || op->thread >= 4) die("bad line: %s", op->text);
    while (op->count < WORDS_OF_A_CALL && (word = strsep(&rest, " ")))
        if (*word) op->words[op->count++] = word;
    if (!op->count) die("no call: %s", op->text);
}
static struct schedule *read_schedules(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, errno_name());
    struct schedule *list = calloc(1, sizeof *list);
    int count = 0;
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, file) > 0) {
        line[strcspn(line, "\n#")] = 0;
        for (size_t n = strlen(line); n && line[n - 1] == ' '; n--) line[n - 1] = 0;
        if (!*line) continue;
        if (!strncmp(line, "== ", 3)) {
            list = realloc(list, (count + 2) * sizeof *list);
            list[count++] = (struct schedule){ .name = strdup(line + 3) };
            list[count] = (struct schedule){ 0 };
            continue;
        }
        if (!count) die("a call before the first case: %s", line);
        struct schedule *last = &list[count - 1];
        last->ops = realloc(last->ops, (last->count + 1) * sizeof *last->ops);
        last->ops[last->count] = (struct op){ 0 };
        parse_op(&last->ops[last->count++], strdup(line));
    }
    free(line);
    fclose(file);
    return list;
}

/* Makes the case's connection, unless the case does that itself: then true. */
static bool prepare(struct schedule *schedule)
{
    current = schedule;
    bool connects = false;
    for (int i = 0; i < schedule->count; i++) connects |= !strcmp(schedule->ops[i].words[0], "connect");
    for (int end = 0; end < 2; end++) {
        for (int i = 0; i < DESCRIPTORS; i++) fds[end][i] = -1;
        if (!(roles & (1 << end))) continue;
        struct end *here = &board->ends[end];
        memset(here, 0, sizeof *here);
        here->open = 1;
    }
    if (connects) {
        if (roles & ROLE_B) case_listener = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (roles & ROLE_A) fds[0][0] = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        all_meet();
        return true;
    }
    all_meet();
    if (roles & ROLE_A) fds[0][0] = raw_connect();
    if (roles & ROLE_B) fds[1][0] = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    return false;
}

/* ---- warming up: 16 bytes there and back, so often as told, or until the companion carries both ways ---- */
/* The 16 bytes just read did not come by TCP. What came before may have, several times: where fail-backs are forced records and
 * bytes that come again are the kernel's, too. */
static uint64_t by_tcp_before[2];
static bool carried_in(int end)
{
    struct known known = kernel_knows(fds[end][0]);
    bool carried = known.valid && known.received && known.received == by_tcp_before[end];
    by_tcp_before[end] = known.received;
    return carried;
}
static void move16(int end, bool out, char *bytes)
{
    if (out) {
        send_all(fds[end][0], bytes, 16);
        atomic_fetch_add(&board->ends[end].sent, 16);
        atomic_fetch_add(&board->ends[end].pings, 16);
    } else {
        recv_all(fds[end][0], bytes, 16);
        atomic_fetch_add(&board->ends[end].rcvd, 16);
    }
}
static void warm_both(const char *how)
{
    for (int end = 0; end < 2; end++)
        if (roles & (1 << end)) no_delay(fds[end][0]);
    char bytes[16] = { 0 };
    by_tcp_before[0] = by_tcp_before[1] = 0;
    bool until_carried = how[0] == 'w', in[2] = { false, false };
    long left = until_carried ? 0 : atol(how);
    uint64_t deadline = now_us() + 2500000;
    for (bool last = !until_carried && !left; !last;) {
        if (roles & ROLE_A) {
            if (until_carried) last = (in[0] && in[1]) || now_us() > deadline;
            else last = --left <= 0;
            bytes[0] = last;
            move16(0, true, bytes);
        }
        if (roles & ROLE_B) {
            move16(1, false, bytes);
            last = bytes[0];
            in[1] |= until_carried && carried_in(1);
            bytes[1] = in[1];
            move16(1, true, bytes);
        }
        if (roles & ROLE_A) {
            move16(0, false, bytes);
            in[1] = bytes[1];
            in[0] |= until_carried && carried_in(0);
        }
    }
    if (until_carried && roles & ROLE_A) atomic_fetch_add(in[0] && in[1] ? &board->carried : &board->uncarried, 1);
    publish_kernel();
}
