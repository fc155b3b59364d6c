/* Sockets before main and after it, and at the ends of threads. First argument:
 *
 *   linked     a library that the program needs (at_ends_library.c) has a connection before main and after it; a second copy is opened by
 *              dlopen and closed again, twice, and has one of its own each time; a function called at exit uses the first one
 *   threads    what runs when a thread has ended (pthread_key_create, __cxa_thread_atexit_impl) exchanges messages on a carried
 *              connection; then many threads live for one message each */
#include "common.h"
#include <dlfcn.h>

extern int at_ends_connection, at_ends_listener(void);
extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;

static char bytes[700];
static void talk(int fd, int times, uint32_t key)
{
    for (int i = 0; i < times; i++) exchange(fd, bytes, i * sizeof bytes, sizeof bytes, key);
}
static void at_exit(void) { talk(at_ends_connection, 10, 85); }
static void linked(void)
{
    char path[512], number[16];
    ssize_t n = need(readlink("/proc/self/exe", path, sizeof path - 40));
    path[n] = 0;
    strcpy(strrchr(path, '/'), "/libat_ends_opened.so");
    snprintf(number, sizeof number, "%d", at_ends_listener());
    setenv("AT_ENDS_OPENED", number, 1);
    talk(at_ends_connection, 20, 86);
    for (int i = 0; i < 2; i++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) die("dlopen: %s", dlerror());
        say("opened, another one %d", dlsym(library, "at_ends_connection") != &at_ends_connection);
        talk(at_ends_connection, 5, 87);
        report("closed", dlclose(library));
        say("gone %d", !dlopen(path, RTLD_NOW | RTLD_NOLOAD));
        talk(at_ends_connection, 5, 88);
    }
    unsetenv("AT_ENDS_OPENED");
    atexit(at_exit);
}

static int connection;
static pthread_key_t key;
static int order;
static void by_key(void *value)
{
    if (value != (void *)1) {
        pthread_setspecific(key, (void *)1); /* once more, in the next round of destructors */
        return;
    }
    order = order * 10 + 1;
    talk(connection, 10, 90);
}
static void by_thread_exit(void *value)
{
    order = order * 10 + 2;
    talk(connection, 10, 91);
}
static void *with_ends(void *argument)
{
    pthread_setspecific(key, argument);
    if (__cxa_thread_atexit_impl(by_thread_exit, NULL, &__dso_handle)) die("no destructor");
    talk(connection, 5, 92);
    if (argument == (void *)3) pthread_exit(NULL);
    return NULL;
}
static void *with_one(void *argument)
{
    talk(connection, 1, 93);
    return NULL;
}
static void at_ends_of_threads(int fd)
{
    connection = fd;
    if (pthread_key_create(&key, by_key)) die("no key");
    join(start(with_ends, (void *)2));
    join(start(with_ends, (void *)3));
    say("destructors %d", order);
    for (int i = 0; i < 600; i++) join(start(with_one, NULL));
    pthread_key_delete(key);
    order = 0;
    if (is_server) close_after_peer(fd);
    else shut_and_close(fd);
}
int main(int argc, char **argv)
{
    begin(argc, argv);
    if (!strcmp(args[0], "threads")) each_pass(argv, at_ends_of_threads);
    else linked();
    say("done");
    return 0;
}
