/* A library that uses sockets before main and after it. Linked to a program (at_ends), its constructor opens the first connection of the
 * page and keeps it warm; its destructor sends the last bytes and closes. Opened by dlopen, by the name `at_ends_opened`, it talks on a
 * connection from its constructor, from a thread, and from its destructor. */
#include "common.h"

/* Of the program that is linked to it; -1 where nobody is (dlopen's copy has its own). */
int at_ends_connection = -1;
static bool opened; /* by dlopen */
static int own = -1;

static void talk(int fd, int times, uint32_t key)
{
    static char bytes[700];
    for (int i = 0; i < times; i++) exchange(fd, bytes, i * sizeof bytes, sizeof bytes, key);
}
static void *body(void *argument)
{
    talk(own, 30, 81);
    return argument;
}
__attribute__((constructor)) static void start_up(int argc, char **argv)
{
    if (argc < 5 || strcmp(argv[4], "linked")) return;
    opened = getenv("AT_ENDS_OPENED");
    begin(argc, argv);
    warm = argv[3];
    if (opened) {
        listener = atoi(getenv("AT_ENDS_OPENED"));
        own = next_connection();
        warm_as_told(own);
        talk(own, 10, 80);
        join(start(body, NULL));
        return;
    }
    at_ends_connection = next_connection();
    warm_as_told(at_ends_connection);
    talk(at_ends_connection, 10, 82);
}
__attribute__((destructor)) static void wind_up(void)
{
    int fd = opened ? own : at_ends_connection;
    if (fd < 0) return;
    talk(fd, 10, 83);
    if (opened) {
        shut_and_close(fd);
    } else if (is_server) {
        drain(fd, 0, 1 << 20, 84, 1000);
    } else {
        send_pattern(fd, 0, 20000, 84); /* the last bytes of the process: nobody closes */
    }
}
/* So that the program needs the library. */
int at_ends_listener(void) { return listener; }
