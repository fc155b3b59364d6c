//! Between a socket and a pipe: by a copy where the switch carries the direction, else the kernel's own splice.

use std::os::fd::RawFd;

use super::moved;
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef};
use crate::stream::{LocalPort, Port, Writer};
use crate::switch::receive::{self, Sink};
use crate::switch::send::{self, Source};
use crate::switch::{Conn, anchor};
use crate::{fd_table, real, sys};

/// What one call moves at most where it copies: a pipe holds that by default.
const MOST: usize = 64 << 10;
/// A pipe that has room has room for a page.
const PAGE: usize = 4096;

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn splice(
    input: c_int,
    input_offset: *mut i64,
    out: c_int,
    out_offset: *mut i64,
    size: size_t,
    flags: c_uint,
) -> Outcome<ssize_t> {
    // SAFETY: the application's own call.
    let native = |size| unsafe { real::splice(input, input_offset, out, out_offset, size, flags) };
    // Neither a socket nor a pipe has offsets: the kernel refuses those, and two sockets.
    if !input_offset.is_null() || !out_offset.is_null() || size == 0 {
        return Outcome::Bypass;
    }
    let no_wait = flags & libc::SPLICE_F_NONBLOCK != 0;
    let carried = |fd| slot::of(fd).filter(|_| !fd_table::is_plain(fd));
    match (carried(input), carried(out)) {
        (Some(slot), None) if capacity(out).is_some() => {
            moved(slot, input, into_pipe(slot, input, out, size, no_wait, native))
        }
        (None, Some(slot)) if capacity(input).is_some() => moved(slot, out, out_of_pipe(slot, input, out, size, flags)),
        _ => Outcome::Bypass,
    }
}

fn into_pipe(
    slot: SlotRef,
    input: RawFd,
    out: RawFd,
    size: usize,
    no_wait: bool,
    native: impl Fn(usize) -> ssize_t,
) -> Result<usize, i32> {
    // The pipe is looked at first, as the kernel does it.
    await_pipe(out, libc::POLLOUT, no_wait)?;
    if let Some(conn) = Conn::of(slot, input) {
        receive::attend(&conn);
    }
    if anchor::at_mark(input) {
        // No splice goes past an urgent byte: the kernel moves nothing, and knows what to say.
        return usize::try_from(native(size)).map_err(|_| sys::errno());
    }
    let room = if waiting(out) == 0 { capacity(out).unwrap_or(PAGE).min(MOST) } else { PAGE };
    let mut bytes = vec![0u8; size.min(room)];
    let place = [iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    let mut by_kernel = false;
    let taken = receive::receive(slot, input, &mut Sink::new(&place), receive::WHATEVER_COMES, || {
        by_kernel = true;
        native(size)
    })?;
    if by_kernel || taken == 0 {
        return Ok(taken);
    }
    let mut put = 0;
    while let Some(rest) = bytes.get(put..taken).filter(|rest| !rest.is_empty()) {
        // Only another writer of the same pipe can make this wait, or its reader's end fail it.
        // SAFETY: the rest of what was taken.
        match unsafe { real::write(out, rest.as_ptr().cast(), rest.len()) } {
            n @ 1.. => put += n as usize,
            _ if sys::errno() == libc::EINTR => {}
            _ if sys::errno() == libc::EAGAIN => await_pipe(out, libc::POLLOUT, false)?,
            _ => return Err(sys::errno()),
        }
    }
    Ok(taken)
}

fn out_of_pipe(slot: SlotRef, input: RawFd, out: RawFd, size: usize, flags: c_uint) -> Result<usize, i32> {
    let no_wait = flags & libc::SPLICE_F_NONBLOCK != 0;
    await_pipe(input, libc::POLLIN, no_wait)?;
    let left = waiting(input).min(size);
    if left == 0 {
        // Its writers are gone.
        return Ok(0);
    }
    let mut source = Pipe { input, left, sent: 0, size, flags };
    send::send(slot, out, &mut source, if no_wait { libc::MSG_DONTWAIT } else { 0 })
}

/// As much of a pipe as there was in it.
struct Pipe {
    input: RawFd,
    left: usize,
    sent: usize,
    size: usize,
    flags: c_uint,
}

impl Source for Pipe {
    fn left(&self) -> usize {
        self.left
    }

    fn sent(&self) -> usize {
        self.sent
    }

    fn put(&mut self, writer: &mut Writer, port: &LocalPort<'static>) -> Result<usize, i32> {
        let mut put = 0;
        while self.left > 0 {
            let Some(region) = writer.reserve(port, self.left.min(MOST)) else { break };
            // Another reader may have emptied the pipe: nothing may sleep here.
            let there = waiting(self.input).min(region.len);
            // SAFETY: the region was reserved for us.
            let n = if there == 0 { 0 } else { unsafe { real::read(self.input, region.ptr.cast(), there) } };
            let Ok(n @ 1..) = usize::try_from(n) else {
                self.left = 0;
                break;
            };
            writer.commit(port, n);
            put += n;
            self.left -= n;
            self.sent += n;
        }
        port.fence();
        Ok(put)
    }

    fn kernel(&mut self, fd: RawFd) -> isize {
        let (nowhere, size) = (std::ptr::null_mut(), if self.sent == 0 { self.size } else { self.left });
        // SAFETY: the application's own call, for what is left of it.
        unsafe { real::splice(self.input, nowhere, fd, nowhere, size, self.flags) }
    }
}

/// A pipe's size; `None`: no pipe.
fn capacity(fd: RawFd) -> Option<usize> {
    // SAFETY: F_GETPIPE_SZ has no argument.
    usize::try_from(unsafe { real::fcntl(fd, libc::F_GETPIPE_SZ, 0) }).ok()
}

fn waiting(pipe: RawFd) -> usize {
    let mut n: c_int = 0;
    // SAFETY: the request writes one int.
    unsafe { real::ioctl(pipe, libc::FIONREAD, (&raw mut n) as usize) };
    usize::try_from(n).unwrap_or(0)
}

/// Until the pipe is ready, or has lost its other end, which the kernel's own call then says.
fn await_pipe(pipe: RawFd, events: i16, no_wait: bool) -> Result<(), i32> {
    let no_wait = no_wait || anchor::has_no_wait(pipe);
    let mut entry = libc::pollfd { fd: pipe, events, revents: 0 };
    // SAFETY: one entry.
    match unsafe { real::poll(&mut entry, 1, if no_wait { 0 } else { -1 }) } {
        0 => Err(libc::EAGAIN),
        1.. => Ok(()),
        _ => Err(sys::errno()),
    }
}
