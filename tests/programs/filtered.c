/* A program that filters its own system calls: what the filter does not name kills it. First argument:
 *
 *   strict    SECCOMP_MODE_STRICT: read, write and exit alone
 *   filter    by prctl, as programs that are to be safe do: what a server needs that reads, writes and polls
 *   syscall   the same, by syscall(SYS_seccomp)
 *   before    the filter is older than the connection */
#include "common.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#define SIZE 2000
#define ROUNDS 40

static const int allowed[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_sendto, SYS_recvmsg, SYS_sendmsg, SYS_ppoll, SYS_close, SYS_shutdown,
    SYS_accept4, SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_brk, SYS_munmap, SYS_restart_syscall, SYS_futex, SYS_fstat,
    SYS_setsockopt, SYS_clock_nanosleep, SYS_epoll_pwait,
#ifdef SYS_poll
    SYS_poll, SYS_newfstatat, SYS_epoll_wait,
#endif
};
static int filter(bool by_syscall)
{
    struct sock_filter code[80] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
    int at = 1;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = { at, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return by_syscall ? (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
static char bytes[SIZE];
/* By read and write alone; nothing is allocated, nothing printed. */
static bool answers(int fd, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        for (size_t got = 0; got < SIZE;) {
            ssize_t n = read(fd, bytes + got, SIZE - got);
            if (n <= 0) return false;
            got += n;
        }
        for (size_t put = 0; put < SIZE;) {
            ssize_t n = write(fd, bytes + put, SIZE - put);
            if (n <= 0) return false;
            put += n;
        }
    }
    return true;
}
static void confined(int fd)
{
    bool strict = !strcmp(args[0], "strict");
    int set = need(epoll_create1(0));
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };
    need(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    need(epoll_wait(set, &event, 1, 0));
    int result = strict ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) : filter(!strcmp(args[0], "syscall"));
    bool fine = !result && answers(fd, ROUNDS);
    if (!strict) {
        struct pollfd look = { fd, POLLIN, 0 };
        fine = fine && poll(&look, 1, 5000) == 1 && recv(fd, bytes, 10, 0) == 10 && send(fd, bytes, 10, MSG_NOSIGNAL) == 10;
        fine = fine && epoll_wait(set, &event, 1, 5000) == 1 && event.data.u64 == 77 && event.events & EPOLLIN;
        fine = fine && recv(fd, bytes, 10, 0) == 10 && shutdown(fd, SHUT_WR) == 0 && recv(fd, bytes, 10, 0) == 0 && close(fd) == 0;
    }
    syscall(SYS_exit, fine ? 0 : 1);
}
static void confined_from_the_start(void)
{
    int result = filter(false), fd = accept4(listener, NULL, NULL, 0);
    bool fine = !result && fd >= 0 && answers(fd, ROUNDS);
    syscall(SYS_exit, fine ? 0 : 1);
}
static void client(int fd)
{
    for (int i = 0; i < ROUNDS; i++) {
        send_pattern(fd, i * SIZE, SIZE, 50);
        take_right(fd, i * SIZE, SIZE, 50);
    }
    if (strcmp(args[0], "strict") && strcmp(args[0], "before")) {
        send_pattern(fd, 0, 10, 51);
        take_right(fd, 0, 10, 51);
        send_pattern(fd, 0, 10, 51);
        drain(fd, 0, 1, 0, 1);
    }
    close(fd);
}
static void reap(pid_t pid)
{
    int status;
    need(waitpid(pid, &status, 0));
    say("ended %x", status);
}
static void scenario(int fd)
{
    if (!is_server) {
        client(fd);
        return;
    }
    pid_t pid = need(fork());
    if (!pid) confined(fd);
    close(fd);
    reap(pid);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    if (strcmp(args[0], "before")) {
        each_pass(argv, scenario);
    } else if (is_server) {
        publish(listener = new_listener(INADDR_LOOPBACK, 0, 16));
        pid_t pid = need(fork());
        if (!pid) confined_from_the_start();
        reap(pid);
    } else {
        client(raw_connect());
    }
    say("done");
    return 0;
}
