//! Data in and out of a socket.

use std::os::fd::RawFd;

use tandem_protocol::Reason;

use super::process;
use crate::autobind::{self, record};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::stream::{LocalPort, Port, WState, Writer};
use crate::switch::receive::{self, Sink};
use crate::switch::send::{self, Source};
use crate::switch::{self, Conn};
use crate::{fd_table, meet, real, sys};

/// Receives that are about something else than the stream: always the kernel's.
const ASIDE: c_int = libc::MSG_OOB | libc::MSG_ERRQUEUE;
/// preadv2 and pwritev2: don't wait.
const RWF_NOWAIT: c_int = 8;

/// libc itself is about to read or write this descriptor, in a way that the switch cannot carry.
pub fn leave<R>(fd: c_int) -> Outcome<R> {
    if let Some(slot) = slot::of(fd) {
        hand_over(slot, fd, Reason::UnsupportedCall);
    }
    Outcome::Bypass
}

/// Waits until the kernel carries both directions, for good. How long a peer that computes may take for its answer is
/// bounded: after that whoever reads without the switch stalls, but never reads a foreign byte.
pub fn hand_over(slot: SlotRef, fd: RawFd, reason: Reason) {
    const LIMIT_NS: u64 = 5_000_000_000;
    const LOOK_NS: u64 = 200_000;
    if slot.stage() != Stage::Attached {
        return meet::settle(slot, reason);
    }
    let end = sys::now_ns() + LIMIT_NS;
    switch::leave(slot, fd, reason);
    let Some(conn) = Conn::of(slot, fd) else { return };
    while switch::ready::switched(slot) && slot.current() && sys::now_ns() < end {
        switch::ready::ask(&conn, switch::ready::IN | switch::ready::OUT);
        send::pump(&conn);
        sys::pause(LOOK_NS);
    }
    switch::refresh_row(slot);
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn read(fd: c_int, buffer: *mut c_void, size: size_t) -> Outcome<ssize_t> {
    let part = [iovec { iov_base: buffer, iov_len: size }];
    // SAFETY: the application's own call.
    take(fd, &part, 0, || unsafe { real::read(fd, buffer, size) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn readv(fd: c_int, parts: *const iovec, count: c_int) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let Some(list) = (unsafe { vector(parts, count) }) else { return Outcome::Bypass };
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
    let wait = if flags & RWF_NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the application's own call.
    take(fd, list, wait, || unsafe { real::preadv2(fd, parts, count, offset, flags) })
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
    // SAFETY: by the caller.
    let Some(header) = (unsafe { message.as_mut() }) else { return Outcome::Bypass };
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
    // SAFETY: by the caller.
    let limit = unsafe { timeout.as_ref() }.map(|t| t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64);
    let until = limit.map(|ns| sys::now_ns().saturating_add(ns));
    // SAFETY: by the caller, `count` messages.
    unsafe {
        many(messages, count, |header, done| {
            // The kernel looks at the time after each message, too.
            if done > 0 && until.is_some_and(|until| sys::now_ns() >= until) {
                return Outcome::Fail(libc::EAGAIN);
            }
            let wait = done == 0 || flags & libc::MSG_WAITFORONE == 0;
            let flags = flags & !libc::MSG_WAITFORONE | if wait { 0 } else { libc::MSG_DONTWAIT };
            or_native(recvmsg(fd, header, flags), || real::recvmsg(fd, header, flags))
        })
    }
}

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
    let Some(list) = (unsafe { vector(parts, count) }) else { return Outcome::Bypass };
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
    let wait = if flags & RWF_NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the application's own call.
    give(fd, list, wait, || unsafe { real::pwritev2(fd, parts, count, offset, flags) })
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
            super::connect::by_fast_open(fd, address, length, || real::sendto(fd, buffer, size, flags, address, length))
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
    // SAFETY: by the caller.
    let Some(header) = (unsafe { message.as_ref() }) else { return Outcome::Bypass };
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
        return unsafe { super::connect::by_fast_open(fd, header.msg_name.cast(), header.msg_namelen, native) };
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
        many(messages, count, |header, _| or_native(sendmsg(fd, header, flags), || real::sendmsg(fd, header, flags)))
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn sendfile(out: c_int, input: c_int, offset: *mut off_t, size: size_t) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(out).filter(|_| !fd_table::is_plain(out)) else { return Outcome::Bypass };
    let mut source = File { input, offset, left: size.min(MOST), sent: 0, whole: size };
    match send::send(slot, out, &mut source, 0) {
        Ok(n) => Outcome::Done(n as ssize_t),
        Err(errno) => Outcome::Fail(errno),
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn splice(
    input: c_int,
    _input_offset: *mut i64,
    out: c_int,
    _out_offset: *mut i64,
    _size: size_t,
    _flags: c_uint,
) -> Outcome<ssize_t> {
    both_leave(input, out)
}

pub fn tee(input: c_int, out: c_int, _size: size_t, _flags: c_uint) -> Outcome<ssize_t> {
    both_leave(input, out)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn vmsplice(fd: c_int, _parts: *const iovec, _count: size_t, _flags: c_uint) -> Outcome<ssize_t> {
    leave(fd)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn copy_file_range(
    input: c_int,
    _input_offset: *mut i64,
    out: c_int,
    _out_offset: *mut i64,
    _size: size_t,
    _flags: c_uint,
) -> Outcome<ssize_t> {
    both_leave(input, out)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn lio_listio(_mode: c_int, list: *const *mut aiocb, count: c_int, _event: *mut sigevent) -> Outcome<c_int> {
    for at in 0..count.max(0) as usize {
        // SAFETY: by the caller, `count` control blocks, some of them null.
        if let Some(block) = unsafe { (*list.add(at)).as_ref() } {
            let _: Outcome<c_int> = leave(block.aio_fildes);
        }
    }
    Outcome::Bypass
}

fn both_leave(one: c_int, other: c_int) -> Outcome<ssize_t> {
    let _: Outcome<ssize_t> = leave(one);
    leave(other)
}

/// What one call moves at most (Linux's MAX_RW_COUNT).
const MOST: usize = 0x7fff_f000;

fn take(fd: RawFd, parts: &[iovec], flags: c_int, native: impl FnMut() -> ssize_t) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(fd).filter(|_| flags & ASIDE == 0) else { return Outcome::Bypass };
    let outcome = if flags & libc::MSG_TRUNC != 0 {
        discard(slot, fd, parts, flags, native)
    } else {
        receive::receive(slot, fd, &mut Sink::new(parts), flags, native)
    };
    match outcome {
        Ok(n) => Outcome::Done(n as ssize_t),
        Err(errno) => Outcome::Fail(errno),
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
    let wanted = Sink::new(parts).total;
    let mut nowhere = vec![0u8; wanted.clamp(1, 64 << 10)];
    let place = [iovec { iov_base: nowhere.as_mut_ptr().cast(), iov_len: wanted.min(nowhere.len()) }];
    receive::receive(slot, fd, &mut Sink::new(&place), flags, native)
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
    let mut source = Memory { parts, part: 0, at: 0, left, sent: 0, flags, native };
    match send::send(slot, fd, &mut source, flags) {
        Ok(n) => Outcome::Done(n as ssize_t),
        Err(errno) => Outcome::Fail(errno),
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
    (!parts.is_null()).then(|| unsafe { std::slice::from_raw_parts(parts, count) })
}

fn or_native(outcome: Outcome<ssize_t>, native: impl FnOnce() -> ssize_t) -> Outcome<ssize_t> {
    match outcome {
        Outcome::Bypass => Outcome::of(native()),
        other => other,
    }
}

/// One message after the other, as the kernel does it: an error counts only when nothing was done before it.
///
/// # Safety
/// `count` messages.
unsafe fn many(
    messages: *mut mmsghdr,
    count: c_uint,
    mut one: impl FnMut(*mut msghdr, usize) -> Outcome<ssize_t>,
) -> Outcome<c_int> {
    if messages.is_null() {
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
                if n == 0 {
                    break;
                }
            }
            Outcome::Fail(errno) if done == 0 => return Outcome::Fail(errno),
            Outcome::Fail(_) | Outcome::Bypass => break,
        }
    }
    Outcome::Done(done as c_int)
}

/// The application's memory.
struct Memory<'a, F> {
    parts: &'a [iovec],
    part: usize,
    at: usize,
    left: usize,
    sent: usize,
    flags: c_int,
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
        let mut put = 0;
        while let Some(part) = self.parts.get(self.part) {
            if self.at == part.iov_len {
                self.part += 1;
                self.at = 0;
                continue;
            }
            let from = part.iov_base.cast::<u8>().wrapping_add(self.at);
            // SAFETY: the application gave that many bytes there.
            let n = unsafe { writer.write(port, from, part.iov_len - self.at) };
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
        if self.sent == 0 {
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

/// A file, as sendfile has it.
struct File {
    input: RawFd,
    /// Null: the file's own position.
    offset: *mut off_t,
    left: usize,
    sent: usize,
    whole: usize,
}

impl File {
    /// # Safety
    /// `to` has room for `len` bytes.
    unsafe fn fill(&mut self, to: *mut u8, len: usize) -> ssize_t {
        // SAFETY: by the caller; `offset` is the application's.
        unsafe {
            if self.offset.is_null() {
                return real::read(self.input, to.cast(), len);
            }
            let n = real::pread(self.input, to.cast(), len, *self.offset);
            if n > 0 {
                *self.offset += n as off_t;
            }
            n
        }
    }
}

impl Source for File {
    fn left(&self) -> usize {
        self.left
    }

    fn sent(&self) -> usize {
        self.sent
    }

    fn put(&mut self, writer: &mut Writer, port: &LocalPort<'static>) -> Result<usize, i32> {
        let mut put = 0;
        while self.left > 0 && writer.state() == WState::Ring {
            let Some(region) = writer.reserve(port, self.left.min(64 << 10)) else { break };
            // SAFETY: the region was reserved for us.
            let n = unsafe { self.fill(region.ptr, region.len) };
            match n {
                1.. => {
                    writer.commit(port, n as usize);
                    put += n as usize;
                    self.left -= n as usize;
                    self.sent += n as usize;
                }
                0 => {
                    self.left = 0;
                }
                _ if put > 0 || self.sent > 0 => {
                    self.left = 0;
                }
                _ => return Err(sys::errno()),
            }
        }
        port.fence();
        Ok(put)
    }

    fn kernel(&mut self, fd: RawFd) -> isize {
        let size = if self.sent == 0 { self.whole } else { self.left };
        // SAFETY: the application's own call, for what is left of it.
        unsafe { real::sendfile(fd, self.input, self.offset, size) }
    }
}
