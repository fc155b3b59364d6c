/* Does what its arguments say, one after the other, and prints what it saw: no port numbers, so that runs compare.
 *
 *   tcp4 tcp6 udp4 udp6     a new socket; those before stay open
 *   socket:N                back to the N-th
 *   connect:HOST/PORT       also hurry: (non-blocking, then waited for), unspec (AF_UNSPEC), again: (connect, errors expected)
 *   reserved                bindresvport
 *   bind:HOST/PORT  device:NAME  mark:N  noport:N  unicast:NAME
 *   ask                     what the peer says: the address it sees (TCP: until end; UDP: connected, after a byte)
 *   to:HOST/PORT            UDP sendto, then the answer;  message:, own: (with its own IP_PKTINFO of eth0), tos: (with another control message)
 *   quiet:HOST/PORT         UDP sendto, nothing awaited
 *   many:HOST/PORT,...      one sendmmsg, then the answers, sorted
 *   fast:HOST/PORT          sendto with MSG_FASTOPEN, then the answer
 *   name  options           getsockname; the options that AutoBind uses
 *   threads                 sixteen at once connect; by which uplinks
 *   close  vfork            a child by vfork closes the socket, and uses another; the parent goes on
 *   storm                   for a while, connects interrupted by a handler that sends
 *   dup  fork  clone  drop  go on with a dup, the first closed; in a child; in one that no libc made; as nobody
 *   exec                    the rest in this program, executed anew
 *   say:WORD  gate:FILE     a line on stdout; wait until the file is there
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IP_UNICAST_IF
#define IP_UNICAST_IF 50
#endif
#ifndef IPV6_UNICAST_IF
#define IPV6_UNICAST_IF 76
#endif

enum { UNTOUCHED = 77 };

static int fds[32], made, now = -1, v6;

struct address {
    struct sockaddr_storage at;
    socklen_t length;
};

/* Of the socket's own family: an IPv4 host on an IPv6 socket is v4-mapped. A scope is eth0's. */
static struct address address(const char *text) {
    struct address a = {0};
    char host[80];
    const char *slash = strchr(text, '/');
    snprintf(host, sizeof host, "%.*s", (int)(slash - text), text);
    int port = htons(atoi(slash + 1));
    if (v6) {
        struct sockaddr_in6 *six = (void *)&a.at;
        char mapped[96];
        char *percent = strchr(host, '%');
        if (percent) *percent = 0, six->sin6_scope_id = if_nametoindex(percent + 1);
        snprintf(mapped, sizeof mapped, "%s%s", strchr(host, ':') ? "" : "::ffff:", host);
        six->sin6_family = AF_INET6, six->sin6_port = port, a.length = sizeof *six;
        if (inet_pton(AF_INET6, mapped, &six->sin6_addr) != 1) exit(90);
    } else {
        struct sockaddr_in *four = (void *)&a.at;
        four->sin_family = AF_INET, four->sin_port = port, a.length = sizeof *four;
        if (inet_pton(AF_INET, host, &four->sin_addr) != 1) exit(91);
    }
    return a;
}

static void result(const char *what, long r) {
    if (r < 0) printf("%s: %s\n", what, strerrorname_np(errno));
    else if (errno != UNTOUCHED) printf("%s: errno became %d\n", what, errno);
}

/* An address as it is printed: mapped or not, it is IPv4. */
static const char *show(const struct sockaddr_storage *at) {
    static char text[64];
    if (at->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)at)->sin6_addr, text, sizeof text);
    else
        inet_ntop(AF_INET, &((struct sockaddr_in *)at)->sin_addr, text, sizeof text);
    return strncmp(text, "::ffff:", 7) ? text : text + 7;
}

