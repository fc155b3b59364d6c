//! Data calls that the kernel makes: counted while they are inside it, so that no direction changes hands meanwhile, and noted
//! afterwards.
//!
//! The last two run in front of the hook's guard against panics, on a connection that nothing carries yet (a brief one has no other
//! calls): nothing there may panic or allocate. The kernel's call may sleep, and its thread be cancelled there: nothing has to be dropped.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::receive::end_of_stream;
use super::sleep::Way;
use super::{Conn, anchor, send};
use crate::config::{self, Attach};
use crate::outcome::{self, Outcome};
use crate::slot::{IN_KERNEL, SlotRef, Stage, flag};
use crate::{autobind, family, meet, sys};

/// The application's own kind of call for what is left of a send. `None`: the phase changed first.
pub fn send(slot: SlotRef, fd: RawFd, source: &mut impl send::Source) -> Option<Result<usize, i32>> {
    let before = source.sent();
    // The error that a call of ours took from the kernel. EPIPE it says again, with its signal.
    let untold = slot.untold.swap(0, Ordering::AcqRel) as i32;
    if untold != 0 && untold != libc::EPIPE {
        slot.raise(flag::RESET_TOLD);
        return Some(Err(untold));
    }
    if slot.stage() == Stage::Settled {
        return Some(result(source.kernel(fd)).map(|n| before + n));
    }
    if !enters(&slot.kernel_sends, &slot.send_phase) {
        return None;
    }
    let left = source.left();
    let result = result(source.kernel(fd));
    sent(slot, fd, left, result);
    Some(result.map(|n| before + n))
}

/// `native` is a receive. `None`: the phase changed first.
pub fn receive(slot: SlotRef, fd: RawFd, peek: bool, native: &mut impl FnMut() -> isize) -> Option<Result<usize, i32>> {
    if slot.stage() == Stage::Settled {
        return Some(result(native()));
    }
    if !enters(&slot.kernel_reads, &slot.recv_phase) {
        return None;
    }
    let result = result(native());
    Some(received(slot, fd, peek, result))
}

/// Pairs with the store of a phase and the look at the count behind it: one sees the other.
#[inline(always)]
fn enters(inside: &AtomicU32, phase: &AtomicU32) -> bool {
    inside.fetch_add(1, Ordering::SeqCst);
    let still = phase.load(Ordering::SeqCst) == IN_KERNEL;
    if !still {
        inside.fetch_sub(1, Ordering::SeqCst);
    }
    still
}

fn result(n: isize) -> Result<usize, i32> {
    usize::try_from(n).map_err(|_| sys::errno())
}

fn sent(slot: SlotRef, fd: RawFd, left: usize, result: Result<usize, i32>) {
    if !slot.current() {
        return;
    }
    if matches!(result, Err(libc::EAGAIN)) || matches!(result, Ok(n) if n < left) {
        // Who waits for an edge is owed one, whichever way the direction goes meanwhile.
        slot.no_space.fetch_add(1, Ordering::SeqCst);
    }
    if matches!(result, Err(libc::ECONNRESET)) {
        slot.raise(flag::RESET_TOLD);
    }
    if let Ok(n @ 1..) = result {
        note_sent(slot, n);
    }
    slot.kernel_sends.fetch_sub(1, Ordering::SeqCst);
    if matches!(result, Ok(1..)) {
        meet::has_moved(slot, fd, Way::Out);
    }
}

fn received(slot: SlotRef, fd: RawFd, peek: bool, result: Result<usize, i32>) -> Result<usize, i32> {
    if !slot.current() {
        return result;
    }
    if let (Ok(n @ 1..), false) = (result, peek) {
        note_received(slot, n);
    }
    slot.kernel_reads.fetch_sub(1, Ordering::SeqCst);
    if matches!(result, Err(libc::ECONNRESET)) {
        slot.raise(flag::RESET_TOLD);
    }
    if matches!(result, Ok(1..)) && !peek {
        meet::has_moved(slot, fd, Way::In);
    }
    if result == Ok(0)
        && slot.untold.load(Ordering::Acquire) != 0
        && anchor::unread(slot.descriptor()) == Some(0)
        && let Some(errno) = slot.take_untold()
    {
        return Err(errno);
    }
    result
}

