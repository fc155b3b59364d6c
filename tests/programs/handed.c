/* A socket with unread bytes is given to a child as its standard input, by posix_spawn, vfork or fork: it reads every byte.
 * The peer waits for the end meanwhile, in recv. */
#include "common.h"
#include <spawn.h>
#define BYTES 60000
#define READ 1000

static char *command[] = { "sh", "-c", "head -c 59000 | cksum", NULL };

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
static void scenario(int fd)
{
    static char bytes[BYTES];
    if (!is_server) {
        for (int i = 0; i < BYTES; i++) bytes[i] = i * 7 + i / 256;
        send_all(fd, bytes, BYTES);
        report("end", recv(fd, bytes, 1, 0));
        close(fd);
        return;
    }
    int ends[2], status;
    need(pipe2(ends, O_CLOEXEC));
    recv_all(fd, bytes, READ);
    wait_queued(fd, BYTES - READ);
    pid_t (*ways[])(int, int) = { spawned, vforked, forked };
    pid_t pid = ways[pass % 3](fd, ends[1]);
    close(ends[1]);
    char text[64] = "";
    ssize_t n = read(ends[0], text, sizeof text - 1);
    need(waitpid(pid, &status, 0));
    say("child %d: %zd bytes, %s", status, n, text);
    close(ends[0]);
    close(fd);
}
PAIR_MAIN(scenario)
