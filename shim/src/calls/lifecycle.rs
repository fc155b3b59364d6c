//! Birth, death and doubling of descriptors.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use tandem_protocol::Reason;

use crate::autobind::record::is;
use crate::autobind::{assignment, datagrams};
use crate::exports::types::*;
use crate::fd_table::{self, Entry};
use crate::outcome::Outcome;
use crate::provider::far;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::{self, Conn, anchor, sleep};
use crate::{epoll, family, hidden, meet, real, sys};

/// The kernel has just handed out `fd` although the table still holds something under that number: its descriptor was closed
/// where no hook could see it.
pub fn appeared(fd: c_int) {
    match fd_table::swap(fd, Entry::Plain) {
        Entry::Socket(index) | Entry::Settled(index) => {
            if let Some(slot) = slot::at(index) {
                let_go(slot, fd);
            }
        }
        Entry::Epoll(index) => epoll::closed(index, fd),
        Entry::Datagram(index) => datagrams::dropped(index),
        Entry::Hidden | Entry::Lent | Entry::Plain => {}
    }
}

pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Outcome<c_int> {
    // SAFETY: no memory is involved.
    let fd = unsafe { real::socket(domain, kind, protocol) };
    if fd < 0 {
        return Outcome::of(fd);
    }
    if !fd_table::is_untracked(fd) {
        appeared(fd);
    }
    if is_tcp(domain, kind, protocol)
        && let Some(slot) = slot::claim(fd, Stage::New, 0)
    {
        // Not connected: data calls are the kernel's to refuse.
        slot.slot.autobind.begin(if domain == libc::AF_INET6 { is::STREAM | is::V6 } else { is::STREAM });
        fd_table::set(fd, Entry::Settled(slot.index));
    } else if datagrams::is_udp(domain, kind, protocol) {
        assignment::occasion();
        // Where nobody assigns anything a UDP socket costs nothing more than natively.
        if !assignment::is_dormant() {
            datagrams::made(fd, domain);
        }
    }
    Outcome::Done(fd)
}

#[inline]
pub fn is_tcp(domain: c_int, kind: c_int, protocol: c_int) -> bool {
    matches!(domain, libc::AF_INET | libc::AF_INET6)
        && kind & 0xf == libc::SOCK_STREAM
        && matches!(protocol, 0 | libc::IPPROTO_TCP)
}

