/* Connections of several kinds at once, each with its own thread or process, whose every byte is checked, until it is told to stop:
 *
 *   outlast server|client ADDRESS PORT threads|processes KINDS FOLDER
 *
 * KINDS: words of two letters, one a connection, between commas. What it does: p (messages and answers), o (one way), d (both ways at once), i (as
 * p, but from FOLDER/idle on the client waits for an answer), I (as i, the server waits), w (as o, but from FOLDER/idle on nobody
 * reads), x (as o, and the client's process leaves by _exit at the end), c (as w, and the client, whose buffer is small, closes at FOLDER/close what is full); as p, but
 * at FOLDER/idle the client's process: u (has a user namespace of its own), s (has another user's rights), e (starts programs), k (is
 * another: a forked child goes on). How it waits: b (in blocking calls), p (poll), e (epoll), n (poll on an epoll set). All end by themselves when there is FOLDER/stop; each then says
 * what went in and out, and how it ended. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MESSAGE = 64, CHUNK = 6000, MOST = 64 };

static const char *folder;
static bool server;

struct connection {
    int number, fd, epoll, armed;
    char kind, how;
    unsigned long in, out;
    bool wrong;
    const char *failed;
    int error;
};

static bool is_there(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static unsigned char value(unsigned long at, int number) { return (unsigned char)((at * 2654435761u >> 13) + number); }

static bool failed(struct connection *c, const char *what)
{
    if (!c->failed) {
        c->error = errno;
        c->failed = what;
    }
    return false;
}

static void await(struct connection *c, short events)
{
    if (c->how == 'p') {
        struct pollfd entry = { c->fd, events, 0 };
        poll(&entry, 1, -1);
    } else if (c->how == 'e' || c->how == 'n') {
        struct epoll_event event = { .events = events == POLLIN ? EPOLLIN : events == POLLOUT ? EPOLLOUT : EPOLLIN | EPOLLOUT };
        if (c->armed != events)
            epoll_ctl(c->epoll, c->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event);
        c->armed = events;
        struct pollfd set = { c->epoll, POLLIN, 0 };
        if (c->how == 'n')
            poll(&set, 1, -1);
        epoll_wait(c->epoll, &event, 1, c->how == 'n' ? 0 : -1);
    }
}

/* What there is, at most BYTES; 0 at the end, -1 when it failed or (errno EAGAIN) there is nothing. */
static long take(struct connection *c, unsigned char *buffer, long bytes)
{
    long n = recv(c->fd, buffer, bytes, 0);
    for (long i = 0; i < n; i++, c->in++)
        if (buffer[i] != value(c->in, c->number)) {
            c->wrong = true;
            errno = EILSEQ;
            return -1;
        }
    return n;
}

static long give(struct connection *c, unsigned char *buffer, long bytes)
{
    for (long i = 0; i < bytes; i++)
        buffer[i] = value(c->out + i, c->number);
    long n = send(c->fd, buffer, bytes, MSG_NOSIGNAL);
    if (n > 0)
        c->out += n;
    return n;
}

/* True when all of it was moved; false at the end (for the first byte), and when it failed. */
static bool in(struct connection *c, long bytes)
{
    unsigned char buffer[CHUNK];
    for (long done = 0; done < bytes;) {
        long n = take(c, buffer, bytes - done);
        if (n < 0 && errno == EAGAIN) {
            await(c, POLLIN);
            continue;
        }
        if (n == 0 && done == 0)
            return false;
        if (n == 0)
            errno = ENODATA;
        if (n <= 0)
            return failed(c, "recv");
        done += n;
    }
    return true;
}

static bool out(struct connection *c, long bytes)
{
    unsigned char buffer[CHUNK];
    for (long done = 0; done < bytes;) {
        long n = give(c, buffer, bytes - done);
        if (n < 0 && errno == EAGAIN)
            await(c, POLLOUT);
        else if (n < 0)
            return failed(c, "send");
        else
            done += n;
    }
    return true;
}

static void half_close(struct connection *c)
{
    if (shutdown(c->fd, SHUT_WR) && !c->failed)
        failed(c, "shutdown");
}

