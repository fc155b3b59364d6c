/* What goes on while a provider is installed: one connection after another between two processes, each for a while, checked byte by byte.
 *
 *   installs server ADDRESS PORT      answers every message by itself, each connection in a thread
 *   installs client ADDRESS PORT      connections of 400 messages and half a second; until it is killed, says how many
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BYTES 200
#define MESSAGES 400

static int whole(int fd, unsigned char *bytes, int out)
{
    for (ssize_t done = 0, n; done < BYTES; done += n) {
        n = out ? send(fd, bytes + done, BYTES - done, MSG_NOSIGNAL) : recv(fd, bytes + done, BYTES - done, 0);
        if (n <= 0) return 0;
    }
    return 1;
}
static void *answer(void *of)
{
    int fd = (int)(long)of;
    unsigned char bytes[BYTES];
    while (whole(fd, bytes, 0) && whole(fd, bytes, 1)) {}
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
static int once(const struct sockaddr_in *to, unsigned number)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), fine = !connect(fd, (void *)to, sizeof *to);
    for (int i = 0; fine && i < MESSAGES; i++) {
        unsigned char out[BYTES], in[BYTES];
        for (int at = 0; at < BYTES; at++) out[at] = (unsigned char)(number * 31 + i * 7 + at);
        fine = whole(fd, out, 1) && whole(fd, in, 0) && !memcmp(out, in, BYTES);
        if (i % 40 == 39) nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    }
    close(fd);
    return fine;
}
int main(int count, char **words)
{
    if (count != 4) return 2;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(words[3])) };
    inet_pton(AF_INET, words[2], &address.sin_addr);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(words[1], "server")) {
        int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (void *)&address, sizeof address) || listen(listener, 64)) return perror("listen"), 1;
        serve(listener);
    }
    for (unsigned number = 1;; number++) {
        if (!once(&address, number)) return printf("wrong: connection %u\n", number), 1;
        printf("%u connections, every byte right\n", number);
    }
}
