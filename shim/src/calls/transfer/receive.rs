//! Data out of a socket, into the application's memory.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::{as_message_flags, is_some, many, moved, or_native, vector};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::anchor;
use crate::switch::receive::{self, Sink};
use crate::{real, sys};

/// Receives that are about something else than the stream: always the kernel's.
const ASIDE: c_int = libc::MSG_OOB | libc::MSG_ERRQUEUE;

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn read(fd: c_int, buffer: *mut c_void, size: size_t) -> Outcome<ssize_t> {
    if size == 0 {
        // A read of nothing is that, whatever there is; a recv of nothing waits.
        return Outcome::Bypass;
    }
    let part = [iovec { iov_base: buffer, iov_len: size }];
    // SAFETY: the application's own call.
    take(fd, &part, 0, || unsafe { real::read(fd, buffer, size) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn readv(fd: c_int, parts: *const iovec, count: c_int) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let Some(list) = (unsafe { vector(parts, count) }).filter(|list| is_some(list)) else { return Outcome::Bypass };
    // SAFETY: the application's own call.
    take(fd, list, 0, || unsafe { real::readv(fd, parts, count) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pread(_fd: c_int, _buffer: *mut c_void, _size: size_t, _offset: off_t) -> Outcome<ssize_t> {
    // A socket has no offsets: the kernel says ESPIPE.
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn preadv(_fd: c_int, _parts: *const iovec, _count: c_int, _offset: off_t) -> Outcome<ssize_t> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn preadv2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let (Some(list), -1) = (unsafe { vector(parts, count) }, offset) else { return Outcome::Bypass };
    if !is_some(list) {
        return Outcome::Bypass;
    }
    // SAFETY: the application's own call.
    take(fd, list, as_message_flags(flags), || unsafe { real::preadv2(fd, parts, count, offset, flags) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn recv(fd: c_int, buffer: *mut c_void, size: size_t, flags: c_int) -> Outcome<ssize_t> {
    let part = [iovec { iov_base: buffer, iov_len: size }];
    // SAFETY: the application's own call.
    take(fd, &part, flags, || unsafe { real::recv(fd, buffer, size, flags) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn recvfrom(
    fd: c_int,
    buffer: *mut c_void,
    size: size_t,
    flags: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> Outcome<ssize_t> {
    let part = [iovec { iov_base: buffer, iov_len: size }];
    // SAFETY: the application's own call.
    let outcome = take(fd, &part, flags, || unsafe { real::recvfrom(fd, buffer, size, flags, address, length) });
    if let (Outcome::Done(_), false, false) = (outcome, address.is_null(), length.is_null()) {
        // TCP gives no address here; the kernel says so by its length.
        // SAFETY: by the caller.
        unsafe { *length = 0 };
    }
    outcome
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> Outcome<ssize_t> {
    if !sys::may_be_memory(message) {
        return Outcome::Bypass;
    }
    // SAFETY: by the caller.
    let header = unsafe { &mut *message };
    // SAFETY: by the caller.
    let Some(list) = (unsafe { vector(header.msg_iov, header.msg_iovlen as c_int) }) else { return Outcome::Bypass };
    let mut native = false;
    let outcome = take(fd, list, flags, || {
        native = true;
        // SAFETY: the application's own call.
        unsafe { real::recvmsg(fd, message, flags) }
    });
    if let (Outcome::Done(_), false) = (outcome, native) {
        if !header.msg_name.is_null() {
            header.msg_namelen = 0;
        }
        header.msg_controllen = 0;
        header.msg_flags = 0;
    }
    outcome
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> Outcome<c_int> {
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    if slot.stage() == Stage::Settled {
        return Outcome::Bypass;
    }
    // The kernel looks at the socket's error first, whatever there is to read.
    let kernels = anchor::socket_option::<i32>(fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0);
    let untold = slot.untold.swap(0, Ordering::AcqRel) as i32;
    if kernels != 0 || untold != 0 {
        slot.raise(flag::RESET_TOLD);
        return Outcome::Fail(if kernels != 0 { kernels } else { untold });
    }
    // SAFETY: by the caller.
    let limit = unsafe { timeout.as_ref() }.map(|t| t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64);
    let until = limit.map(|ns| sys::now_ns().saturating_add(ns));
    // SAFETY: by the caller, `count` messages.
    unsafe {
        many(
            messages,
            count,
            |header, done| {
                // The kernel looks at the time after each message, too.
                if done > 0 && until.is_some_and(|until| sys::now_ns() >= until) {
                    return Outcome::Fail(libc::EAGAIN);
                }
                let wait = done == 0 || flags & libc::MSG_WAITFORONE == 0;
                let flags = flags & !libc::MSG_WAITFORONE | if wait { 0 } else { libc::MSG_DONTWAIT };
                or_native(recvmsg(fd, header, flags), || real::recvmsg(fd, header, flags))
            },
            |_, _| false,
        )
    }
}

fn take(fd: RawFd, parts: &[iovec], flags: c_int, native: impl FnMut() -> ssize_t) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(fd).filter(|_| flags & ASIDE == 0) else { return Outcome::Bypass };
    let result = if !is_some(parts) {
        nothing(slot, fd, flags, native)
    } else if flags & libc::MSG_TRUNC != 0 {
        discard(slot, fd, parts, flags, native)
    } else {
        receive::receive(slot, fd, &mut Sink::new(parts), flags, native)
    };
    moved(slot, fd, result)
}

/// A recv of no bytes waits for one, and leaves it there. It says 0 whatever ended its sleep: its time-out and a signal, too.
fn nothing(slot: SlotRef, fd: RawFd, flags: c_int, native: impl FnMut() -> ssize_t) -> Result<usize, i32> {
    let mut byte = 0u8;
    let place = [iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 }];
    match receive::receive(slot, fd, &mut Sink::new(&place), flags | libc::MSG_PEEK, native) {
        Err(libc::EAGAIN) if flags & libc::MSG_DONTWAIT != 0 || anchor::is_non_blocking(slot, fd) => Err(libc::EAGAIN),
        Ok(_) | Err(libc::EAGAIN | libc::EINTR) => Ok(0),
        other => other,
    }
}

/// MSG_TRUNC on TCP: the bytes are taken and thrown away.
fn discard(
    slot: SlotRef,
    fd: RawFd,
    parts: &[iovec],
    flags: c_int,
    native: impl FnMut() -> ssize_t,
) -> Result<usize, i32> {
    const PIECE: usize = 64 << 10;
    const MOST: usize = 64 << 20;
    let wanted = Sink::new(parts).total.min(MOST);
    let mut nowhere = vec![0u8; wanted.min(PIECE)];
    // One place, as often as it takes.
    let nowhere = nowhere.as_mut_ptr();
    let place = |len| iovec { iov_base: nowhere.cast(), iov_len: len };
    let places: Vec<iovec> = (0..wanted).step_by(PIECE).map(|at| (wanted - at).min(PIECE)).map(place).collect();
    receive::receive(slot, fd, &mut Sink::new(&places), flags, native)
}
