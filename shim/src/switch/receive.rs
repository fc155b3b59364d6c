//! Reading: what the next bytes are and where they come from, in one call's terms.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::iovec;

use super::anchor::{self, Anchor};
use super::ready::fin_would_wait;
pub use super::sink::Sink;
use super::sleep::{self, Patience, Way, Woke};
use super::{Conn, by_kernel, refresh_row, send};
use crate::slot::{IN_KERNEL, RecvGuard, SlotRef, THROUGH_SWITCH, flag};
use crate::stream::{LocalPort, Port, RState, Source, Take, TcpReceive, TcpTake, Word};
use crate::{debug, epoll, family, meet, real, sys, wake};

enum Step {
    /// Nothing more to be had now.
    Dry,
    /// Nothing in the ring, and TCP was not asked.
    Unasked,
    /// All that was asked for.
    Full,
    Eof,
    /// The kernel carries this direction (again).
    Kernel,
    /// There are bytes, but no memory to put them.
    Nowhere,
    Fail(i32),
}

/// Receives, as the socket's blocking mode and `flags` have it; `native` is the application's own call.
pub fn receive(
    slot: SlotRef,
    fd: RawFd,
    sink: &mut Sink<'_>,
    flags: i32,
    mut native: impl FnMut() -> isize,
) -> Result<usize, i32> {
    meet::data_call(slot, fd);
    if slot.has(flag::LOW_WATER) {
        epoll::note_arrivals(slot);
    }
    let peek = flags & libc::MSG_PEEK != 0;
    let may_wait = flags & libc::MSG_DONTWAIT == 0;
    // A blocking socket whose next byte comes by the ring: the kernel is asked for nothing before this thread has to sleep.
    let mut lightly = may_wait && !peek;
    let mut patience: Option<Patience> = None;
    let mut last_peek = 0;
    let given = fd;
    loop {
        // After a sleep: it may have been closed, and be another's.
        let fd = if patience.is_some() { slot.number(given) } else { given };
        let (conn, step) = match through_switch(slot, fd) {
            Some(_) if sink.total == 0 => return Ok(0),
            Some(conn) => {
                // After shutdown(SHUT_RD) nobody waits, so TCP is asked.
                let may_leave_tcp = lightly && slot.has(flag::BLOCKS) && !slot.has(flag::SHUT_RD);
                (conn, step(&conn, sink, peek, may_leave_tcp))
            }
            None if sink.taken == 0 => {
                send::pump_until_readable(slot, fd, flags);
                let parts = sink.parts();
                let mut call = || if fd == given { native() } else { by_another_number(fd, parts, flags) };
                match by_kernel::receive(slot, fd, peek, &mut call) {
                    // The kernel knows nothing of what the peer has left unread in the other direction's ring.
                    Some(Ok(0)) if sink.total > 0 => {
                        return Conn::of(slot, fd).map_or(Ok(0), |conn| end_of_stream(&conn));
                    }
                    Some(result) => return result,
                    None => continue,
                }
            }
            None => match Conn::of(slot, fd) {
                Some(conn) => (conn, rest_by_kernel(&conn, sink)),
                None => return Ok(sink.taken),
            },
        };
        let unasked = matches!(step, Step::Unasked);
        match step {
            Step::Full => return Ok(sink.taken),
            Step::Kernel => continue,
            Step::Eof if sink.taken > 0 => return Ok(sink.taken),
            Step::Eof => return end_of_stream(&conn),
            Step::Nowhere if sink.taken == 0 => return Err(libc::EFAULT),
            Step::Nowhere => return Ok(sink.taken),
            Step::Fail(_) if sink.taken > 0 => return Ok(sink.taken),
            Step::Fail(errno) => return told_once(slot, errno),
            Step::Dry | Step::Unasked => {}
        }
        if slot.has(flag::SHUT_RD) {
            return Ok(sink.taken);
        }
        if sink.taken >= if may_wait { target(slot, fd, sink, flags) } else { 1 } {
            return Ok(sink.taken);
        }
        let limit = |fd| anchor::time_limit(slot, fd, libc::SO_RCVTIMEO);
        let mut fd = fd;
        if unasked {
            if patience.get_or_insert_with(|| Patience::of(slot, limit(fd))).spins(&conn, Way::In) {
                continue;
            }
            fd = slot.number(given);
        }
        lightly = false;
        if !may_wait || anchor::is_non_blocking(slot, fd) {
            match sink.taken {
                // The mode is another than it was: TCP is asked before EAGAIN is said.
                0 if unasked => continue,
                0 => return Err(libc::EAGAIN),
                taken => return Ok(taken),
            }
        }
        let patience = patience.get_or_insert_with(|| Patience::of(slot, limit(fd)));
        let so_far = sink.taken;
        patience.partial = so_far > 0;
        if so_far > 0 && anchor::at_mark(fd) {
            // What has come ends before an urgent byte, however much was asked for.
            return Ok(so_far);
        }
        let give_in = |errno: i32| if so_far > 0 { Ok(so_far) } else { Err(errno) };
        if peek {
            // An end behind the bytes is seen by no peek; once it has come they have all come.
            let ended = so_far > 0 && anchor::peer_finished(anchor::look(&conn));
            if ended && std::mem::replace(&mut last_peek, so_far) == so_far {
                return Ok(so_far);
            }
            // What was peeked is looked at anew: more may stand behind it, or it may be another reader's by then.
            *sink = sink.anew();
            if ended {
                continue;
            }
        }
        if send::has_duties(&conn) {
            send::pump(&conn);
        }
        match sleep::wait_for(&conn, patience, if peek { so_far } else { 0 }) {
            Woke::Look => {}
            Woke::TimedOut => return give_in(libc::EAGAIN),
            Woke::Signal | Woke::Interrupted => return give_in(libc::EINTR),
            Woke::Gone => return give_in(libc::EBADF),
        }
    }
}

