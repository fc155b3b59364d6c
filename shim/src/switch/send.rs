//! Writing: one call's bytes, by the kernel or into the ring, and the way from one to the other.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::anchor::{self, Anchor};
use super::sleep::{self, Patience, Way, Woke};
use super::{Conn, back_to_kernel_sends, by_kernel, collect_places, count_fail_back, far};
use crate::slot::{IN_KERNEL, SendGuard, SlotRef, THROUGH_SWITCH, flag};
use crate::stream::{LocalPort, Port, Pumped, WState, Word, Writer, WriterEvent, WriterFacts};
use crate::{debug, epoll, family, meet, sys};

/// Where a call's bytes come from.
pub trait Source {
    /// Bytes still to go.
    fn left(&self) -> usize;
    /// Bytes gone.
    fn sent(&self) -> usize;
    /// As much as there is room for, into the ring; 0: no room. An error of the source itself ends the call.
    fn put(&mut self, writer: &mut Writer, port: &LocalPort<'static>) -> Result<usize, i32>;
    /// The application's own kind of call for what is left, by `fd`, which need not be the number that it gave: its result,
    /// errno set.
    fn kernel(&mut self, fd: RawFd) -> isize;
}

/// How long a close waits for a program without a switch to read what it is owed.
const RETURN_NS: u64 = 5_000_000_000;

enum Step {
    /// Bytes went.
    Some,
    /// All of them.
    All,
    /// No room, or bytes are owed to the kernel first.
    Full,
    /// The kernel carries this direction (again).
    Kernel,
    Fail(i32),
}

/// Sends, as the socket's blocking mode and `flags` have it. `Ok`: bytes taken; `Err`: errno, nothing taken.
pub fn send(slot: SlotRef, fd: RawFd, source: &mut impl Source, flags: i32) -> Result<usize, i32> {
    meet::data_call(slot, fd);
    let mut patience: Option<Patience> = None;
    let mut refused = false;
    let give_in = |sent: usize, errno: i32| if sent > 0 { Ok(sent) } else { Err(errno) };
    let given = fd;
    loop {
        // After a sleep: it may have been closed, and be another's.
        let fd = if patience.is_some() { slot.number(given) } else { given };
        let Some(conn) = through_switch(slot, fd) else {
            match by_kernel::send(slot, fd, source) {
                Some(Ok(n)) => return Ok(n),
                Some(Err(errno)) => {
                    if source.sent() > 0 && is_the_sockets(errno) {
                        // As in the kernel: what was taken is told first, and the socket's error, which is told once, by the next call.
                        let _ = slot.untold.compare_exchange(0, errno as u32, Ordering::AcqRel, Ordering::Relaxed);
                    }
                    return give_in(source.sent(), errno);
                }
                None => continue,
            }
        };
        match step(&conn, source, patience.is_some()) {
            Step::All => return Ok(source.sent()),
            Step::Some | Step::Kernel => continue,
            Step::Fail(errno) => return give_in(source.sent(), errno),
            Step::Full => {}
        }
        let may_wait = flags & libc::MSG_DONTWAIT == 0;
        if may_wait && patience.is_none() && slot.has(flag::BLOCKS) {
            // Nothing is asked of the kernel while room may come by itself. Then one more look, as one that is about to sleep.
            let limit = anchor::time_limit(slot, fd, libc::SO_SNDTIMEO);
            patience.insert(Patience::of(slot, limit)).spins(&conn, Way::Out);
            continue;
        }
        if !may_wait || anchor::is_non_blocking(slot, fd) {
            if refused {
                return give_in(source.sent(), libc::EAGAIN);
            }
            if conn.pair.is_far() && far::lands_soon(&conn) {
                continue;
            }
            // Counted, then one more look: room that came in between would be nobody's edge.
            refused = true;
            slot.no_space.fetch_add(1, Ordering::SeqCst);
            epoll::rouse(slot);
            continue;
        }
        let Some(patience) = &mut patience else {
            // One more look, as one that is about to sleep.
            patience = Some(Patience::of(slot, anchor::time_limit(slot, fd, libc::SO_SNDTIMEO)));
            continue;
        };
        patience.partial = source.sent() > 0;
        match sleep::wait(&conn, Way::Out, patience) {
            Woke::Look => {}
            Woke::TimedOut => return give_in(source.sent(), libc::EAGAIN),
            Woke::Signal | Woke::Interrupted => return give_in(source.sent(), libc::EINTR),
            Woke::Gone => return give_in(source.sent(), libc::EBADF),
        }
    }
}

/// The context when this direction goes through the switch, taking an offer if there is one.
#[inline(always)]
fn through_switch(slot: SlotRef, fd: RawFd) -> Option<Conn> {
    let conn = Conn::of(slot, fd)?;
    if slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH || super::take(&conn) { Some(conn) } else { None }
}

/// Not the call's own.
fn is_the_sockets(errno: i32) -> bool {
    use libc::{ECONNABORTED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ETIMEDOUT};
    matches!(errno, ECONNABORTED | ECONNRESET | EHOSTDOWN | EHOSTUNREACH | ENETDOWN | ENETUNREACH | ETIMEDOUT)
}

/// One look under the lock: moves the direction along and takes what fits.
fn step(conn: &Conn, source: &mut impl Source, about_to_sleep: bool) -> Step {
    let Ok(mut side) = conn.slot.send_side() else { return Step::Fail(libc::EAGAIN) };
    if !conn.slot.current() {
        return Step::Fail(libc::EBADF);
    }
    if let Some(moved) = advance(conn, &mut side, about_to_sleep, true) {
        return moved;
    }
    let put = loop {
        match source.put(&mut side.writer, &conn.out) {
            Ok(0) if source.left() > 0 && grow(conn, &mut side, source.left()) => {}
            other => break other,
        }
    };
    match put {
        Ok(n) => {
            if n > 0 {
                count(conn.slot, n);
            }
            side.release_and_fence();
            if n > 0 {
                conn.wake_behind_fence(Way::Out);
            }
            match (n, source.left()) {
                (_, 0) => Step::All,
                (0, _) => full(conn),
                _ => Step::Some,
            }
        }
        Err(errno) => Step::Fail(errno),
    }
}

#[cold]
fn full(conn: &Conn) -> Step {
    far::no_room(conn);
    Step::Full
}

/// Where the writer stands after looking at the reader's words; `None`: in the ring.
fn advance(conn: &Conn, side: &mut SendGuard<'_>, about_to_sleep: bool, may_disturb: bool) -> Option<Step> {
    let slot = conn.slot;
    let bits = anchor::glance(conn);
    // One that has shut both ways, or closed, and said so: what is written then its kernel answers with RST, by itself. It may
    // still read what the ring has.
    let shut = anchor::peer_finished(bits) && conn.peer_reads_no_more();
    let gone = anchor::peer_gone(bits);
    if anchor::broken(bits) || shut || gone && side.writer.unconsumed(&conn.out) == 0 {
        // Nobody is there to be told where the stream goes on: the kernel's own answer is the application's.
        side.writer.abandon();
    }
    let facts = WriterFacts {
        fail_back: slot.has(flag::LEAVING | flag::URGENT)
            || may_disturb && disturb(conn, side)
            || conn.pair.is_far() && far::is_over(conn),
        for_good: conn.leaves_for_good(),
        reader_gone: gone,
        reader_silent: about_to_sleep && anchor::peer_half_closed(bits),
        ..WriterFacts::default()
    };
    let event = side.writer.consider(&conn.out, &facts, |_| false);
    let began = event == WriterEvent::FailBackBegan;
    match event {
        WriterEvent::FailBackBegan => {
            count_fail_back();
            crate::log::debug(format_args!("slot {}: fails back ({facts:?})", slot.index));
        }
        WriterEvent::Voided => conn.wake_reader(),
        WriterEvent::Took { offset } => far::arrived(conn, offset),
        WriterEvent::Ask { epoch } => far::ask(conn, epoch),
        WriterEvent::None | WriterEvent::Proposed => {}
    }
    if side.writer.state() == WState::FailBack && anchor::broken(anchor::look(conn)) {
        // The socket's error is told once: not to a send of ours.
        side.writer.abandon();
    }
    match side.writer.state() {
        WState::Ring => return None,
        WState::Proposed => return Some(Step::Full),
        WState::FailBack => match side.writer.pump(&conn.out, &mut Anchor::of(conn)) {
            Pumped::Done => {}
            Pumped::Again => {
                if began {
                    // Whoever sleeps has to wait for room in the kernel now, and to pump.
                    sleep::rouse_all(&side.sleepers);
                    conn.rouse_reader();
                    epoll::rouse(slot);
                }
                return Some(Step::Full);
            }
            // RST or EPIPE: the kernel's own call says it to the application in its own way.
            Pumped::Failed(_) => side.writer.abandon(),
        },
        WState::Broken => {
            sleep::rouse_all(&side.sleepers);
            return Some(Step::Fail(libc::ECONNRESET));
        }
        WState::Tcp | WState::End => {}
    }
    back_to_kernel_sends(conn, side);
    Some(Step::Kernel)
}

/// Forced fail-backs (for the tests) wait until the reader has come to the ring: a socket cannot be handed to another program
/// while a record stands behind TCP's rest, see `calls::transfer::hand_over`.
fn disturb(conn: &Conn, side: &SendGuard<'_>) -> bool {
    debug::wants_fail_back() && conn.out.load(Word::Consumed) >= side.writer.taken_at()
}

/// A larger ring, where one helps and is to be had.
#[cold]
fn grow(conn: &Conn, side: &mut SendGuard<'_>, left: usize) -> bool {
    collect_places(conn, side);
    let largest = |place: crate::stream::Place| place.size() == tandem_protocol::pair::BIG_RING_BYTES as u64;
    let [current, ..] = side.writer.places();
    if conn.pair.is_far() || largest(current) || !side.writer.want_growth(&conn.out, left) {
        return false;
    }
    if current == conn.out.first() {
        return side.writer.move_to(&conn.out, conn.out.small());
    }
    let Some(place) = conn.pair.claim_big() else { return false };
    if side.writer.grow(&conn.out, place) {
        return true;
    }
    conn.pair.release(place);
    false
}

#[inline]
pub fn count(slot: SlotRef, n: usize) {
    // Under the send lock: one writer, no read-modify-write needed.
    let all = slot.tx_companion.load(Ordering::Relaxed) + n as u64;
    slot.tx_companion.store(all, Ordering::Release);
    if let Some(family) = family::existing() {
        family.row(slot.index).tx_companion.store(all, Ordering::Relaxed);
    }
}

/// How the application ends its writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// shutdown(SHUT_WR): it reads on, which the peer learns by the final offset.
    Half,
    /// shutdown(SHUT_RDWR), close, exit: the peer shall take us for gone, so that its writes meet the kernel's RST.
    Both,
}

