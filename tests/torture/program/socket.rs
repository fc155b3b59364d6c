//! The calls, by libc: the very ones that a preload sees.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::plan::Wait;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Send,
    Plain,
    Vector,
    Message,
}

impl Call {
    pub const ALL: [Self; 4] = [Self::Send, Self::Plain, Self::Vector, Self::Message];
}

fn check(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Cuts a buffer into three iovecs.
fn parts(at: *mut u8, length: usize) -> [libc::iovec; 3] {
    let (first, second) = (length / 3, length / 2);
    let piece = |from: usize, to: usize| libc::iovec { iov_base: at.wrapping_add(from).cast(), iov_len: to - from };
    [piece(0, first), piece(first, second), piece(second, length)]
}

fn message(parts: &mut [libc::iovec; 3]) -> libc::msghdr {
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message
}

pub fn send(fd: RawFd, bytes: &[u8], call: Call, flags: i32) -> io::Result<usize> {
    let at = bytes.as_ptr().cast_mut();
    let mut parts = parts(at, bytes.len());
    // SAFETY: each call gets the buffer (or iovecs within it) that outlives the call; nothing is written to it.
    again(|| unsafe {
        check(match call {
            Call::Send => libc::send(fd, at.cast(), bytes.len(), flags | libc::MSG_NOSIGNAL),
            Call::Plain if flags == 0 => libc::write(fd, at.cast(), bytes.len()),
            Call::Vector if flags == 0 => libc::writev(fd, parts.as_ptr(), 3),
            Call::Plain | Call::Vector => {
                libc::sendto(fd, at.cast(), bytes.len(), flags | libc::MSG_NOSIGNAL, std::ptr::null(), 0)
            }
            Call::Message => libc::sendmsg(fd, &message(&mut parts), flags | libc::MSG_NOSIGNAL),
        })
    })
}

pub fn receive(fd: RawFd, bytes: &mut [u8], call: Call, flags: i32) -> io::Result<usize> {
    let (at, length) = (bytes.as_mut_ptr(), bytes.len());
    let mut parts = parts(at, length);
    // SAFETY: each call writes into the buffer (or iovecs within it) that outlives the call.
    again(|| unsafe {
        check(match call {
            Call::Send => libc::recv(fd, at.cast(), length, flags),
            Call::Plain if flags == 0 => libc::read(fd, at.cast(), length),
            Call::Vector if flags == 0 => libc::readv(fd, parts.as_ptr(), 3),
            Call::Plain | Call::Vector => {
                libc::recvfrom(fd, at.cast(), length, flags, std::ptr::null_mut(), std::ptr::null_mut())
            }
            Call::Message => libc::recvmsg(fd, &mut message(&mut parts), flags),
        })
    })
}

/// Bytes that can be read.
pub fn readable_bytes(fd: RawFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &mut count) } as isize).map(|_| count as usize)
}

pub fn shutdown_writing(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) } as isize).map(drop)
}

/// One thread's way to wait until its socket can be read (or written).
pub struct Waiter {
    fd: RawFd,
    events: i16,
    wait: Wait,
    set: Option<OwnedFd>,
}

impl Waiter {
    pub fn new(fd: RawFd, for_reading: bool, wait: Wait) -> io::Result<Self> {
        let events = if for_reading { libc::POLLIN } else { libc::POLLOUT };
        let wait = if wait == Wait::Select && fd as usize >= libc::FD_SETSIZE { Wait::Poll } else { wait };
        let set = match wait {
            Wait::Poll | Wait::Select => None,
            Wait::EpollLevel | Wait::EpollEdge => Some(Self::epoll_set(fd, events as u32, wait == Wait::EpollEdge)?),
        };
        Ok(Self { fd, events, wait, set })
    }

    fn epoll_set(fd: RawFd, events: u32, edge: bool) -> io::Result<OwnedFd> {
        let flag = if edge { libc::EPOLLET as u32 } else { 0 };
        let mut event = libc::epoll_event { events: events | flag, u64: 77 };
        // SAFETY: plain calls; the new descriptor is owned from here on.
        let set = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC) as isize)? as RawFd) };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } as isize)?;
        Ok(set)
    }

    /// Sleeps until ready; a sleep past all patience is an error: somebody forgot to wake us.
    pub fn wait(&self) -> io::Result<()> {
        let woken = again(|| self.wait_once())?;
        if woken == 0 {
            let text = format!("{:?} for events {} never woke", self.wait, self.events);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    fn wait_once(&self) -> io::Result<usize> {
        let milliseconds = PATIENCE.as_millis() as i32;
        if let Some(set) = &self.set {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event is given.
            let count = check(unsafe { libc::epoll_wait(set.as_raw_fd(), &mut event, 1, milliseconds) } as isize)?;
            let data = event.u64;
            if count > 0 && data != 77 {
                return Err(io::Error::other(format!("a foreign event: data {data}")));
            }
            return Ok(count);
        }
        if self.wait == Wait::Select {
            // SAFETY: fd_set may be all zero; the descriptor is below FD_SETSIZE; all arguments outlive the call.
            return check(unsafe {
                let mut set: libc::fd_set = std::mem::zeroed();
                libc::FD_SET(self.fd, &mut set);
                let mut time = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
                let (none, set) = (std::ptr::null_mut(), &raw mut set);
                let (read, write) = if self.events == libc::POLLIN { (set, none) } else { (none, set) };
                libc::select(self.fd + 1, read, write, none, &mut time)
            } as isize);
        }
        let mut look = libc::pollfd { fd: self.fd, events: self.events, revents: 0 };
        // SAFETY: one pollfd is given.
        check(unsafe { libc::poll(&mut look, 1, milliseconds) } as isize)
    }
}