/// A connection's error is told once, by whichever call comes first; then it is at its end.
fn told_once(slot: SlotRef, errno: i32) -> Result<usize, i32> {
    let untold = slot.untold.swap(0, Ordering::AcqRel) != 0;
    let first = errno != libc::ECONNRESET || slot.raise(flag::RESET_TOLD);
    if untold || first { Err(errno) } else { Ok(0) }
}

/// A flag of our own (to the kernel a program's is EINVAL): the low-water mark does not count, as for splice.
pub const WHATEVER_COMES: i32 = i32::MIN;

/// Bytes that a blocking call waits for.
fn target(slot: SlotRef, fd: RawFd, sink: &Sink<'_>, flags: i32) -> usize {
    if flags & libc::MSG_WAITALL != 0 {
        return sink.total;
    }
    if flags & WHATEVER_COMES != 0 {
        return 1;
    }
    low_water(slot, fd).min(sink.total).max(1)
}

/// SO_RCVLOWAT.
pub fn low_water(slot: SlotRef, fd: RawFd) -> usize {
    if !slot.has(flag::LOW_WATER) {
        return 1;
    }
    anchor::socket_option::<i32>(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT).map_or(1, |n| n.max(1) as usize)
}

#[inline(always)]
fn through_switch(slot: SlotRef, fd: RawFd) -> Option<Conn> {
    let conn = Conn::of(slot, fd)?;
    if slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH || super::offer(&conn) { Some(conn) } else { None }
}

/// The application's call, where its descriptor has been closed under it.
fn by_another_number(fd: RawFd, parts: &[iovec], flags: i32) -> isize {
    // SAFETY: all-zero is a valid msghdr; the parts are the application's, which the kernel only reads the list of.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_ptr().cast_mut();
        message.msg_iovlen = parts.len();
        real::recvmsg(fd, &mut message, flags)
    }
}

