//! The switch: decides, call by call, what carries a connection that has a companion.
//!
//! `far` is what is different between hosts. `send` and `receive` are the two directions' data paths, `at_once` what is tried before them, `by_kernel` the calls that the kernel makes, `sink` a call's places, `ready` says what poll and epoll shall be told, `sleep` is
//! how a blocking call waits, `spin` what it tries before, `watch` is poll and select, `anchor` is the kernel's socket. Here are the connection's context and what moves it
//! between kernel and companion.
//!
//! A direction has a *phase*. `IN_KERNEL`: calls go to the kernel, counted (`kernel_sends`, `kernel_reads`) while they are
//! inside it. `THROUGH_SWITCH`: every call takes the direction's lock and asks the stream (`Writer`, `Reader`). The phase
//! moves only under the lock: to the switch by an offer (reader) or by taking one (writer), when after the phase was
//! stored nobody is counted inside the kernel (store, full fence, load on both sides); back when the stream says that the
//! kernel has it all.

pub mod anchor;
pub mod at_once;
mod by_kernel;
mod far;
pub mod ready;
pub mod receive;
mod restartable;
pub mod send;
mod sink;
pub mod sleep;
pub mod spin;
pub mod watch;

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use tandem_protocol::Reason;
use tandem_protocol::message::CompanionRef;
use tandem_protocol::registry::Provider;

use crate::provider::far::RING;
use crate::provider::local::{self, Pair};
use crate::slot::{IN_KERNEL, RecvGuard, SendGuard, SlotRef, Stage, THROUGH_SWITCH, flag};
use crate::stream::{FOR_GOOD, LocalPort, Port, RState, WState, Word, Writer, WriterEvent, WriterFacts, sleepers};
use crate::{debug, epoll, family, meet, signals, wake};
use sleep::Way;

/// What a direction absorbs by default before the writer must wait: about what kernel TCP's buffers do.
const LIMIT: u64 = 4 << 20;

pub use far::{look_anew, was_taken};

/// A connection with a companion, as one call uses it.
#[derive(Clone, Copy)]
pub struct Conn {
    pub slot: SlotRef,
    pub fd: RawFd,
    pub pair: &'static Pair,
    /// Its number in the pair.
    pub number: u32,
    /// The direction that we write.
    pub out: LocalPort<'static>,
    /// The direction that we read.
    pub inward: LocalPort<'static>,
}

impl Conn {
    #[inline(always)]
    pub fn of(slot: SlotRef, fd: RawFd) -> Option<Conn> {
        if !slot.is_attached() {
            return None;
        }
        let pair = local::pair(slot.pair.load(Ordering::Acquire).wrapping_sub(1))?;
        let conn = slot.conn.load(Ordering::Relaxed);
        if pair.is_far() {
            far::look_whose(slot, pair);
        }
        let (out, inward) = (pair.port(conn, pair.role())?, pair.port(conn, pair.role() ^ 1)?);
        Some(Conn { slot, fd, pair, number: conn, out, inward })
    }

    /// The peer's half of the words is this companion's.
    fn peer_ready(&self) -> bool {
        if self.slot.has(flag::PEER_READY) {
            return true;
        }
        let id = self.slot.companion_id.load(Ordering::Relaxed);
        let ready = self.out.load(Word::ReaderReady) == id && self.inward.load(Word::WriterReady) == id;
        if ready {
            self.slot.raise(flag::PEER_READY);
        }
        ready
    }

    /// No offer is made or taken here any more. (Between hosts that is not said: it would arrive too late to be of use.)
    fn leaves_for_good(&self) -> bool {
        self.slot.has(flag::LEAVING | flag::URGENT) && !self.pair.is_far()
    }

    /// From here on each of the peer's writes asks the kernel, which will have our FIN or RST by then.
    pub fn reads_no_more(&self) {
        self.inward.store(Word::ReaderReady, 0);
    }

    /// The peer has said that.
    pub fn peer_reads_no_more(&self) -> bool {
        self.out.load(Word::ReaderReady) != self.slot.companion_id.load(Ordering::Relaxed)
    }

