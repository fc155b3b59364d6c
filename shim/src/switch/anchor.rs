//! The anchor: what the switch asks of the kernel's own TCP socket, always without waiting.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::{c_void, iovec, msghdr, pollfd};

use super::Conn;
use crate::slot::{Slot, SlotRef, flag};
use crate::stream::{TcpPut, TcpReceive, TcpSend, TcpTake, Word};
use crate::{real, sys};

/// The TCP socket behind a number that is known to be current.
pub struct Anchor {
    fd: RawFd,
    slot: SlotRef,
    /// shutdown(SHUT_RD) was called here: an empty socket then says 0, which is no FIN of the peer's.
    shut: bool,
    /// The call has bytes already, so it ends before an urgent one. The kernel knows nothing of those.
    to_mark: bool,
}

impl Anchor {
    pub fn of(conn: &Conn) -> Anchor {
        Anchor { fd: conn.fd, slot: conn.slot, shut: conn.slot.has(flag::SHUT_RD), to_mark: false }
    }

    /// For a receive that goes on from another source, if `yes`.
    pub fn up_to_mark(mut self, yes: bool) -> Anchor {
        self.to_mark = yes;
        self
    }

    /// The kernel has given bytes, or an end: whatever the other end's switch had said before it sent them is in the words that are
    /// loaded from now on. On one host it is so by itself.
    fn catch_up(&self) {
        if self.slot.has(flag::FAR) {
            super::far::catch_up(self.slot);
        }
    }

