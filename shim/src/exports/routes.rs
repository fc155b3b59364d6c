//! Whether a call concerns the switch. All of it runs in every program's every call: no lock, no allocation, no system call,
//! nothing that can panic, safe in a signal handler and in a vfork child.

use super::types::*;
use crate::autobind::assignment;
use crate::calls::lifecycle;
use crate::fd_table;
use crate::outcome::{self, Outcome};
use crate::startup;

pub(super) use crate::fd_table::{is_hidden, is_hidden_from_devices};

#[inline(always)]
pub(super) fn concerns_data(fd: c_int) -> bool {
    !fd_table::is_plain(fd)
}

#[inline(always)]
pub(super) fn concerns_life(fd: c_int) -> bool {
    !fd_table::is_untracked(fd)
}

#[inline(always)]
pub(super) fn started() -> bool {
    startup::is_done()
}

/// A send to an address may be a socket's first: UDP's, or TCP's with MSG_FASTOPEN.
#[inline(always)]
pub(super) fn names(fd: c_int, address: *const sockaddr, flags: c_int) -> bool {
    concerns_data(fd) || (!address.is_null() && concerns_life(fd) && is_watched(flags))
}

#[inline(always)]
fn is_watched(flags: c_int) -> bool {
    flags & libc::MSG_FASTOPEN != 0 || !assignment::is_dormant()
}

/// A message with control data may carry descriptors, and with them a socket of ours, over any unix socket.
#[inline(always)]
pub(super) unsafe fn sends(fd: c_int, message: *const msghdr, flags: c_int) -> bool {
    // SAFETY: the caller gave a message to be sent.
    concerns_data(fd)
        || unsafe { message.as_ref() }
            .is_some_and(|message| has_control(message) || names(fd, message.msg_name.cast(), flags))
}

#[inline(always)]
pub(super) unsafe fn sends_many(fd: c_int, messages: *const mmsghdr, count: c_uint, flags: c_int) -> bool {
    concerns_data(fd)
        || (concerns_life(fd) && is_watched(flags))
        || (!messages.is_null()
            && (0..count as usize).any(|at| {
                // SAFETY: the caller gave `count` messages to be sent.
                has_control(unsafe { &(*messages.add(at)).msg_hdr })
            }))
}

#[inline(always)]
fn has_control(message: &msghdr) -> bool {
    message.msg_controllen != 0
}

#[inline(always)]
pub(super) unsafe fn polls(entries: *const pollfd, count: nfds_t) -> bool {
    // SAFETY: the caller gave `count` entries; none is looked at behind a null pointer.
    !entries.is_null() && (0..count as usize).any(|at| concerns_data(unsafe { (*entries.add(at)).fd }))
}

/// The sets may be shorter than `count` says (the kernel looks at no more than the descriptor table holds), so the scan
/// ends at the highest number that was ever tracked, which the kernel's table certainly held.
#[inline(always)]
pub(super) unsafe fn selects(
    count: c_int,
    reads: *const fd_set,
    writes: *const fd_set,
    excepts: *const fd_set,
) -> bool {
    let end = count.min(fd_table::ceiling());
    // SAFETY: the caller's sets hold at least as many bits.
    end > 0 && unsafe { any_concerned(end, [reads, writes, excepts]) }
}

#[cold]
unsafe fn any_concerned(end: c_int, sets: [*const fd_set; 3]) -> bool {
    (0..end).any(|fd| {
        let (word, bit) = (fd as usize / c_ulong::BITS as usize, fd as usize % c_ulong::BITS as usize);
        concerns_data(fd)
            && sets.iter().any(|set| {
                // SAFETY: `fd` is below the number of bits that the set holds.
                !set.is_null() && unsafe { *set.cast::<c_ulong>().add(word) } >> bit & 1 != 0
            })
    })
}

#[inline(always)]
pub(super) unsafe fn stream(file: *mut FILE) -> bool {
    // SAFETY: the caller gave a stream; fileno only reads it.
    !file.is_null() && concerns_life(unsafe { libc::fileno(file) })
}

