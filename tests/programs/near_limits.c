/* A process with hardly any room: `maps N`: all but N of the mappings that the kernel allows are in use before the
 * connection; afterwards the program's own malloc(1 MiB) must work as often as natively (or more). `memory`: the harness has
 * put it into a cgroup with little memory; it carries traffic and lives. `space N`: N MiB of address space are left (RLIMIT_AS); what the
 * program itself may take of them is the same. */
#include "common.h"

static int mappings(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    int count = 0;
    for (int c; (c = fgetc(file)) != EOF;) count += c == '\n';
    fclose(file);
    return count;
}
static void use_up(int left)
{
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    int most = 65530;
    if (file && fscanf(file, "%d", &most) == 1) fclose(file);
    /* Every other page with another protection: two mappings a pair. */
    int want = most - left - mappings();
    char *at = mmap(NULL, (size_t)want * 4096 + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 1; i < want; i += 2)
        if (mprotect(at + (size_t)i * 4096, 4096, PROT_READ)) die("mprotect %d of %d: %s", i, want, errno_name());
}
static void limit_space(long megabytes)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu", &pages) != 1) die("statm");
    fclose(file);
    need(setrlimit(RLIMIT_AS, &(struct rlimit){ (pages << 12) + (megabytes << 20), RLIM_INFINITY }));
}
static void scenario(int fd)
{
    static char bytes[100000];
    for (int i = 0; i < 40; i++) exchange(fd, bytes, i * sizeof bytes, sizeof bytes, 22);
    shutdown(fd, SHUT_WR);
    drain(fd, 0, 1, 0, 1);
    if (!is_server && !strcmp(args[0], "maps")) {
        int worked = 0;
        for (int i = 0; i < 10; i++) worked += malloc(1 << 20) != NULL;
        say("own allocations that worked: %d", worked);
    }
    if (!strcmp(args[0], "space")) {
        int most = 0;
        while (most < 1000 && mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) most++;
        say("MiB that may still be mapped %d", most);
    }
    close(fd);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    if (!is_server && !strcmp(args[0], "maps")) use_up(atoi(args[1]));
    if (!strcmp(args[0], "space")) limit_space(atol(args[1]));
    if (!strcmp(args[0], "memory")) tell(60), await(61);
    each_pass(argv, scenario);
    say("done");
    return 0;
}