static bool ended_well(pid_t child)
{
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* What a process may do beside its connection. */
static bool change(struct connection *c)
{
    char *words[] = { "true", NULL }, *none[] = { NULL };
    pid_t child;
    switch (c->kind) {
    case 'u':
        return !unshare(CLONE_NEWUSER) || failed(c, "unshare");
    case 's':
        return !seteuid(65534) || failed(c, "seteuid");
    case 'e':
        if (posix_spawn(&child, "/bin/true", NULL, NULL, words, none) || !ended_well(child))
            return failed(c, "posix_spawn");
        child = fork();
        if (child == 0) {
            execv("/bin/true", words);
            _exit(127);
        }
        return ended_well(child) || failed(c, "fork and exec");
    case 'k':
        child = fork();
        if (child != 0)
            _exit(ended_well(child) ? 0 : 9);
    }
    return true;
}

/* Messages and answers. The one that asks ends it. */
static void ask(struct connection *c)
{
    bool changed = false;
    while (!is_there("stop") && out(c, MESSAGE) && in(c, MESSAGE)) {
        if (!changed && is_there("idle")) {
            changed = true;
            if (!change(c))
                return;
        }
        usleep(20000);
    }
    half_close(c);
    if (!c->failed && in(c, 1))
        errno = EBADMSG, failed(c, "the end");
}

static void answer(struct connection *c, bool pauses)
{
    while (in(c, MESSAGE)) {
        while (pauses && is_there("idle") && !is_there("stop"))
            usleep(5000);
        if (!out(c, MESSAGE))
            return;
    }
}

static void *write_all(void *connection)
{
    struct connection *c = connection;
    while (!is_there("stop") && out(c, 1000 + c->out % 3000))
        usleep(20000);
    half_close(c);
    return NULL;
}

/* Until nothing goes any more, and then it is closed, whatever is under way. */
static void fill(struct connection *c)
{
    unsigned char buffer[CHUNK];
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    while (!is_there("close")) {
        if (give(c, buffer, CHUNK) < 0 && errno != EAGAIN) {
            failed(c, "send");
            return;
        }
        usleep(20000);
    }
}

static void *read_all(void *connection)
{
    struct connection *c = connection;
    unsigned char buffer[CHUNK];
    long n;
    while ((n = take(c, buffer, CHUNK)) != 0) {
        if (n < 0 && errno == EAGAIN)
            await(c, POLLIN);
        else if (n < 0)
            return failed(c, "recv"), NULL;
        while ((c->kind == 'w' || c->kind == 'c') && is_there("idle") && !is_there("stop"))
            usleep(5000);
    }
    return NULL;
}

/* Both ways in one thread: whatever can be done now. */
static void both_ways(struct connection *c)
{
    unsigned char buffer[CHUNK];
    bool writes = true, reads = true;
    while (reads || writes) {
        bool moved = false;
        if (writes && is_there("stop")) {
            half_close(c);
            writes = false;
        }
        if (reads) {
            long n = take(c, buffer, CHUNK);
            if (n < 0 && errno != EAGAIN) {
                failed(c, "recv");
                return;
            }
            reads = n != 0;
            moved |= n > 0;
        }
        if (writes) {
            long n = give(c, buffer, 1000 + c->out % 3000);
            if (n < 0 && errno != EAGAIN) {
                failed(c, "send");
                return;
            }
            moved |= n > 0;
        }
        if (moved)
            usleep(20000);
        else if (reads || writes)
            await(c, (reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
    }
}

static void say(struct connection *c)
{
    const char *end = c->wrong ? "WRONG byte" : c->failed ? strerror(c->error) : "whole";
    const char *call = c->failed ? c->failed : "", *colon = c->failed ? ": " : "";
    printf("%d %c%c: %lu in, %lu out, %s%s%s\n", c->number, c->kind, c->how, c->in, c->out, call, colon, end);
}

static void *run(void *connection)
{
    struct connection *c = connection;
    if (c->how != 'b')
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->epoll = c->how == 'e' || c->how == 'n' ? epoll_create1(0) : -1;
    pthread_t other;
    switch (c->kind) {
    case 'p':
    case 'u':
    case 's':
    case 'e':
    case 'k':
    case 'i':
        server ? answer(c, c->kind == 'i') : ask(c);
        break;
    case 'I':
        server ? ask(c) : answer(c, true);
        break;
    case 'o':
    case 'w':
        server ? read_all(c) : write_all(c);
        if (!server && !c->failed && in(c, 1))
            errno = EBADMSG, failed(c, "the end");
        break;
    case 'x':
        if (server) {
            read_all(c);
            break;
        }
        while (!is_there("stop") && out(c, 1000 + c->out % 3000))
            usleep(20000);
        say(c);
        _exit(c->failed != NULL);
    case 'c':
        server ? (void)read_all(c) : fill(c);
        break;
    case 'd':
        if (c->how == 'b') {
            pthread_create(&other, NULL, write_all, c);
            read_all(c);
            pthread_join(other, NULL);
        } else {
            both_ways(c);
        }
    }
    close(c->fd);
    if (c->epoll >= 0)
        close(c->epoll);
    say(c);
    if (c->wrong)
        _exit(3);
    return NULL;
}

int main(int arguments, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (arguments != 7)
        return 64;
    server = strcmp(words[1], "server") == 0;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(words[3])) };
    inet_pton(AF_INET, words[2], &address.sin_addr);
    bool threads = strcmp(words[4], "threads") == 0;
    folder = words[6];
    int listener = -1, one = 1, count = 0;
    if (server) {
        listener = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (void *)&address, sizeof address) || listen(listener, MOST)) {
            perror("listen");
            return 1;
        }
        puts("listens");
    }
    static struct connection all[MOST];
    pthread_t thread[MOST];
    pid_t child[MOST];
    for (char *kind = strtok(words[5], ","); kind && count < MOST; kind = strtok(NULL, ","), count++) {
        struct connection *c = &all[count];
        *c = (struct connection){ .number = count, .kind = kind[0], .how = kind[1] };
        c->fd = server ? accept(listener, NULL, NULL) : socket(AF_INET, SOCK_STREAM, 0);
        int small = 4096;
        if (!server && c->kind == 'c')
            setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
        if (c->fd < 0 || (!server && connect(c->fd, (void *)&address, sizeof address))) {
            perror("connect");
            return 1;
        }
        if (threads) {
            pthread_create(&thread[count], NULL, run, c);
            continue;
        }
        child[count] = fork();
        if (child[count] == 0) {
            run(c);
            return c->failed != NULL;
        }
        close(c->fd);
    }
    int status, worst = 0;
    for (int at = 0; at < count; at++) {
        if (threads)
            pthread_join(thread[at], NULL);
        else if (waitpid(child[at], &status, 0) > 0 && status && worst < 3)
            worst = WIFEXITED(status) ? WEXITSTATUS(status) : 9;
        if (threads && all[at].failed && !worst)
            worst = 1;
    }
    return worst;
}
