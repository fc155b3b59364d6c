//! A seccomp filter that was there before the program: a container's, a systemd unit's. What it says of the switch's own calls is found
//! out before the first of them, once, by a child that makes each with arguments that do nothing: if it is killed, or told anything but what the
//! kernel would say, this process makes none, and all of it stays on TCP. (A filter of the program's own: see `calls::process`.)
//!
//! Two things cannot be tried first: reading /proc/self/status, which takes the calls that have loaded this library, and clone.

use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long};

use crate::calls::process;
use crate::real::raw;
use crate::sys;

const UNKNOWN: u32 = 0;
const FREE: u32 = 1;
const BOUND: u32 = 2;

static JUDGED: AtomicU32 = AtomicU32::new(UNKNOWN);

/// Whether the switch may make calls of its own.
pub fn permits() -> bool {
    match JUDGED.load(Ordering::Relaxed) {
        UNKNOWN => {
            let free = !is_filtered() || all_may_be_made();
            JUDGED.store(if free { FREE } else { BOUND }, Ordering::Relaxed);
            if !free {
                crate::log::warn(format_args!("a seccomp filter forbids calls of the switch: everything stays on TCP"));
                process::retire();
            }
            free
        }
        judged => judged == FREE,
    }
}

/// Seccomp's mode 2. Strict mode, 1, has let nobody come so far.
fn is_filtered() -> bool {
    const LABEL: &[u8] = b"\nSeccomp:\t";
    let mut buffer = [0u8; 4096];
    let status = sys::read_file(c"/proc/self/status", &mut buffer).unwrap_or(&[]);
    let at = status.windows(LABEL.len()).position(|window| window == LABEL);
    at.and_then(|at| status.get(at + LABEL.len())) == Some(&b'2')
}

/// What a call with these arguments says where nobody forbids it.
#[derive(Clone, Copy)]
enum Says {
    /// This error.
    Errno(c_int),
    /// No error.
    Done,
    /// The switch does without it: it must not be the end, no more.
    Anything,
}

use Says::{Anything, Done, Errno};

const NOBODY: usize = usize::MAX;
/// Room for whatever a call writes.
type Room = [usize; 64];

