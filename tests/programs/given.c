/* A connection with unread bytes goes to another holder, who reads every byte, while the peer waits. First argument:
 *
 *   numbered    to a program that finds it under a number of its own: a vforked child takes CLOEXEC off (as Python's pass_fds does) or doubles
 *               it, a forked child doubles it, posix_spawn's file actions double it, or the parent has taken CLOEXEC off before system()
 *   rights      by SCM_RIGHTS: to oneself, to a forked child, to a program without the switch */
#include "common.h"
#include <spawn.h>
#define BYTES 60000
#define READ 1000

static char text[96];
static char *command[] = { "sh", "-c", text, NULL };
static void reads(int fd, int out) { snprintf(text, sizeof text, "head -c %d <&%d | cksum >&%d", BYTES - READ, fd, out); }

static pid_t takes_the_flag_off(int fd, int out, bool by_ioctl)
{
    reads(fd, out);
    pid_t pid = vfork();
    if (pid) return pid;
    if (by_ioctl) ioctl(fd, FIONCLEX);
    else fcntl(fd, F_SETFD, 0);
    execv("/bin/sh", command);
    _exit(127);
}
static pid_t doubles(int fd, int out, bool vforks)
{
    reads(9, out);
    pid_t pid = vforks ? vfork() : fork();
    if (pid) return pid;
    dup2(fd, 9);
    close(fd);
    execv("/bin/sh", command);
    _exit(127);
}
static pid_t spawns(int fd, int out)
{
    reads(8, out);
    posix_spawn_file_actions_t actions;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 8);
    if (posix_spawn(&pid, "/bin/sh", &actions, NULL, command, environ)) die("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}
static void numbered(int fd)
{
    /* The shell knows numbers of one digit alone: the connection is 6, the answer's pipe 7. */
    int made[2], ends[2], status;
    need(pipe2(made, O_CLOEXEC));
    for (int i = 0; i < 2; i++) ends[i] = need(fcntl(made[i], F_DUPFD_CLOEXEC, 20));
    close(made[0]);
    close(made[1]);
    int out = need(dup2(ends[1], 7));
    close(ends[1]);
    if (fd != 6) {
        need(dup3(fd, 6, O_CLOEXEC));
        close(fd);
    }
    fd = 6;
    pid_t pid = -1;
    switch (pass % 6) {
    case 0: pid = takes_the_flag_off(fd, out, true); break;
    case 1: pid = takes_the_flag_off(fd, out, false); break;
    case 2: pid = doubles(fd, out, true); break;
    case 3: pid = doubles(fd, out, false); break;
    case 4: pid = spawns(fd, out); break;
    case 5:
        need(fcntl(fd, F_SETFD, 0));
        reads(fd, out);
        status = system(text);
    }
    close(out);
    char sum[64] = "";
    size_t have = 0;
    for (ssize_t n; (n = read(ends[0], sum + have, sizeof sum - 1 - have)) > 0;) have += n;
    if (pid > 0) need(waitpid(pid, &status, 0));
    say("child %d: %s", status, strtok(sum, "\n"));
    close(ends[0]);
    close(fd);
}

static void gives(int to, int fd)
{
    char byte = 'f', room[CMSG_SPACE(sizeof fd)] = { 0 };
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    *rights = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    if (sendmsg(to, &message, 0) != 1) die("sendmsg: %s", errno_name());
}
static int takes(int from)
{
    char byte, room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    int fd = -1;
    need(recvmsg(from, &message, MSG_CMSG_CLOEXEC));
    if (CMSG_FIRSTHDR(&message)) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}
/* Who was given it reads the rest and answers. */
static void reads_on(int from)
{
    static char rest[BYTES];
    int fd = takes(from);
    size_t n = recv_upto(fd, rest, BYTES - READ);
    say("read on: %zu, right %d", n, right(rest, READ, n, 40));
    send_pattern(fd, 0, 5000, 41);
    close(fd);
}
static pid_t other(int ends[2])
{
    char number[16];
    snprintf(number, sizeof number, "%d", ends[1]);
    pid_t pid = need(fork());
    if (pid) return pid;
    close(ends[0]);
    if (pass % 3 == 1) {
        reads_on(ends[1]);
        exit(0);
    }
    unsetenv("LD_PRELOAD");
    execl("/proc/self/exe", "given", "plain", number, NULL);
    _exit(98);
}
static int ends[2];
static pid_t reader;
static void by_rights(int fd)
{
    int status;
    gives(ends[0], fd);
    close(fd);
    if (pass % 3 == 0) reads_on(ends[1]);
    else say("ended %d, %d", need(waitpid(reader, &status, 0)) == reader, status);
    close(ends[0]);
    close(ends[1]);
}
static void scenario(int fd)
{
    static char start[BYTES];
    bool rights = !strcmp(args[0], "rights");
    if (!is_server) {
        send_pattern(fd, 0, BYTES, 40);
        if (rights) drain(fd, 0, 5000, 41, 1000);
        close_after_peer(fd);
        return;
    }
    recv_all(fd, start, READ);
    wait_queued(fd, BYTES - READ);
    if (rights) by_rights(fd);
    else numbered(fd);
}
int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "plain")) {
        reads_on(atoi(argv[2]));
        return 0;
    }
    begin(argc, argv);
    char *list = strdup(argv[3]), *entry;
    for (pass = 0; (entry = strsep(&list, ",")); pass++) {
        warm = entry;
        /* Older than the connection: it has not inherited it. */
        if (is_server && !strcmp(args[0], "rights")) {
            need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
            reader = pass % 3 ? other(ends) : 0;
        }
        int fd = next_connection();
        warm_as_told(fd);
        scenario(fd);
    }
    say("done");
    return 0;
}
