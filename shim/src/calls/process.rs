//! Forks, exits, credentials, namespaces, filters: what changes who holds a socket. (Other programs: see `programs`.)

use std::sync::atomic::Ordering;

use tandem_protocol::Reason;

use super::{lifecycle, transfer};
use crate::autobind::assignment;
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::provider::far;
use crate::slot;
use crate::{config, epoll, family, fd_table, meet, real, signals, startup, stranger, sys, wake};

pub fn fork(real: unsafe fn() -> pid_t) -> Outcome<pid_t> {
    // SAFETY: no arguments.
    Outcome::of(forked(|| unsafe { real() }))
}

/// Until the parent has signed the child in, nobody takes itself for a socket's only holder.
fn forked(real: impl FnOnce() -> pid_t) -> pid_t {
    let pending = family::existing().map(|family| &family.shared.forks_pending);
    if let Some(pending) = pending {
        pending.fetch_add(1, Ordering::AcqRel);
    }
    slot::mine().for_each(|slot| slot.strike_off_left());
    let sets = epoll::before_fork();
    let child = real();
    let errno = sys::errno();
    drop(sets);
    if child == 0 {
        after_fork_in_child();
        return 0;
    }
    if child > 0 {
        slot::mine().filter(|slot| !slot.is_kept()).for_each(|slot| slot.add_child(child as u32));
    }
    if let Some(pending) = pending {
        pending.fetch_sub(1, Ordering::SeqCst);
    }
    sys::set_errno(errno);
    child
}

/// The child's descriptors are copies, its memory is a copy, what the family shares is shared.
fn after_fork_in_child() {
    sys::after_fork_in_child();
    let me = sys::pid();
    slot::after_fork_in_child();
    slot::mine().for_each(|slot| slot.hold(me));
    wake::after_fork_in_child();
    epoll::after_fork_in_child();
    meet::after_fork_in_child();
    signals::after_fork_in_child();
}

/// The process has changed its user or group (the call may have failed).
pub fn credentials_changed() {
    if startup::is_done() {
        meet::forget_channel();
    }
}

/// Start-up's last step.
pub fn start() {
    sys::refresh_pid();
    config::read_environment();
    super::environment::find_ourselves();
}

/// The program ends: the last thing that runs in it.
pub fn finish() {
    if !sys::is_vfork_child() {
        lifecycle::end_of_process();
    }
}