    /// Wakes whoever at the other end waits for what we have just stored (after a full fence).
    pub fn wake_reader(&self) {
        self.out.fence();
        self.wake_behind_fence(Way::Out);
    }

    pub fn wake_writer(&self) {
        self.inward.fence();
        self.wake_behind_fence(Way::In);
    }

    /// The same, of the end that our `way` leads to, where a full fence stands behind what we have stored.
    #[inline]
    pub fn wake_behind_fence(&self, way: Way) {
        if let Some(driver) = self.pair.far() {
            return driver.push(self.number);
        }
        let (port, word) = match way {
            Way::In => (&self.inward, Word::WSleep),
            Way::Out => (&self.out, Word::RSleep),
        };
        if let Some(id) = sleepers::called_behind_fence(port, word, || self.pair.tell_news(self.number)) {
            self.pair.wake(id);
        }
    }

    /// Wakes the sleeper of this process that the peer would wake for bytes.
    fn rouse_reader(&self) {
        let named = self.inward.load(Word::RSleep);
        if named != 0 {
            wake::rouse((named - 1) as u32);
        }
    }

    /// Wakes the other end, in whichever direction it sleeps: something is asked of it.
    pub fn wake_both(&self) {
        self.wake_reader();
        self.wake_writer();
    }
}

/// The companion is there. Nothing moves yet. False when the slot has gone another way meanwhile.
pub fn attach(slot: SlotRef, pair: &'static Pair, end: CompanionRef) -> bool {
    if signals::caught() {
        // What a sleep may need later (see `restartable`) is set up before anybody waits for that sleep.
        restartable::available();
    }
    slot.conn.store(end.conn, Ordering::Relaxed);
    slot.role.store(u32::from(end.role), Ordering::Relaxed);
    slot.companion_id.store(end.id, Ordering::Relaxed);
    let most = if pair.is_far() { RING as u64 } else { LIMIT };
    slot.limit.store(limit_of(slot).min(most), Ordering::Relaxed);
    slot.pair.store(pair.index + 1, Ordering::Release);
    if !pair.is_far() {
        pair.initialise(end.conn, end.id);
    }
    let attached = slot.advance(Stage::Meeting, Stage::Attached);
    if attached {
        meet::explain(slot, Reason::Attached);
    }
    attached
}

