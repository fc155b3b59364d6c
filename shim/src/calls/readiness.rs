//! Waiting for many descriptors: poll, select, epoll. The wait itself is in `switch::watch` and `epoll`.

use crate::epoll::{self, Limit};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::switch::watch;
use crate::{real, sys};

const NS_A_MS: u64 = 1_000_000;

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn poll(entries: *mut pollfd, count: nfds_t, timeout: c_int) -> Outcome<c_int> {
    let limit = u64::try_from(timeout).ok().map(|ms| ms * NS_A_MS);
    // SAFETY: by the caller.
    unsafe { watch::poll(entries, count as usize, limit, std::ptr::null()) }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn ppoll(
    entries: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let Ok(limit) = (unsafe { nanoseconds(timeout) }) else { return Outcome::Bypass };
    // SAFETY: by the caller.
    unsafe { watch::poll(entries, count as usize, limit, mask) }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn select(
    count: c_int,
    reads: *mut fd_set,
    writes: *mut fd_set,
    excepts: *mut fd_set,
    timeout: *mut timeval,
) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let given = unsafe { timeout.as_mut() };
    let limit = match &given {
        None => None,
        Some(time) if time.tv_sec < 0 || time.tv_usec < 0 => return Outcome::Bypass,
        Some(time) => Some((time.tv_sec as u64).saturating_mul(1_000_000_000) + time.tv_usec as u64 * 1_000),
    };
    let began = sys::now_ns();
    // SAFETY: by the caller.
    let outcome = unsafe { watch::select(count, [reads, writes, excepts], limit, std::ptr::null()) };
    if let (Some(time), Some(limit)) = (given, limit) {
        // Linux says what is left of the time.
        let left = limit.saturating_sub(sys::now_ns() - began);
        time.tv_sec = (left / 1_000_000_000) as libc::time_t;
        time.tv_usec = (left % 1_000_000_000 / 1_000) as libc::suseconds_t;
    }
    outcome
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pselect(
    count: c_int,
    reads: *mut fd_set,
    writes: *mut fd_set,
    excepts: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let Ok(limit) = (unsafe { nanoseconds(timeout) }) else { return Outcome::Bypass };
    // SAFETY: by the caller.
    unsafe { watch::select(count, [reads, writes, excepts], limit, mask) }
}

pub fn epoll_create(size: c_int) -> Outcome<c_int> {
    // SAFETY: numbers only.
    made(unsafe { real::epoll_create(size) })
}

pub fn epoll_create1(flags: c_int) -> Outcome<c_int> {
    // SAFETY: numbers only.
    made(unsafe { real::epoll_create1(flags) })
}

fn made(fd: c_int) -> Outcome<c_int> {
    if fd >= 0 {
        if !crate::fd_table::is_untracked(fd) {
            super::lifecycle::appeared(fd);
        }
        epoll::create(fd);
    }
    Outcome::of(fd)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn epoll_ctl(set: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> Outcome<c_int> {
    // SAFETY: by the caller.
    unsafe { epoll::control(set, operation, fd, event) }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn epoll_wait(set: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> Outcome<c_int> {
    // SAFETY: by the caller.
    unsafe { epoll_pwait(set, events, count, timeout, std::ptr::null()) }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn epoll_pwait(
    set: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    // SAFETY: by the caller.
    unsafe { epoll::wait(set, events, count, Limit::Milliseconds(timeout), mask) }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn epoll_pwait2(
    set: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let Ok(limit) = (unsafe { nanoseconds(timeout) }) else { return Outcome::Bypass };
    // SAFETY: by the caller.
    unsafe { epoll::wait(set, events, count, Limit::Time(limit), mask) }
}

/// `Err`: a time that the kernel refuses.
///
/// # Safety
/// Null or a time.
unsafe fn nanoseconds(time: *const timespec) -> Result<Option<u64>, ()> {
    // SAFETY: by the caller.
    match unsafe { time.as_ref() } {
        None => Ok(None),
        Some(t) if t.tv_sec < 0 || !(0..1_000_000_000).contains(&t.tv_nsec) => Err(()),
        Some(t) => Ok(Some((t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64))),
    }
}