#[inline(always)]
fn note_sent(slot: SlotRef, n: usize) {
    let all = slot.tx_tcp.fetch_add(n as u64, Ordering::AcqRel) + n as u64;
    if let Some(family) = family::existing() {
        family.row(slot.index).tx_tcp.store(all, Ordering::Relaxed);
    }
}

#[inline(always)]
fn note_received(slot: SlotRef, n: usize) {
    let all = slot.rx_tcp.fetch_add(n as u64, Ordering::AcqRel) + n as u64;
    if let Some(family) = family::existing() {
        family.row(slot.index).rx_tcp.store(all, Ordering::Relaxed);
    }
}

/// Sends that are about something else than the stream, or more than it.
const SENDS_ASIDE: i32 = libc::MSG_OOB | libc::MSG_ZEROCOPY | libc::MSG_FASTOPEN;
/// The same of receives, and those that leave or drop the bytes.
const RECEIVES_ASIDE: i32 = libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_PEEK | libc::MSG_TRUNC;

/// Of `len` bytes, by `call`. `None`: nothing has happened.
// Out of the way of connections that are carried.
#[inline(never)]
pub fn send_at_once(slot: SlotRef, fd: RawFd, len: usize, flags: i32, call: impl FnOnce() -> isize) -> Option<isize> {
    if flags & SENDS_ASIDE != 0 || !is_counted(slot) || !enters(&slot.kernel_sends, &slot.send_phase) {
        return None;
    }
    let n = call();
    if n <= 0 || (n as usize) < len || !slot.current() {
        return Some(is_more(
            n,
            || {
                sent(slot, fd, len, result(n));
                result(n)
            },
            slot,
            fd,
        ));
    }
    note_sent(slot, n as usize);
    slot.kernel_sends.fetch_sub(1, Ordering::SeqCst);
    meet::has_moved_at_once(slot, fd, Way::Out);
    Some(n)
}

/// By `call`, for some bytes. `None`: nothing has happened.
// As above.
#[inline(never)]
pub fn receive_at_once(slot: SlotRef, fd: RawFd, flags: i32, call: impl FnOnce() -> isize) -> Option<isize> {
    if flags & RECEIVES_ASIDE != 0 || slot.has(flag::LOW_WATER) || !is_counted(slot) {
        return None;
    }
    if !enters(&slot.kernel_reads, &slot.recv_phase) {
        return None;
    }
    let n = call();
    if n <= 0 || !slot.current() {
        return Some(is_more(
            n,
            || match received(slot, fd, false, result(n)) {
                // The kernel knows nothing of what the peer has left unread in the other direction's ring.
                Ok(0) => Conn::of(slot, fd).map_or(Ok(0), |conn| end_of_stream(&conn)),
                result => result,
            },
            slot,
            fd,
        ));
    }
    note_received(slot, n as usize);
    slot.kernel_reads.fetch_sub(1, Ordering::SeqCst);
    meet::has_moved_at_once(slot, fd, Way::In);
    Some(n)
}

/// Still counted by its data calls, and nothing else is to be seen to.
#[inline(always)]
fn is_counted(slot: SlotRef) -> bool {
    slot.is_before(Stage::Meeting)
        && config::attach() == Attach::Data
        && slot.untold.load(Ordering::Acquire) == 0
        && !meet::has_business()
}

/// Not simply all bytes, or some.
#[cold]
#[inline(never)]
fn is_more(n: isize, note: impl FnOnce() -> Result<usize, i32>, slot: SlotRef, fd: RawFd) -> isize {
    let handler = || match note() {
        Ok(n) => Outcome::Done(n as isize),
        Err(errno) => Outcome::Fail(autobind::stream::ended(&slot.slot.autobind, fd, errno)),
    };
    outcome::settle("a call of the kernel's", handler).unwrap_or(n)
}
