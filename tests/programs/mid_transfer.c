/* A writer that writes for ever (until it is killed) and a reader that checks: word 0 what was read, word 2 what write() has
 * returned so far. PASSES is a number of ping-pongs. */
#include "common.h"
#define CHUNK 40000

int main(int argc, char **argv)
{
    begin(argc, argv);
    int fd = next_connection();
    plain_ping_pongs(fd, atoi(argv[3]));
    static char block[(1 << 20) + CHUNK], in[60000];
    static uint8_t period[1 << 20];
    for (int i = 0; i < 1 << 20; i++) period[i] = byte_at(i, 21);
    uint64_t position = 0;
    if (!is_server) {
        memcpy(block, period, 1 << 20);
        memcpy(block + (1 << 20), period, CHUNK);
        for (;;) {
            send_all(fd, block + position % (1 << 20), CHUNK);
            position += CHUNK;
            page->word[2] = position;
        }
    }
    for (;;) {
        ssize_t n = recv(fd, in, sizeof in, 0);
        if (n <= 0) {
            say("%s", n ? errno_name() : "EOF");
            return 0;
        }
        for (ssize_t i = 0; i < n; i++)
            if ((uint8_t)in[i] != period[(position + i) % (1 << 20)]) die("wrong byte at %lu", (unsigned long)(position + i));
        position += n;
        page->word[0] = position;
    }
}