/// A listening socket that came from elsewhere (systemd, an exec): what it accepts is ours from the first byte.
pub fn recognise(fd: RawFd) -> Option<SlotRef> {
    family::get()?;
    let protocol = anchor::socket_option::<i32>(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let domain = anchor::socket_option::<i32>(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    if protocol != libc::IPPROTO_TCP || !matches!(domain, libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    // What accept's sockets inherit was set where nobody saw it.
    let slot = slot::claim(fd, Stage::New, flag::TIMED)?;
    fd_table::set(fd, Entry::Settled(slot.index));
    Some(slot)
}

pub fn close(fd: c_int) -> Outcome<c_int> {
    if !sys::is_vfork_child() {
        forget(fd);
    }
    Outcome::Bypass
}

/// The number is about to mean nothing: its entry goes before the kernel can hand it out again.
fn forget(fd: RawFd) {
    match fd_table::life(fd) {
        entry @ (Entry::Socket(index) | Entry::Settled(index)) => {
            if fd_table::replace(fd, entry, Entry::Plain)
                && let Some(slot) = slot::at(index)
            {
                forgotten(slot, fd);
            }
        }
        Entry::Epoll(index) => {
            epoll::closed(index, fd);
            fd_table::clear(fd);
        }
        entry @ Entry::Datagram(index) => {
            if fd_table::replace(fd, entry, Entry::Plain) {
                datagrams::dropped(index);
            }
        }
        Entry::Hidden | Entry::Lent | Entry::Plain => {}
    }
}

/// The table knows no longer that the number shows the slot.
pub fn forgotten(slot: SlotRef, fd: RawFd) {
    if slot.has_others()
        && let Some(other) = other_number(slot, fd)
    {
        epoll::number_closes(slot, fd, other);
    }
    if slot.has_others() || !slot.keep(fd) {
        let_go(slot, fd);
    } else {
        if meet::examination::before_close(slot, fd) {
            meet::examination::leave_to_others(slot);
        }
        epoll::number_closes(slot, fd, slot.descriptor());
    }
    sleep::rouse_sleepers(slot);
}

/// The last call that slept on a connection has returned; its descriptors were closed meanwhile, but for this one of ours.
pub fn last_returned(index: u32, fd: RawFd) {
    if let Some(slot) = slot::at(index) {
        let_go(slot, fd);
    }
    hidden::close(fd);
}

/// One descriptor of the slot goes; with the last one of the last holder the connection ends at this end.
fn let_go(slot: SlotRef, fd: RawFd) {
    let claimed = meet::examination::before_close(slot, fd);
    if !slot.drop_descriptor(fd, || other_number(slot, fd)) {
        if claimed {
            meet::examination::leave_to_others(slot);
        }
        return;
    }
    epoll::forget(slot);
    slot.drop_holder(sys::pid());
    if slot.no_holder() {
        end(slot, fd);
    } else if claimed {
        meet::examination::leave_to_others(slot);
    }
}

fn other_number(slot: SlotRef, fd: RawFd) -> Option<RawFd> {
    (0..fd_table::ceiling()).find(|&n| n != fd && fd_table::socket(n) == Some(slot.index))
}

fn end(slot: SlotRef, fd: RawFd) {
    if let Some(conn) = Conn::of(slot, fd) {
        if !reset_if_unread(&conn) {
            switch::finish(&conn);
        }
        switch::detach(slot);
    } else if slot.has(flag::FAR)
        && let Some(driver) = far::existing()
    {
        driver.slot_ended(slot);
    }
    if slot.end()
        && let Some(family) = family::existing()
    {
        meet::examination::before_last_close(slot);
        family.registry.retire(slot.index as usize);
        family.free_slot(slot.index);
    }
}

/// Closing with bytes unread is abortive, as in TCP.
fn reset_if_unread(conn: &Conn) -> bool {
    if conn.pair.is_far() {
        meet::collect();
    }
    // What comes with a record is none of the application's.
    switch::receive::attend(conn);
    let unread = switch::receive::ring_bytes(conn) > 0;
    if unread {
        let abort = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as socklen_t;
        // SAFETY: a linger of its size.
        unsafe { real::setsockopt(conn.fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const abort).cast(), size) };
    }
    unread
}

/// The program ends: what the kernel will close without a word to us.
pub fn end_of_process() {
    let me = sys::pid();
    for slot in slot::mine() {
        let claimed = meet::examination::before_exit(slot);
        slot.drop_holder(me);
        if slot.no_holder() {
            end(slot, slot.descriptor());
        } else if claimed {
            meet::examination::leave_to_others(slot);
        }
    }
}

pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> Outcome<c_int> {
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int != 0 || sys::is_vfork_child() || first > last {
        return Outcome::Bypass;
    }
    let Some(top) = highest(first, last) else { return Outcome::Bypass };
    let mut from = first;
    for fd in first as c_int..=top {
        if fd_table::is_hidden(fd) {
            close_between(from, fd as c_uint - 1, flags);
            from = fd as c_uint + 1;
        } else {
            forget(fd);
        }
    }
    if from > last {
        return Outcome::Done(0);
    }
    // SAFETY: numbers only.
    Outcome::of(unsafe { real::close_range(from, last, flags) })
}

pub fn closefrom(first: c_int) -> Outcome<()> {
    match close_range(first.max(0) as c_uint, c_uint::MAX, 0) {
        Outcome::Bypass => Outcome::Bypass,
        _ => Outcome::Done(()),
    }
}

/// The highest number in the range that the table knows.
fn highest(first: c_uint, last: c_uint) -> Option<c_int> {
    let top = fd_table::life_ceiling().max(hidden::ceiling()).min(last.min(c_int::MAX as c_uint - 1) as c_int + 1);
    (first < top as c_uint).then_some(top - 1)
}

fn close_between(from: c_uint, to: c_uint, flags: c_int) {
    if from <= to && to != c_uint::MAX {
        // SAFETY: numbers only.
        unsafe { real::close_range(from, to, flags) };
    }
}

pub fn dup(old: c_int) -> Outcome<c_int> {
    // SAFETY: numbers only.
    doubled(old, unsafe { real::dup(old) })
}

pub fn dup2(old: c_int, new: c_int) -> Outcome<c_int> {
    // SAFETY: numbers only.
    onto(old, new, || unsafe { real::dup2(old, new) })
}

pub fn dup3(old: c_int, new: c_int, flags: c_int) -> Outcome<c_int> {
    if old == new {
        return Outcome::Bypass;
    }
    // SAFETY: numbers only.
    onto(old, new, || unsafe { real::dup3(old, new, flags) })
}

fn onto(old: RawFd, new: RawFd, real: impl FnOnce() -> c_int) -> Outcome<c_int> {
    if sys::is_vfork_child()
        && old != new
        && let Some(slot) = slot::of(old)
    {
        // For the program that follows, and while this child has not yet closed what the switch needs for it.
        super::transfer::hand_over(slot, old, Reason::HandedOver);
    }
    // SAFETY: F_GETFD has no argument.
    if old == new || sys::is_vfork_child() || unsafe { real::fcntl(old, libc::F_GETFD, 0) } < 0 {
        return Outcome::Bypass;
    }
    if fd_table::is_hidden(new) && !hidden::make_way(new) {
        return Outcome::Fail(libc::EBUSY);
    }
    forget(new);
    doubled(old, real())
}

/// `new` shows what `old` shows.
fn doubled(old: RawFd, new: c_int) -> Outcome<c_int> {
    if new < 0 {
        return Outcome::of(new);
    }
    if !fd_table::is_untracked(new) {
        appeared(new);
    }
    if sys::is_vfork_child() {
        return Outcome::Done(new);
    }
    let entry = fd_table::life(old);
    match entry {
        Entry::Socket(index) | Entry::Settled(index) => {
            if let Some(slot) = slot::at(index) {
                slot.add_descriptor();
                if slot.is_attached() && !slot.sole_holder() {
                    slot.raise(flag::GIVEN);
                }
                fd_table::set(new, entry);
                fence(Ordering::SeqCst);
                if fd_table::life(old) == Entry::Socket(index) {
                    // Connected meanwhile: see `connect::watch`.
                    fd_table::unsettle(new);
                }
            }
        }
        Entry::Epoll(index) => {
            epoll::duplicate(index);
            fd_table::set(new, entry);
        }
        Entry::Datagram(index) => {
            datagrams::doubled(index);
            fd_table::set(new, entry);
        }
        Entry::Hidden | Entry::Lent | Entry::Plain => {}
    }
    Outcome::Done(new)
}

pub fn fcntl(fd: c_int, command: c_int, argument: usize) -> Outcome<c_int> {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            // SAFETY: numbers only.
            doubled(fd, unsafe { real::fcntl(fd, command, argument) })
        }
        // Signals on readiness come from the kernel, which knows nothing of the ring.
        libc::F_SETFL if argument & libc::O_ASYNC as usize != 0 => super::transfer::leave(fd),
        libc::F_SETFL => mode_changes(fd),
        libc::F_SETFD if argument & libc::FD_CLOEXEC as usize == 0 => lets_through(fd),
        _ => Outcome::Bypass,
    }
}