/// Some bytes came by the companion, and the kernel has the direction again: what there is of the rest.
fn rest_by_kernel(conn: &Conn, sink: &mut Sink<'_>) -> Step {
    let mut tcp = Anchor::of(conn).up_to_mark(true);
    while let Some((to, room)) = sink.next() {
        let mut take = TcpTake::WouldBlock;
        let counted = by_kernel::receive(conn.slot, conn.fd, false, &mut || {
            // SAFETY: the application gave the place for that many bytes.
            take = unsafe { tcp.receive(to, room) };
            if let TcpTake::Bytes(n) = take { n as isize } else { -1 }
        });
        match take {
            _ if counted.is_none() => return Step::Kernel,
            TcpTake::Bytes(n) => sink.advance(n),
            TcpTake::WouldBlock => return Step::Dry,
            TcpTake::Fin => return Step::Eof,
            TcpTake::Failed(errno) => return Step::Fail(errno),
        }
    }
    Step::Full
}

/// One look under the lock: takes what is there. `lightly`: see [`Step::Unasked`].
fn step(conn: &Conn, sink: &mut Sink<'_>, peek: bool, lightly: bool) -> Step {
    let slot = conn.slot;
    let Ok(mut side) = slot.recv_side() else { return Step::Fail(libc::EAGAIN) };
    if !slot.current() {
        return Step::Fail(libc::EBADF);
    }
    if slot.recv_phase.load(Ordering::Acquire) == IN_KERNEL {
        // Given back while we waited for the lock: others read by the kernel now, each call as a whole.
        return Step::Kernel;
    }
    // Forced ones (for the tests) wait until TCP's rest is read: see `send::disturb`.
    let settled = side.reader.state() == RState::Ring && !side.reader.wants_tcp();
    if slot.has(flag::LEAVING | flag::URGENT) || settled && debug::wants_fail_back() {
        leave(conn, &mut side);
    }
    let (mut freed, mut by_tcp) = (false, false);
    let outcome = loop {
        let Some((to, room)) = sink.next() else { break Step::Full };
        let mut tcp = Anchor::of(conn).up_to_mark(sink.taken > 0);
        if !sys::may_be_memory(to) {
            break nowhere(&mut side, conn, &mut tcp);
        }
        // SAFETY: the application gave the place for that many bytes.
        let take = unsafe {
            if peek {
                Some(side.reader.peek(&conn.inward, &mut tcp, to, room, sink.taken))
            } else if lightly {
                side.reader.receive_lightly(&conn.inward, &mut tcp, to, room)
            } else {
                Some(side.reader.receive(&conn.inward, &mut tcp, to, room))
            }
        };
        let Some(take) = take else { break Step::Unasked };
        match take {
            Take::Bytes { n, from } => {
                sink.advance(n);
                if !peek {
                    count(conn.slot, from, n);
                    freed |= from == Source::Companion;
                    by_tcp |= from == Source::Tcp;
                }
                if n < room && !peek && !side.reader.may_go_on(&conn.inward, by_tcp) {
                    break Step::Dry;
                }
            }
            Take::WouldBlock => break Step::Dry,
            Take::Eof => break Step::Eof,
            Take::Reset => break Step::Fail(libc::ECONNRESET),
            Take::Failed(errno) => break Step::Fail(errno),
        }
    };
    let outcome = match (side.reader.state(), outcome) {
        (RState::Plain, outcome) => {
            settle_reads(conn, &side);
            if sink.taken == 0 { Step::Kernel } else { outcome }
        }
        (_, outcome) => outcome,
    };
    pass_on(&conn.inward, &side);
    // Ring bytes that stood behind TCP's rest can be read now: news that the peer told too early.
    let uncovered = by_tcp && !peek && side.reader.readable(&conn.inward);
    let fin_comes = freed && slot.has(flag::FIN_WAITS) && !fin_would_wait(conn);
    if fin_comes {
        slot.lower(flag::FIN_WAITS);
    }
    side.release_and_fence();
    if uncovered || fin_comes {
        epoll::rouse(slot);
    }
    if freed {
        conn.wake_behind_fence(Way::In);
    }
    outcome
}

/// The next bytes are to go where no memory is. What the kernel finds wrong with that it says only when there are some.
#[cold]
fn nowhere(side: &mut RecvGuard<'_>, conn: &Conn, tcp: &mut Anchor) -> Step {
    let mut byte = 0u8;
    // SAFETY: one byte.
    match unsafe { side.reader.peek(&conn.inward, tcp, &raw mut byte, 1, 0) } {
        Take::Bytes { .. } => Step::Nowhere,
        Take::WouldBlock => Step::Dry,
        Take::Eof => Step::Eof,
        Take::Reset => Step::Fail(libc::ECONNRESET),
        Take::Failed(errno) => Step::Fail(errno),
    }
}

