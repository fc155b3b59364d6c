//! The table: every symbol that libtandem.so interposes, when a call of it concerns the switch, and what it means then.
//!
//! `ROUTE(arguments) fn SYMBOL(signature) -> TYPE => HANDLER;` The routes (defined in `exports`):
//!
//! | route | the handler is asked when | otherwise |
//! |---|---|---|
//! | `data(fd, …)` | one of the numbers has an entry that concerns data calls | tail call of the real function |
//! | `life(fd, …)` | one of the numbers has any entry | tail call |
//! | `device(fd)` | as `life`, and a number that is lent to a provider's device libraries is not hidden | tail call |
//! | `takes`, `gives`, `gives_parts`, `gives_file`, `waits` | as `data`, and what can be done at once is not all | tail call |
//! | `registers`, `joins`, `ends`, `sets` | the same, as `life` | tail call |
//! | `makes`, `accepts` | the same, as `always` | tail call |
//! | `names(fd, address, flags)` | as `data`, or it is a tracked socket's send to an address | tail call |
//! | `sends(fd, message, flags)`, `sends_many(fd, messages, count, flags)` | as `names`, or a message carries control data (descriptors) | tail call |
//! | `polls(entries, count)`, `selects(count, r, w, e)` | one of the numbers waited on concerns data calls | tail call |
//! | `stream(file)` | as `life`, of the number behind a stdio stream | tail call |
//! | `aio(block)`, `aio_list(list, count)` | as `data`, of the number inside a control block | tail call |
//! | `numbered(number)` | it is a system call on the list in `exports` | tail call |
//! | `dups(old, …)`, `controls(fd, command, argument)` | as `life` | real call; the number it returns is fresh |
//! | `opens()`, `opens_two(pair)` | the number returned still has an entry: it was closed behind our back | real call |
//! | `always()` | in every call after start-up | tail call |
//! | `after()` | after every real call, which stays as it was | |
//!
//! A hidden number gives EBADF before the handler of `data`, `life`, `device`, `names`, `sends`, `sends_many`, `dups` and `controls` is
//! asked.

