// spawn HOW COUNT: ends in "spawn show …" with COUNT further arguments, by the given way.
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern pid_t _Fork(void);
extern char **environ;
static char self[4096];
static char *list[64], *env[] = {"MARK=ours", NULL};

static int show(int count, char **arguments) {
    printf("%d arguments, MARK %s:", count - 2, getenv("MARK") ? getenv("MARK") : "none");
    for (int i = 2; i < count; i++) printf(" %s", arguments[i]);
    puts("");
    return 42;
}

#define SHOW self, "spawn", "show"
#define L(f, ...) \
    switch (n) { \
    case 0: f(SHOW, NULL, ##__VA_ARGS__); break; \
    case 1: f(SHOW, "a1", NULL, ##__VA_ARGS__); break; \
    case 3: f(SHOW, "a1", "a2", "a3", NULL, ##__VA_ARGS__); break; \
    case 4: f(SHOW, "a1", "a2", "a3", "a4", NULL, ##__VA_ARGS__); break; \
    case 5: f(SHOW, "a1", "a2", "a3", "a4", "a5", NULL, ##__VA_ARGS__); break; \
    case 6: f(SHOW, "a1", "a2", "a3", "a4", "a5", "a6", NULL, ##__VA_ARGS__); break; \
    case 7: f(SHOW, "a1", "a2", "a3", "a4", "a5", "a6", "a7", NULL, ##__VA_ARGS__); break; \
    case 8: f(SHOW, "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", NULL, ##__VA_ARGS__); break; \
    case 9: f(SHOW, "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", NULL, ##__VA_ARGS__); break; \
    case 2: f(SHOW, "a1", "a2", NULL, ##__VA_ARGS__); break; \
    case 50: f(SHOW, "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", \
               "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c", "last", NULL, ##__VA_ARGS__); break; \
    }

static void reap(pid_t pid) {
    int status = -1;
    waitpid(pid, &status, 0);
    printf("child's status %x\n", status);
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "show")) return show(count, arguments);
    char *how = arguments[1];
    int n = atoi(arguments[2]);
    self[readlink("/proc/self/exe", self, sizeof self - 1)] = 0;
    list[0] = "spawn", list[1] = "show";
    for (int i = 0; i < n; i++) list[i + 2] = "x";
    if (!strcmp(how, "execl")) { L(execl) }
    if (!strcmp(how, "execlp")) { L(execlp) }
    if (!strcmp(how, "execle")) { L(execle, env) }
    if (!strcmp(how, "execv")) execv(self, list);
    if (!strcmp(how, "execve")) execve(self, list, env);
    if (!strcmp(how, "execvp")) execvp(self, list);
    if (!strcmp(how, "execvpe")) execvpe(self, list, env);
    if (!strcmp(how, "fexecve")) fexecve(open(self, O_RDONLY), list, env);
    if (!strcmp(how, "execveat")) syscall(SYS_execveat, AT_FDCWD, self, list, env, 0);
    pid_t pid = 0;
    if (!strcmp(how, "vfork-execlp")) {
        int pipes[2];
        pipe(pipes);
        if (!(pid = vfork())) {
            close(pipes[0]);
            dup2(1, 9);
            L(execlp)
            _exit(1);
        }
        printf("still open %d\n", fcntl(pipes[0], F_GETFD));
        reap(pid);
        return 0;
    }
    if (!strncmp(how, "spawn", 5)) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addclose(&actions, 0);
        posix_spawn_file_actions_adddup2(&actions, 1, 8);
        int spawned = (how[5] ? posix_spawnp : posix_spawn)(&pid, self, &actions, NULL, list, env);
        reap(pid);
        printf("spawned %d\n", spawned);
        printf("not spawned %d\n", posix_spawn(&pid, "/nonexistent", NULL, NULL, list, env));
        return 0;
    }
    if (!strcmp(how, "missing")) {
        printf("%d\n", execl("/nonexistent", "x", NULL));
        perror("execl");
        printf("%d\n", execlp("nonexistent-program", "x", "y", NULL));
        perror("execlp");
    }
    if (!strcmp(how, "popen")) {
        char line[99] = "";
        FILE *f = popen("echo from popen; exit 3", "r");
        fgets(line, 99, f);
        printf("%s%x\n", line, pclose(f));
    }
    if (!strcmp(how, "system")) printf("%x %d\n", system("exit 9"), !!system(NULL));
    if (!strcmp(how, "fork") || !strcmp(how, "_Fork")) {
        if (!(pid = *how == '_' ? _Fork() : fork())) _exit(close(dup(1)) + 11);
        reap(pid);
    }
    if (!strcmp(how, "forkpty")) {
        int terminal;
        char line[99] = "";
        if (!(pid = forkpty(&terminal, NULL, NULL, NULL))) { puts("in a terminal"), exit(isatty(0)); }
        read(terminal, line, 98);
        printf("%s", line);
        reap(pid);
    }
    if (!strcmp(how, "daemon")) {
        int pipes[2];
        char c = '?';
        pipe(pipes);
        if (!(pid = fork())) { daemon(1, 1); write(pipes[1], "d", 1), _exit(0); }
        reap(pid);
        read(pipes[0], &c, 1);
        printf("%c\n", c);
    }
    if (!strcmp(how, "_exit")) dprintf(1, "leaving %s %d %.2f\n", how, 1, 2.5), _exit(21);
    if (!strcmp(how, "_Exit")) dprintf(1, "leaving %s %d %d %d %d %d %d %g %g\n", how, 1, 2, 3, 4, 5, 6, 7.5, 8.5), _Exit(22);
    if (!strcmp(how, "quick_exit")) dprintf(1, "leaving\n"), quick_exit(23);
    if (!strcmp(how, "exit")) puts("leaving"), exit(24);
    return 0;
}