/// The peer's FIN is not to be told yet: then the receive after which it is tells the epoll sets. Under the lock of those who
/// receive, so that none of them is missed.
pub fn fin_waits(conn: &Conn) -> bool {
    let Ok(_side) = conn.slot.recv_side() else { return false };
    let waits = fin_would_wait(conn);
    if waits {
        conn.slot.raise(flag::FIN_WAITS);
    }
    waits
}

/// The kernel has it all again.
fn settle_reads(conn: &Conn, side: &RecvGuard<'_>) {
    conn.slot.recv_phase.store(IN_KERNEL, Ordering::SeqCst);
    conn.slot.turns.fetch_add(1, Ordering::SeqCst);
    refresh_row(conn.slot);
    // What is left is on TCP, whose edge may have come while it was not the application's.
    sleep::rouse_all(&side.sleepers);
    epoll::rouse(conn.slot);
}

/// Whoever leaves bytes behind while another sleeps wakes that other: two puts may have woken the same thread.
#[inline(always)]
pub fn pass_on(inward: &LocalPort<'static>, side: &RecvGuard<'_>) {
    if let Some(id) = side.sleepers.named()
        && side.reader.readable(inward)
    {
        wake::rouse(id);
    }
}

#[inline]
pub fn count(slot: SlotRef, from: Source, n: usize) {
    let row = family::existing().map(|family| family.row(slot.index));
    // Under the receive lock: one writer of the companion's count.
    match from {
        Source::Companion => {
            let all = slot.rx_companion.load(Ordering::Relaxed) + n as u64;
            slot.rx_companion.store(all, Ordering::Release);
            if let Some(row) = row {
                row.rx_companion.store(all, Ordering::Relaxed);
            }
        }
        Source::Tcp => {
            let all = slot.rx_tcp.fetch_add(n as u64, Ordering::AcqRel) + n as u64;
            if let Some(row) = row {
                row.rx_tcp.store(all, Ordering::Relaxed);
            }
        }
    }
}

/// EOF, unless the peer went with bytes of ours unread and could not say so (it was killed): then TCP says ECONNRESET, once. So
/// it does where its RST met a call of ours.
pub fn end_of_stream(conn: &Conn) -> Result<usize, i32> {
    if let Some(errno) = conn.slot.take_untold() {
        return Err(errno);
    }
    let bits = anchor::look(conn);
    let killed = anchor::peer_gone(bits) && !conn.peer_reads_no_more();
    let unread = killed && super::send::queued(conn) > 0;
    let reset = unread && conn.slot.raise(flag::RESET_TOLD);
    if reset { Err(libc::ECONNRESET) } else { Ok(0) }
}

fn leave(conn: &Conn, side: &mut RecvGuard<'_>) {
    if !side.reader.leaving() {
        side.reader.leave(&conn.inward);
        conn.wake_both();
    }
}

/// Asks the writer to give the direction back.
pub fn ask_back(conn: &Conn) {
    if conn.slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH
        && let Ok(mut side) = conn.slot.recv_side()
    {
        leave(conn, &mut side);
    }
}

/// For a socket that is handed to somebody without a switch: nothing is read any more until the kernel has it all. False: it
/// never will, for the peer's FIN has come and the ring has bytes that cannot come by TCP any more.
pub fn let_go(conn: &Conn) -> bool {
    if conn.slot.recv_phase.load(Ordering::Acquire) == IN_KERNEL {
        return true;
    }
    let Ok(mut side) = conn.slot.recv_side() else { return true };
    if side.reader.hold(&conn.inward) {
        conn.wake_both();
    }
    // Before the words: what the peer did ahead of its FIN is seen after it.
    let finished = anchor::look(conn) & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32 != 0;
    let mut tcp = Anchor::of(conn);
    side.reader.attend(&conn.inward, &mut tcp);
    let possible = !finished || side.reader.let_go_at_fin(&conn.inward, &mut tcp);
    side.reader.let_go(&conn.inward, &mut tcp);
    if side.reader.state() == RState::Plain {
        settle_reads(conn, &side);
        return true;
    }
    possible && side.reader.held()
}

