/* Waits where the newest calls are missing (epoll_pwait2: Linux 5.11; futex_waitv: 5.16), as on an older kernel or behind a container's
 * filter. The filter comes by instructions of this program's own, so that nobody hooks it. */
#include "common.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static long raw(long number, long one, long two, long three)
{
#if defined __x86_64__
    long result;
    register long four __asm__("r10") = 0, five __asm__("r8") = 0;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(one), "S"(two), "d"(three), "r"(four), "r"(five) : "rcx", "r11", "memory");
    return result;
#else
    register long eight __asm__("x8") = number, zero __asm__("x0") = one, first __asm__("x1") = two, second __asm__("x2") = three;
    register long third __asm__("x3") = 0, fourth __asm__("x4") = 0;
    __asm__ volatile("svc 0" : "+r"(zero) : "r"(eight), "r"(first), "r"(second), "r"(third), "r"(fourth) : "memory");
    return zero;
#endif
}

static void forget_the_newest(int error)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 449 /* futex_waitv */, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof rules / sizeof *rules, rules };
    if (raw(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0) || raw(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter)) {
        say("no filter can be had");
        exit(1);
    }
}

static void look(const char *what, int set, int milliseconds)
{
    struct epoll_event event;
    uint64_t began = now_us();
    int n = report(what, epoll_wait(set, &event, 1, milliseconds));
    if (n == 1) say("  data %d %s", event.data.u32, events_text(event.events));
    if (n == 0 && now_us() - began < milliseconds * 999ull) say("  too early");
}

static void scenario(int fd)
{
    char bytes[64];
    if (is_server) {
        answer(fd);
        return;
    }
    int set = need(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 1 };
    report("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    look("nothing, at once", set, 0);
    look("nothing", set, 30);
    ask(fd, 10);
    look("ten bytes", set, 5000);
    recv_all(fd, bytes, 10);
    look("nothing again", set, 15);
    ask(fd, 3);
    look("more came", set, -1);
    recv_all(fd, bytes, 3);
    struct epoll_event none;
    struct timespec brief = { 0, 1500000 };
    report("the missing call itself", epoll_pwait2(set, &none, 1, &brief, NULL));
    struct pollfd entry = { fd, POLLIN, 0 };
    report("poll", poll(&entry, 1, 15));
    need(close(set));
    ask(fd, 5);
    recv_all(fd, bytes, 5);
    close(fd);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    forget_the_newest(atoi(args[0]));
    each_pass(argv, scenario);
    say("done");
    return 0;
}
