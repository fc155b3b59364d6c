//! How a socket gets its two ends: bind, listen, connect, accept, shutdown, names.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use crate::autobind::{self, record};
use crate::config::{self, Attach};
use crate::exports::types::*;
use crate::fd_table::{self, Entry};
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::Conn;
use crate::switch::send::{self, End};
use crate::{epoll, meet, real};

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> Outcome<c_int> {
    match record::of(fd) {
        // SAFETY: the application's own call.
        Some(record) => unsafe { autobind::options::bind(record, fd, address, length) },
        None => Outcome::Bypass,
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn bindresvport(fd: c_int, address: *mut sockaddr_in) -> Outcome<c_int> {
    match record::of(fd) {
        // SAFETY: the application's own call.
        Some(record) => unsafe { autobind::options::bindresvport(record, fd, address) },
        None => Outcome::Bypass,
    }
}

pub fn listen(_fd: c_int, _backlog: c_int) -> Outcome<c_int> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> Outcome<c_int> {
    if let Some(record) = record::of_datagram(fd) {
        // SAFETY: the application's own call.
        return unsafe { autobind::datagram::connect(record, fd, address, length) };
    }
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    // SAFETY: the application's own call.
    let outcome = match unsafe { autobind::stream::connect(&slot.slot.autobind, fd, address, length) } {
        Ok(()) => Outcome::Done(0),
        Err(errno) => Outcome::Fail(errno),
    };
    match outcome {
        Outcome::Done(_) => connected(slot, fd),
        Outcome::Fail(libc::EINPROGRESS | libc::EINTR | libc::EALREADY) => {
            watch(slot, fd);
        }
        _ => {}
    }
    outcome
}

/// A first send that connects: the kernel's affair; what it sent counts.
///
/// # Safety
/// Null, or an address of `length` bytes.
pub unsafe fn by_fast_open(
    fd: RawFd,
    address: *const sockaddr,
    length: socklen_t,
    mut native: impl FnMut() -> ssize_t,
) -> Outcome<ssize_t> {
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    let record = &slot.slot.autobind;
    // SAFETY: by the caller.
    if let Err(errno) = unsafe { autobind::stream::before_connect(record, fd, address, length) } {
        return Outcome::Fail(errno);
    }
    let mut outcome = Outcome::of(native());
    if let Outcome::Fail(errno) = outcome
        && autobind::stream::after_failure(record, fd, errno)
    {
        outcome = Outcome::of(native());
    }
    {
        if let Outcome::Done(n @ 1..) = outcome {
            slot.tx_tcp.fetch_add(n as u64, Ordering::AcqRel);
        }
        watch(slot, fd);
    }
    outcome
}

fn connected(slot: SlotRef, fd: RawFd) {
    watch(slot, fd);
    if config::attach() == Attach::Connect {
        meet::data_call(slot, fd);
    }
}

/// From now on data calls concern the switch, by whichever number.
pub fn watch(slot: SlotRef, fd: RawFd) {
    if slot.stage() == Stage::Settled {
        return;
    }
    fd_table::unsettle(fd);
    // Pairs with the one in `lifecycle::doubled`: of a dup in another thread either this sees the new number, or that this.
    fence(Ordering::SeqCst);
    if slot.has_others() {
        (0..fd_table::ceiling()).filter(|&n| fd_table::socket(n) == Some(slot.index)).for_each(fd_table::unsettle);
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> Outcome<c_int> {
    // SAFETY: the application's own call.
    accepted(fd, unsafe { real::accept(fd, address, length) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> Outcome<c_int> {
    // SAFETY: the application's own call.
    accepted(fd, unsafe { real::accept4(fd, address, length, flags) })
}

fn accepted(listener: c_int, fd: c_int) -> Outcome<c_int> {
    if fd < 0 {
        return Outcome::of(fd);
    }
    if !fd_table::is_untracked(fd) {
        super::lifecycle::appeared(fd);
    }
    let known = slot::of(listener).or_else(|| super::lifecycle::recognise(listener));
    if let Some(listener) = known
        && let Some(slot) = slot::claim(fd, Stage::New, flag::ACCEPTED | listener.inherited_flags())
    {
        // Nobody asks for its other end yet, not even where that is to be asked for at once: a process that is forked now may be the one that
        // uses it, and whoever uses it asks.
        fd_table::set(fd, Entry::Socket(slot.index));
    }
    Outcome::Done(fd)
}

pub fn shutdown(fd: c_int, how: c_int) -> Outcome<c_int> {
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    if matches!(how, libc::SHUT_WR | libc::SHUT_RDWR) {
        if let Some(conn) = Conn::of(slot, fd) {
            send::finish(&conn, if how == libc::SHUT_WR { End::Half } else { End::Both });
        }
        slot.raise(flag::SHUT_WR);
    }
    if matches!(how, libc::SHUT_RD | libc::SHUT_RDWR) {
        slot.raise(flag::SHUT_RD);
    }
    let both = Conn::of(slot, fd).filter(|_| slot.has(flag::SHUT_RD) && slot.has(flag::SHUT_WR));
    // The kernel resets what comes after both: it is told first, for what comes before is still read.
    let kernel_first = how == libc::SHUT_RD;
    if let (Some(conn), false) = (&both, kernel_first) {
        conn.reads_no_more();
        if conn.pair.is_far() {
            // It is under way before our FIN is.
            conn.wake_writer();
        }
    }
    // SAFETY: the application's own call.
    let outcome = Outcome::of(unsafe { real::shutdown(fd, how) });
    if matches!(outcome, Outcome::Done(0) | Outcome::Fail(libc::ENOTCONN)) {
        // The kernel rouses everybody who waits for anything.
        slot.no_space.fetch_add(1, Ordering::SeqCst);
        epoll::ask_all_anew(slot);
    }
    if let (Some(conn), true) = (&both, kernel_first) {
        conn.reads_no_more();
        // Our FIN has long gone: nothing else tells a writer that waits for room.
        conn.wake_writer();
    }
    outcome
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn getsockname(_fd: c_int, _address: *mut sockaddr, _length: *mut socklen_t) -> Outcome<c_int> {
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn getpeername(_fd: c_int, _address: *mut sockaddr, _length: *mut socklen_t) -> Outcome<c_int> {
    Outcome::Bypass
}