#[inline(always)]
pub(super) unsafe fn aio(block: *const aiocb) -> bool {
    // SAFETY: the caller gave a control block.
    unsafe { block.as_ref() }.is_some_and(|block| concerns_data(block.aio_fildes))
}

#[inline(always)]
pub(super) unsafe fn aio_list(list: *const *mut aiocb, count: c_int) -> bool {
    // SAFETY: the caller gave `count` control blocks, some of them null.
    !list.is_null() && (0..count.max(0) as usize).any(|at| unsafe { aio(*list.add(at)) })
}

/// # Safety
/// A control block that `aio` has looked at.
pub(super) unsafe fn descriptor(block: *const aiocb) -> c_int {
    // SAFETY: as above.
    unsafe { (*block).aio_fildes }
}

/// The fortified names: a buffer smaller than the count is libc's to complain about.
pub(super) fn fits<R>(size: usize, room: usize, handler: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    if size > room { Outcome::Bypass } else { handler() }
}

#[inline(always)]
pub(super) fn doubles(command: c_int) -> bool {
    matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC)
}

/// The kernel has just handed out this number: whatever the table still says of it is about a descriptor that was closed where
/// no hook could see it.
#[inline(always)]
pub(super) fn fresh(fd: c_int) -> c_int {
    if concerns_life(fd) {
        forget(fd);
    }
    fd
}

/// # Safety
/// Two numbers that the kernel has just written.
#[inline(always)]
pub(super) unsafe fn fresh_pair(pair: *const c_int) {
    // SAFETY: as above.
    unsafe {
        fresh(*pair);
        fresh(*pair.add(1));
    }
}

#[cold]
#[inline(never)]
extern "C" fn forget(fd: c_int) {
    outcome::note("appeared", || lifecycle::appeared(fd));
}

/// System calls by number that mean something to the switch: those whose names are hooked. For what else `syscall()` is used
/// (gettid, futex, getrandom) the test is all that is added.
#[inline(always)]
pub(super) fn numbered(number: c_long) -> bool {
    startup::is_done() && (on_every_machine(number) || on_this_machine(number))
}

fn on_every_machine(number: c_long) -> bool {
    matches!(
        number,
        libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_pread64
            | libc::SYS_pwrite64
            | libc::SYS_preadv
            | libc::SYS_pwritev
            | libc::SYS_preadv2
            | libc::SYS_pwritev2
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_sendmmsg
            | libc::SYS_sendfile
            | libc::SYS_splice
            | libc::SYS_tee
            | libc::SYS_vmsplice
            | libc::SYS_copy_file_range
            | libc::SYS_ppoll
            | libc::SYS_pselect6
            | libc::SYS_epoll_create1
            | libc::SYS_epoll_ctl
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_socket
            | libc::SYS_bind
            | libc::SYS_listen
            | libc::SYS_connect
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_shutdown
            | libc::SYS_getsockopt
            | libc::SYS_setsockopt
            | libc::SYS_getsockname
            | libc::SYS_getpeername
            | libc::SYS_close
            | libc::SYS_close_range
            | libc::SYS_dup
            | libc::SYS_dup3
            | libc::SYS_fcntl
            | libc::SYS_ioctl
            | libc::SYS_clone
            | libc::SYS_clone3
            | libc::SYS_execve
            | libc::SYS_execveat
            | libc::SYS_exit_group
            | libc::SYS_unshare
            | libc::SYS_setns
            | libc::SYS_prctl
            | libc::SYS_seccomp
            | libc::SYS_io_uring_setup
            | libc::SYS_io_uring_enter
            | libc::SYS_io_uring_register
            | libc::SYS_io_submit
            | libc::SYS_pidfd_getfd
            | libc::SYS_rt_sigaction
    )
}

/// The calls that newer machines were never given.
#[cfg(target_arch = "x86_64")]
fn on_this_machine(number: c_long) -> bool {
    matches!(
        number,
        libc::SYS_poll
            | libc::SYS_select
            | libc::SYS_epoll_create
            | libc::SYS_epoll_wait
            | libc::SYS_dup2
            | libc::SYS_fork
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn on_this_machine(_: c_long) -> bool {
    false
}