static void answer(void) {
    struct pollfd p = {now, POLLIN, 0};
    char text[100];
    if (poll(&p, 1, 2000) != 1) {
        puts("no answer");
        return;
    }
    ssize_t n = recv(now, text, sizeof text - 1, 0);
    if (n < 0) result("recv", n);
    else printf("peer sees %.*s\n", (int)n, text);
    /* A TCP peer ends first: its end keeps the ports for a while, and the next run can have ours. */
    int kind = 0;
    getsockopt(now, SOL_SOCKET, SO_TYPE, &kind, &(socklen_t){sizeof kind});
    while (kind == SOCK_STREAM && n > 0 && poll(&p, 1, 2000) == 1) n = recv(now, text, sizeof text, 0);
}

static int order(const void *a, const void *b) { return strcmp(a, b); }

static void many(char *list) {
    struct mmsghdr messages[64] = {0};
    struct address to[64];
    struct iovec part = {"x", 1};
    int count = 0, got = 0;
    for (char *one = strtok(list, ","); one; one = strtok(NULL, ",")) {
        to[count] = address(one);
        messages[count].msg_hdr = (struct msghdr){&to[count].at, to[count].length, &part, 1, NULL, 0, 0};
        count++;
    }
    int sent = sendmmsg(now, messages, count, 0), whole = 0;
    for (int i = 0; i < sent; i++) whole += messages[i].msg_len == 1 && messages[i].msg_hdr.msg_controllen == 0;
    if (sent < 0) result("sendmmsg", sent);
    printf("sent %d, whole %d\n", sent, whole);
    static char answers[64][100];
    for (struct pollfd p = {now, POLLIN, 0}; got < sent && poll(&p, 1, 1000) == 1; got++)
        memset(answers[got], 0, 100), recv(now, answers[got], 99, 0);
    qsort(answers, got, 100, order);
    for (int i = 0; i < got; i++) printf("peer sees %s\n", answers[i]);
}

static void message(const char *to, int own) {
    struct address a = address(to);
    struct iovec part = {"x", 1};
    _Alignas(8) char control[64] = {0};
    struct msghdr m = {&a.at, a.length, &part, 1, NULL, 0, 0};
    if (own) {
        m.msg_control = control, m.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (own == 1 && !v6) {
            struct in_pktinfo info = {.ipi_ifindex = if_nametoindex("eth0")};
            c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof info);
            memcpy(CMSG_DATA(c), &info, sizeof info);
        } else if (own == 1) {
            struct in6_pktinfo info = {.ipi6_ifindex = if_nametoindex("eth0")};
            c->cmsg_level = IPPROTO_IPV6, c->cmsg_type = IPV6_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof info);
            memcpy(CMSG_DATA(c), &info, sizeof info);
        } else {
            int tos = 8;
            c->cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP, c->cmsg_type = v6 ? IPV6_TCLASS : IP_TOS;
            c->cmsg_len = CMSG_LEN(sizeof tos);
            memcpy(CMSG_DATA(c), &tos, sizeof tos);
        }
        m.msg_controllen = CMSG_SPACE(c->cmsg_len - CMSG_LEN(0));
    }
    long n = sendmsg(now, &m, 0);
    if (n < 0) result("sendmsg", n);
    else answer();
}

static void options(void) {
    char name[IFNAMSIZ] = "";
    socklen_t length = sizeof name;
    int index = 0, noport = 0, four = 0, six = 0;
    result("SO_BINDTODEVICE", getsockopt(now, SOL_SOCKET, SO_BINDTODEVICE, name, &length));
    printf("device '%.*s' of %u bytes", (int)length, name, length);
    getsockopt(now, SOL_SOCKET, SO_BINDTOIFINDEX, &index, &(socklen_t){sizeof index});
    getsockopt(now, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &noport, &(socklen_t){sizeof noport});
    getsockopt(now, IPPROTO_IP, IP_UNICAST_IF, &four, &(socklen_t){sizeof four});
    getsockopt(now, IPPROTO_IPV6, IPV6_UNICAST_IF, &six, &(socklen_t){sizeof six});
    printf(", index %s, noport %d, unicast %u %u\n", index ? "set" : "0", noport, ntohl(four), ntohl(six));
}