/// Sockets that leave by SCM_RIGHTS are plain TCP before they go.
///
/// # Safety
/// A message that sendmsg(2) would take.
pub unsafe fn descriptors_leave(message: &msghdr) {
    if family::existing().is_none() {
        return;
    }
    // SAFETY: the application's own control data, walked by libc's macros, which stay inside msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for at in 0..bytes / size_of::<c_int>() {
                    let fd = libc::CMSG_DATA(header).cast::<c_int>().add(at).read_unaligned();
                    if let Some(slot) = slot::of(fd) {
                        transfer::hand_over(slot, fd, Reason::HandedOver);
                    }
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

/// Everything goes back to TCP and stays there: from now on calls are made where no hook sees them.
fn leave_all(reason: Reason) {
    for slot in slot::mine() {
        transfer::hand_over(slot, slot.descriptor(), reason);
    }
}

/// The program is about to filter its own system calls: one of ours that the filter does not name might be its end. From now on there
/// are none, for this process and its children.
pub fn retire() {
    assignment::forbid();
    leave_all(Reason::Seccomp);
    epoll::retire();
    startup::undo();
    fd_table::forget_all();
}

/// A call of libc's `syscall()` whose number is on the list in `exports::routes`.
pub fn syscall(number: c_long, arguments: [usize; 6]) -> Outcome<c_long> {
    let [a, b, c, d, e, f] = arguments;
    let fd = a as c_int;
    // SAFETY: the application's own arguments, as the call of that number has them.
    unsafe {
        match number {
            libc::SYS_read => long(transfer::read(fd, b as *mut c_void, c)),
            libc::SYS_write => long(transfer::write(fd, b as *const c_void, c)),
            libc::SYS_readv => long(transfer::readv(fd, b as *const iovec, c as c_int)),
            libc::SYS_writev => long(transfer::writev(fd, b as *const iovec, c as c_int)),
            libc::SYS_recvfrom => {
                long(transfer::recvfrom(fd, b as *mut c_void, c, d as c_int, e as *mut sockaddr, f as *mut socklen_t))
            }
            libc::SYS_sendto => {
                long(transfer::sendto(fd, b as *const c_void, c, d as c_int, e as *const sockaddr, f as socklen_t))
            }
            libc::SYS_recvmsg => long(transfer::recvmsg(fd, b as *mut msghdr, c as c_int)),
            libc::SYS_sendmsg => long(transfer::sendmsg(fd, b as *const msghdr, c as c_int)),
            libc::SYS_close => short(lifecycle::close(fd)),
            libc::SYS_dup => tracked(fd, || short(lifecycle::dup(fd))),
            libc::SYS_dup3 => tracked(fd, || short(lifecycle::dup3(fd, b as c_int, c as c_int))),
            libc::SYS_shutdown => tracked(fd, || short(super::connect::shutdown(fd, b as c_int))),
            libc::SYS_socket => short(lifecycle::socket(fd, b as c_int, c as c_int)),
            libc::SYS_accept4 => {
                short(super::connect::accept4(fd, b as *mut sockaddr, c as *mut socklen_t, d as c_int))
            }
            libc::SYS_bind => tracked(fd, || short(super::connect::bind(fd, b as *const sockaddr, c as socklen_t))),
            libc::SYS_sendmmsg => {
                tracked(fd, || short(transfer::sendmmsg(fd, b as *mut mmsghdr, c as c_uint, d as c_int)))
            }
            libc::SYS_setsockopt => tracked(fd, || {
                short(super::options::setsockopt(fd, b as c_int, c as c_int, d as *const c_void, e as socklen_t))
            }),
            libc::SYS_getsockopt => tracked(fd, || {
                short(super::options::getsockopt(fd, b as c_int, c as c_int, d as *mut c_void, e as *mut socklen_t))
            }),
            libc::SYS_connect => {
                tracked(fd, || short(super::connect::connect(fd, b as *const sockaddr, c as socklen_t)))
            }
            libc::SYS_unshare => short(unshare(fd)),
            libc::SYS_setns => short(setns(fd, b as c_int)),
            libc::SYS_io_uring_setup => {
                leave_all(Reason::IoUring);
                Outcome::Bypass
            }
            libc::SYS_seccomp => {
                retire();
                Outcome::Bypass
            }
            libc::SYS_exit_group => {
                finish();
                Outcome::Bypass
            }
            libc::SYS_rt_sigaction => {
                signals::changed();
                Outcome::Bypass
            }
            libc::SYS_clone if a as c_int & libc::CLONE_VM == 0 => Outcome::Bypass,
            libc::SYS_clone | libc::SYS_clone3 => {
                stranger::may_come();
                Outcome::Bypass
            }
            _ => {
                // By a way that the switch does not follow: what it touches leaves.
                if !fd_table::is_untracked(fd) {
                    let _: Outcome<c_long> = transfer::leave(fd);
                }
                Outcome::Bypass
            }
        }
    }
}

fn tracked(fd: c_int, handler: impl FnOnce() -> Outcome<c_long>) -> Outcome<c_long> {
    if fd_table::is_untracked(fd) { Outcome::Bypass } else { handler() }
}

fn long(outcome: Outcome<ssize_t>) -> Outcome<c_long> {
    match outcome {
        Outcome::Done(n) => Outcome::Done(n as c_long),
        Outcome::Bypass => Outcome::Bypass,
        Outcome::Fail(errno) => Outcome::Fail(errno),
    }
}

fn short(outcome: Outcome<c_int>) -> Outcome<c_long> {
    match outcome {
        Outcome::Done(n) => Outcome::Done(c_long::from(n)),
        Outcome::Bypass => Outcome::Bypass,
        Outcome::Fail(errno) => Outcome::Fail(errno),
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn forkpty(
    terminal: *mut c_int,
    name: *mut c_char,
    settings: *const c_void,
    size: *const c_void,
) -> Outcome<pid_t> {
    // SAFETY: the application's own call.
    let child = forked(|| unsafe { real::forkpty(terminal, name, settings, size) });
    if child == 0 {
        // The terminal stands on 0, 1 and 2 now.
        (0..=2).for_each(lifecycle::appeared);
    }
    Outcome::of(child)
}

/// As libc has it. Its own forks where no hook sees it, and the parent is gone before the child could be signed in as a holder: whoever
/// else closed a socket at that moment would take it for nobody's any more.
pub fn daemon(keep_directory: c_int, keep_streams: c_int) -> Outcome<c_int> {
    match fork(real::fork) {
        Outcome::Done(0) => {}
        // SAFETY: numbers only.
        Outcome::Done(_) => unsafe { real::_exit(0) },
        Outcome::Fail(errno) => return Outcome::Fail(errno),
        Outcome::Bypass => return Outcome::Bypass,
    }
    // SAFETY: numbers, and paths that end.
    unsafe {
        if libc::setsid() == -1 {
            return Outcome::of(-1);
        }
        if keep_directory == 0 {
            libc::chdir(c"/".as_ptr());
        }
        if keep_streams == 0 { with_no_streams() } else { Outcome::Done(0) }
    }
}

/// 0, 1 and 2 are the null device.
fn with_no_streams() -> Outcome<c_int> {
    // SAFETY: a path that ends, room for what fstat writes, and numbers.
    unsafe {
        let null = real::open(c"/dev/null".as_ptr(), libc::O_RDWR, 0);
        let mut what: libc::stat64 = std::mem::zeroed();
        if null == -1 || libc::fstat64(null, &mut what) != 0 {
            let failed = Outcome::of(-1);
            real::close(null);
            return failed;
        }
        if what.st_mode & libc::S_IFMT != libc::S_IFCHR || what.st_rdev != libc::makedev(1, 3) {
            real::close(null);
            return Outcome::Fail(libc::ENODEV);
        }
        for fd in 0..=2 {
            lifecycle::dup2(null, fd);
        }
        if null > 2 {
            real::close(null);
        }
    }
    Outcome::Done(0)
}

pub fn exit_now(_status: c_int) -> Outcome<()> {
    finish();
    Outcome::Bypass
}

pub fn unshare(flags: c_int) -> Outcome<c_int> {
    // No thread of ours meanwhile, so CLONE_NEWUSER works; connections keep their namespace.
    if flags & libc::CLONE_NEWNET != 0 {
        assignment::forbid();
    }
    // SAFETY: numbers only.
    far::without_thread(|| Outcome::of(unsafe { real::unshare(flags) }))
}

pub fn setns(fd: c_int, kind: c_int) -> Outcome<c_int> {
    // Interfaces have other numbers there, and maybe the same names.
    if kind == 0 || kind & libc::CLONE_NEWNET != 0 {
        assignment::forbid();
    }
    // SAFETY: numbers only.
    far::without_thread(|| Outcome::of(unsafe { real::setns(fd, kind) }))
}

pub fn prctl(option: c_int, _a: usize, _b: usize, _c: usize, _d: usize) -> Outcome<c_int> {
    if option == libc::PR_SET_SECCOMP {
        retire();
    }
    Outcome::Bypass
}
