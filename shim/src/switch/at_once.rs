//! What a send or a receive can do at once: the connection is carried within this host, nothing is asked of this end, and there is room
//! for all of it, or there are bytes; or nothing carries it yet, and it is the kernel's call (`by_kernel`). Anything else is the whole way's (`send`, `receive`), which finds everything as it was.
//!
//! This runs in front of the hook's guard against panics: nothing of ours here may panic, allocate, or wait.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::iovec;

use super::{anchor, by_kernel, receive as receiving, send as sending, spin};
use crate::provider::local::{self, Pair};
use crate::slot::{self, SlotRef, THROUGH_SWITCH, flag};
use crate::stream::{LocalPort, Port, Source, Word, sleepers};
use crate::{debug, fd_table, meet, outcome, sys};

/// Flags that change nothing for a call that is over at once.
const HARMLESS: c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// From here on the copy is most of a send.
const MOST: usize = 16 << 10;
/// What one sendfile moves at most (Linux's MAX_RW_COUNT).
pub const MOST_OF_A_FILE: usize = 0x7fff_f000;

/// A receive with this much room may gather messages, as long as there are fewer bytes than this, once so many were small.
const ROOM: usize = 4 << 10;
const FEW: u64 = 512;
const IN_A_ROW: u32 = 64;

/// What makes more of a call than moving bytes.
const BARS_SENDING: u32 = flag::LEAVING | flag::URGENT;
const BARS_RECEIVING: u32 = flag::LEAVING | flag::URGENT | flag::SHUT_RD | flag::LOW_WATER | flag::FIN_WAITS;

/// All `len` bytes are in the ring, or `call` has made the call, as it is natively. `None`: nothing has happened.
///
/// # Safety
/// The arguments of send(2).
#[inline(always)]
pub unsafe fn send(
    fd: RawFd,
    from: *const u8,
    len: usize,
    flags: c_int,
    call: impl FnOnce() -> isize,
) -> Option<isize> {
    let slot = slot::at(fd_table::unsettled(fd)?)?;
    if !slot.is_attached() {
        return by_kernel::send_at_once(slot, fd, len, flags, call);
    }
    if flags & !HARMLESS != 0
        || len.wrapping_sub(1) >= MOST
        || !sys::may_be_memory(from)
        || !is_free(slot, BARS_SENDING)
    {
        return None;
    }
    if slot.send_phase.load(Ordering::Acquire) != THROUGH_SWITCH {
        return None;
    }
    let (pair, number) = companion(slot)?;
    let out = pair.port(number, pair.role())?;
    // Once a clock tick the whole way asks whether the peer lives; what it learnt lasts.
    let reads = out.load(Word::ReaderReady) == slot.companion_id.load(Ordering::Relaxed);
    if !reads || !anchor::is_well(slot, sys::tick_ns()) {
        return None;
    }
    let mut side = slot.send_side().ok()?;
    // SAFETY: the application gave `len` bytes there.
    if !slot.current() || !unsafe { side.writer.write_at_once(&out, from, len) } {
        return None;
    }
    sending::count(slot, len);
    slot.small_receives.store(0, Ordering::Relaxed);
    side.release_and_fence();
    wake(pair, number, &out, Word::RSleep);
    Some(len as isize)
}

/// As many bytes as there are, or `call` has made the call, as it is natively. `None`: nothing has happened.
///
/// # Safety
/// The arguments of recv(2).
#[inline(always)]
pub unsafe fn receive(fd: RawFd, to: *mut u8, len: usize, flags: c_int, call: impl FnOnce() -> isize) -> Option<isize> {
    let slot = slot::at(fd_table::unsettled(fd)?)?;
    if len == 0 {
        return None;
    }
    if !slot.is_attached() {
        return by_kernel::receive_at_once(slot, fd, flags, call);
    }
    if flags & !HARMLESS != 0 || !sys::may_be_memory(to) || !is_free(slot, BARS_RECEIVING) {
        return None;
    }
    if slot.recv_phase.load(Ordering::Acquire) != THROUGH_SWITCH {
        return None;
    }
    let (pair, number) = companion(slot)?;
    let inward = pair.port(number, pair.role() ^ 1)?;
    if len >= ROOM {
        gather(slot, &inward, flags);
    }
    let mut side = slot.recv_side().ok()?;
    if !slot.current() {
        return None;
    }
    // SAFETY: the application has room for `len` bytes there.
    let n = unsafe { side.reader.take_at_once(&inward, to, len) };
    if n == 0 {
        return None;
    }
    receiving::count(slot, Source::Companion, n);
    receiving::pass_on(&inward, &side);
    side.release_and_fence();
    wake(pair, number, &inward, Word::WSleep);
    isize::try_from(n).ok()
}