static void hurry(struct address a) {
    fcntl(now, F_SETFL, O_NONBLOCK);
    int r = connect(now, (void *)&a.at, a.length), error = 0;
    if (r < 0 && errno == EINPROGRESS) {
        struct pollfd p = {now, POLLOUT, 0};
        if (poll(&p, 1, 3000) != 1) {
            puts("connecting goes on");
            return;
        }
        getsockopt(now, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        errno = error ? error : UNTOUCHED;
        r = error ? -1 : 0;
    }
    fcntl(now, F_SETFL, 0);
    result("connect", r);
}

static int storm_socket, storms, storm_failures;
static struct address storm_to;

static void in_storm(int signal)
{
    int before = errno;
    if (sendto(storm_socket, "x", 1, MSG_DONTWAIT, (void *)&storm_to.at, storm_to.length) != 1) storm_failures++;
    int other = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(other, (void *)&storm_to.at, storm_to.length)) storm_failures++;
    close(other);
    storms++;
    errno = before;
}

/* Every connect succeeds, whatever the handler does; the sources are as they are without it. */
static void storm(void)
{
    struct address to = address("10.79.1.1/5000");
    storm_to = address("10.79.1.1/5001");
    storm_socket = socket(AF_INET, SOCK_DGRAM, 0);
    signal(SIGALRM, in_storm);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 300}, {0, 300}}, NULL);
    int sources[2] = {0, 0}, rounds = 0;
    while (storms < 400) {
        struct sockaddr_in name;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        while (connect(fd, (void *)&to.at, to.length) && errno == EINTR)
            ;
        getsockname(fd, (void *)&name, &(socklen_t){sizeof name});
        sources[ntohl(name.sin_addr.s_addr) >> 16 & 1]++;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
        close(fd);
        rounds++;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    printf("failures %d, only by eth%d: %s\n", storm_failures, sources[1] > 0, sources[0] && sources[1] ? "no" : "yes");
}

