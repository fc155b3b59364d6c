//! Descriptors of our own that the application must neither see nor run into.
//!
//! They stand above the application's soft RLIMIT_NOFILE where the hard limit lets us raise it for a moment (numbers
//! beyond the limit stay usable after it is lowered again), so the application meets EMFILE exactly where it would
//! without us. Where the soft limit is large they stand in one high block instead, so that the kernel's table stays small.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::fd_table::{self, Entry};
use crate::real;

/// With a soft limit above this, ours start here and the limit is left alone.
const HIGH_BLOCK: u64 = 3_968;
/// An application with so few numbers counts them.
const SMALL: u64 = 1_024;
/// Room above a small soft limit.
const ABOVE: u64 = 2_048;

/// One past the highest number we ever used.
static CEILING: AtomicI32 = AtomicI32::new(0);

pub fn ceiling() -> RawFd {
    CEILING.load(Ordering::Relaxed)
}

/// Moves a fresh descriptor of ours out of the application's way, CLOEXEC, marked as hidden. On failure the original
/// is closed: ours is never left among the application's numbers.
pub fn hide(fd: RawFd) -> Option<RawFd> {
    let moved = with_room(|first| {
        // SAFETY: F_DUPFD_CLOEXEC only makes a new number for our own descriptor.
        unsafe { real::fcntl(fd, libc::F_DUPFD_CLOEXEC, first as usize) }
    });
    // SAFETY: `fd` is ours and is not used again.
    unsafe { real::close(fd) };
    if moved < 0 {
        return None;
    }
    fd_table::set(moved, Entry::Hidden);
    CEILING.fetch_max(moved + 1, Ordering::Relaxed);
    Some(moved)
}

/// Runs `make` (which may create descriptors) while there is room for them whatever the application has open.
pub fn with_room<R>(make: impl FnOnce(RawFd) -> R) -> R {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit64 on ourselves with valid places.
    let known = unsafe { libc::prlimit64(0, libc::RLIMIT_NOFILE, std::ptr::null(), &mut old) } == 0;
    if !known || old.rlim_cur >= HIGH_BLOCK + 128 {
        return make(HIGH_BLOCK as RawFd);
    }
    let wanted = old.rlim_cur + ABOVE;
    // Beyond the hard limit only with CAP_SYS_RESOURCE; up to it for anybody.
    let done = [wanted, wanted.min(old.rlim_max)].into_iter().any(|soft| {
        let raised = libc::rlimit64 { rlim_cur: soft, rlim_max: old.rlim_max.max(soft) };
        // SAFETY: as above.
        soft > old.rlim_cur && unsafe { libc::prlimit64(0, libc::RLIMIT_NOFILE, &raised, std::ptr::null_mut()) } == 0
    });
    // No room above: ours take from the top of the application's own range, unless that is so small that it would miss them
    // (then there is none for us: F_DUPFD fails, and the connection stays on TCP).
    let first = if done || old.rlim_cur < SMALL { old.rlim_cur } else { old.rlim_cur - 64 };
    let result = make(first as RawFd);
    if done {
        // SAFETY: as above; the limits go back to what the application had.
        unsafe { libc::prlimit64(0, libc::RLIMIT_NOFILE, &old, std::ptr::null_mut()) };
    }
    result
}

/// Closes one of ours.
pub fn close(fd: RawFd) {
    if fd >= 0 {
        fd_table::clear(fd);
        // SAFETY: the number was handed out by `hide` and its owner gives it up here.
        unsafe { real::close(fd) };
    }
}

/// The application wants this very number. The descriptor behind it moves where that can be done; false where not.
pub fn make_way(fd: RawFd) -> bool {
    crate::meet::gives_up(fd)
}