/// A record stands on TCP behind bytes of the application's that are not read yet: whoever reads without the switch would take
/// it for bytes.
pub fn hides_a_record(conn: &Conn) -> bool {
    conn.slot.recv_side().is_ok_and(|side| side.reader.hides_a_record(&mut Anchor::of(conn)))
}

/// It could not be had in time. What comes with a record is for the switch to read.
pub fn read_on(conn: &Conn) {
    if let Ok(mut side) = conn.slot.recv_side() {
        side.reader.read_on();
    }
}

/// Bytes that a receive could give now: FIONREAD. `None`: the kernel knows better.
pub fn available(conn: &Conn) -> Option<usize> {
    if conn.slot.recv_phase.load(Ordering::Acquire) == IN_KERNEL {
        return None;
    }
    let mut side = conn.slot.recv_side().ok()?;
    Some(side.reader.available(&conn.inward, &mut Anchor::of(conn)))
}

/// How far the stream has come to this end, read or not.
pub fn arrived(conn: &Conn) -> u64 {
    let Ok(mut side) = conn.slot.recv_side() else { return 0 };
    side.reader.attend(&conn.inward, &mut Anchor::of(conn));
    match side.reader.state() {
        // Others may be inside a kernel read: the kernel's own count moves with what comes, not with what is read.
        RState::Plain | RState::Offered => {
            anchor::bytes_received(conn.fd).unwrap_or(0).wrapping_sub(side.reader.kernel_offset(0))
        }
        _ => side.reader.consumed() + side.reader.available(&conn.inward, &mut Anchor::of(conn)) as u64,
    }
}

/// Takes from the anchor what is not the application's, so that the kernel stands where TCP would.
pub fn attend(conn: &Conn) {
    if conn.slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
        readable(conn, true, 1);
    }
}

/// Bytes in the ring that nobody has read.
pub fn ring_bytes(conn: &Conn) -> usize {
    if conn.slot.recv_phase.load(Ordering::Acquire) == IN_KERNEL {
        return 0;
    }
    let Ok(mut side) = conn.slot.recv_side() else { return 0 };
    side.reader.attend(&conn.inward, &mut Anchor::of(conn));
    usize::from(matches!(side.reader.state(), RState::Ring | RState::Rejoin) && produced(conn) > side.reader.consumed())
}

/// Would a receive of at least `low` bytes return now? `tcp`: the kernel says that the anchor is readable.
pub fn readable(conn: &Conn, tcp: bool, low: usize) -> bool {
    let Ok(mut side) = conn.slot.recv_side() else { return false };
    if !conn.slot.current() {
        return true;
    }
    if tcp {
        side.reader.attend(&conn.inward, &mut Anchor::of(conn));
        if side.reader.state() == RState::Plain {
            settle_reads(conn, &side);
            return anchor::look(conn) & libc::POLLIN as u32 != 0;
        }
    }
    // The peer's FIN has come, maybe behind bytes: no mark counts any more. Who asked the kernel for bytes alone was told of those.
    let bits = if tcp && low > 1 { anchor::look(conn) } else { conn.slot.anchor.load(Ordering::Acquire) };
    let finished = anchor::peer_finished(bits);
    let ended = side.reader.state() == RState::End || side.reader.fin_seen() || finished;
    if low > 1 && !ended {
        return side.reader.available(&conn.inward, &mut Anchor::of(conn)) >= low;
    }
    side.reader.readable(&conn.inward) || tcp && side.reader.wants_tcp()
}

/// The next byte comes by the ring, or nothing does.
pub fn awaits_ring(conn: &Conn) -> bool {
    conn.slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH
        && conn.slot.recv_side().is_ok_and(|side| side.reader.awaits_ring(&conn.inward))
}

/// What the ring has produced and how far we are, without the lock: a hint for a spinning reader.
pub fn produced(conn: &Conn) -> u64 {
    conn.inward.load(Word::Produced)
}
