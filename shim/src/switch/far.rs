//! What is different for a connection between hosts, where what one end stores arrives at the other later, or never.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use tandem_protocol::Reason;

use super::anchor::{self, Anchor};
use super::send::{self, End};
use super::{Conn, give_up, receive, sleep};
use crate::provider::far::{self, RING};
use crate::provider::local::Pair;
use crate::slot::{IN_KERNEL, SlotRef};
use crate::stream::{Port, Pumped, WState, Word, WriterFacts};
use crate::{epoll, meet, real, sys};

pub use far::{DESCRIPTORS, arm, bound as bound_all, descriptors, existing, no_room};

/// How long an end of the stream may take to arrive; a queue pair on which it does not is dead before.
const LINGER_NS: u64 = 5_000_000_000;
const LOOK_NS: u64 = 20_000_000;
/// Between looks whether a question is still worth waiting for.
const ASK_NS: u64 = 100_000_000;

/// A forked child cannot put: what it does with the connection goes by TCP.
#[cold]
#[inline(never)]
pub fn look_whose(slot: SlotRef, pair: &'static Pair) {
    if pair.far().is_some_and(|driver| !driver.is_ours()) {
        give_up(slot, Reason::Forked);
    }
}

/// The connection's words are looked at by whoever spins for them.
#[inline]
pub fn glance(conn: &Conn) {
    if let Some(driver) = conn.pair.far() {
        driver.glance();
    }
}

/// All that the other end had said before the kernel said what it says now.
#[cold]
pub fn catch_up(slot: SlotRef) {
    match far::existing() {
        Some(driver) if !driver.is_ours() => driver.take_in_child(slot.conn.load(Ordering::Relaxed)),
        Some(driver) => _ = driver.poll(),
        None => {}
    }
}

/// The provider's way is dead, or of no use.
pub fn is_over(conn: &Conn) -> bool {
    is_dead(conn) || far::is_stalled(conn)
}

fn is_dead(conn: &Conn) -> bool {
    conn.out.load(Word::Dead) != 0
}

/// What this end stores does not travel any more; or not from here, for this is a forked child.
fn is_mute(conn: &Conn) -> bool {
    is_dead(conn) || conn.pair.far().is_some_and(|driver| !driver.is_ours())
}

/// PROPOSED is over: the ring takes bytes.
#[cold]
pub fn arrived(conn: &Conn, offset: u64) {
    let micros = sys::now_ns().saturating_sub(conn.slot.asked_at.load(Ordering::Relaxed)) / 1_000;
    let slot = conn.slot.index;
    crate::log::debug(format_args!(
        "slot {slot}: writes by the companion from byte {offset}, {micros} us after its meet"
    ));
    super::carried_by(conn);
}

/// Whether N has arrived only the reader knows, and it is asked by the policyds. Where no answer comes in time, nothing accepted may be
/// lost silently: the connection is reset.
#[cold]
pub fn ask(conn: &Conn, epoch: u64) {
    if !far::ask(conn, epoch) {
        crate::log::warn(format_args!("slot {}: nobody says whether epoch {epoch} was taken: reset", conn.slot.index));
        reset(conn.fd);
    }
}

/// A call that does not wait has met a direction whose switch-over is under way, with all the room in the world: a trip of the wire
/// is waited for, which TCP's buffers would have hidden. True: it is over.
#[cold]
pub fn lands_soon(conn: &Conn) -> bool {
    const TRIP_NS: u64 = 2_000_000;
    let Some(driver) = conn.pair.far().filter(|_| send::is_undecided(conn)) else { return false };
    let until = sys::now_ns() + TRIP_NS;
    loop {
        driver.poll();
        if !send::is_undecided(conn) {
            return true;
        }
        if is_dead(conn) || sys::now_ns() >= until {
            return false;
        }
        std::hint::spin_loop();
    }
}

#[cold]
pub fn say_void(conn: &Conn, epoch: u64) {
    if is_dead(conn) {
        far::void(conn, epoch);
    }
}

/// Who waits for an answer looks now and then.
pub fn bound(conn: &Conn, limit: Option<u64>) -> Option<u64> {
    let limit = far::bound(limit);
    if is_dead(conn) { Some(limit.unwrap_or(u64::MAX).min(ASK_NS)) } else { limit }
}

/// Something was said by the policyds: both directions are moved along.
pub fn look_anew(slot: SlotRef, fd: RawFd) {
    if let Some(conn) = Conn::of(slot, fd) {
        receive::attend(&conn);
        send::pump(&conn);
        epoll::rouse(slot);
    }
}

/// The other end asks whether it took this epoch.
pub fn was_taken(conn: &Conn, epoch: u64) -> Option<bool> {
    let mut side = conn.slot.recv_side().ok()?;
    let taken = side.reader.was_taken(&conn.inward, epoch);
    drop(side);
    receive::attend(conn);
    taken
}