/// The application will write no more; the kernel's FIN is the caller's. The peer's switch has what it has not read yet in the
/// ring. In case that it gives the socket to somebody without a switch, as much as the kernel takes goes by TCP, too, unless
/// we read on: a peer that answers and closes would leave that unread, and reset what it answered.
pub fn finish(conn: &Conn, end: End) {
    if conn.pair.is_far() {
        return far::finish(conn, end);
    }
    let until = sys::now_ns() + RETURN_NS;
    loop {
        let Ok(mut side) = conn.slot.send_side() else { return };
        let unread = side.writer.unconsumed(&conn.out) > 0;
        let bits = anchor::look(conn);
        let gone = anchor::peer_gone(bits);
        let shut = anchor::peer_finished(bits) && conn.peer_reads_no_more();
        if shut || gone && !unread {
            // It asks nothing any more: the kernel would answer a record by RST, before our FIN.
            side.writer.abandon();
        }
        let facts = WriterFacts { fail_back: end == End::Both && unread && !gone && !shut, ..WriterFacts::default() };
        side.writer.consider(&conn.out, &facts, |_| false);
        let pumped = side.writer.pump(&conn.out, &mut Anchor::of(conn));
        if pumped == Pumped::Again && side.writer.owes_returned(&conn.out) && sys::now_ns() < until {
            drop(side);
            sys::pause(1_000_000);
            continue;
        }
        if end == End::Half {
            conn.out.store(Word::Final, conn.slot.accepted().wrapping_add(1));
        }
        if end == End::Both || !side.writer.finish(&conn.out) {
            side.writer.abandon();
        }
        conn.slot.send_phase.store(IN_KERNEL, Ordering::SeqCst);
        // A thread that waits for room is refused by the kernel now.
        sleep::rouse_all(&side.sleepers);
        epoll::rouse(conn.slot);
        return;
    }
}

