/* A socket with unread bytes is given to a child as its standard input, by posix_spawn, vfork or fork: it reads every byte.
 * First argument: the peer `waits` for the end meanwhile, in recv; it `closes` before; or it has sent `ahead` of the reader
 * since before the connection could be carried, so that the unread bytes have come in two ways; or the socket is the
 * program's own standard input, `inherited` by the children of posix_spawn, system and popen. */
#include "common.h"
#include <spawn.h>
#define BYTES 60000
#define ROUNDS 60

static char text[64];
static char *command[] = { "sh", "-c", text, NULL };

static pid_t spawned(int fd, int out)
{
    posix_spawn_file_actions_t actions;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    if (posix_spawn(&pid, "/bin/sh", &actions, NULL, command, environ)) die("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}
static pid_t vforked(int fd, int out)
{
    pid_t pid = vfork();
    if (pid) return pid;
    dup2(fd, 0);
    dup2(out, 1);
    for (int other = 3; other < 64; other++) close(other);
    execv("/bin/sh", command);
    _exit(127);
}
static pid_t forked(int fd, int out)
{
    pid_t pid = need(fork());
    if (pid) return pid;
    dup2(fd, 0);
    dup2(out, 1);
    execv("/bin/sh", command);
    _exit(127);
}
static pid_t spawned_as_we_are(void)
{
    pid_t pid;
    if (posix_spawn(&pid, "/bin/sh", NULL, NULL, command, environ)) die("posix_spawn");
    return pid;
}
/* What a child that has our standard input says of it. */
static void inherited(int fd, int left)
{
    int ends[2], status;
    char sum[64] = "";
    int own = need(dup(0));
    need(dup2(fd, 0));
    close(fd);
    need(pipe(ends));
    if (pass % 3 == 2) {
        snprintf(text, sizeof text, "head -c %d | cksum", left);
        FILE *child = popen(text, "r");
        ssize_t n = fread(sum, 1, sizeof sum - 1, child);
        say("child %d: %zd bytes, %s", pclose(child), n, sum);
    } else {
        snprintf(text, sizeof text, "head -c %d | cksum >&%d", left, ends[1]);
        if (pass % 3 == 1) status = system(text);
        else need(waitpid(spawned_as_we_are(), &status, 0));
        ssize_t n = read(ends[0], sum, sizeof sum - 1);
        say("child %d: %zd bytes, %s", status, n, sum);
    }
    close(ends[0]);
    close(ends[1]);
    need(dup2(own, 0));
    close(own);
}
static ssize_t read_all(int fd, char *to, size_t size)
{
    size_t done = 0;
    for (ssize_t n; done < size && (n = read(fd, to + done, size - done)) > 0;) done += n;
    return done;
}
static void scenario(int fd)
{
    static char bytes[BYTES];
    bool ahead = !strcmp(args[0], "ahead"), closes = !strcmp(args[0], "closes");
    int read = 1000;
    if (!is_server) {
        for (int i = 0; i < BYTES; i++) bytes[i] = i * 7 + i / 256;
        for (int i = 0; ahead && i < ROUNDS; i++) {
            char answer;
            send_all(fd, bytes + i * (BYTES / ROUNDS), BYTES / ROUNDS);
            tell(1);
            recv_all(fd, &answer, 1);
            nap(1);
        }
        if (!ahead) send_all(fd, bytes, BYTES);
        if (closes) {
            close(fd);
            tell(0);
            return;
        }
        report("end", recv(fd, bytes, 1, 0));
        close(fd);
        return;
    }
    int ends[2], status;
    need(pipe2(ends, O_CLOEXEC));
    for (int i = 0; ahead && i < ROUNDS; i++) {
        await_count(1, pass * ROUNDS + i + 1);
        recv_all(fd, bytes, 10);
        send_all(fd, "y", 1);
        read = 10 * (i + 1);
    }
    if (!ahead) recv_all(fd, bytes, read);
    if (closes) await(0);
    wait_queued(fd, BYTES - read);
    snprintf(text, sizeof text, closes ? "cksum" : "head -c %d | cksum", BYTES - read);
    if (!strcmp(args[0], "inherited")) {
        close(ends[0]);
        close(ends[1]);
        inherited(fd, BYTES - read);
        return;
    }
    pid_t (*ways[])(int, int) = { spawned, vforked, forked };
    pid_t pid = ways[pass % 3](fd, ends[1]);
    close(ends[1]);
    char sum[64] = "";
    ssize_t n = read_all(ends[0], sum, sizeof sum - 1);
    need(waitpid(pid, &status, 0));
    say("child %d: %zd bytes, %s", status, n, sum);
    close(ends[0]);
    close(fd);
}
PAIR_MAIN(scenario)
