//! The birth of a companion at this end: policyd has found and proven the other one.

use std::os::fd::RawFd;

use tandem_protocol::Reason;
use tandem_protocol::message::{Companion, SlotRef as Named};

use super::packet::Packet;
use crate::provider::local::{self, Pair, Parts};
use crate::slot::{SlotRef, Stage, flag};
use crate::switch::{self, anchor};
use crate::{hidden, slot};

/// The slot that policyd means, if it is still that connection and this process has a descriptor of it.
pub fn slot_named(named: Named) -> Option<SlotRef> {
    let known = slot::at(named.slot).filter(|slot| slot.generation == named.generation)?;
    known.is_mine().then_some(known)
}

/// One whose last descriptor is being closed here: its end is still to be seen to.
pub fn slot_ending(named: Named) -> Option<SlotRef> {
    slot::at(named.slot).filter(|slot| slot.generation == named.generation && slot.ends_here())
}

/// False: not taken, and nothing of it is kept.
pub fn attach(instance: u64, companion: &Companion, packet: &Packet) -> bool {
    let Some(pair) = pair_of(instance, companion, packet) else { return false };
    let Some(slot) = slot_named(companion.slot) else { return false };
    let fd = slot.descriptor();
    if slot.stage() != Stage::Meeting || !still_sound(slot, fd) {
        return false;
    }
    if slot.has(flag::USER_TIMEOUT) {
        // The kernel would see nothing wait, and here there is no queue pair that gives up before.
        super::settle(slot, Reason::Option);
        return false;
    }
    let end = companion.companion;
    if !switch::attach(slot, pair, end) {
        return false;
    }
    crate::log::debug(format_args!("slot {}: companion {:x} with process {}", slot.index, end.id, companion.peer_pid));
    true
}

fn pair_of(instance: u64, companion: &Companion, packet: &Packet) -> Option<&'static Pair> {
    let end = companion.companion;
    let known = local::find(instance, end.pair, end.role);
    let mut fds = packet.fds();
    if let Some(pair) = known {
        packet.drop_fds();
        return Some(pair);
    }
    let (Some(memory), Some(board), Some(wake0), Some(channel), None, false) =
        (fds.next(), fds.next(), fds.next(), fds.next(), fds.next(), packet.truncated)
    else {
        packet.drop_fds();
        return None;
    };
    let hide = |fd: RawFd| hidden::hide(fd).unwrap_or(-1);
    let parts = Parts { memory: hide(memory), board: hide(board), wake0: hide(wake0), channel: hide(channel) };
    local::adopt(instance, end.pair, end.role, parts)
}

/// Both switches confirm before anything moves: the same socket, still established, nobody else holds it.
pub fn still_sound(slot: SlotRef, fd: RawFd) -> bool {
    let cookie = anchor::socket_option::<u64>(fd, libc::SOL_SOCKET, libc::SO_COOKIE);
    cookie == Some(slot.cookie.load(std::sync::atomic::Ordering::Relaxed))
        && anchor::is_established(fd)
        && slot.sole_holder()
}

/// policyd says no. Before the companion was there: TCP for good. After it (the other end could not take its half):
/// nothing was offered by that end, so both directions are or go back on TCP.
pub fn refused(slot: SlotRef, reason: Reason) {
    if slot.stage() == Stage::Attached {
        switch::leave(slot, slot.descriptor(), Reason::PeerUnable);
    } else if reason == Reason::Closed && still_sound(slot, slot.descriptor()) && slot.count_try() < super::TRIES {
        // A process that had the other end has closed it, and another has it still: by its next data call it asks anew, as we do.
        if slot.retreat() {
            super::explain(slot, Reason::FewCalls);
        }
    } else {
        super::settle(slot, reason);
    }
}