/// Moves the direction along without new bytes: answers LEAVE, notices a gone peer, sends what is owed. True when the
/// application could write now.
pub fn pump(conn: &Conn) -> bool {
    if conn.slot.send_phase.load(Ordering::Acquire) == IN_KERNEL {
        super::take(conn);
        if conn.slot.send_phase.load(Ordering::Acquire) == IN_KERNEL {
            return false;
        }
    }
    let Ok(mut side) = conn.slot.send_side() else { return false };
    if !conn.slot.current() {
        return false;
    }
    let moved = match advance(conn, &mut side, false, false) {
        None if writable(conn, &mut side) => return true,
        None if conn.pair.is_far() => {
            far::no_room(conn);
            advance(conn, &mut side, true, false)
        }
        // Whoever asks will wait now. A reader that has said its last word dies unnoticed, but for the kernel's RST.
        None => advance(conn, &mut side, true, false),
        moved => moved,
    };
    matches!(moved, Some(Step::Fail(_)))
}

/// As TCP says POLLOUT: a third of what it absorbs is free.
fn writable(conn: &Conn, side: &mut SendGuard<'_>) -> bool {
    let limit = conn.slot.limit.load(Ordering::Relaxed);
    let used = side.writer.unconsumed(&conn.out) as u64;
    used <= limit - limit / 3 && (side.writer.room(&conn.out) > 0 || can_grow(conn, side))
}