macro_rules! table {
    ($emit:ident) => {
        $emit! {
            // Sockets: birth and naming.
            makes(domain, kind, protocol) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int => lifecycle::socket;
            opens_two(pair) fn socketpair(domain: c_int, kind: c_int, protocol: c_int, pair: *mut c_int) -> c_int
                => lifecycle::appeared;
            life(fd) fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int => calls::connect::bind;
            life(fd) fn bindresvport(fd: c_int, address: *mut sockaddr_in) -> c_int => calls::connect::bindresvport;
            life(fd) fn listen(fd: c_int, backlog: c_int) -> c_int => calls::connect::listen;
            joins(fd, address, length) fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int => calls::connect::connect;
            joins(fd, address, length) fn __connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int => calls::connect::connect;
            accepts(fd) fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => calls::connect::accept;
            accepts(fd) fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int
                => calls::connect::accept4;
            life(fd) fn shutdown(fd: c_int, how: c_int) -> c_int => calls::connect::shutdown;
            life(fd) fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => calls::connect::getsockname;
            life(fd) fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => calls::connect::getpeername;

            // Options.
            life(fd) fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int
                => options::getsockopt;
            sets(fd, level, name) fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int
                => options::setsockopt;
            device(fd) fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int => options::ioctl;
            life(fd) fn sockatmark(fd: c_int) -> c_int => options::sockatmark;

            // Data in.
            takes(fd, buffer, size) fn read(fd: c_int, buffer: *mut c_void, size: size_t) -> ssize_t => transfer::read;
            takes(fd, buffer, size) fn __read(fd: c_int, buffer: *mut c_void, size: size_t) -> ssize_t => transfer::read;
            data(fd) fn __read_chk(fd: c_int, buffer: *mut c_void, size: size_t, room: size_t) -> ssize_t
                => fits(size, room, || transfer::read(fd, buffer, size));
            data(fd) fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t => transfer::readv;
            data(fd) fn pread(fd: c_int, buffer: *mut c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pread;
            data(fd) fn pread64(fd: c_int, buffer: *mut c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pread;
            data(fd) fn __pread64(fd: c_int, buffer: *mut c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pread;
            data(fd) fn __pread_chk(fd: c_int, buffer: *mut c_void, size: size_t, offset: off_t, room: size_t) -> ssize_t
                => fits(size, room, || transfer::pread(fd, buffer, size, offset));
            data(fd) fn __pread64_chk(fd: c_int, buffer: *mut c_void, size: size_t, offset: off_t, room: size_t) -> ssize_t
                => fits(size, room, || transfer::pread(fd, buffer, size, offset));
            data(fd) fn preadv(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t => transfer::preadv;
            data(fd) fn preadv64(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t => transfer::preadv;
            data(fd) fn preadv2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
                => transfer::preadv2;
            data(fd) fn preadv64v2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
                => transfer::preadv2;
            takes(fd, buffer, size, flags) fn recv(fd: c_int, buffer: *mut c_void, size: size_t, flags: c_int) -> ssize_t => transfer::recv;
            data(fd) fn __recv_chk(fd: c_int, buffer: *mut c_void, size: size_t, room: size_t, flags: c_int) -> ssize_t
                => fits(size, room, || transfer::recv(fd, buffer, size, flags));
            data(fd) fn recvfrom(fd: c_int, buffer: *mut c_void, size: size_t, flags: c_int, address: *mut sockaddr, length: *mut socklen_t) -> ssize_t
                => transfer::recvfrom;
            data(fd) fn __recvfrom_chk(fd: c_int, buffer: *mut c_void, size: size_t, room: size_t, flags: c_int, address: *mut sockaddr, length: *mut socklen_t) -> ssize_t
                => fits(size, room, || transfer::recvfrom(fd, buffer, size, flags, address, length));
            data(fd) fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t => transfer::recvmsg;
            data(fd) fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int
                => transfer::recvmmsg;

            // Data out.
            gives(fd, buffer, size) fn write(fd: c_int, buffer: *const c_void, size: size_t) -> ssize_t => transfer::write;
            gives(fd, buffer, size) fn __write(fd: c_int, buffer: *const c_void, size: size_t) -> ssize_t => transfer::write;
            gives_parts(fd, parts, count) fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t => transfer::writev;
            data(fd) fn pwrite(fd: c_int, buffer: *const c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pwrite;
            data(fd) fn pwrite64(fd: c_int, buffer: *const c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pwrite;
            data(fd) fn __pwrite64(fd: c_int, buffer: *const c_void, size: size_t, offset: off_t) -> ssize_t => transfer::pwrite;
            data(fd) fn pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t => transfer::pwritev;
            data(fd) fn pwritev64(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t => transfer::pwritev;
            data(fd) fn pwritev2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
                => transfer::pwritev2;
            data(fd) fn pwritev64v2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
                => transfer::pwritev2;
            gives(fd, buffer, size, flags) fn send(fd: c_int, buffer: *const c_void, size: size_t, flags: c_int) -> ssize_t => transfer::send;
            gives(fd, buffer, size, flags) fn __send(fd: c_int, buffer: *const c_void, size: size_t, flags: c_int) -> ssize_t => transfer::send;
            names(fd, address, flags) fn sendto(fd: c_int, buffer: *const c_void, size: size_t, flags: c_int, address: *const sockaddr, length: socklen_t) -> ssize_t
                => transfer::sendto;
            sends(fd, message, flags) fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t => transfer::sendmsg;
            sends_many(fd, messages, count, flags) fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
                => transfer::sendmmsg;
            gives_file(out, input, size) fn sendfile(out: c_int, input: c_int, offset: *mut off_t, size: size_t) -> ssize_t
                => transfer::sendfile;
            gives_file(out, input, size) fn sendfile64(out: c_int, input: c_int, offset: *mut off_t, size: size_t) -> ssize_t
                => transfer::sendfile;
            data(input, out) fn splice(input: c_int, input_offset: *mut i64, out: c_int, out_offset: *mut i64, size: size_t, flags: c_uint) -> ssize_t
                => transfer::splice;
            data(input, out) fn tee(input: c_int, out: c_int, size: size_t, flags: c_uint) -> ssize_t => transfer::tee;
            data(fd) fn vmsplice(fd: c_int, parts: *const iovec, count: size_t, flags: c_uint) -> ssize_t => transfer::vmsplice;
            data(input, out) fn copy_file_range(input: c_int, input_offset: *mut i64, out: c_int, out_offset: *mut i64, size: size_t, flags: c_uint) -> ssize_t
                => transfer::copy_file_range;

            // Data by a way that the switch cannot carry: the socket leaves first, then libc does it. (dprintf: see `variadic`.)
            data(fd) fn vdprintf(fd: c_int, format: *const c_char, arguments: *mut c_void) -> c_int => transfer::leave(fd);
            data(fd) fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, arguments: *mut c_void) -> c_int
                => transfer::leave(fd);
            data(fd) fn backtrace_symbols_fd(buffer: *const *mut c_void, size: c_int, fd: c_int) -> () => transfer::leave(fd);
            aio(block) fn aio_read(block: *mut aiocb) -> c_int => transfer::leave(descriptor(block));
            aio(block) fn aio_read64(block: *mut aiocb) -> c_int => transfer::leave(descriptor(block));
            aio(block) fn aio_write(block: *mut aiocb) -> c_int => transfer::leave(descriptor(block));
            aio(block) fn aio_write64(block: *mut aiocb) -> c_int => transfer::leave(descriptor(block));
            aio_list(list, count) fn lio_listio(mode: c_int, list: *const *mut aiocb, count: c_int, event: *mut sigevent) -> c_int
                => transfer::lio_listio;
            aio_list(list, count) fn lio_listio64(mode: c_int, list: *const *mut aiocb, count: c_int, event: *mut sigevent) -> c_int
                => transfer::lio_listio;

            // Readiness.
            polls(entries, count) fn poll(entries: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int => readiness::poll;
            polls(entries, count) fn __poll(entries: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int => readiness::poll;
            polls(entries, count) fn __poll_chk(entries: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int
                => fits(count as usize, room / size_of::<pollfd>(), || readiness::poll(entries, count, timeout));
            polls(entries, count) fn ppoll(entries: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int
                => readiness::ppoll;
            polls(entries, count) fn __ppoll_chk(entries: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: size_t) -> c_int
                => fits(count as usize, room / size_of::<pollfd>(), || readiness::ppoll(entries, count, timeout, mask));
            selects(count, reads, writes, excepts) fn select(count: c_int, reads: *mut fd_set, writes: *mut fd_set, excepts: *mut fd_set, timeout: *mut timeval) -> c_int
                => readiness::select;
            selects(count, reads, writes, excepts) fn __select(count: c_int, reads: *mut fd_set, writes: *mut fd_set, excepts: *mut fd_set, timeout: *mut timeval) -> c_int
                => readiness::select;
            selects(count, reads, writes, excepts) fn pselect(count: c_int, reads: *mut fd_set, writes: *mut fd_set, excepts: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int
                => readiness::pselect;
            always() fn epoll_create(size: c_int) -> c_int => readiness::epoll_create;
            always() fn epoll_create1(flags: c_int) -> c_int => readiness::epoll_create1;
            registers(set, operation, fd, event) fn epoll_ctl(set: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int
                => readiness::epoll_ctl;
            waits(set, events, count, timeout) fn epoll_wait(set: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int
                => readiness::epoll_wait;
            waits(set, events, count, timeout, mask) fn epoll_pwait(set: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int
                => readiness::epoll_pwait;
            data(set) fn epoll_pwait2(set: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int
                => readiness::epoll_pwait2;

            // Descriptors: death and doubling.
            ends(fd) fn close(fd: c_int) -> c_int => lifecycle::close;
            life(fd) fn __close(fd: c_int) -> c_int => lifecycle::close;
            always() fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => lifecycle::close_range;
            always() fn closefrom(first: c_int) -> () => lifecycle::closefrom;
            dups(old) fn dup(old: c_int) -> c_int => lifecycle::dup;
            dups(old, new) fn dup2(old: c_int, new: c_int) -> c_int => lifecycle::dup2;
            dups(old, new) fn __dup2(old: c_int, new: c_int) -> c_int => lifecycle::dup2;
            dups(old, new) fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int => lifecycle::dup3;
            controls(fd, command, argument) fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int => lifecycle::fcntl;
            controls(fd, command, argument) fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int => lifecycle::fcntl;
            controls(fd, command, argument) fn __fcntl(fd: c_int, command: c_int, argument: usize) -> c_int => lifecycle::fcntl;
            life(fd) fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE => lifecycle::fdopen;
            life(fd) fn _IO_fdopen(fd: c_int, mode: *const c_char) -> *mut FILE => lifecycle::fdopen;
            stream(file) fn fclose(file: *mut FILE) -> c_int => lifecycle::fclose;
            stream(file) fn _IO_fclose(file: *mut FILE) -> c_int => lifecycle::fclose;
            stream(file) fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE => lifecycle::freopen;
            stream(file) fn freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE => lifecycle::freopen;
            always() fn login_tty(fd: c_int) -> c_int => lifecycle::login_tty;

            // Descriptors: other births. The number must not meet what an unseen close left in the table.
            opens() fn open(path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn open64(path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn __open(path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn __open64(path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn __open_2(path: *const c_char, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn __open64_2(path: *const c_char, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int => lifecycle::appeared;
            opens() fn __openat_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn __openat64_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn open_by_handle_at(mount: c_int, handle: *mut c_void, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn creat(path: *const c_char, mode: mode_t) -> c_int => lifecycle::appeared;
            opens() fn creat64(path: *const c_char, mode: mode_t) -> c_int => lifecycle::appeared;
            opens_two(pair) fn pipe(pair: *mut c_int) -> c_int => lifecycle::appeared;
            opens_two(pair) fn __pipe(pair: *mut c_int) -> c_int => lifecycle::appeared;
            opens_two(pair) fn pipe2(pair: *mut c_int, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn eventfd(value: c_uint, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn timerfd_create(clock: c_int, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn inotify_init() -> c_int => lifecycle::appeared;
            opens() fn inotify_init1(flags: c_int) -> c_int => lifecycle::appeared;
            opens() fn fanotify_init(flags: c_uint, event_flags: c_uint) -> c_int => lifecycle::appeared;
            opens() fn memfd_create(name: *const c_char, flags: c_uint) -> c_int => lifecycle::appeared;
            opens() fn pidfd_open(process: pid_t, flags: c_uint) -> c_int => lifecycle::appeared;
            opens() fn pidfd_getfd(process: c_int, fd: c_int, flags: c_uint) -> c_int => lifecycle::appeared;

            // Processes.
            always() fn fork() -> pid_t => process::fork(real::fork);
            always() fn __fork() -> pid_t => process::fork(real::__fork);
            always() fn _Fork() -> pid_t => process::fork(real::_Fork);
            always() fn forkpty(terminal: *mut c_int, name: *mut c_char, settings: *const c_void, size: *const c_void) -> pid_t
                => process::forkpty;
            always() fn daemon(keep_directory: c_int, keep_streams: c_int) -> c_int => process::daemon;
            always() fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int => programs::execve;
            always() fn execv(path: *const c_char, arguments: Strings) -> c_int => programs::execv;
            always() fn execvp(file: *const c_char, arguments: Strings) -> c_int => programs::execvp;
            always() fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int => programs::execvpe;
            always() fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int => programs::fexecve;
            always() fn execveat(directory: c_int, path: *const c_char, arguments: Strings, environment: Strings, flags: c_int) -> c_int
                => programs::execveat;
            always() fn posix_spawn_file_actions_adddup2(actions: *mut posix_spawn_file_actions_t, old: c_int, new: c_int) -> c_int
                => programs::posix_spawn_file_actions_adddup2;
            always() fn posix_spawn(child: *mut pid_t, path: *const c_char, actions: SpawnActions, attributes: SpawnAttributes, arguments: SpawnStrings, environment: SpawnStrings) -> c_int
                => programs::posix_spawn;
            always() fn posix_spawnp(child: *mut pid_t, file: *const c_char, actions: SpawnActions, attributes: SpawnAttributes, arguments: SpawnStrings, environment: SpawnStrings) -> c_int
                => programs::posix_spawnp;
            always() fn pidfd_spawn(child: *mut c_int, path: *const c_char, actions: SpawnActions, attributes: SpawnAttributes, arguments: SpawnStrings, environment: SpawnStrings) -> c_int
                => programs::pidfd_spawn;
            always() fn pidfd_spawnp(child: *mut c_int, file: *const c_char, actions: SpawnActions, attributes: SpawnAttributes, arguments: SpawnStrings, environment: SpawnStrings) -> c_int
                => programs::pidfd_spawnp;
            always() fn system(command: *const c_char) -> c_int => programs::system;
            always() fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE => programs::popen;
            always() fn _IO_popen(command: *const c_char, mode: *const c_char) -> *mut FILE => programs::popen;
            always() fn _exit(status: c_int) -> () => process::exit_now;
            always() fn _Exit(status: c_int) -> () => process::exit_now;
            after() fn setuid(user: uid_t) -> c_int => process::credentials_changed();
            after() fn setgid(group: gid_t) -> c_int => process::credentials_changed();
            after() fn seteuid(user: uid_t) -> c_int => process::credentials_changed();
            after() fn setegid(group: gid_t) -> c_int => process::credentials_changed();
            after() fn setreuid(real_user: uid_t, user: uid_t) -> c_int => process::credentials_changed();
            after() fn setregid(real_group: gid_t, group: gid_t) -> c_int => process::credentials_changed();
            after() fn setresuid(real_user: uid_t, user: uid_t, saved: uid_t) -> c_int => process::credentials_changed();
            after() fn setresgid(real_group: gid_t, group: gid_t, saved: gid_t) -> c_int => process::credentials_changed();
            after() fn setfsuid(user: uid_t) -> c_int => process::credentials_changed();
            after() fn setfsgid(group: gid_t) -> c_int => process::credentials_changed();
            always() fn unshare(flags: c_int) -> c_int => process::unshare;
            always() fn setns(fd: c_int, kind: c_int) -> c_int => process::setns;
            always() fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int => process::prctl;
            numbered(number) fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long
                => process::syscall(number, [a, b, c, d, e, f]);

            // Signals: the switch must know which handlers restart, and looks when something changed.
            after() fn sigaction(number: c_int, new: *const c_void, old: *mut c_void) -> c_int => calls::signal::changed();
            after() fn __sigaction(number: c_int, new: *const c_void, old: *mut c_void) -> c_int => calls::signal::changed();
            after() fn signal(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn sigset(number: c_int, handler: sighandler_t) -> sighandler_t => calls::signal::changed();
            after() fn sigignore(number: c_int) -> c_int => calls::signal::changed();
            after() fn siginterrupt(number: c_int, interrupt: c_int) -> c_int => calls::signal::changed();
            after() fn sigvec(number: c_int, new: *const c_void, old: *mut c_void) -> c_int => calls::signal::changed();
        }
    };
}

pub(crate) use table;