/// CLOEXEC is taken off: the next program is to find it under this number.
pub fn lets_through(fd: c_int) -> Outcome<c_int> {
    // SAFETY: F_GETFD has no argument.
    let closes = || unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC != 0;
    if let Some(slot) = slot::of(fd).filter(|slot| slot.is_attached())
        && closes()
    {
        super::transfer::hand_over(slot, fd, Reason::HandedOver);
    }
    Outcome::Bypass
}

/// Whether a call on it blocks may be another thing after this.
pub fn mode_changes<R>(fd: c_int) -> Outcome<R> {
    if let Some(slot) = slot::of(fd) {
        slot.lower(flag::BLOCKS);
    }
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn fdopen(fd: c_int, _mode: *const c_char) -> Outcome<*mut FILE> {
    // stdio reads and writes inside libc, past every hook.
    if let Some(slot) = slot::of(fd) {
        super::transfer::hand_over(slot, fd, Reason::UnsupportedCall);
    }
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn fclose(file: *mut FILE) -> Outcome<c_int> {
    // SAFETY: the application's stream.
    forget_stream(unsafe { libc::fileno(file) });
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn freopen(_path: *const c_char, _mode: *const c_char, file: *mut FILE) -> Outcome<*mut FILE> {
    // SAFETY: the application's stream.
    forget_stream(unsafe { libc::fileno(file) });
    Outcome::Bypass
}

fn forget_stream(fd: c_int) {
    if !sys::is_vfork_child() {
        forget(fd);
    }
}

pub fn login_tty(_fd: c_int) -> Outcome<c_int> {
    // It puts the terminal on 0, 1 and 2: what stood there goes unseen.
    (0..=2).for_each(forget_stream);
    Outcome::Bypass
}