/// The application will write no more; the kernel's FIN is the caller's, and goes when W has arrived. If that cannot be, all that the
/// other end may lack goes by TCP before.
pub fn finish(conn: &Conn, end: End) {
    if let (End::Both, Some(driver)) = (end, conn.pair.far()) {
        driver.push_credit(conn.number);
    }
    let until = sys::now_ns() + LINGER_NS;
    while !is_finished(conn, end) {
        if sys::now_ns() > until || !conn.slot.current() {
            let state = conn.slot.send_side().map(|side| side.writer.state());
            let (index, dead) = (conn.slot.index, is_mute(conn));
            crate::log::warn(format_args!(
                "slot {index}: its end does not arrive ({end:?}, {state:?}, dead: {dead}): reset"
            ));
            reset(conn.fd);
            break;
        }
        pause(conn);
        meet::collect();
    }
    let Ok(mut side) = conn.slot.send_side() else { return };
    side.writer.abandon();
    conn.slot.send_phase.store(IN_KERNEL, Ordering::SeqCst);
    // A thread that waits for room is refused by the kernel now.
    sleep::rouse_all(&side.sleepers);
    epoll::rouse(conn.slot);
}

/// One look: moves the end along.
fn is_finished(conn: &Conn, end: End) -> bool {
    let Ok(mut side) = conn.slot.send_side() else { return true };
    let bits = anchor::look(conn);
    if anchor::broken(bits) || anchor::peer_gone(bits) {
        return true;
    }
    let dead = is_mute(conn);
    let facts = WriterFacts { travels: true, fail_back: dead, ..WriterFacts::default() };
    let event = side.writer.consider(&conn.out, &facts, |_| false);
    match event {
        crate::stream::WriterEvent::FailBackBegan => super::count_fail_back(),
        crate::stream::WriterEvent::Ask { epoch } => ask(conn, epoch),
        _ => {}
    }
    let last = match side.writer.state() {
        WState::Ring => side.writer.written().wrapping_add(1),
        WState::FailBack => {
            let pumped = side.writer.pump(&conn.out, &mut Anchor::of(conn));
            if pumped == Pumped::Again {
                if side.writer.owed() {
                    enlarge(conn.fd);
                }
                return false;
            }
            return pumped != Pumped::Done || end == End::Both || dead;
        }
        WState::Proposed => return false,
        WState::Broken => return true,
        // The kernel tells it all; but a half-close is told apart from a death by W.
        WState::Tcp | WState::End if end == End::Both || dead => return true,
        WState::Tcp | WState::End => conn.slot.accepted().wrapping_add(1),
    };
    if conn.out.load(Word::EndLanded) == last {
        return true;
    }
    if end == End::Half {
        conn.out.store(Word::Final, last);
    }
    if side.writer.state() == WState::Ring {
        conn.out.store(Word::End, last);
    }
    drop(side);
    conn.wake_reader();
    false
}

/// The application closes, and the program at the other end reads nothing: what it is owed need not wait for that if the kernel keeps it, as it
/// would have kept it from the start.
fn enlarge(fd: RawFd) {
    /// Twice what a ring has, for the kernel counts its own needs too. It grants no more than net.core.wmem_max.
    static BYTES: i32 = 2 * RING as i32;
    let now = anchor::socket_option::<i32>(fd, libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap_or(i32::MAX);
    // The kernel's own number is twice the application's, and may have grown beyond this by itself.
    if now < 2 * BYTES {
        let size = size_of::<i32>() as libc::socklen_t;
        // SAFETY: a number of this frame.
        unsafe { real::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const BYTES).cast(), size) };
    }
}

/// Until something is told, the kernel takes more, or a moment.
fn pause(conn: &Conn) {
    far::arm();
    let owes = send::owes(conn);
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let out = if owes { libc::POLLOUT } else { 0 };
    let mut entries = [entry(conn.fd, out); 1 + far::DESCRIPTORS];
    entries.iter_mut().zip(far::descriptors()).for_each(|(place, fd)| *place = entry(fd, libc::POLLIN));
    if conn.out.load(Word::EndLanded) != 0 {
        return;
    }
    let time = sys::timespec(LOOK_NS);
    let no_mask = std::ptr::null::<libc::sigset_t>();
    // SAFETY: entries and a time of this frame. The raw call: no cancellation point.
    unsafe { real::raw!(libc::SYS_ppoll, entries.as_mut_ptr(), entries.len(), &raw const time, no_mask, 0) };
}

/// RST: the application is told ECONNRESET, at both ends.
fn reset(fd: RawFd) {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: an address of its size.
    unsafe { real::connect(fd, &raw const nobody, size_of::<libc::sockaddr>() as libc::socklen_t) };
}
