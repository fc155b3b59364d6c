/* Pairs of write and read with some work between, over a pipe, a file, a pair of UDP sockets, or a TCP connection whose peer has no Tandem (a
 * forked child without the preload's doing: the harness's own native `echo` server).
 *   passthrough pipe|file|udp|tcp PAIRS PATH-or-PORT
 * or so many connections with itself, each for one question and its answer; or one, for so many, between two threads:
 *   passthrough brief|talk COUNT - */
#include "common.h"

static struct sockaddr_in own;

static int listens(void)
{
    int listener = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    own = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    need(bind(listener, (void *)&own, sizeof own));
    need(listen(listener, 8));
    need(getsockname(listener, (void *)&own, &(socklen_t){ sizeof own }));
    return listener;
}

static int connects(void)
{
    int client = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    need(connect(client, (void *)&own, sizeof own));
    no_delay(client);
    return client;
}

static void *echo(void *listener)
{
    char bytes[64];
    int server = need(accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC));
    no_delay(server);
    for (ssize_t n; (n = read(server, bytes, sizeof bytes)) > 0;)
        if (write(server, bytes, n) != n) die("write %s", errno_name());
    close(server);
    return NULL;
}

static void talk(long count)
{
    int listener = listens();
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo, &listener)) die("no thread");
    int client = connects();
    char bytes[64] = "question";
    for (long i = 0; i < count; i++) {
        if (write(client, bytes, sizeof bytes) != sizeof bytes) die("write %s", errno_name());
        if (read(client, bytes, sizeof bytes) != sizeof bytes) die("read %s", errno_name());
    }
    close(client);
    pthread_join(thread, NULL);
}

static void brief(long count)
{
    int listener = listens();
    char bytes[64] = "question";
    for (long i = 0; i < count; i++) {
        int client = connects();
        int server = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        int ends[] = { client, server };
        for (int turn = 0; turn < 2; turn++) {
            if (write(ends[turn], bytes, sizeof bytes) != sizeof bytes) die("write %s", errno_name());
            if (read(ends[!turn], bytes, sizeof bytes) != sizeof bytes) die("read %s", errno_name());
        }
        close(client);
        if (read(server, bytes, sizeof bytes) != 0) die("no end of the stream: %s", errno_name());
        close(server);
    }
}

int main(int argc, char **argv)
{
    long pairs = atol(argv[2]);
    int ends[2];
    if (!strcmp(argv[1], "brief")) {
        brief(pairs);
        return 0;
    }
    if (!strcmp(argv[1], "talk")) {
        talk(pairs);
        return 0;
    }
    if (!strcmp(argv[1], "pipe")) need(pipe(ends));
    if (!strcmp(argv[1], "file")) {
        ends[0] = need(open(argv[3], O_RDONLY | O_CLOEXEC));
        ends[1] = need(open(argv[3], O_WRONLY | O_CLOEXEC));
    }
    if (!strcmp(argv[1], "tcp")) {
        ends[0] = ends[1] = need(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        need(connect(ends[0], (void *)&at, sizeof at));
        no_delay(ends[0]);
    }
    if (!strcmp(argv[1], "udp")) {
        struct sockaddr_in at[2];
        for (int end = 0; end < 2; end++) {
            at[end] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
            ends[end] = need(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            need(bind(ends[end], (void *)&at[end], sizeof at[end]));
            need(getsockname(ends[end], (void *)&at[end], &(socklen_t){ sizeof at[end] }));
        }
        for (int end = 0; end < 2; end++) need(connect(ends[end], (void *)&at[!end], sizeof at[!end]));
    }
    uint8_t out[64], in[64];
    uint32_t sum = 1;
    for (long i = 0; i < pairs; i++) {
        for (int b = 0; b < 64; b++) out[b] = sum = sum * 1664525 + 1013904223 + b; /* a small program's own work */
        if (write(ends[1], out, sizeof out) != sizeof out) die("write %s", errno_name());
        size_t done = 0;
        while (done < sizeof in) {
            ssize_t n = read(ends[0], in + done, sizeof in - done);
            if (n <= 0) die("read %zd %s", n, errno_name());
            done += n;
        }
        for (int b = 0; b < 64; b++) sum ^= (uint32_t)in[b] << (b & 15);
    }
    printf("%u\n", sum);
    return 0;
}