static void *in_thread(void *to)
{
    struct address *a = to;
    struct sockaddr_in name = {0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (!connect(fd, (void *)&a->at, a->length)) getsockname(fd, (void *)&name, &(socklen_t){sizeof name});
    close(fd);
    return (void *)(long)(ntohl(name.sin_addr.s_addr) >> 16 & 255);
}

static void threads(void)
{
    struct address to = address("10.79.1.1/5000");
    pthread_t thread[16];
    int by[256] = {0};
    for (int i = 0; i < 16; i++) pthread_create(&thread[i], NULL, in_thread, &to);
    for (int i = 0; i < 16; i++) {
        void *source;
        pthread_join(thread[i], &source);
        by[(long)source]++;
    }
    printf("%d by eth0, %d by eth1\n", by[70], by[71]);
}

static void make(int domain, int kind) {
    now = fds[++made] = socket(domain, kind, 0);
    v6 = domain == AF_INET6;
}

static int starts(char *argument, const char *word, char **rest) {
    size_t length = strlen(word);
    *rest = argument + length;
    return !strncmp(argument, word, length);
}

static void act(char *word, char **argv) {
    char *rest;
    struct address a;
    errno = UNTOUCHED;
    if (!strcmp(word, "tcp4")) make(AF_INET, SOCK_STREAM);
    else if (!strcmp(word, "tcp6")) make(AF_INET6, SOCK_STREAM);
    else if (!strcmp(word, "udp4")) make(AF_INET, SOCK_DGRAM);
    else if (!strcmp(word, "udp6")) make(AF_INET6, SOCK_DGRAM);
    else if (starts(word, "socket:", &rest)) now = fds[atoi(rest)];
    else if (starts(word, "connect:", &rest)) a = address(rest), result("connect", connect(now, (void *)&a.at, a.length));
    else if (starts(word, "hurry:", &rest)) hurry(address(rest));
    else if (!strcmp(word, "unspec")) a = (struct address){0}, result("unspec", connect(now, (void *)&a.at, sizeof(struct sockaddr_in)));
    else if (starts(word, "bind:", &rest)) a = address(rest), result("bind", bind(now, (void *)&a.at, a.length));
    else if (starts(word, "device:", &rest)) result("device", setsockopt(now, SOL_SOCKET, SO_BINDTODEVICE, rest, strlen(rest)));
    else if (starts(word, "mark:", &rest)) result("mark", setsockopt(now, SOL_SOCKET, SO_MARK, &(int){atoi(rest)}, sizeof(int)));
    else if (starts(word, "noport:", &rest)) result("noport", setsockopt(now, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){atoi(rest)}, sizeof(int)));
    else if (starts(word, "unicast:", &rest)) result("unicast", setsockopt(now, IPPROTO_IP, IP_UNICAST_IF, &(int){htonl(if_nametoindex(rest))}, sizeof(int)));
    else if (!strcmp(word, "ask")) send(now, "x", 1, MSG_NOSIGNAL), answer();
    else if (starts(word, "to:", &rest)) {
        a = address(rest);
        long n = sendto(now, "x", 1, 0, (void *)&a.at, a.length);
        if (n < 0) result("sendto", n);
        else answer();
    } else if (starts(word, "quiet:", &rest)) a = address(rest), result("sendto", sendto(now, "x", 1, 0, (void *)&a.at, a.length));
    else if (starts(word, "message:", &rest)) message(rest, 0);
    else if (starts(word, "own:", &rest)) message(rest, 1);
    else if (starts(word, "tos:", &rest)) message(rest, 2);
    else if (starts(word, "many:", &rest)) many(rest);
    else if (starts(word, "fast:", &rest)) {
        a = address(rest);
        long n = sendto(now, "x", 1, MSG_FASTOPEN, (void *)&a.at, a.length);
        if (n < 0) result("fast", n);
        else answer();
    } else if (!strcmp(word, "name")) {
        a.length = sizeof a.at;
        result("getsockname", getsockname(now, (void *)&a.at, &a.length));
        printf("own name %s\n", show(&a.at));
    } else if (!strcmp(word, "options")) options();
    else if (!strcmp(word, "close")) close(now);
    else if (!strcmp(word, "reserved")) result("bindresvport", bindresvport(now, NULL));
    else if (!strcmp(word, "storm")) storm();
    else if (!strcmp(word, "threads")) threads();
    else if (!strcmp(word, "vfork")) {
        int other = fds[1];
        pid_t child = vfork();
        if (!child) {
            close(now);
            close(other);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    else if (!strcmp(word, "dup")) {
        int other = dup(now);
        close(now);
        now = other;
    } else if (!strcmp(word, "fork")) {
        fflush(stdout);
        pid_t child = fork();
        if (child) {
            int status;
            waitpid(child, &status, 0);
            exit(WIFEXITED(status) ? WEXITSTATUS(status) : 80);
        }
    } else if (!strcmp(word, "clone")) {
        fflush(stdout);
        pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (child) {
            waitpid(child, NULL, 0);
            exit(0);
        }
    } else if (!strcmp(word, "drop")) result("drop", setgid(65534) | setuid(65534));
    else if (!strcmp(word, "exec")) {
        fflush(stdout);
        execv("/proc/self/exe", argv);
    } else if (starts(word, "say:", &rest)) puts(rest), fflush(stdout);
    else if (starts(word, "gate:", &rest)) {
        fflush(stdout);
        while (access(rest, F_OK)) usleep(1000);
    } else {
        fprintf(stderr, "what is '%s'?\n", word);
        exit(92);
    }
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) act(arguments[i], arguments + i);
    return 0;
}
