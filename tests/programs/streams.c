/* stdio on a carried connection: libc reads, writes and closes inside itself, past every hook. First argument:
 *
 *   fdopen     a stream for both ways, with unread bytes in the ring when it is made; fclose
 *   twice      one stream for reading, one for writing by a dup (as CPython's and Perl's do)
 *   dprintf    no stream is left behind
 *   reused     fclose and freopen, then another connection has the number */
#include "common.h"
#define LINES 400

static void answers(int fd, bool ahead)
{
    char line[64];
    if (ahead) send_all(fd, "ahead\n", 6);
    for (int i = 0; i < LINES; i++) {
        int size = snprintf(line, sizeof line, "line %d of %d\n", i, LINES);
        char came[64];
        recv_all(fd, came, size);
        if (memcmp(line, came, size)) die("line %d", i);
        send_all(fd, line, size);
    }
}
static void talk(FILE *in, FILE *out)
{
    char line[64], came[64];
    int right = 0;
    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "line %d of %d\n", i, LINES);
        fputs(line, out);
        if (fflush(out)) die("fflush: %s", errno_name());
        if (!fgets(came, sizeof came, in)) die("fgets: %s", errno_name());
        right += !strcmp(line, came);
    }
    say("right lines %d", right);
}
static void by_stream(int fd)
{
    char line[16];
    wait_queued(fd, 6);
    FILE *stream = fdopen(fd, "r+");
    say("ahead: %s", strtok(fgets(line, sizeof line, stream), "\n"));
    talk(stream, stream);
    say("same number %d", fileno(stream) == fd);
    report("fclose", fclose(stream));
    report("closed", fcntl(fd, F_GETFD));
}
static void by_two(int fd)
{
    char line[16];
    FILE *in = fdopen(fd, "r"), *out = fdopen(need(dup(fd)), "w");
    say("ahead: %s", strtok(fgets(line, sizeof line, in), "\n"));
    talk(in, out);
    report("fclose", fclose(out));
    report("fclose", fclose(in));
}
static void by_dprintf(int fd)
{
    char came[64], line[64];
    int right = 0;
    recv_all(fd, came, 6);
    for (int i = 0; i < LINES; i++) {
        int size = snprintf(line, sizeof line, "line %d of %d\n", i, LINES);
        if (dprintf(fd, "line %d of %d\n", i, LINES) != size) die("dprintf: %s", errno_name());
        recv_all(fd, came, size);
        right += !memcmp(line, came, size);
    }
    say("right lines %d", right);
    close(fd);
}
/* The number that libc closed inside itself means another connection next. */
static void by_another(int fd)
{
    FILE *stream = fdopen(fd, "r+");
    report("fclose", fclose(stream));
    int next = next_connection();
    say("same number %d", next == fd);
    warm_up(next);
    send_pattern(next, 0, 3000, 70);
    take_right(next, 0, 3000, 71);
    stream = fdopen(next, "r");
    say("freopen %d", freopen("/dev/null", "r", stream) == stream);
    say("the end %d", fgetc(stream));
    fclose(stream);
}
static void scenario(int fd)
{
    static const struct named clients[] = { { "fdopen", by_stream }, { "twice", by_two }, { "dprintf", by_dprintf }, { "reused", by_another }, { 0 } };
    if (!is_server) {
        run_named(clients, fd);
        return;
    }
    if (!strcmp(args[0], "reused")) {
        close_after_peer(fd);
        fd = next_connection();
        warm_up(fd);
        take_right(fd, 0, 3000, 70);
        send_pattern(fd, 0, 3000, 71);
    } else {
        answers(fd, true);
    }
    close_after_peer(fd);
}
PAIR_MAIN(scenario)
