/* What one call costs by libc (and so by the preload) and by the bare system call, in turns, in nanoseconds at the median.
 *   connects tcp|udp|sendto HOST PORT COUNT [INTERFACE]
 * INTERFACE, an index: the bare way chooses it by IP_UNICAST_IF, as a program would that does it itself. What is counted stands
 * between two getppid, which nobody else calls.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long bare(long number, long a, long b, long c, long d, long e, long f)
{
#if defined __x86_64__
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
#else
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#endif
}

static struct sockaddr_storage to;
static socklen_t length;
static int domain, kind, interface;

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void check(long result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "%s: %s\n", what, strerror(result == -1 ? errno : -result));
    exit(1);
}

static void done(int fd)
{
    /* No TIME_WAIT: every connect finds the same. */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(fd);
}

static long connected(int natively)
{
    int fd = natively ? bare(SYS_socket, domain, kind, 0, 0, 0, 0) : socket(domain, kind, 0);
    long start = now();
    if (natively && interface) bare(SYS_setsockopt, fd, IPPROTO_IP, IP_UNICAST_IF, (long)&interface, sizeof interface, 0);
    long r = natively ? bare(SYS_connect, fd, (long)&to, length, 0, 0, 0) : connect(fd, (void *)&to, length);
    long took = now() - start;
    check(r, "connect");
    done(fd);
    return took;
}

static long sent(int natively, int fd)
{
    long start = now();
    long r = natively ? bare(SYS_sendto, fd, (long)"x", 1, MSG_DONTWAIT, (long)&to, length) : sendto(fd, "x", 1, MSG_DONTWAIT, (void *)&to, length);
    long took = now() - start;
    check(r, "sendto");
    return took;
}

static int order(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int count = atoi(argv[4]), sends = !strcmp(argv[1], "sendto");
    struct sockaddr_in *four = (void *)&to;
    struct sockaddr_in6 *six = (void *)&to;
    interface = argc > 5 ? htonl(atoi(argv[5])) : 0;
    domain = strchr(argv[2], ':') ? AF_INET6 : AF_INET;
    kind = argv[1][0] == 't' ? SOCK_STREAM : SOCK_DGRAM;
    if (domain == AF_INET6) {
        *six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[3]))};
        check(inet_pton(AF_INET6, argv[2], &six->sin6_addr) - 1, "address");
        length = sizeof *six;
    } else {
        *four = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
        check(inet_pton(AF_INET, argv[2], &four->sin_addr) - 1, "address");
        length = sizeof *four;
    }
    long *times[2] = {calloc(count, sizeof(long)), calloc(count, sizeof(long))};
    int ours = socket(domain, kind, 0), theirs = bare(SYS_socket, domain, kind, 0, 0, 0, 0);
    for (int i = -50; i < count; i++) {
        if (i == 0) bare(SYS_getppid, 0, 0, 0, 0, 0, 0);
        for (int turn = 0; turn < 2; turn++) {
            int natively = (i ^ turn) & 1;
            long took = sends ? sent(natively, natively ? theirs : ours) : connected(natively);
            if (i >= 0) times[natively][i] = took;
        }
    }
    bare(SYS_getppid, 0, 0, 0, 0, 0, 0);
    for (int natively = 0; natively < 2; natively++) qsort(times[natively], count, sizeof(long), order);
    printf("%ld %ld\n", times[1][count / 2], times[0][count / 2]);
    return 0;
}
