/* Connections with TCP_USER_TIMEOUT whose other end goes silent: what is told, and after how long.
 *
 *   patience server ADDRESS PORT
 *   patience client ADDRESS PORT MILLISECONDS KIND FILE [PAUSE]
 *
 * The client talks until FILE is there. PAUSE seconds later (1), when the caller has cut the wire, it finds, by its kind, that nothing comes through:
 *   request   writes 100 bytes and waits for the answer
 *   stream    writes until it is told
 *   poll      writes 100 bytes without blocking and waits by poll
 *   keepalive waits for what the server does not send, with SO_KEEPALIVE: six seconds, and three probes
 *   window    needs no cut: the server reads no more, and the client writes until it is told
 * It prints the kind, the error and the milliseconds since it began to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BYTES 100

static void *answer(void *of)
{
    int fd = (int)(long)of;
    for (;;) {
        char bytes[BYTES];
        for (ssize_t done = 0, n; done < BYTES; done += n)
            if ((n = recv(fd, bytes + done, BYTES - done, 0)) <= 0) goto over;
        if (bytes[0] == 'w') sleep(60);
        if (bytes[0] == 'e') send(fd, bytes, BYTES, MSG_NOSIGNAL);
    }
over:
    close(fd);
    return NULL;
}
static void serve(int listener)
{
    puts("listens");
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && !pthread_create(&thread, NULL, answer, (void *)(long)fd)) pthread_detach(thread);
    }
}
static int sent(int fd, const char *bytes, size_t count) { return send(fd, bytes, count, MSG_NOSIGNAL) > 0; }
static long now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}
int main(int count, char **words)
{
    if (count < 4) return 2;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(words[3])) };
    inet_pton(AF_INET, words[2], &address.sin_addr);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (!strcmp(words[1], "server")) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (void *)&address, sizeof address) || listen(fd, 64)) return perror("listen"), 1;
        serve(fd);
    }
    if (count < 7) return 2;
    unsigned most = atoi(words[4]);
    const char *kind = words[5];
    if (!strcmp(kind, "keepalive")) {
        int idle = 6, probes = 3;
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    }
    if (setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &most, sizeof most) || connect(fd, (void *)&address, sizeof address))
        return perror("connect"), 1;
    static char bytes[1 << 16];
    for (int i = 0; i < 40 || access(words[6], F_OK); i++) {
        bytes[0] = 'e';
        if (!sent(fd, bytes, BYTES) || recv(fd, bytes, BYTES, MSG_WAITALL) != BYTES) return perror("talk"), 1;
        if (i == 40) puts("ready");
        if (i >= 40) usleep(20000);
    }
    sleep(count > 7 ? atoi(words[7]) : 1);
    long began = now_ms();
    bytes[0] = kind[0] == 'w' ? 'w' : kind[0] == 's' ? 's' : 'e';
    if (!strcmp(kind, "poll")) {
        struct pollfd entry = { fd, POLLIN, 0 };
        fcntl(fd, F_SETFL, O_NONBLOCK);
        sent(fd, bytes, BYTES);
        poll(&entry, 1, 60000);
        if (recv(fd, bytes, 1, 0) >= 0) return puts("poll: it is answered"), 1;
    } else if (!strcmp(kind, "keepalive")) {
        if (recv(fd, bytes, BYTES, 0) >= 0) return puts("keepalive: something came"), 1;
    } else if (!strcmp(kind, "request")) {
        if (sent(fd, bytes, BYTES) && recv(fd, bytes, BYTES, 0) >= 0) return puts("request: it is answered"), 1;
    } else {
        while (sent(fd, bytes, sizeof bytes)) bytes[0] = kind[0];
    }
    printf("%s: %s after %ld ms\n", kind, strerror(errno), now_ms() - began);
    return 0;
}