fn can_grow(conn: &Conn, side: &mut SendGuard<'_>) -> bool {
    let [current, ..] = side.writer.places();
    !conn.pair.is_far()
        && current.size() < tandem_protocol::pair::BIG_RING_BYTES as u64
        && side.writer.want_growth(&conn.out, 1)
}

/// SIOCOUTQ: what on TCP the peer's kernel would not have acknowledged, for want of room in its receive buffer.
pub fn not_arrived(conn: &Conn) -> usize {
    const RECEIVE_BUFFER: usize = 64 << 10;
    queued(conn).saturating_sub(RECEIVE_BUFFER)
}

/// Bytes accepted and not yet read by the peer.
pub fn queued(conn: &Conn) -> usize {
    conn.slot.send_side().map_or(0, |mut side| side.writer.unconsumed(&conn.out))
}

/// Is there anything to wait for before a write can be taken? For the sleeper's second look.
pub fn blocked(conn: &Conn) -> bool {
    let Ok(mut side) = conn.slot.send_side() else { return false };
    if side.writer.state() == WState::Proposed {
        return side.writer.undecided(&conn.out);
    }
    side.writer.state() == WState::Ring && side.writer.room(&conn.out) == 0 && side.writer.unconsumed(&conn.out) > 0
}

/// Switching over: nothing is accepted before N has arrived.
pub fn is_undecided(conn: &Conn) -> bool {
    conn.slot.send_side().is_ok_and(|side| side.writer.undecided(&conn.out))
}

/// For a second look: would poll say writable, as far as the ring is concerned?
pub fn could_write(conn: &Conn) -> bool {
    let Ok(mut side) = conn.slot.send_side() else { return false };
    match side.writer.state() {
        WState::Ring => writable(conn, &mut side),
        // The kernel's readiness decides.
        WState::FailBack | WState::Tcp => false,
        WState::Proposed => !side.writer.undecided(&conn.out),
        WState::End | WState::Broken => true,
    }
}

/// Before a thread sleeps in the kernel's own receive: the peer's wish to have the other direction back is answered, and bytes that are
/// owed there are pumped by this wait, too.
pub fn pump_until_readable(slot: SlotRef, fd: RawFd, flags: i32) {
    const MOMENT: u64 = 50_000_000;
    let Some(conn) = Conn::of(slot, fd) else { return };
    if conn.slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH && Writer::leave_is_asked(&conn.out) {
        // Asked before the peer gave us the other direction back: nobody would answer while this thread is in the kernel.
        pump(&conn);
    }
    while owes(&conn) && conn.slot.current() {
        pump(&conn);
        if !owes(&conn) || flags & libc::MSG_DONTWAIT != 0 || anchor::is_non_blocking(slot, fd) {
            return;
        }
        let mut entry = libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP | libc::POLLOUT, revents: 0 };
        let time = sys::timespec(MOMENT);
        // SAFETY: one entry and a time on this frame.
        let n = unsafe { crate::real::ppoll(&mut entry, 1, &time, std::ptr::null()) };
        if n < 0 || entry.revents & !libc::POLLOUT != 0 {
            return;
        }
    }
}

/// The peer asks our writing direction back: a second look of who sleeps for bytes. One that is gone asks nothing any more:
/// a record sent to it would be answered by RST.
pub fn asked_back(conn: &Conn) -> bool {
    Writer::may_be_asked(&conn.out)
        && !anchor::peer_gone(conn.slot.anchor.load(Ordering::Acquire))
        && conn.slot.send_side().is_ok_and(|side| side.writer.asked(&conn.out))
}

/// What whoever waits for something else has to see to, too: the peer's wish to have our writing direction back, and bytes of
/// ours that wait for the kernel.
pub fn has_duties(conn: &Conn) -> bool {
    owes(conn) || asked_back(conn) && !anchor::peer_gone(anchor::look(conn))
}

/// Bytes of ours that wait for the kernel.
pub fn owes(conn: &Conn) -> bool {
    conn.slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH
        && conn.slot.send_side().is_ok_and(|side| side.writer.owed())
}
