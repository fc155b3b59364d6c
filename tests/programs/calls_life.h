/* A socket's names, options, descriptors and end; threads, signals and children. */
#include "calls_options.h"

/* ---- how it begins ---- */
static void do_connect(struct call *call)
{
    struct sockaddr_in at;
    socklen_t length = sizeof at;
    if (roles & ROLE_B && case_listener >= 0) getsockname(case_listener, (void *)&at, &length), atomic_store(&page->word[60], ntohs(at.sin_port));
    at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atomic_load(&page->word[60])), .sin_addr.s_addr = htonl(server_address()) };
    put_result(call, connect(call->fd, (void *)&at, sizeof at));
}
static void do_accept(struct call *call)
{
    const char *flags = word_of(call, 1);
    int fd = accept4(case_listener, NULL, NULL, SOCK_CLOEXEC | (has_word(flags, "NONBLOCK") ? SOCK_NONBLOCK : 0));
    if (has_word(flags, "NONBLOCK")) atomic_store(&call->end->nonblock, 1);
    fds[1][call->op->slot] = fd;
    put_result(call, fd < 0 ? fd : 0);
}
static void do_bind(struct call *call)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(roles & ROLE_A && !getenv("TANDEM_TESTS_ADDRESS") ? INADDR_LOOPBACK : roles & ROLE_B ? server_address() : INADDR_ANY) };
    put_result(call, bind(call->fd, (void *)&at, sizeof at));
}
static void do_listen(struct call *call)
{
    put_result(call, listen(call->fd, number_of(call, 1, 16)));
    struct sockaddr_in at;
    socklen_t length = sizeof at;
    if (call->op->actor == 'l' && !getsockname(call->fd, (void *)&at, &length)) atomic_store(&page->word[60], ntohs(at.sin_port));
}
/* The addresses are right: what one end calls its own is the other's peer. */
static void do_names(struct call *call)
{
    struct sockaddr_in own = { 0 }, peers = { 0 };
    socklen_t length = sizeof own, other = sizeof peers;
    put_result(call, getsockname(call->fd, (void *)&own, &length));
    put(call, " ");
    put_result(call, getpeername(call->fd, (void *)&peers, &other));
    put(call, " %u %u %x", length, other, ntohl(own.sin_addr.s_addr));
}

/* ---- descriptors ---- */
static void add_descriptor(struct call *call, int fd, int slot)
{
    int end = call->end == &board->ends[1];
    if (fd < 0) return;
    fds[end][slot] = fd;
    atomic_fetch_add(&call->end->open, 1);
}
static int free_slot(struct call *call)
{
    int slot = number_of(call, 1, 1) % DESCRIPTORS;
    return fds[call->end == &board->ends[1]][slot] < 0 && call->fd >= 0 ? slot : -1;
}
static void doubled(struct call *call, int how)
{
    int slot = free_slot(call);
    if (slot < 0) { put(call, "no place"); return; }
    int fd = how == 0 ? dup(call->fd) : how == 1 ? fcntl(call->fd, F_DUPFD_CLOEXEC, 100) : -1;
    if (how == 2) {
        fd = need(open("/dev/null", O_RDONLY | O_CLOEXEC));
        if (dup2(call->fd, fd) != fd) fd = -1;
    }
    put_result(call, fd < 0 ? fd : 0);
    add_descriptor(call, fd, slot);
}
static void do_dup(struct call *call) { doubled(call, 0); }
static void do_dupfd(struct call *call) { doubled(call, 1); }
static void do_dup2(struct call *call) { doubled(call, 2); }
static void forget_descriptor(struct call *call)
{
    int end = call->end == &board->ends[1];
    if (call->fd < 0) return;
    fds[end][call->op->slot] = -1;
    atomic_fetch_sub(&call->end->open, 1);
}
static void do_close(struct call *call)
{
    if (call->op->actor == 'l') case_listener = -1;
    else forget_descriptor(call);
    put_result(call, close(call->fd));
}
static void do_close_range(struct call *call)
{
    if (call->fd < 0) { put(call, "none"); return; }
    forget_descriptor(call);
    put_result(call, close_range(call->fd, call->fd, 0));
}
/* The peer's kernel acknowledges a FIN within 40 ms, which rouses whoever waits for an edge, whatever for: it has come before the next
 * call of a case that knows edges. */
