/* Started with a socket, as systemd starts services: the listener is descriptor 3, LISTEN_FDS says so. What it accepts is as what any listener
 * accepts. First argument:
 *
 *   listener   one program, of which each connection is
 *   relay      the listener was made by a program that forks for each connection and runs another with the connection as 3 (Accept=yes) */
#include "common.h"
#define SIZE 4000

static char bytes[SIZE];
static void talk(int fd)
{
    for (int i = 0; i < 60; i++) exchange(fd, bytes, i * SIZE, SIZE, 95);
}
static void scenario(int fd)
{
    talk(fd);
    if (is_server) close_after_peer(fd);
    else shut_and_close(fd);
}
static void as_the_manager_does(char **argv)
{
    char pid[16];
    publish(listener = new_listener(INADDR_LOOPBACK, 0, 16));
    need(dup2(listener, 3));
    if (listener != 3) close(listener);
    need(fcntl(3, F_SETFD, 0));
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", pid, 1);
    execv("/proc/self/exe", argv);
    die("exec");
}
/* A process for each connection, which finds it as 3. */
static void a_program_each(char **argv)
{
    char *list = strdup(argv[3]), *entry;
    publish(listener = new_listener(INADDR_LOOPBACK, 0, 16));
    while ((entry = strsep(&list, ","))) {
        int fd = need(accept4(listener, NULL, NULL, SOCK_CLOEXEC)), status;
        pid_t pid = need(fork());
        if (!pid) {
            need(dup2(fd, 3));
            setenv("LISTEN_FDS", "1", 1);
            setenv("WARM", entry, 1);
            execv("/proc/self/exe", argv);
            die("exec");
        }
        close(fd);
        need(waitpid(pid, &status, 0));
        say("service: %d", status);
    }
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    bool each = !strcmp(args[0], "relay");
    if (is_server && !getenv("LISTEN_FDS")) {
        if (!each) as_the_manager_does(argv);
        a_program_each(argv);
    } else if (is_server && each) {
        warm = getenv("WARM");
        warm_as_told(3);
        scenario(3);
        return 0;
    } else {
        if (is_server) say("for us %d", atoi(getenv("LISTEN_PID")) == getpid());
        listener = 3;
        each_pass(argv, scenario);
    }
    say("done");
    return 0;
}