fn limit_of(slot: SlotRef) -> u64 {
    let asked = debug::ring_limit();
    if asked != 0 {
        return asked;
    }
    if !slot.has(flag::SEND_BUFFER) {
        return LIMIT;
    }
    // The kernel's answer is twice what was set; the receiver's default buffer comes on top.
    let send = anchor::socket_option::<i32>(slot.descriptor(), libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap_or(0);
    (u64::try_from(send).unwrap_or(0) + (64 << 10)).min(LIMIT)
}

/// Offers our reading direction, if it may be and has not been. True when reading goes through the switch now.
pub fn offer(conn: &Conn) -> bool {
    let slot = conn.slot;
    if slot.has(flag::LEAVING | flag::URGENT | flag::SHUT_RD) || !conn.peer_ready() {
        return false;
    }
    let Some(hold) = epoll::hold(slot) else { return false };
    if unsure_of_signals(conn) {
        meet::explain(slot, Reason::SignalMixture);
        return false;
    }
    let Ok(mut side) = slot.recv_side() else { return false };
    if slot.recv_phase.load(Ordering::Relaxed) == THROUGH_SWITCH {
        return true;
    }
    if !slot.current() || side.reader.state() != RState::Plain {
        return false;
    }
    slot.recv_phase.store(THROUGH_SWITCH, Ordering::SeqCst);
    if conn.pair.is_far() {
        side.reader.words_travel();
    }
    let free = slot.kernel_reads.load(Ordering::SeqCst) == 0 && hold.covers(slot) && slot.sole_holder();
    if free && count_agrees(conn, &side) && side.reader.offer(&conn.inward, slot.delivered()) {
        drop(side);
        conn.wake_both();
        carried_by(conn);
        epoll::adopt(conn);
        return true;
    }
    slot.recv_phase.store(IN_KERNEL, Ordering::SeqCst);
    false
}

/// With handlers of both kinds (restarting or not) only the kernel itself can end a blocking call rightly.
fn unsure_of_signals(conn: &Conn) -> bool {
    // Such a sleep knows nothing of a provider's descriptor.
    let sleeps = !conn.pair.is_far() && restartable::available();
    signals::mixed() && !sleeps && !anchor::is_non_blocking(conn.slot, conn.fd)
}

fn count_agrees(conn: &Conn, side: &RecvGuard<'_>) -> bool {
    let ours = side.reader.kernel_offset(conn.slot.delivered());
    let kernels = anchor::bytes_delivered(conn.fd);
    // Looked at last: a FIN counts as a byte.
    if anchor::look(conn) & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32 != 0 {
        return false;
    }
    let agrees = kernels == Some(ours);
    if !agrees {
        crate::log::info(format_args!("slot {}: received {ours}, the kernel says {kernels:?}", conn.slot.index));
        give_up(conn.slot, Reason::CountMismatch);
    }
    agrees
}

/// Takes the peer's offer for our writing direction, if there is one and nothing is under way in the kernel. True when
/// writing goes through the switch now.
pub fn take(conn: &Conn) -> bool {
    let slot = conn.slot;
    let declines = conn.leaves_for_good();
    if declines && conn.out.load(Word::Left) != FOR_GOOD && conn.peer_ready() {
        // What is offered from now on sees it, or is seen below.
        conn.out.store(Word::Left, FOR_GOOD);
        conn.out.fence();
    }
    // Nothing is offered: one load.
    if conn.out.load(Word::Want) == 0 || !conn.peer_ready() {
        return false;
    }
    let hold = epoll::hold(slot).filter(|_| !unsure_of_signals(conn));
    if hold.is_none() && !declines && !Writer::may_be_asked(&conn.out) {
        return false;
    }
    let Ok(mut side) = slot.send_side() else { return false };
    if slot.send_phase.load(Ordering::Relaxed) == THROUGH_SWITCH {
        return true;
    }
    if !slot.current() {
        return false;
    }
    slot.send_phase.store(THROUGH_SWITCH, Ordering::SeqCst);
    let event = answer_offer(conn, &mut side, hold.as_ref());
    if let WriterEvent::Took { offset } = event {
        crate::log::debug(format_args!("slot {}: writes by the companion from byte {offset}", slot.index));
        drop(side);
        conn.wake_reader();
        carried_by(conn);
        epoll::adopt(conn);
        return true;
    }
    if event == WriterEvent::Proposed {
        // Nothing is accepted until that has arrived: whoever asks for room waits.
        drop(side);
        conn.wake_reader();
        epoll::adopt(conn);
        return true;
    }
    let epoch = side.writer.epoch();
    slot.send_phase.store(IN_KERNEL, Ordering::SeqCst);
    drop(side);
    if event == WriterEvent::Voided {
        conn.wake_reader();
        if conn.pair.is_far() {
            far::say_void(conn, epoch);
        }
    }
    false
}

fn answer_offer(conn: &Conn, side: &mut SendGuard<'_>, hold: Option<&epoll::Hold>) -> WriterEvent {
    let slot = conn.slot;
    let willing = !slot.has(flag::LEAVING | flag::URGENT | flag::SHUT_WR | flag::ODD_OPTION);
    let unwatched =
        willing && slot.kernel_sends.load(Ordering::SeqCst) == 0 && hold.is_some_and(|hold| hold.covers(slot));
    let may_take = unwatched && slot.sole_holder();
    let facts = WriterFacts {
        offset: slot.accepted(),
        may_take,
        place: conn.out.first(),
        travels: conn.pair.is_far(),
        for_good: conn.leaves_for_good(),
        // One that has shut both ways since it offered: what it gets now its kernel shall answer.
        reader_gone: may_take && (anchor::peer_gone(anchor::look(conn)) || conn.peer_reads_no_more()),
        ..WriterFacts::default()
    };
    side.writer.set_limit(slot.limit.load(Ordering::Relaxed));
    let accepted = slot.has(flag::ACCEPTED);
    side.writer.consider(&conn.out, &facts, |ours| {
        let kernels = anchor::bytes_accepted(conn.fd, accepted);
        let agrees = kernels == Some(ours);
        if !agrees {
            crate::log::info(format_args!("slot {}: sent {ours}, the kernel says {kernels:?}", slot.index));
            give_up(slot, Reason::CountMismatch);
        }
        agrees
    })
}

/// No switch-over any more; what goes by the companion comes back to TCP.
pub fn give_up(slot: SlotRef, reason: Reason) {
    if slot.raise(flag::LEAVING) {
        slot.set_reason(reason);
        crate::log::debug(format_args!("slot {}: leaves the companion: {reason}", slot.index));
    }
}

/// As [`give_up`], and asks both directions back at once. The writer's bytes are pumped as far as the kernel takes them.
pub fn leave(slot: SlotRef, fd: RawFd, reason: Reason) {
    give_up(slot, reason);
    if let Some(conn) = Conn::of(slot, fd) {
        receive::ask_back(&conn);
        send::pump(&conn);
        refresh_row(slot);
    }
}

/// After a phase has changed: what `tandem ss` shows, and where the epoll registration stands.
pub fn refresh_row(slot: SlotRef) {
    let switched = slot.send_phase.load(Ordering::Acquire) | slot.recv_phase.load(Ordering::Acquire) != IN_KERNEL;
    if !switched {
        let reason = match slot.reason() {
            reason if slot.has(flag::LEAVING) => reason,
            _ => Reason::FailedBack,
        };
        if let Some(family) = family::existing() {
            family.row(slot.index).set_provider(Provider::Tcp, reason);
        }
    }
}

fn carried_by(conn: &Conn) {
    let provider = if conn.pair.is_far() { Provider::PlugIn } else { Provider::Local };
    if let Some(family) = family::existing() {
        family.row(conn.slot.index).set_provider(provider, Reason::None);
    }
}

pub fn count_fail_back() {
    if let Some(family) = family::existing() {
        family.registry.header.totals.fail_backs.fetch_add(1, Ordering::Relaxed);
    }
}

/// The writer has left the ring for good or for now: calls go to the kernel. Under the send lock.
fn back_to_kernel_sends(conn: &Conn, side: &mut SendGuard<'_>) {
    debug_assert!(side.writer.state() != WState::Ring && side.writer.state() != WState::FailBack);
    collect_places(conn, side);
    conn.slot.send_phase.store(IN_KERNEL, Ordering::SeqCst);
    conn.slot.turns.fetch_add(1, Ordering::SeqCst);
    refresh_row(conn.slot);
    sleep::rouse_all(&side.sleepers);
    epoll::rouse(conn.slot);
}

/// Big rings that the direction has left go back.
fn collect_places(conn: &Conn, side: &mut SendGuard<'_>) {
    while let Some(place) = side.writer.retired(&conn.out) {
        conn.pair.release(place);
    }
}

/// The last descriptor of the last holder is about to be closed.
pub fn finish(conn: &Conn) {
    if conn.pair.is_far() || conn.slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
        send::finish(conn, send::End::Both);
    }
}

/// The last descriptor of the last holder goes: the words are done with at this end. What the peer has not yet read stays
/// where it is; its ring is given back when the connection's number is used again.
pub fn detach(slot: SlotRef) {
    let Some(conn) = Conn::of(slot, -1) else { return };
    if let Some(driver) = conn.pair.far() {
        return driver.slot_ended(slot);
    }
    conn.reads_no_more();
    let Ok(side) = slot.send_side() else { return };
    // What was accepted and not yet read by the peer, whatever state the writer ended in: the peer still reads it there.
    let unread = conn.out.load(Word::Consumed) < side.writer.written();
    let places = side.writer.places();
    drop(side);
    for place in places.into_iter().filter(|place| !place.is_none()) {
        conn.pair.give_back(conn.slot.conn.load(Ordering::Relaxed), place, unread);
    }
    let end = CompanionRef {
        pair: conn.pair.id(),
        conn: slot.conn.load(Ordering::Relaxed),
        role: conn.pair.role(),
        id: slot.companion_id.load(Ordering::Relaxed),
    };
    meet::released(conn.pair.instance(), end);
}