/// All that carrying on this host takes, and AutoBind, and speaking to policyd. `ROOM` stands for the address of a [`Room`].
const ROOM: usize = usize::MAX - 1;
const CALLS: &[(c_long, [usize; 5], Says)] = &[
    (libc::SYS_wait4, [NOBODY, 0, 0, 0, 0], Errno(libc::ECHILD)),
    (libc::SYS_getpid, [0; 5], Done),
    (libc::SYS_gettid, [0; 5], Done),
    (libc::SYS_geteuid, [0; 5], Done),
    (libc::SYS_getrandom, [ROOM, 8, 0, 0, 0], Done),
    (libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, ROOM, 0, 0, 0], Done),
    (libc::SYS_nanosleep, [ROOM, 0, 0, 0, 0], Done),
    (libc::SYS_sched_yield, [0; 5], Done),
    (libc::SYS_sched_getaffinity, [0, size_of::<Room>(), ROOM, 0, 0], Done),
    (libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, ROOM, 0], Done),
    (libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, 0, 0, 8, 0], Done),
    (libc::SYS_rt_sigprocmask, [0, 0, ROOM, 8, 0], Done),
    (libc::SYS_tkill, [NOBODY >> 33, 0, 0, 0, 0], Errno(libc::ESRCH)),
    (libc::SYS_futex, [ROOM, libc::FUTEX_WAKE as usize, 1, 0, 0], Done),
    (libc::SYS_madvise, [0, 0, libc::MADV_DONTDUMP as usize, 0, 0], Done),
    (libc::SYS_munmap, [1, 4096, 0, 0, 0], Errno(libc::EINVAL)),
    (libc::SYS_memfd_create, [0, 0, 0, 0, 0], Errno(libc::EFAULT)),
    (libc::SYS_ftruncate, [NOBODY, 0, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_fstat, [NOBODY, ROOM, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_newfstatat, [NOBODY, 0, ROOM, 0, 0], Errno(libc::EFAULT)),
    (libc::SYS_lseek, [NOBODY, 0, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_fcntl, [NOBODY, libc::F_GETFD as usize, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_fcntl, [NOBODY, libc::F_ADD_SEALS as usize, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_fcntl, [NOBODY, libc::F_DUPFD_CLOEXEC as usize, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_dup3, [NOBODY, 0, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_read, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_write, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_close, [NOBODY, 0, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_openat, [NOBODY, 0, 0, 0, 0], Errno(libc::EFAULT)),
    (libc::SYS_readlinkat, [NOBODY, 0, ROOM, 1, 0], Errno(libc::EFAULT)),
    (libc::SYS_faccessat, [NOBODY, 0, 0, 0, 0], Errno(libc::EFAULT)),
    (libc::SYS_eventfd2, [0, NOBODY, 0, 0, 0], Errno(libc::EINVAL)),
    (libc::SYS_epoll_create1, [NOBODY, 0, 0, 0, 0], Errno(libc::EINVAL)),
    (libc::SYS_epoll_ctl, [NOBODY, libc::EPOLL_CTL_DEL as usize, NOBODY, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_epoll_pwait, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_epoll_pwait2, [NOBODY, ROOM, 1, 0, 0], Anything),
    (libc::SYS_ppoll, [0, 0, ROOM, 0, 8], Done),
    (libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_SEQPACKET as usize, 0, 0, 0], Done),
    (libc::SYS_connect, [NOBODY, ROOM, 2, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_sendmsg, [NOBODY, ROOM, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_recvmsg, [NOBODY, ROOM, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_sendto, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_recvfrom, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_shutdown, [NOBODY, 0, 0, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_getsockopt, [NOBODY, libc::SOL_SOCKET as usize, libc::SO_TYPE as usize, ROOM, ROOM], Errno(libc::EBADF)),
    (libc::SYS_setsockopt, [NOBODY, libc::SOL_SOCKET as usize, libc::SO_LINGER as usize, ROOM, 8], Errno(libc::EBADF)),
    (libc::SYS_getsockname, [NOBODY, ROOM, ROOM, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_getpeername, [NOBODY, ROOM, ROOM, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_bind, [NOBODY, ROOM, 2, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_ioctl, [NOBODY, libc::TIOCOUTQ as usize, ROOM, 0, 0], Errno(libc::EBADF)),
    (libc::SYS_io_setup, [0, 0, 0, 0, 0], Anything),
    (libc::SYS_io_submit, [0, 0, 0, 0, 0], Anything),
    (libc::SYS_io_cancel, [0, 0, 0, 0, 0], Anything),
    (libc::SYS_io_destroy, [0, 0, 0, 0, 0], Anything),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, [0, 0, 0, 0, 0], Done),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, [NOBODY, ROOM, 1, 0, 0], Errno(libc::EBADF)),
];

/// How far the child came: calls that were answered as they should be.
fn all_may_be_made() -> bool {
    let Some(page) = sys::map_plainly_shared(size_of::<AtomicU32>()) else { return false };
    // SAFETY: a fresh page of zeroes, which is unmapped at the end.
    let came = unsafe { &*page.cast::<AtomicU32>() };
    // Suspended until the child is over, with memory of its own and no signal at its end: nobody but us hears of it.
    // SAFETY: as fork, but for the program's own handlers; the child makes system calls and ends.
    let child = unsafe { raw!(libc::SYS_clone, libc::CLONE_VFORK) };
    if child == 0 {
        for (at, &(number, arguments, says)) in CALLS.iter().enumerate() {
            if !is_answered(number, arguments, says) {
                break;
            }
            came.store(at as u32 + 1, Ordering::Relaxed);
        }
        // SAFETY: the child's end.
        unsafe { raw!(libc::SYS_exit_group, 0) };
    }
    let came_to = came.load(Ordering::Relaxed) as usize;
    if child > 0 && came_to > 0 {
        // The first that it tried.
        // SAFETY: our own child, no answer wanted.
        unsafe { raw!(libc::SYS_wait4, child, 0, libc::__WALL, 0) };
    }
    // SAFETY: nobody uses it any more.
    unsafe { sys::unmap(page, size_of::<AtomicU32>()) };
    if child > 0
        && let Some((number, ..)) = CALLS.get(came_to)
    {
        crate::log::info(format_args!("system call {number} is forbidden here"));
    }
    came_to == CALLS.len()
}

fn is_answered(number: c_long, arguments: [usize; 5], says: Says) -> bool {
    let mut room: Room = [0; 64];
    let place = room.as_mut_ptr().expose_provenance();
    let [a, b, c, d, e] = arguments.map(|argument| if argument == ROOM { place } else { argument });
    // SAFETY: by the table, arguments that do nothing, and room for an answer.
    let result = unsafe { raw!(number, a, b, c, d, e) };
    match says {
        Anything => true,
        Done => result >= 0,
        Errno(errno) => result < 0 && sys::errno() == errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table says of the kernel, in a child as ever.
    #[test]
    fn without_a_filter_every_call_is_answered_as_the_table_says() {
        assert!(all_may_be_made());
    }
}
