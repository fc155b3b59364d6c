//! Data in and out of a socket.
//!
//! - `receive`, `send`: read, write and their kin, with the application's memory
//! - `between`: sendfile; `splice`: pipes
//! - `leave`: what the switch cannot carry: the connection is the kernel's before it happens

mod between;
mod leave;
mod receive;
mod send;
mod splice;

// Only hooks call these, and a test binary has none.
#[cfg_attr(test, allow(unused_imports))]
pub use between::*;
pub use leave::*;
pub use receive::*;
pub use send::*;
#[cfg_attr(test, allow(unused_imports))]
pub use splice::*;

use std::os::fd::RawFd;

use crate::autobind;
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::SlotRef;
use crate::sys;

/// What recv and send call the flags of preadv2 and pwritev2.
fn as_message_flags(flags: c_int) -> c_int {
    const RWF_NOWAIT: c_int = 8;
    if flags & RWF_NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 }
}

/// Bytes moved by the switch, or its errno.
fn moved(slot: SlotRef, fd: RawFd, result: Result<usize, i32>) -> Outcome<ssize_t> {
    match result {
        Ok(n) => Outcome::Done(n as ssize_t),
        Err(errno) => Outcome::Fail(autobind::stream::ended(&slot.slot.autobind, fd, errno)),
    }
}

/// # Safety
/// `count` entries at `parts`, or what the kernel would refuse.
unsafe fn vector<'a>(parts: *const iovec, count: c_int) -> Option<&'a [iovec]> {
    let count = usize::try_from(count).ok().filter(|&n| n <= libc::UIO_MAXIOV as usize)?;
    if count == 0 {
        return Some(&[]);
    }
    // SAFETY: by the caller.
    let list = sys::may_be_memory(parts).then(|| unsafe { std::slice::from_raw_parts(parts, count) })?;
    // A length below zero: the kernel says EINVAL.
    list.iter().all(|part| isize::try_from(part.iov_len).is_ok()).then_some(list)
}

/// A readv or writev of nothing never comes to the socket.
fn is_some(parts: &[iovec]) -> bool {
    parts.iter().any(|part| part.iov_len > 0)
}

fn or_native(outcome: Outcome<ssize_t>, native: impl FnOnce() -> ssize_t) -> Outcome<ssize_t> {
    match outcome {
        Outcome::Bypass => Outcome::of(native()),
        other => other,
    }
}

/// One message after the other, as the kernel does it, up to the `last`: an error counts only when nothing was done before it.
///
/// # Safety
/// `count` messages.
unsafe fn many(
    messages: *mut mmsghdr,
    count: c_uint,
    mut one: impl FnMut(*mut msghdr, usize) -> Outcome<ssize_t>,
    last: impl Fn(&msghdr, usize) -> bool,
) -> Outcome<c_int> {
    if !sys::may_be_memory(messages) {
        return Outcome::Bypass;
    }
    let mut done = 0;
    while done < count.min(libc::UIO_MAXIOV as c_uint) as usize {
        // SAFETY: by the caller.
        let message = unsafe { &mut *messages.add(done) };
        match one(&mut message.msg_hdr, done) {
            Outcome::Done(n) => {
                message.msg_len = n as c_uint;
                done += 1;
                if last(&message.msg_hdr, n as usize) {
                    break;
                }
            }
            Outcome::Fail(errno) if done == 0 => return Outcome::Fail(errno),
            Outcome::Fail(_) | Outcome::Bypass => break,
        }
    }
    Outcome::Done(done as c_int)
}
