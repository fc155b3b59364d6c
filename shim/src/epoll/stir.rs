//! What makes a set look anew at a connection, beside the kernel's news of its anchor: what this process does to it; and the peer,
//! which learns here whom to wake.

use std::sync::atomic::{Ordering, fence};

use super::adopt::Adopted;
use super::collect::{self, EDGE, STIRRED};
use super::set::at;
use crate::slot::{SlotRef, flag};
use crate::stream::{Port, Word};
use crate::switch::{Conn, sleep};
use crate::wake::{self, Wake};

/// What the kernel tells anew, edge or not: the connection's low-water mark was set.
pub fn ask_anew(slot: SlotRef) {
    for_each_entry(slot, |entry| entry.hot |= entry.events & EDGE == 0 || entry.events & STIRRED != 0);
}

/// The same, of whatever they wait for: the connection was shut down.
pub fn ask_all_anew(slot: SlotRef) {
    for_each_entry(slot, |entry| (entry.hot, entry.hint) = (true, true));
}

fn for_each_entry(slot: SlotRef, mut change: impl FnMut(&mut Adopted)) {
    for set in slot.sets().filter_map(at) {
        let Some(mut inner) = set.lock() else { continue };
        for fd in inner.descriptors_of(slot) {
            if let Some(entry) = inner.entry(fd) {
                change(entry);
                inner.make_due(fd);
            }
        }
        drop(inner);
        set.rouse();
    }
}

/// Before bytes are read, or the mark changes, of a connection that has a low-water mark: what has come may be an edge, see
/// [`collect::note_arrival`].
pub fn note_arrivals(slot: SlotRef) {
    for set in slot.sets().filter_map(at) {
        let Some(mut inner) = set.lock() else { continue };
        for fd in inner.descriptors_of(slot) {
            if let Some(entry) = inner.entry(fd).filter(|entry| entry.events & EDGE != 0) {
                let conn = Conn { fd: slot.descriptor(), ..entry.conn };
                collect::note_arrival(entry, &conn);
            }
        }
    }
}

/// Something has happened to the connection that its peer does not tell: the sets that watch it look anew, and who sleeps
/// on them is woken. Takes no set's lock.
pub fn rouse(slot: SlotRef) {
    for set in slot.sets().filter_map(at) {
        set.mail.post(slot);
        fence(Ordering::SeqCst);
        set.rouse();
    }
}

/// The set's wake is named as the one to wake when the ring has bytes, unless a thread that sleeps comes first. Where
/// several sets watch one connection none of them stays named: each names itself as a thread does, while it sleeps.
pub fn watch(conn: &Conn, wake: Wake) {
    conn.pair.introduce(wake.id, wake.bind, wake.fd);
    let alone = !conn.slot.has(flag::REGISTERED_TWICE);
    let Ok(mut side) = conn.slot.recv_side() else { return };
    if !side.sleepers.set_is(no_other_process) {
        drop(side);
        return sleep::waits_elsewhere(conn);
    }
    side.sleepers.watch(None);
    if alone {
        side.sleepers.watch(Some(wake.id));
    }
    side.sleepers.name(&conn.inward, Word::RSleep);
    // Whoever named it looks at the ring afterwards.
    conn.inward.fence();
}

/// This process's, or that of one that has ended.
fn no_other_process(id: u32) -> bool {
    wake::is_mine(id) || !wake::in_use(id)
}

/// A forked child that closes what it inherited takes nothing from its parent's set, which stands there in shared memory.
pub fn unwatch(conn: &Conn) {
    if !conn.slot.current() {
        return;
    }
    if let Ok(mut side) = conn.slot.recv_side()
        && side.sleepers.set_is(wake::is_mine)
    {
        side.sleepers.watch(None);
        side.sleepers.name(&conn.inward, Word::RSleep);
    }
    if let Ok(mut side) = conn.slot.send_side()
        && side.sleepers.set_is(wake::is_mine)
    {
        side.sleepers.watch(None);
        side.sleepers.name(&conn.out, Word::WSleep);
    }
}

/// As [`watch`], for room to write.
pub fn watch_room(conn: &Conn, wake: Option<Wake>) {
    let Ok(mut side) = conn.slot.send_side() else { return };
    if !side.sleepers.set_is(no_other_process) {
        drop(side);
        return sleep::waits_elsewhere(conn);
    }
    side.sleepers.watch(None);
    side.sleepers.watch(wake.filter(|_| !conn.slot.has(flag::REGISTERED_TWICE)).map(|wake| wake.id));
    side.sleepers.name(&conn.out, Word::WSleep);
    conn.out.fence();
}
