/* What changes who holds a carried connection, or what the holder may do, and leaves the connection carried. First argument: what the
 * server does.
 *
 *   daemon       a child goes on as a daemon
 *   credentials  another user's rights, for a while; then a child gives its own up for good
 *   namespaces   a child goes on in a user namespace of its own, then in a network namespace of its own
 *   popens       popen, system and a program by fork beside a hundred connections without CLOEXEC
 *   chroot       a child goes on in a root directory that has nothing of ours, and runs a program there */
#include "common.h"
#include <grp.h>
#include <sys/prctl.h>
#define SIZE 3000
#define HUNDRED 100

static char bytes[SIZE];
static uint64_t done;
static void talk(int fd, int rounds)
{
    for (int i = 0; i < rounds; i++, done += SIZE) exchange(fd, bytes, done, SIZE, 30);
}
static void reap(pid_t pid)
{
    int status;
    need(waitpid(pid, &status, 0));
    say("child: %d", status);
}

static void as_daemon(int fd)
{
    pid_t pid = need(fork());
    if (!pid) {
        int result = daemon(1, 1);
        await(4);
        say("daemon: %d", result);
        talk(fd, 40);
        shut_and_close(fd);
        tell(3);
        _exit(0);
    }
    close(fd);
    reap(pid);
    tell(4);
    await(3);
}
static void with_less_rights(int fd)
{
    bool root = geteuid() == 0;
    if (root) report("seteuid", seteuid(65534));
    talk(fd, 20);
    if (root) report("seteuid", seteuid(0));
    talk(fd, 20);
    pid_t pid = need(fork());
    if (pid) {
        close(fd);
        reap(pid);
        return;
    }
    if (root) {
        report("setgroups", setgroups(0, NULL));
        report("setgid", setgid(65534));
        report("setuid", setuid(65534));
        report("setuid, back", setuid(0));
    }
    report("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    report("not dumpable", prctl(PR_SET_DUMPABLE, 0));
    talk(fd, 40);
    shut_and_close(fd);
    _exit(0);
}
static void in_namespaces(int fd)
{
    pid_t pid = need(fork());
    if (pid) {
        close(fd);
        reap(pid);
        return;
    }
    report("unshare, users", unshare(CLONE_NEWUSER));
    talk(fd, 20);
    report("unshare, network", unshare(CLONE_NEWNET));
    talk(fd, 20);
    report("unshare, files", unshare(CLONE_NEWNS | CLONE_FILES | CLONE_FS));
    talk(fd, 20);
    shut_and_close(fd);
    _exit(0);
}
static void in_another_root(int fd)
{
    char folder[] = "/tmp/tandem-root-XXXXXX", command[800];
    if (!mkdtemp(folder)) die("mkdtemp");
    snprintf(command, sizeof command, "for f in /bin/cat $(env -u LD_PRELOAD ldd /bin/cat | grep -o '/[^ ]*'); do mkdir -p %s$(dirname $f); cp -L $f %s$f; done", folder, folder);
    report("prepared", system(command));
    pid_t pid = need(fork());
    if (!pid) {
        report("chroot", chroot(folder));
        report("chdir", chdir("/"));
        talk(fd, 20);
        int ends[2];
        need(pipe(ends));
        pid_t other = fork();
        if (!other) {
            dup2(ends[0], 0);
            close(ends[1]);
            execl("/bin/cat", "cat", NULL);
            _exit(96);
        }
        close(ends[0]);
        if (write(ends[1], "from the other root\n", 20) != 20) die("pipe");
        close(ends[1]);
        reap(other);
        report("system", system("true"));
        talk(fd, 20);
        shut_and_close(fd);
        _exit(0);
    }
    close(fd);
    reap(pid);
    snprintf(command, sizeof command, "rm -r %s", folder);
    report("removed", system(command));
}
static int kept_over_exec(void)
{
    if (is_server) return need(accept(listener, NULL, NULL));
    int fd = need(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(page->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    need(connect(fd, (void *)&at, sizeof at));
    return fd;
}
static void beside_programs(int fd)
{
    int fds[HUNDRED];
    for (int i = 0; i < HUNDRED; i++) fds[i] = kept_over_exec();
    warm_many(fds, HUNDRED);
    for (int round = 0; round < 3; round++) {
        if (is_server) {
            char line[32] = "";
            FILE *pipe = popen("date +%%", "r");
            fgets(line, sizeof line, pipe);
            int status = pclose(pipe);
            say("popen %d %s", status, strtok(line, "\n"));
            report("system", system("exit 3"));
            pid_t pid = need(fork());
            if (!pid) {
                execl("/bin/sh", "sh", "-c", "exit 4", NULL);
                _exit(97);
            }
            reap(pid);
        }
        for (int i = 0; i < HUNDRED; i++) exchange(fds[i], bytes, round * 100, 100, 31);
    }
    for (int i = 0; i < HUNDRED; i++) close(fds[i]);
    talk(fd, 5);
    close(fd);
}
static void scenario(int fd)
{
    static const struct named servers[] = {
        { "daemon", as_daemon }, { "credentials", with_less_rights }, { "namespaces", in_namespaces },
        { "chroot", in_another_root }, { "popens", beside_programs }, { 0 },
    };
    done = 0;
    if (is_server || !strcmp(args[0], "popens")) {
        run_named(servers, fd);
        return;
    }
    int rounds = !strcmp(args[0], "credentials") ? 80 : !strcmp(args[0], "namespaces") ? 60 : 40;
    talk(fd, rounds);
    close_after_peer(fd);
}
PAIR_MAIN(scenario)
