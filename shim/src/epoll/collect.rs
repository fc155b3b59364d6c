//! What the adopted entries of a set have to report.

use std::sync::atomic::Ordering;

use libc::epoll_event;

use super::adopt::Adopted;
use super::common;
use super::set::{Guard, Set};
use super::stir::watch_room;
use crate::slot::THROUGH_SWITCH;
use crate::stream::{Port, Word, tcp_may_have};
use crate::switch::{Conn, anchor, ready, receive};

pub const EDGE: u32 = libc::EPOLLET as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
/// Whoever waits for one of these is roused by bytes, and told of whatever else there is (sock_def_readable).
pub const STIRRED: u32 = ready::IN | (libc::POLLPRI | libc::POLLRDBAND) as u32;
/// What of an entry's events poll(2) knows by the same bits.
const POLL_BITS: u32 = 0xffff & !(libc::EPOLLEXCLUSIVE as u32);

/// Fills `out` from the adopted entries; returns how many.
pub fn collect(set: &Set, inner: &mut Guard<'_>, out: &mut [epoll_event]) -> usize {
    let mut found = 0;
    // Due again after all others had their turn: not twice in one batch.
    let mut again = std::mem::take(&mut inner.again);
    for _ in 0..inner.gather_due(&set.mail) {
        if found == out.len() {
            break;
        }
        let Some(place) = inner.next_due() else { break };
        let wake = inner.wake;
        let Some(entry) = inner.adopted.get_mut(place) else { break };
        if !entry.conn.slot.current() {
            set.remove(inner, place);
            continue;
        }
        if !ready::switched(entry.conn.slot) {
            if may_go_back(entry) {
                set.give_back(inner, place);
            }
            continue;
        }
        if set.joined.load(Ordering::Relaxed) && !common::read(set, entry) {
            set.remove(inner, place);
            continue;
        }
        let (events, report) = look(entry);
        if report && entry.events & (EDGE | ONE_SHOT) != 0 {
            common::publish(set, entry);
        }
        if entry.events & ready::OUT & !events != 0 && through_ring(entry) {
            watch_room(&entry.conn, wake);
            // Room may have come before the word was there.
            entry.hot |= ready::events(&entry.conn, 0, ready::OUT) & ready::OUT != 0;
        }
        let (fd, hot) = (entry.fd, entry.hot);
        if let (true, Some(place)) = (report, out.get_mut(found)) {
            *place = epoll_event { events, u64: entry.data };
            found += 1;
        }
        if hot {
            again.push(fd);
        }
    }
    for fd in again.drain(..) {
        inner.make_due(fd);
    }
    inner.again = again;
    inner.turn = inner.turn.wrapping_add(1);
    found
}

/// Has anything moved that this entry's answer depends on? For entries of which no news come.
pub fn changed(entry: &Adopted) -> bool {
    !entry.spent
        && (entry.hot
            || entry.conn.inward.load(Word::Produced) != entry.seen_produced
            || entry.behind && entry.conn.slot.delivered() != entry.seen_delivered
            || entry.events & ready::OUT != 0 && out_changed(entry)
            || entry.conn.slot.turns.load(Ordering::Acquire) != entry.seen_turns
            || !ready::switched(entry.conn.slot))
        || entry.hint
}

/// The kernel carries the connection again, and may have the entry. An edge-triggered one it would tell of at once, so that stays until there
/// is something to tell. (Of one that is registered elsewhere too no news come.) One that has fired waits to be set anew: the kernel would
/// take it as disarmed but for errors.
pub fn may_go_back(entry: &mut Adopted) -> bool {
    if entry.spent {
        return false;
    }
    let mut seen = *entry;
    if entry.events & EDGE == 0 || entry.shared || look(&mut seen).1 {
        return true;
    }
    *entry = seen;
    false
}

/// Whether a look at an entry that is due is going to find something: for who asks the set whether it is readable.
pub fn would_report(entry: &Adopted) -> bool {
    look(&mut entry.clone()).1
}

/// There is more room, or a send found none since: then the peer has to be told who waits for it.
fn out_changed(entry: &Adopted) -> bool {
    entry.conn.out.load(Word::Consumed) != entry.seen_consumed
        || entry.conn.slot.no_space.load(Ordering::Acquire) != entry.seen_no_space
}

/// The peer has said that it ends, and the kernel was not heard to: its news of that may wait behind others.
fn ends_unheard(conn: &Conn) -> bool {
    let ended = conn.pair.is_far() && conn.inward.load(Word::End) != 0;
    let said = ended || conn.inward.load(Word::Final) != 0 || conn.peer_reads_no_more();
    said && !anchor::peer_finished(conn.slot.anchor.load(Ordering::Acquire))
}

