//! Data from a file to a socket. (What a pipe has to do with it: `splice`.)

use std::os::fd::RawFd;

use super::moved;
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, flag};
use crate::stream::{LocalPort, Port, WState, Writer};
use crate::switch::at_once::MOST_OF_A_FILE;
use crate::switch::send::{self, Source};
use crate::{fd_table, real, sys};

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn sendfile(out: c_int, input: c_int, offset: *mut off_t, size: size_t) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(out).filter(|_| !fd_table::is_plain(out)) else { return Outcome::Bypass };
    // SAFETY: by the caller.
    let is_empty = || size == 0 || unsafe { at_end(input, offset) };
    if (slot.has(flag::SHUT_WR) || slot.error_is_owed()) && is_empty() {
        // The kernel reads the file first: where nothing comes of that it asks the connection nothing.
        return Outcome::Bypass;
    }
    let mut source = File { input, offset, left: size.min(MOST_OF_A_FILE), sent: 0, whole: size };
    moved(slot, out, send::send(slot, out, &mut source, 0))
}

/// Whether the file has no byte there.
///
/// # Safety
/// `offset` is sendfile's.
unsafe fn at_end(input: c_int, offset: *const off_t) -> bool {
    let mut byte = 0u8;
    // SAFETY: by the caller; one byte.
    unsafe {
        let at = if offset.is_null() { libc::lseek(input, 0, libc::SEEK_CUR) } else { *offset };
        at >= 0 && real::pread(input, (&raw mut byte).cast(), 1, at) == 0
    }
}

pub fn tee(_input: c_int, _out: c_int, _size: size_t, _flags: c_uint) -> Outcome<ssize_t> {
    // For two pipes: with a socket the kernel says EINVAL.
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn vmsplice(_fd: c_int, _parts: *const iovec, _count: size_t, _flags: c_uint) -> Outcome<ssize_t> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn copy_file_range(
    _input: c_int,
    _input_offset: *mut i64,
    _out: c_int,
    _out_offset: *mut i64,
    _size: size_t,
    _flags: c_uint,
) -> Outcome<ssize_t> {
    // For two files.
    Outcome::Bypass
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
