/* Signals under a send that waits for room: restarted or EINTR; a partly done one returns what was taken. */
#include "common.h"
#include "kicks.h"

static void *kicker(void *nothing)
{
    take_no_signal();
    kick_main(SIGUSR1);
    main_sleeps();
    tell(0); /* the peer reads all */
    return NULL;
}
static void scenario(int fd)
{
    bool restart = !strcmp(args[0], "restart"), partial = !strcmp(args[0], "partial");
    if (is_server) {
        await(0);
        await(1);
        char *bytes = malloc(90000);
        uint64_t done = 0;
        for (ssize_t n; (n = recv(fd, bytes, 90000, 0)) > 0; done += n)
            if (!right(bytes, done, n, 14)) break;
        free(bytes);
        shutdown(fd, SHUT_WR);
        await(2);
        say("all taken bytes came %d", done == page->word[5]);
        close(fd);
        return;
    }
    set_action(SIGUSR1, restart ? SA_RESTART : 0);
    caught = 0;
    this_is_main();
    uint64_t taken = partial ? 0 : stuff(fd, 0, 1u << 30, 14, 50000);
    pthread_t thread = 0;
    size_t length = partial ? 100u << 20 : 20000;
    char *more = malloc(length);
    fill(more, taken, length, 14);
    if (restart) tell(1);
    thread = start(kicker, NULL);
    errno = 0;
    ssize_t n = send(fd, more, length, MSG_NOSIGNAL);
    if (partial) say("partly done %d", n > 0 && n < (ssize_t)length);
    else if (n < 0) say("send %s", errno_name());
    else say("send %zd", n);
    if (n > 0) taken += n;
    if (!restart) tell(1);
    join(thread);
    say("caught %d", caught);
    free(more);
    shutdown(fd, SHUT_WR);
    char byte;
    report("end", recv(fd, &byte, 1, 0));
    page->word[5] = taken;
    tell(2);
    close(fd);
}
PAIR_MAIN(scenario)
