//! The birth and the end of sockets that nothing has carried: as short as they can be, for a brief connection is little else.
//!
//! This runs in front of the hooks' guard against panics: nothing here may panic or allocate. What is more than that goes the whole way
//! (`lifecycle`, `connect`), which finds everything as it was.

use std::os::fd::RawFd;

use libc::{c_int, sockaddr, sockaddr_in, socklen_t};

use super::{connect, lifecycle};
use crate::autobind::assignment;
use crate::autobind::record::is;
use crate::config::{self, Attach};
use crate::family::{self, Family};
use crate::fd_table::{self, Entry};
use crate::lock::fence_behind_exchange;
use crate::meet::examination;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::{epoll, outcome, stranger};

/// A TCP socket. `None`: another, or this is the first one.
#[inline(always)]
pub fn socket(domain: c_int, kind: c_int, protocol: c_int, call: impl FnOnce() -> c_int) -> Option<c_int> {
    if !lifecycle::is_tcp(domain, kind, protocol) || family::existing().is_none() {
        return None;
    }
    let fd = call();
    if fd >= 0 {
        let family = if domain == libc::AF_INET6 { is::STREAM | is::V6 } else { is::STREAM };
        // Not connected: data calls are the kernel's to refuse.
        if let Some(slot) = born(fd, 0) {
            slot.slot.autobind.begin(family);
            fd_table::set(fd, Entry::Settled(slot.index));
        }
    }
    Some(fd)
}

/// To this host itself, which AutoBind leaves alone, by a socket that it has done nothing to. See `connect::connect`.
///
/// # Safety
/// The arguments of connect(2).
#[inline(always)]
pub unsafe fn connect(
    fd: RawFd,
    address: *const sockaddr,
    length: socklen_t,
    call: impl FnOnce() -> c_int,
) -> Option<c_int> {
    let slot = slot::of(fd)?;
    let record = &slot.slot.autobind;
    // SAFETY: by the caller.
    if config::attach() != Attach::Data || record.has(TOUCHED) || !unsafe { is_loopback(address, length) } {
        return None;
    }
    if !slot.is_before(Stage::Attached) || assignment::is_dormant() {
        return None;
    }
    if !record.has(is::EXPLICIT) {
        record.raise(is::DECIDED);
    }
    let result = call();
    if result == 0 || matches!(outcome::errno(), libc::EINPROGRESS | libc::EINTR | libc::EALREADY) {
        connect::watch(slot, fd);
    }
    Some(result)
}

const TOUCHED: u32 = is::SERVED | is::FAILS | is::OUR_ADDRESS | is::OUR_DEVICE;

/// An IPv4 address of the loopback's.
///
/// # Safety
/// Null, or `length` readable bytes.
#[inline(always)]
unsafe fn is_loopback(address: *const sockaddr, length: socklen_t) -> bool {
    if address.is_null() || (length as usize) < size_of::<sockaddr_in>() {
        return false;
    }
    // SAFETY: by the caller; it need not be aligned.
    let address = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
    c_int::from(address.sin_family) == libc::AF_INET && u32::from_be(address.sin_addr.s_addr) >> 24 == 127
}

/// From a listener that is known. See `connect::accepted`.
#[inline(always)]
pub fn accept(listener: RawFd, call: impl FnOnce() -> c_int) -> Option<c_int> {
    let listener = slot::of(listener)?;
    let fd = call();
    if fd >= 0
        && let Some(slot) = born(fd, flag::ACCEPTED | listener.inherited_flags())
    {
        fd_table::set(fd, Entry::Socket(slot.index));
    }
    Some(fd)
}

#[inline(never)]
fn born(fd: RawFd, flags: u32) -> Option<SlotRef> {
    if !fd_table::is_untracked(fd) {
        outcome::note("appeared", || lifecycle::appeared(fd));
    }
    slot::claim(fd, Stage::New, flags)
}

/// The number is about to be closed. True: that has been noted.
///
/// All of `lifecycle::forget` for a connection that is shown by one number of one process and has not asked for its other end. Three things
/// may come in between, by other threads: a call that falls asleep on it, a meet, a fork. Each of them stores its word (`asleep`, the claim,
/// `forks_pending`), and behind a full fence looks at the table or, the fork, copies it with the count of descriptors. Here both are changed
/// first, and behind one full fence all those words are looked at: whoever is not seen sees that the number is gone (`slot::loom` has the
/// model). A dup in another thread is told by the count alone, as on the whole way.
#[inline(always)]
pub fn close(fd: RawFd) -> bool {
    let entry = fd_table::life(fd);
    let (Entry::Socket(index) | Entry::Settled(index)) = entry else { return false };
    let (Some(slot), Some(family)) = (slot::at(index), family::existing()) else { return false };
    let own = slot.own();
    if !slot.is_before(Stage::Meeting) || slot.has(UNUSUAL) || !own.is_plain() || stranger::is_possible() {
        return false;
    }
    if !fd_table::replace(fd, entry, Entry::Plain) {
        return false;
    }
    let only = own.drop_only_descriptor();
    fence_behind_exchange();
    if only && own.is_awake() && slot.is_mine_alone() && !examination::is_claimed(slot) {
        end(family, slot);
    } else {
        if only {
            // It counts until the whole way has counted it out.
            slot.add_descriptor();
        }
        is_more(slot, fd);
    }
    true
}

/// Of a TCP socket, an option that shapes nothing but the anchor's own packets (see `options::table`): the kernel's affair alone.
#[inline(always)]
pub fn sets_for_the_kernel(fd: RawFd, level: c_int, name: c_int) -> bool {
    level == libc::IPPROTO_TCP && PACKETS.contains(&name) && fd_table::socket(fd).is_some()
}

/// TCP_NODELAY to TCP_DEFER_ACCEPT.
pub const PACKETS: std::ops::RangeInclusive<c_int> = 1..=9;

/// Whether the call blocks is asked, or set: of a TCP socket that is the kernel's affair, but for what is remembered of it.
#[inline(always)]
pub fn has_a_mode(fd: RawFd, command: c_int, argument: usize) -> bool {
    let is_asked = command == libc::F_GETFL;
    let is_set = command == libc::F_SETFL && argument & libc::O_ASYNC as usize == 0;
    if !is_asked && !is_set {
        return false;
    }
    let Some(slot) = slot::of(fd) else { return false };
    if is_set && slot.has(flag::BLOCKS) {
        slot.lower(flag::BLOCKS);
    }
    true
}

const UNUSUAL: u32 = flag::FAR | flag::MANY_HOLDERS | flag::REGISTERED_TWICE | flag::GIVEN;

#[inline(always)]
fn end(family: &Family, slot: SlotRef) {
    if !slot.own().is_in_no_set() && !epoll::at_once::forget(slot) {
        registered(slot);
    }
    let shown = slot.has(flag::IN_REGISTRY);
    if slot.end() {
        if shown {
            family.registry.retire(slot.index as usize);
        }
        family.free_slot(slot.index);
    }
}

#[cold]
#[inline(never)]
fn registered(slot: SlotRef) {
    outcome::note("close", || epoll::forget(slot));
}

#[cold]
#[inline(never)]
fn is_more(slot: SlotRef, fd: RawFd) {
    outcome::note("close", || lifecycle::forgotten(slot, fd));
}