    /// The kernel tells an error once, and this was not the application's call.
    fn swallowed(&self, errno: i32) {
        let _ = self.slot.untold.compare_exchange(0, errno as u32, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn taken(&self, n: isize) -> TcpTake {
        match n {
            0 if self.shut && !peer_has_finished(self.fd) => TcpTake::WouldBlock,
            0 => {
                self.catch_up();
                TcpTake::Fin
            }
            1.. => {
                self.catch_up();
                TcpTake::Bytes(n as usize)
            }
            _ => match sys::errno() {
                libc::EAGAIN | libc::EINTR => TcpTake::WouldBlock,
                errno => {
                    self.swallowed(errno);
                    self.catch_up();
                    TcpTake::Failed(errno)
                }
            },
        }
    }
}

impl TcpReceive for Anchor {
    unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake {
        if self.to_mark && at_mark(self.fd) {
            return TcpTake::WouldBlock;
        }
        // SAFETY: by the caller, `dst` may be written for `len` bytes.
        self.taken(unsafe { real::recv(self.fd, dst.cast(), len, libc::MSG_DONTWAIT) })
    }

    unsafe fn peek(&mut self, dst: *mut u8, len: usize, skip: usize) -> TcpTake {
        if skip == 0 {
            // SAFETY: as in `receive`.
            return self.taken(unsafe { real::recv(self.fd, dst.cast(), len, libc::MSG_DONTWAIT | libc::MSG_PEEK) });
        }
        // The bytes before `skip` have been peeked already: the kernel copies them once more, into a place of ours.
        let mut before = vec![0u8; skip];
        let mut parts = [
            iovec { iov_base: before.as_mut_ptr().cast::<c_void>(), iov_len: skip },
            iovec { iov_base: dst.cast::<c_void>(), iov_len: len },
        ];
        // SAFETY: all-zero is a valid msghdr; both parts may be written for their lengths.
        let n = unsafe {
            let mut message: msghdr = std::mem::zeroed();
            message.msg_iov = parts.as_mut_ptr();
            message.msg_iovlen = parts.len();
            real::recvmsg(self.fd, &mut message, libc::MSG_DONTWAIT | libc::MSG_PEEK)
        };
        if n > 0 && n as usize <= skip {
            TcpTake::WouldBlock
        } else {
            self.taken(if n > 0 { n - skip as isize } else { n })
        }
    }

    fn pending(&mut self) -> usize {
        let n = unread(self.fd).unwrap_or(0);
        if n > 0 {
            self.catch_up();
        }
        n
    }
}

impl TcpSend for Anchor {
    unsafe fn send(&mut self, src: *const u8, len: usize) -> TcpPut {
        // SAFETY: by the caller, `src` may be read for `len` bytes.
        let n = unsafe { real::send(self.fd, src.cast(), len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        match n {
            1.. => TcpPut::Bytes(n as usize),
            0 => TcpPut::WouldBlock,
            _ => match sys::errno() {
                libc::EAGAIN | libc::EINTR => TcpPut::WouldBlock,
                errno => {
                    self.swallowed(errno);
                    TcpPut::Failed(errno)
                }
            },
        }
    }
}

const TCP_INFO_BYTES: usize = 136;
/// Offsets in the kernel's `struct tcp_info` (include/uapi/linux/tcp.h), stable ABI.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;

struct TcpInfo([u8; TCP_INFO_BYTES]);

impl TcpInfo {
    fn of(fd: RawFd) -> Option<TcpInfo> {
        let mut info = [0u8; TCP_INFO_BYTES];
        let mut length = TCP_INFO_BYTES as libc::socklen_t;
        // SAFETY: the buffer has the stated length.
        let rc =
            unsafe { real::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
        (rc == 0 && length as usize >= TCP_INFO_BYTES).then_some(TcpInfo(info))
    }

    fn number(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }
}

/// The stream offset of the next byte that the kernel would be given: acknowledged + queued, between two looks that
/// agree (anything else is wrong for good once the own host refused a segment). `accepted`: the SYN does not count.
pub fn bytes_accepted(fd: RawFd, accepted: bool) -> Option<u64> {
    for _ in 0..64 {
        let before = TcpInfo::of(fd)?.number(BYTES_ACKED);
        let queued = queue(fd, libc::TIOCOUTQ)?;
        if TcpInfo::of(fd)?.number(BYTES_ACKED) == before {
            return (before + queued).checked_sub(u64::from(!accepted));
        }
    }
    None
}

/// What the kernel has received in order so far, read or not; its FIN counts as one.
pub fn bytes_received(fd: RawFd) -> Option<u64> {
    TcpInfo::of(fd).map(|info| info.number(BYTES_RECEIVED))
}

/// The stream offset of the next byte that a receive would return.
pub fn bytes_delivered(fd: RawFd) -> Option<u64> {
    for _ in 0..16 {
        let before = TcpInfo::of(fd)?.number(BYTES_RECEIVED);
        let pending = queue(fd, libc::FIONREAD)?;
        if TcpInfo::of(fd)?.number(BYTES_RECEIVED) == before {
            return before.checked_sub(pending);
        }
    }
    None
}

pub fn is_established(fd: RawFd) -> bool {
    state(fd) == Some(ESTABLISHED)
}

/// The peer's FIN or RST has come (CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING, TIME_WAIT).
fn peer_has_finished(fd: RawFd) -> bool {
    matches!(state(fd), None | Some(6..=9 | 11))
}

/// The peer's FIN has come: a RST alone is none.
pub fn fin_has_come(conn: &Conn) -> bool {
    let reset =
        || conn.slot.has(flag::RESET_TOLD) || conn.slot.untold.load(Ordering::Acquire) != 0 || broken(look(conn));
    conn.slot.has(flag::FIN_SEEN) || {
        let state = state(conn.fd);
        is_after_fin(state) || state == Some(CLOSED) && !reset()
    }
}

fn state(fd: RawFd) -> Option<u8> {
    TcpInfo::of(fd).and_then(|info| info.0.first().copied())
}

/// CLOSE_WAIT, LAST_ACK, CLOSING.
fn is_after_fin(state: Option<u8>) -> bool {
    matches!(state, Some(8 | 9 | 11))
}

/// SIOCATMARK: the next byte is an urgent one.
pub fn at_mark(fd: RawFd) -> bool {
    const SIOCATMARK: libc::c_ulong = 0x8905; // asm-generic/sockios.h
    queue(fd, SIOCATMARK) == Some(1)
}

pub fn unread(fd: RawFd) -> Option<usize> {
    queue(fd, libc::FIONREAD).map(|n| n as usize)
}

fn queue(fd: RawFd, request: libc::c_ulong) -> Option<u64> {
    let mut value: libc::c_int = 0;
    // SAFETY: these requests write one int.
    let rc = unsafe { real::ioctl(fd, request, (&raw mut value) as usize) };
    if rc == 0 { u64::try_from(value).ok() } else { None }
}

/// A number out of SOL_SOCKET.
pub fn socket_option<T: Copy + Default>(fd: RawFd, level: i32, name: i32) -> Option<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is a plain number of the stated length.
    let rc = unsafe { real::getsockopt(fd, level, name, (&raw mut value).cast(), &mut length) };
    (rc == 0 && length as usize == size_of::<T>()).then_some(value)
}

/// O_NONBLOCK belongs to the open file, and whoever else holds it may have changed it: asked before a call sleeps or says EAGAIN.
pub fn is_non_blocking(slot: SlotRef, fd: RawFd) -> bool {
    let non_blocking = has_no_wait(fd);
    if slot.has(flag::BLOCKS) == non_blocking && slot.current() {
        if non_blocking {
            slot.lower(flag::BLOCKS);
        } else {
            slot.raise(flag::BLOCKS);
        }
    }
    non_blocking
}

/// O_NONBLOCK, of any descriptor.
pub fn has_no_wait(fd: RawFd) -> bool {
    // SAFETY: F_GETFL has no argument.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds; `None`: for ever. The kernel is asked only where one was set: all that hold the
/// socket share the slot, and set options past the switch's eyes no more than they send bytes.
pub fn time_limit(slot: SlotRef, fd: RawFd, name: i32) -> Option<u64> {
    if !slot.has(flag::TIMED) {
        return None;
    }
    let mut value = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: a timeval of the stated length.
    let rc = unsafe { real::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut length) };
    let ns = value.tv_sec as u64 * 1_000_000_000 + value.tv_usec as u64 * 1_000;
    (rc == 0 && ns > 0).then_some(ns)
}

/// Set beside the poll bits in `Slot::anchor`: the FIN came with the final offset of the peer's direction published,
/// a half-close by a live peer.
pub const WITH_FINAL: u32 = 1 << 16;
const LASTING: u32 = (libc::POLLRDHUP | libc::POLLHUP) as u32 & 0xffff;

/// Asks the kernel what it knows of the anchor, and keeps what lasts. Bits as of poll(2).
pub fn look(conn: &Conn) -> u32 {
    let mut entry = pollfd { fd: conn.fd, events: libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { real::poll(&mut entry, 1, 0) };
    note(conn, entry.revents as u32 & 0xffff)
}

/// Keeps what a poll of the anchor said.
pub fn note(conn: &Conn, bits: u32) -> u32 {
    let slot: &Slot = conn.slot.slot;
    // After our own shutdown(SHUT_RD) the kernel says RDHUP of itself: that is no news of the peer.
    let own = slot.has(flag::SHUT_RD) && bits & LASTING != 0 && !peer_has_finished(conn.fd);
    let bits = if own { bits & !LASTING } else { bits };
    let known = slot.anchor.load(Ordering::Acquire);
    if bits & LASTING != 0 && known & LASTING == 0 && is_after_fin(state(conn.fd)) {
        slot.raise(flag::FIN_SEEN);
    }
    let mut all = bits | (known & (LASTING | WITH_FINAL));
    if bits & LASTING != 0 && all & WITH_FINAL == 0 {
        // The final offset is published before the kernel's FIN, so it is looked at after it.
        if conn.pair.is_far() {
            super::far::catch_up(conn.slot);
        }
        if conn.inward.load_final() {
            all |= WITH_FINAL;
        }
    }
    slot.anchor.store(all, Ordering::Release);
    slot.anchor_tick.store(sys::tick_ns(), Ordering::Relaxed);
    all
}

/// As [`look`], but at most once a clock tick: what a busy writer can afford. Each time once the peer has closed.
#[inline]
pub fn glance(conn: &Conn) -> u32 {
    if is_fresh(conn, sys::tick_ns()) { conn.slot.anchor.load(Ordering::Acquire) } else { look(conn) }
}

/// The anchor was looked at in this clock tick, and the peer has not closed, which its words tell at once. A reset of the peer's may be
/// known a tick later than it came, as if it were still under way.
#[inline]
pub fn is_fresh(conn: &Conn, tick: u64) -> bool {
    !conn.peer_reads_no_more() && conn.slot.anchor_tick.load(Ordering::Relaxed) == tick
}

/// It was looked at in this clock tick, and it has said nothing of an end.
#[inline]
pub fn is_well(slot: SlotRef, tick: u64) -> bool {
    const ENDS: u32 = LASTING | (libc::POLLERR as u32 & 0xffff);
    slot.anchor.load(Ordering::Acquire) & ENDS == 0 && slot.anchor_tick.load(Ordering::Relaxed) == tick
}

/// The peer's process, or its end of the connection, is gone: FIN or RST without a final offset.
pub fn peer_gone(bits: u32) -> bool {
    bits & LASTING != 0 && bits & WITH_FINAL == 0
}

/// The peer's FIN has come, or more.
pub fn peer_finished(bits: u32) -> bool {
    bits & LASTING != 0
}

/// The peer has said that it will send no more, and lives on.
pub fn peer_half_closed(bits: u32) -> bool {
    bits & LASTING != 0 && bits & WITH_FINAL != 0
}

/// RST: the connection is over in both directions.
pub fn broken(bits: u32) -> bool {
    bits & (libc::POLLERR as u32 & 0xffff) != 0
}

/// The word that tells a half-close from a death.
pub trait FinalWord {
    fn load_final(&self) -> bool;
}

impl<P: crate::stream::Port> FinalWord for P {
    fn load_final(&self) -> bool {
        self.load(Word::Final) != 0
    }
}
