/* A seccomp filter that comes by instructions of the program's own, so that nobody hooks it: as one that was there before the program. */
#pragma once
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

/* From now on these two calls (or one of them twice) end so: SECCOMP_RET_ERRNO with an error, or SECCOMP_RET_KILL_PROCESS. */
static void forbid(int one, int other, unsigned end)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, one, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, other, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, end),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof rules / sizeof *rules, rules };
    if (raw(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0) || raw(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter)) {
        say("no filter can be had");
        exit(1);
    }
}
