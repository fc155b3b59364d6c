//! TCP: before its connect, and after one that failed.

use std::os::fd::RawFd;

use libc::{c_int, sockaddr, socklen_t};
use tandem_protocol::assignment::Decision;

use super::destination::Destination;
use super::record::{Record, is};
use super::{assignment, bind};
use crate::real;

/// Errors by which the kernel says at once that it has no way from where we bound.
pub const NO_WAY: [c_int; 4] = [libc::ENETUNREACH, libc::ENODEV, libc::EADDRNOTAVAIL, libc::EINVAL];

/// Before the first packet, by connect or by a first send that connects. An error is the application's to see.
///
/// # Safety
/// Null, or `length` readable bytes.
pub unsafe fn before_connect(
    record: &Record,
    fd: RawFd,
    address: *const sockaddr,
    length: socklen_t,
) -> Result<(), c_int> {
    assignment::occasion();
    // SAFETY: by the caller.
    let Destination::Ip(destination) = (unsafe { Destination::of(address, length) }) else { return Ok(()) };
    if record.has(is::EXPLICIT) {
        return Ok(());
    }
    if !record.raise(is::DECIDED) && !record.has(is::SERVED) {
        // Left alone once, left alone for good.
        return Ok(());
    }
    match assignment::look_up(destination) {
        Decision::Bind(binding) if bind::allowed(record, &binding) => {
            record.raise(is::SERVED);
            if !record.has(is::OUR_ADDRESS | is::OUR_DEVICE) {
                bind::by_policy(record, fd, &binding);
            }
            if binding.existing_fail {
                record.raise(is::FAILS);
            }
            Ok(())
        }
        // Not under a connect that is already on its way.
        Decision::NetDown if !record.has(is::OUR_ADDRESS | is::OUR_DEVICE) => {
            record.raise(is::SERVED);
            Err(libc::ENETDOWN)
        }
        Decision::NetDown => Ok(()),
        // The same socket, now to somewhere that the interface does not serve.
        _ => {
            bind::undo(record, fd);
            Ok(())
        }
    }
}

/// After a connect that failed at once with this error: the socket is as the application left it. True when it may be tried
/// again, natively: what we bound to was no way there.
pub fn after_failure(record: &Record, fd: RawFd, errno: c_int) -> bool {
    let under_way = matches!(errno, libc::EINPROGRESS | libc::EINTR | libc::EALREADY | libc::EISCONN);
    if under_way || !record.has(is::OUR_ADDRESS | is::OUR_DEVICE) {
        return false;
    }
    bind::undo(record, fd);
    NO_WAY.contains(&errno) && !record.has(is::OUR_ADDRESS | is::OUR_DEVICE)
}

/// After connect(AF_UNSPEC): the kernel has let go of the port, and would keep our address.
///
/// # Safety
/// As [`before_connect`].
pub unsafe fn dissolved(record: &Record, fd: RawFd, address: *const sockaddr, length: socklen_t) {
    // SAFETY: by the caller.
    if record.has(is::OUR_ADDRESS) && unsafe { Destination::of(address, length) } == Destination::Unspecified {
        bind::undo(record, fd);
    }
}

/// What an error of the kernel's means on a connection: policyd can only have it aborted when its interface goes, and the
/// program is to be told what it was.
#[inline]
pub fn ended(record: &Record, fd: RawFd, errno: c_int) -> c_int {
    if errno == libc::ECONNABORTED && is_down(record, fd) { libc::ENETDOWN } else { errno }
}

#[cold]
fn is_down(record: &Record, fd: RawFd) -> bool {
    let concerns = record.has(is::FAILS) && record.has(is::OUR_ADDRESS | is::OUR_DEVICE);
    concerns && bind::own_address(fd).is_some_and(|source| !assignment::has_source(source))
}

/// connect, bound before and undone after where it comes to nothing; the errno is the kernel's.
///
/// # Safety
/// The arguments of connect.
pub unsafe fn connect(record: &Record, fd: RawFd, address: *const sockaddr, length: socklen_t) -> Result<(), c_int> {
    // SAFETY: by the caller, here and below.
    let native =
        || unsafe { if real::connect(fd, address, length) == 0 { Ok(()) } else { Err(crate::outcome::errno()) } };
    // SAFETY: by the caller.
    unsafe { before_connect(record, fd, address, length)? };
    match native() {
        Ok(()) => {
            // SAFETY: by the caller.
            unsafe { dissolved(record, fd, address, length) };
            Ok(())
        }
        // Asked before the address is taken back.
        Err(libc::ECONNABORTED) => {
            let errno = ended(record, fd, libc::ECONNABORTED);
            after_failure(record, fd, errno);
            Err(errno)
        }
        Err(errno) if after_failure(record, fd, errno) => native(),
        failure => failure,
    }
}
