//! One packet with descriptors, over a SEQPACKET socket of ours. Nothing here blocks, nothing raises a signal.

use std::os::fd::RawFd;

use libc::{c_void, cmsghdr, iovec, msghdr};

use crate::{hidden, real, sys};

/// More descriptors than any message of ours carries.
const MOST_FDS: usize = 8;
const CONTROL_WORDS: usize = 8;

pub struct Packet {
    pub length: usize,
    fds: [RawFd; MOST_FDS],
    count: usize,
    /// Descriptors were lost on the way in.
    pub truncated: bool,
}

pub enum Arrival {
    Packet(Packet),
    Nothing,
    /// The other end is gone.
    Gone,
}

impl Packet {
    /// The descriptors, each to be owned by the caller.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + use<> {
        let fds = self.fds;
        fds.into_iter().take(self.count)
    }

    /// Closes what came along unasked.
    pub fn drop_fds(&self) {
        for fd in self.fds() {
            // SAFETY: just received, known to nobody.
            unsafe { real::close(fd) };
        }
    }
}

/// False when the packet could not be sent now (queue full, peer gone, too many descriptors in flight).
pub fn send(socket: RawFd, text: &[u8], fds: &[RawFd]) -> bool {
    try_send(socket, text, fds) == Ok(())
}

/// As [`send`], with the errno.
pub fn try_send(socket: RawFd, text: &[u8], fds: &[RawFd]) -> Result<(), i32> {
    let mut iov = iovec { iov_base: text.as_ptr().cast_mut().cast::<c_void>(), iov_len: text.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: plain arithmetic; `control` holds the space for up to eight descriptors, and CMSG_FIRSTHDR stays in it.
        unsafe {
            let bytes = size_of_val(fds) as u32;
            message.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
            let header: *mut cmsghdr = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(bytes) as usize;
            libc::CMSG_DATA(header).copy_from_nonoverlapping(fds.as_ptr().cast(), bytes as usize);
        }
    }
    // SAFETY: the message and all it points at stand on this frame.
    let sent = unsafe { real::sendmsg(socket, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(sys::errno()) } else { Ok(()) }
}

pub fn receive(socket: RawFd, text: &mut [u8]) -> Option<Packet> {
    match arrive(socket, text) {
        Arrival::Packet(packet) => Some(packet),
        Arrival::Nothing | Arrival::Gone => None,
    }
}

/// Whether nothing has come and the other end is there.
pub fn is_quiet(socket: RawFd) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: one byte of this frame.
    socket < 0 || unsafe { real::recv(socket, (&raw mut byte).cast(), 1, flags) } < 0 && sys::errno() == libc::EAGAIN
}

/// Whether the other end has read all that was sent.
pub fn all_read(socket: RawFd) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes an int. The raw call: the descriptor is ours.
    unsafe { real::raw!(libc::SYS_ioctl, socket, libc::TIOCOUTQ, &raw mut unread) };
    unread == 0
}

/// Sleeps until something has come, or that long.
pub fn wait(socket: RawFd, ns: u64) {
    let mut entry = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
    let time = sys::timespec(ns);
    let no_mask = std::ptr::null::<libc::sigset_t>();
    // SAFETY: an entry and a time of this frame. The raw call: no cancellation point.
    unsafe { real::raw!(libc::SYS_ppoll, &raw mut entry, 1, &raw const time, no_mask, 0) };
}

/// The next packet. Descriptors in it find room even where the application has used up its own.
pub fn arrive(socket: RawFd, text: &mut [u8]) -> Arrival {
    let mut iov = iovec { iov_base: text.as_mut_ptr().cast::<c_void>(), iov_len: text.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message and all it points at stand on this frame.
    let length = hidden::with_room(|_| unsafe {
        real::recvmsg(socket, &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
    });
    if length < 0 {
        let errno = sys::errno();
        return if errno == libc::EAGAIN || errno == libc::EINTR { Arrival::Nothing } else { Arrival::Gone };
    }
    if length == 0 {
        return Arrival::Gone;
    }
    let mut packet = Packet {
        length: length as usize,
        fds: [-1; MOST_FDS],
        count: 0,
        truncated: message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0,
    };
    // SAFETY: the kernel wrote well-formed control messages into `control`; the macros stay inside msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for at in 0..bytes / size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(header).cast::<RawFd>().add(at).read_unaligned();
                    match packet.fds.get_mut(packet.count) {
                        Some(place) => {
                            *place = fd;
                            packet.count += 1;
                        }
                        None => {
                            real::close(fd);
                        }
                    }
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Arrival::Packet(packet)
}