/// Looks at one entry: its events, and whether they are to be reported now.
fn look(entry: &mut Adopted) -> (u32, bool) {
    let conn = Conn { fd: entry.conn.slot.descriptor(), ..entry.conn };
    let produced = conn.inward.load(Word::Produced);
    let consumed = conn.out.load(Word::Consumed);
    let more_bytes = produced != entry.seen_produced;
    let no_space = conn.slot.no_space.load(Ordering::Acquire);
    entry.edge_due |= std::mem::replace(&mut entry.seen_no_space, no_space) != no_space;
    (entry.seen_produced, entry.seen_consumed) = (produced, consumed);
    entry.seen_delivered = conn.slot.delivered();
    let turns = conn.slot.turns.load(Ordering::Acquire);
    let turned = std::mem::replace(&mut entry.seen_turns, turns) != turns;
    let hinted = std::mem::take(&mut entry.hint);
    let fresh = hinted || turned || ends_unheard(&conn);
    let wanted = entry.events & POLL_BITS | (libc::POLLERR | libc::POLLHUP) as u32;
    // What the kernel was last heard to have may be gone by now; what lasts is remembered, and all else is an edge.
    let on_tcp = conn.slot.anchor.load(Ordering::Acquire) & (ready::IN | libc::POLLPRI as u32) != 0;
    let half =
        conn.slot.send_phase.load(Ordering::Acquire) & conn.slot.recv_phase.load(Ordering::Acquire) != THROUGH_SWITCH;
    // Of an entry that is ready all the while the outer epoll is asked now and then only.
    let on_tcp = on_tcp || tcp_may_have(&conn.inward, entry.seen_delivered);
    let (events, known) = match fresh || on_tcp || half {
        true => ready::ask(&conn, wanted),
        false => ready::events_and_anchor(&conn, 0, wanted),
    };
    // Ring bytes behind TCP's rest, which another thread may read: then they are news without the ring having moved.
    let more = produced > entry.seen_delivered || conn.slot.anchor.load(Ordering::Acquire) & ready::IN != 0;
    entry.behind = events & ready::IN == 0 && more;
    if entry.spent {
        return (events, false);
    }
    let report = if entry.events & EDGE == 0 {
        entry.hot = events != 0;
        events != 0
    } else {
        let anew = std::mem::take(&mut entry.hot);
        let came = came(entry, &conn, (events, known), fresh || more_bytes || anew);
        // As the kernel's own poll does it: who finds no room is owed an edge when there is some.
        entry.edge_due |= events & ready::OUT == 0 && wanted & ready::OUT != 0;
        let edge_out = events & ready::OUT != 0 && std::mem::take(&mut entry.edge_due);
        events != 0 && (came || anew || edge_out)
    };
    if report && entry.events & ONE_SHOT != 0 {
        entry.spent = true;
        entry.hot = false;
    }
    (events, report)
}

/// Edge-triggered: has the stream come further, or something lasting happened, since the last report? `anchor`: what was known of that when the
/// events were found. What another thread's call has learnt since would pass for told, and it is not among the events.
fn came(entry: &mut Adopted, conn: &Conn, (events, anchor): (u32, u32), news: bool) -> bool {
    const LASTING: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLPRI) as u32;
    // Of the anchor, wanted or not: the peer's FIN is an edge for who waits for bytes, too.
    let mut known = (events | anchor) & LASTING;
    if known & RDHUP & !(events | entry.told) != 0 {
        let waits = receive::fin_waits(conn);
        // Another thread has read meanwhile what it waited behind: the next look has it among the events.
        entry.hot |= !waits && entry.events & RDHUP != 0;
        if waits || entry.hot {
            known &= !RDHUP;
        }
    }
    // What this end has shut may be told already, but not that the peer has.
    let finished = known & anchor & RDHUP;
    let lasting = known & !entry.told | finished & !entry.heard;
    (entry.told, entry.heard) = (known, finished);
    if news {
        note_arrival(entry, conn);
    }
    // Bytes that came after the events were found are not among them: those are told by the next look, which their news bring.
    let unread = entry.mark.saturating_sub(conn.slot.delivered());
    let late = entry.events & ready::IN & !events != 0
        && unread > 0
        && unread >= receive::low_water(conn.slot, conn.fd) as u64;
    let further = entry.stirred && events != 0 && !late;
    if further || conn.slot.delivered() >= entry.mark {
        entry.stirred = false;
    }
    lasting != 0 || further
}

/// Edge-triggered: bytes that have come since are an edge for who is roused by bytes, if the low-water mark was reached: whatever is told
/// then, and though they may have been read by then. Asked before the mark changes, and where there is one before each receive.
pub fn note_arrival(entry: &mut Adopted, conn: &Conn) {
    let arrived = receive::arrived(conn);
    if arrived <= entry.mark {
        return;
    }
    entry.mark = arrived;
    let unread = arrived.saturating_sub(conn.slot.delivered());
    let low = receive::low_water(conn.slot, conn.fd) as u64;
    entry.stirred |= entry.events & STIRRED != 0 && (low == 1 || unread >= low);
}

/// What the application writes goes to the ring: the peer shall wake us when it has read.
fn through_ring(entry: &Adopted) -> bool {
    entry.conn.slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH
}
