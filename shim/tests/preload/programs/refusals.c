// Calls that are refused: what they return, and errno.
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utmp.h>

// Success must leave errno alone, so it starts at a value that no call sets.
#define TRY(call) do { errno = 777; long r = (long)(call); printf("%s: %ld errno %d\n", #call, r, errno); } while (0)

int main(void) {
    char b[64] = {0}, *none[] = {NULL};
    int n, p[2], p2[2], s = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t l = sizeof b;
    struct iovec v[1] = {{b, 1}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 1};
    struct mmsghdr mm[1] = {{m}};
    struct pollfd e = {9999, POLLIN};
    struct timespec zero = {0};
    struct timeval tv = {0};
    struct epoll_event ev = {0};
    struct aiocb cb = {.aio_fildes = -1, .aio_lio_opcode = 99, .aio_reqprio = -1};
    fd_set fs;
    FD_ZERO(&fs); FD_SET(60, &fs);
    pipe(p);
    TRY(read(-1, b, 1));
    TRY(read(9999999, b, 1));
    TRY(readv(-1, v, 1));
    TRY(pread(-1, b, 1, 0));
    TRY(pread64(-1, b, 1, 0));
    TRY(preadv(-1, v, 1, 0));
    TRY(preadv64(-1, v, 1, 0));
    TRY(preadv2(-1, v, 1, 0, 0));
    TRY(preadv64v2(-1, v, 1, 0, 0));
    TRY(recv(-1, b, 1, 0));
    TRY(recvfrom(-1, b, 1, 0, NULL, NULL));
    TRY(recvmsg(-1, &m, 0));
    TRY(recvmmsg(-1, mm, 1, 0, NULL));
    TRY(write(-1, b, 1));
    TRY(writev(-1, v, 1));
    TRY(pwrite(-1, b, 1, 0));
    TRY(pwrite64(-1, b, 1, 0));
    TRY(pwritev(-1, v, 1, 0));
    TRY(pwritev64(-1, v, 1, 0));
    TRY(pwritev2(-1, v, 1, 0, 0));
    TRY(pwritev64v2(-1, v, 1, 0, 0));
    TRY(send(-1, b, 1, 0));
    TRY(sendto(-1, b, 1, 0, NULL, 0));
    TRY(sendmsg(-1, &m, 0));
    TRY(sendmmsg(-1, mm, 1, 0));
    TRY(sendfile(-1, 0, NULL, 1));
    TRY(sendfile64(-1, 0, NULL, 1));
    TRY(splice(-1, NULL, p[1], NULL, 1, 0));
    TRY(tee(-1, p[1], 1, 0));
    TRY(vmsplice(-1, v, 1, 0));
    TRY(copy_file_range(-1, NULL, 1, NULL, 1, 0));
    TRY(socket(-1, -1, -1));
    TRY(socketpair(AF_INET, SOCK_STREAM, 0, p2));
    TRY(bind(-1, NULL, 0));
    TRY(listen(-1, 1));
    TRY(connect(-1, NULL, 0));
    TRY(accept(-1, NULL, NULL));
    TRY(accept4(-1, NULL, NULL, 0));
    TRY(accept(p[0], NULL, NULL));
    TRY(accept4(s, NULL, NULL, -1));
    TRY(shutdown(-1, 0));
    TRY(shutdown(s, 0));
    TRY(getsockname(-1, NULL, NULL));
    TRY(getpeername(s, (void *)b, &l));
    TRY(getsockopt(-1, 0, 0, NULL, NULL));
    TRY(setsockopt(-1, 0, 0, NULL, 0));
    TRY(setsockopt(s, SOL_SOCKET, 9999, b, 4));
    TRY(ioctl(-1, 0, 0));
    TRY(ioctl(s, FIONREAD, &n));
    TRY(sockatmark(-1));
    TRY(close(-1));
    TRY(close(9999999));
    TRY(dup(-1));
    TRY(dup2(-1, 5));
    TRY(dup2(0, -1));
    TRY(dup3(0, 0, 0));
    TRY(dup3(-1, 5, 0));
    TRY(fcntl(-1, F_GETFL));
    TRY(fcntl(s, 9999));
    TRY(fcntl(s, F_DUPFD, -1));
    TRY(fcntl64(-1, F_GETFD));
    TRY(fdopen(-1, "r") == NULL);
    TRY(close_range(5, 3, 0));
    TRY(open("/nonexistent", O_RDONLY));
    TRY(open64("/nonexistent", O_RDONLY));
    TRY(openat(-1, "x", O_RDONLY));
    TRY(openat64(-1, "x", O_RDONLY));
    TRY(creat("/nonexistent/x", 0));
    TRY(creat64("/nonexistent/x", 0));
    TRY(pipe2(p2, -1));
    TRY(eventfd(0, -1));
    TRY(timerfd_create(-1, 0));
    TRY(signalfd(-1, NULL, 0));
    TRY(inotify_init1(-1));
    TRY(fanotify_init(-1, -1));
    TRY(memfd_create("x", -1));
    TRY(pidfd_open(-1, 0));
    TRY(pidfd_getfd(-1, 0, 0));
    TRY(open_by_handle_at(-1, NULL, 0));
    TRY(poll(NULL, 0, 0));
    TRY(poll(&e, 1, 0));
    TRY(ppoll(&e, 1, &zero, NULL));
    TRY(select(-1, NULL, NULL, NULL, NULL));
    TRY(select(1024, &fs, NULL, NULL, &tv));
    TRY(pselect(1024, &fs, NULL, NULL, &zero, NULL));
    TRY(epoll_create(0));
    TRY(epoll_create1(-1));
    TRY(epoll_ctl(-1, EPOLL_CTL_ADD, 0, NULL));
    TRY(epoll_ctl(s, EPOLL_CTL_ADD, 0, &ev));
    TRY(epoll_wait(-1, &ev, 1, 0));
    TRY(epoll_wait(s, &ev, 1, 0));
    TRY(epoll_pwait(-1, &ev, 1, 0, NULL));
    TRY(epoll_pwait2(-1, &ev, 1, &zero, NULL));
    TRY(execve("/nonexistent", none, none));
    TRY(execv("/nonexistent", none));
    TRY(execvp("nonexistent-program", none));
    TRY(execvpe("nonexistent-program", none, none));
    TRY(fexecve(-1, none, none));
    TRY(execveat(-1, "x", none, none, 0));
    TRY(posix_spawn(NULL, "/nonexistent", NULL, NULL, none, none));
    TRY(posix_spawnp(NULL, "nonexistent-program", NULL, NULL, none, none));
    TRY(popen("x", "bad") == NULL);
    TRY(setuid(-1));
    TRY(setgid(-1));
    TRY(setreuid(-1, -1));
    TRY(setresuid(-1, -1, -1));
    TRY(unshare(-1));
    TRY(setns(-1, 0));
    TRY(prctl(-1, 0, 0, 0, 0));
    TRY(prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    TRY(syscall(-1));
    TRY(syscall(SYS_read, -1, b, 1));
    TRY(syscall(SYS_close, -1));
    TRY(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &zero, NULL));
    TRY(sigaction(-1, NULL, NULL));
    TRY(sigignore(-1));
    TRY(siginterrupt(-1, 0));
    TRY(signal(-1, SIG_IGN) == SIG_ERR);
    TRY(dprintf(-1, "%d", 1));
    TRY(aio_read(&cb));
    TRY(aio_write(&cb));
    TRY(login_tty(-1));
    TRY(bindresvport(-1, NULL));
    return 0;
}