static void settle_edges(int fd)
{
    bool edges = false;
    for (int i = 0; i < current->count; i++) {
        struct op *op = &current->ops[i];
        edges |= op->count > 3 && !strcmp(op->words[0], "epoll") && strstr(op->text, "ET");
    }
    for (int look = 0; edges && look < 400; look++) {
        uint8_t state = kernel_knows(fd).state;
        if (state != 4 && state != 9 && state != 11) return; /* FIN_WAIT1, LAST_ACK, CLOSING */
        usleep(200);
    }
}
static void do_shutdown(struct call *call)
{
    const char *how = word_of(call, 1);
    bool reading = strchr(how, 'r'), writing = strchr(how, 'w');
    int result = shutdown(call->fd, !strcmp(how, "bad") ? 7 : reading && writing ? SHUT_RDWR : writing ? SHUT_WR : SHUT_RD);
    int error = errno;
    if (!result && writing) settle_edges(call->fd);
    errno = error;
    if (!result && writing) atomic_store(&call->end->shut_wr, 1);
    if (!result && reading) atomic_store(&call->end->shut_rd, 1);
    put_result(call, result);
}
static void do_nonblock(struct call *call)
{
    int flags = fcntl(call->fd, F_GETFL), on = number_of(call, 1, 1);
    int result = flags < 0 ? flags : fcntl(call->fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
    if (!result) atomic_store(&call->end->nonblock, on);
    put_result(call, result);
}
static void do_fionbio(struct call *call)
{
    int on = number_of(call, 1, 1);
    int result = ioctl(call->fd, FIONBIO, &on);
    if (!result) atomic_store(&call->end->nonblock, on);
    put_result(call, result);
}
static void do_getfl(struct call *call) { put_result(call, fcntl(call->fd, F_GETFL)); }
static void do_fstat(struct call *call)
{
    struct stat data;
    put_result(call, fstat(call->fd, &data));
    put(call, " %d %ld", S_ISSOCK(data.st_mode), (long)data.st_size);
}
static void do_lseek(struct call *call) { put_result(call, lseek(call->fd, 0, SEEK_CUR)); }
static void do_state(struct call *call) { put(call, "%d", kernel_knows(call->fd).state); }
/* Both descriptors show one socket: their cookies. */
static void do_same(struct call *call)
{
    uint64_t cookies[2] = { 1, 2 };
    int other = fds[call->end == &board->ends[1]][number_of(call, 1, 1) % DESCRIPTORS];
    for (int i = 0; i < 2; i++) {
        socklen_t length = 8;
        getsockopt(i ? other : call->fd, SOL_SOCKET, SO_COOKIE, &cookies[i], &length);
    }
    put(call, "%s", cookies[0] == cookies[1] ? "same" : "other");
}

/* ---- threads: one call each; what it gave is said by `join` ---- */
struct thread {
    pthread_t thread;
    struct call call;
    _Atomic int tid, done;
    bool used;
};
static struct thread threads[2][4];

static void *thread_body(void *argument)
{
    struct thread *thread = argument;
    thread->tid = gettid();
    bool sends = !strcmp(thread->call.op->words[0], "send");
    if (sends) atomic_fetch_add(&thread->call.end->sending, 1);
    make_call(&thread->call);
    if (sends) atomic_fetch_sub(&thread->call.end->sending, 1);
    thread->done = 1;
    return NULL;
}
/* Every background thread of this process has ended its call or sleeps in it. */
static bool rests(struct thread *thread)
{
    uint64_t deadline = now_us() + 3000000;
    for (int seen = 0; seen < 3 && !thread->done && now_us() < deadline;) {
        seen = thread->tid && state_of(getpid(), thread->tid) == 'S' ? seen + 1 : 0;
        usleep(500);
    }
    return thread->done;
}
static void begin_thread(struct call *call)
{
    struct thread *thread = &threads[call->end == &board->ends[1]][call->op->thread];
    if (thread->used) { put(call, "no thread"); return; }
    *thread = (struct thread){ .call = *call, .used = true };
    thread->thread = start(thread_body, thread);
    bool done = rests(thread);
    /* Threads 2 and 3 are for calls with a time limit, which a busy machine may reach before anybody looks. */
    put(call, "%s", call->op->thread >= 2 ? "begun" : done ? "at once" : "waits");
}
static struct thread *thread_of(struct call *call)
{
    struct thread *thread = &threads[call->end == &board->ends[1]][number_of(call, 1, 0) & 3];
    if (!thread->used) put(call, "no thread");
    return thread->used ? thread : NULL;
}
static void do_join(struct call *call)
{
    struct thread *thread = thread_of(call);
    if (!thread) return;
    uint64_t deadline = now_us() + number_of(call, 2, 3000) * 1000ul;
    while (!thread->done && now_us() < deadline) usleep(300);
    if (!thread->done) { put(call, "still waits"); return; }
    join(thread->thread);
    thread->used = false;
    put(call, "%s", thread->call.out);
}
static void do_cancel(struct call *call)
{
    struct thread *thread = thread_of(call);
    if (!thread) return;
    pthread_cancel(thread->thread);
    void *result;
    pthread_join(thread->thread, &result);
    thread->used = false;
    put(call, "%s", result == PTHREAD_CANCELED ? "cancelled" : "done");
}

/* ---- signals ---- */
static _Atomic int handled;
static void on_signal(int number) { handled++; }
/* handler restart|plain|none|ignore [2]: for SIGUSR1, or 2 */
static void do_handler(struct call *call)
{
    const char *how = word_of(call, 1);
    struct sigaction action = { .sa_handler = !strcmp(how, "none") ? SIG_DFL : !strcmp(how, "ignore") ? SIG_IGN : on_signal,
                                .sa_flags = !strcmp(how, "restart") ? SA_RESTART : 0 };
    put_result(call, sigaction(number_of(call, 2, 1) == 2 ? SIGUSR2 : SIGUSR1, &action, NULL));
}
static void do_signal(struct call *call)
{
    struct thread *thread = thread_of(call);
    if (!thread) return;
    int before = handled, number = number_of(call, 2, 1) == 2 ? SIGUSR2 : SIGUSR1;
    if (thread->done) { put(call, "done already"); return; }
    struct sigaction action;
    sigaction(number, NULL, &action);
    pthread_kill(thread->thread, number);
    usleep(2000);
    if (action.sa_handler != SIG_IGN) wait_changed(&handled, before);
    rests(thread);
    put(call, "0");
}
static void do_handled(struct call *call) { put(call, "%d", handled); }
static void do_nap(struct call *call)
{
    nap(number_of(call, 1, 1));
    put(call, "0");
}

/* ---- children ---- */
static bool just_forked;
static void do_fork(struct call *call)
{
    int end = call->end == &board->ends[1];
    if (children[end] || is_child) { put(call, "has one"); return; }
    /* It has this end's descriptors alone. */
    atomic_store(&board->born, 0);
    pid_t pid = need(fork());
    if (pid) {
        children[end] = pid;
        /* Until it has let go of the other end: whose close is the last would be chance. */
        for (uint64_t deadline = now_us() + 5000000; !atomic_load(&board->born) && now_us() < deadline;) sched_yield();
        for (int i = 0; i < DESCRIPTORS; i++)
            if (fds[end][i] >= 0) atomic_fetch_add(&call->end->open, 1);
        put(call, "0");
        return;
    }
    for (int i = 0; i < DESCRIPTORS; i++) {
        if (fds[!end][i] >= 0) close(fds[!end][i]);
        fds[!end][i] = -1;
    }
    atomic_store(&board->born, 1);
    memset(threads, 0, sizeof threads);
    is_child = just_forked = true;
    child_actor = end ? 'd' : 'c';
    roles = 0;
}
static void let_go_of_all(struct end *end, int *list)
{
    for (int i = 0; i < DESCRIPTORS; i++)
        if (list[i] >= 0) atomic_fetch_sub(&end->open, 1);
}
/* The parent says how it ended. exit [exit|_exit|kill] */
static void do_exit(struct call *call)
{
    int end = call->end == &board->ends[1], status;
    if (is_child) {
        let_go_of_all(call->end, fds[end]);
        const char *how = word_of(call, 1);
        if (!strcmp(how, "exit")) exit(0);
        if (!strcmp(how, "kill")) raise(SIGKILL);
        _exit(0);
    }
    if (!children[end]) { put(call, "no child"); return; }
    waitpid(children[end], &status, 0);
    children[end] = 0;
    put(call, "%s %d", WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}
static void do_popen(struct call *call)
{
    char line[64] = "";
    FILE *pipe = popen("echo popen", "r");
    if (pipe && fgets(line, sizeof line, pipe)) line[strcspn(line, "\n")] = 0;
    put(call, "%s %d", line, pipe ? pclose(pipe) : -1);
}
static void leave_child(void)
{
    int end = child_actor == 'd';
    let_go_of_all(&board->ends[end], fds[end]);
    _exit(0);
}

/* ---- the end of a case ---- */
static void clean_up(void)
{
    bool any = false;
    for (int end = 0; end < 2; end++)
        for (int i = 0; i < 4; i++) any |= threads[end][i].used;
    for (int end = 0; end < 2; end++) {
        if (children[end]) waitpid(children[end], NULL, 0);
        children[end] = 0;
        for (int i = 0; i < DESCRIPTORS; i++) {
            if (fds[end][i] < 0) continue;
            if (any) shutdown(fds[end][i], SHUT_RDWR);
            else reset_on_close(fds[end][i]); /* nothing lingers */
            close(fds[end][i]);
            fds[end][i] = -1;
        }
    }
    close_sets();
    if (case_listener >= 0) close(case_listener);
    case_listener = -1;
    for (int end = 0; end < 2; end++)
        for (int i = 0; i < 4; i++) {
            struct thread *thread = &threads[end][i];
            if (!thread->used) continue;
            uint64_t deadline = now_us() + 4000000;
            while (!thread->done && now_us() < deadline) usleep(300);
            if (!thread->done) {
                write_down("THREAD STUCK: %s\n", thread->call.op->text);
                _exit(96);
            }
            join(thread->thread);
            thread->used = false;
        }
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    handled = 0;
}
