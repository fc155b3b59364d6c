//! Data from the application's memory into a socket.

use std::os::fd::RawFd;

use tandem_protocol::Reason;

use super::{as_message_flags, hand_over, is_some, many, moved, or_native, vector};
use crate::autobind::{self, record};
use crate::calls::{connect, process};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, flag};
use crate::stream::{LocalPort, Writer};
use crate::switch;
use crate::switch::receive::Sink;
use crate::switch::send::{self, Source};
use crate::{fd_table, real, sys};

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn write(fd: c_int, buffer: *const c_void, size: size_t) -> Outcome<ssize_t> {
    let part = [iovec { iov_base: buffer.cast_mut(), iov_len: size }];
    // SAFETY: the application's own call.
    give(fd, &part, 0, || unsafe { real::write(fd, buffer, size) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn writev(fd: c_int, parts: *const iovec, count: c_int) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let Some(list) = (unsafe { vector(parts, count) }).filter(|list| is_some(list)) else { return Outcome::Bypass };
    // SAFETY: the application's own call.
    give(fd, list, 0, || unsafe { real::writev(fd, parts, count) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pwrite(_fd: c_int, _buffer: *const c_void, _size: size_t, _offset: off_t) -> Outcome<ssize_t> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pwritev(_fd: c_int, _parts: *const iovec, _count: c_int, _offset: off_t) -> Outcome<ssize_t> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pwritev2(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let (Some(list), -1) = (unsafe { vector(parts, count) }, offset) else { return Outcome::Bypass };
    if !is_some(list) {
        return Outcome::Bypass;
    }
    // SAFETY: the application's own call.
    give(fd, list, as_message_flags(flags), || unsafe { real::pwritev2(fd, parts, count, offset, flags) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn send(fd: c_int, buffer: *const c_void, size: size_t, flags: c_int) -> Outcome<ssize_t> {
    let part = [iovec { iov_base: buffer.cast_mut(), iov_len: size }];
    // SAFETY: the application's own call.
    give(fd, &part, flags, || unsafe { real::send(fd, buffer, size, flags) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn sendto(
    fd: c_int,
    buffer: *const c_void,
    size: size_t,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> Outcome<ssize_t> {
    if let Some(record) = record::of_datagram(fd) {
        // SAFETY: the application's own call.
        return unsafe { autobind::message::sendto(record, fd, buffer, size, flags, address, length) };
    }
    if flags & libc::MSG_FASTOPEN != 0 {
        // SAFETY: the application's own call.
        return unsafe {
            connect::by_fast_open(fd, address, length, || real::sendto(fd, buffer, size, flags, address, length))
        };
    }
    if fd_table::is_plain(fd) {
        return Outcome::Bypass;
    }
    let part = [iovec { iov_base: buffer.cast_mut(), iov_len: size }];
    // An address is ignored by a connected TCP socket.
    // SAFETY: the application's own call.
    give(fd, &part, flags, || unsafe { real::sendto(fd, buffer, size, flags, address, length) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> Outcome<ssize_t> {
    if !sys::may_be_memory(message) {
        return Outcome::Bypass;
    }
    // SAFETY: by the caller.
    let header = unsafe { &*message };
    if header.msg_controllen != 0 {
        // SAFETY: by the caller.
        unsafe { process::descriptors_leave(header) };
    }
    if let Some(record) = record::of_datagram(fd) {
        // SAFETY: the application's own call.
        return unsafe { autobind::message::sendmsg(record, fd, header, flags) };
    }
    // SAFETY: the application's own call.
    let native = || unsafe { real::sendmsg(fd, message, flags) };
    if flags & libc::MSG_FASTOPEN != 0 {
        // SAFETY: by the caller.
        return unsafe { connect::by_fast_open(fd, header.msg_name.cast(), header.msg_namelen, native) };
    }
    if fd_table::is_plain(fd) {
        return Outcome::Bypass;
    }
    if header.msg_controllen != 0
        && let Some(slot) = slot::of(fd)
    {
        hand_over(slot, fd, Reason::UnsupportedCall);
        return Outcome::Bypass;
    }
    // SAFETY: by the caller.
    let Some(list) = (unsafe { vector(header.msg_iov, header.msg_iovlen as c_int) }) else { return Outcome::Bypass };
    give(fd, list, flags, native)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome<c_int> {
    if let Some(record) = record::of_datagram(fd) {
        // SAFETY: the application's own call.
        return unsafe { autobind::message::sendmmsg(record, fd, messages, count, flags) };
    }
    if fd_table::is_plain(fd) && flags & libc::MSG_FASTOPEN == 0 {
        for at in 0..count as usize {
            // SAFETY: by the caller, `count` messages.
            unsafe { process::descriptors_leave(&(*messages.add(at)).msg_hdr) };
        }
        return Outcome::Bypass;
    }
    // SAFETY: by the caller, `count` messages.
    unsafe {
        many(
            messages,
            count,
            |header, _| or_native(sendmsg(fd, header, flags), || real::sendmsg(fd, header, flags)),
            // A message that did not go whole is the last.
            |header, n| {
                vector(header.msg_iov, header.msg_iovlen as c_int).is_some_and(|list| n < Sink::new(list).total)
            },
        )
    }
}

fn give(fd: RawFd, parts: &[iovec], flags: c_int, native: impl FnMut() -> ssize_t) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    if flags & libc::MSG_OOB != 0 {
        // The urgent byte shifts the kernel's count: the direction is the kernel's before it is sent.
        slot.raise(flag::URGENT);
        switch::give_up(slot, Reason::UrgentData);
    }
    if flags & libc::MSG_ZEROCOPY != 0 {
        switch::give_up(slot, Reason::UnsupportedCall);
    }
    let left = Sink::new(parts).total;
    let absent = parts.iter().any(|part| part.iov_len > 0 && !sys::may_be_memory(part.iov_base));
    let mut source = Memory { fd, parts, part: 0, at: 0, left, sent: 0, flags, absent, native };
    moved(slot, fd, send::send(slot, fd, &mut source, flags))
}

/// The application's memory.
struct Memory<'a, F> {
    fd: RawFd,
    parts: &'a [iovec],
    part: usize,
    at: usize,
    left: usize,
    sent: usize,
    flags: c_int,
    /// Some of it is no memory: the kernel takes nothing then, but for long messages.
    absent: bool,
    native: F,
}

impl<F: FnMut() -> ssize_t> Source for Memory<'_, F> {
    fn left(&self) -> usize {
        self.left
    }

    fn sent(&self) -> usize {
        self.sent
    }

    fn put(&mut self, writer: &mut Writer, port: &LocalPort<'static>) -> Result<usize, i32> {
        if self.absent {
            return Err(libc::EFAULT);
        }
        let (mut put, most) = (0, writer.stride());
        while put < most
            && let Some(part) = self.parts.get(self.part)
        {
            if self.at == part.iov_len {
                self.part += 1;
                self.at = 0;
                continue;
            }
            let from = part.iov_base.cast::<u8>().wrapping_add(self.at);
            // SAFETY: the application gave that many bytes there.
            let n = unsafe { writer.write(port, from, (part.iov_len - self.at).min(most - put)) };
            if n == 0 {
                break;
            }
            self.at += n;
            put += n;
        }
        self.left -= put;
        self.sent += put;
        Ok(put)
    }

    fn kernel(&mut self, fd: RawFd) -> isize {
        if self.sent == 0 && fd == self.fd {
            return (self.native)();
        }
        let mut rest = self.parts.get(self.part..).unwrap_or(&[]).to_vec();
        if let Some(first) = rest.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(self.at);
            first.iov_len -= self.at;
        }
        // SAFETY: all-zero is a valid msghdr; the parts are the application's.
        unsafe {
            let mut message: msghdr = std::mem::zeroed();
            message.msg_iov = rest.as_mut_ptr();
            message.msg_iovlen = rest.len();
            real::sendmsg(fd, &message, self.flags)
        }
    }
}