/// Where messages come one after the other, none is answered, and there is room for many: each look at the ring, while its writer is
/// about the next one, costs both ends a cache line's trip. A moment's patience has some of them come together.
#[inline(always)]
fn gather(slot: SlotRef, inward: &LocalPort<'static>, flags: c_int) {
    let receives = slot.small_receives.load(Ordering::Relaxed);
    let there = inward.load(Word::Produced).wrapping_sub(slot.delivered());
    if there >= FEW {
        return;
    }
    if receives >= IN_A_ROW {
        // Whoever only asks whether there is anything has other things to do.
        if there > 0 || slot.has(flag::BLOCKS) && flags & libc::MSG_DONTWAIT == 0 {
            spin::linger();
        }
    } else {
        slot.small_receives.store(receives + 1, Ordering::Relaxed);
    }
}

/// Of several places, which only the kernel fills from: see [`send`].
///
/// # Safety
/// The arguments of writev(2).
#[inline(always)]
pub unsafe fn send_parts(fd: RawFd, parts: *const iovec, count: c_int, call: impl FnOnce() -> isize) -> Option<isize> {
    let slot = slot::at(fd_table::unsettled(fd)?)?;
    if slot.is_attached() || !(1..=libc::UIO_MAXIOV).contains(&count) || !sys::may_be_memory(parts) {
        return None;
    }
    let mut total = 0usize;
    for at in 0..count as usize {
        // SAFETY: by the caller.
        total = total.saturating_add(unsafe { (*parts.add(at)).iov_len });
    }
    // The kernel refuses a sum that is below zero, and a writev of nothing never comes to the socket.
    if total.cast_signed() <= 0 {
        return None;
    }
    by_kernel::send_at_once(slot, fd, total, 0, call)
}

/// From a file: see [`send`].
#[inline(always)]
pub fn send_file(fd: RawFd, input: RawFd, size: usize, call: impl FnOnce() -> isize) -> Option<isize> {
    let slot = slot::at(fd_table::unsettled(fd)?)?;
    // The kernel reads the file first: where nothing comes of that it asks the connection nothing.
    if slot.is_attached() || !fd_table::is_plain(input) || slot.has(flag::SHUT_WR) || size.cast_signed() <= 0 {
        return None;
    }
    by_kernel::send_at_once(slot, fd, size.min(MOST_OF_A_FILE), 0, call)
}

/// Neither the connection, which has a companion, nor this process has anything else to see to.
#[inline(always)]
fn is_free(slot: SlotRef, bars: u32) -> bool {
    !slot.has(bars) && !debug::disturbs() && !meet::has_business()
}

#[inline(always)]
fn companion(slot: SlotRef) -> Option<(&'static Pair, u32)> {
    let pair = local::pair(slot.pair.load(Ordering::Acquire).wrapping_sub(1))?;
    (!pair.is_far()).then_some((pair, slot.conn.load(Ordering::Relaxed)))
}

/// Behind the full fence of the lock that was given back.
#[inline(always)]
fn wake(pair: &Pair, number: u32, port: &LocalPort<'static>, word: Word) {
    if let Some(id) = sleepers::called_behind_fence(port, word, || pair.tell_news(number))
        && pair.sleeps(id)
    {
        rouse(pair, id);
    }
}

#[cold]
#[inline(never)]
fn rouse(pair: &Pair, id: u32) {
    outcome::note("wake", || pair.wake(id));
}
