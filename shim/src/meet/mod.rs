//! Meeting: the switch's side of the conversation with policyd.
//!
//! `packet` is one packet with descriptors, `addresses` names a connection, `counting` says when it asks, `examination` keeps a close from overtaking policyd's look at the socket, `san`
//! knows which addresses devices serve, `drain` what is to stay on TCP, `channel` speaks with policyd; here are the meets. Nothing here waits: answers are collected by whichever call comes next,
//! told by one word of shared memory that there are any.

mod addresses;
mod attach;
mod channel;
mod counting;
mod drain;
pub mod examination;
pub mod packet;
pub mod san;

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use tandem_protocol::message::{Meet, Message};
use tandem_protocol::registry::{Identity, Provider};
use tandem_protocol::san::Way;
use tandem_protocol::{Addresses, Reason};

use crate::autobind::record::is;
use crate::config::{self, Attach};
use crate::provider::plugin;
use crate::slot::{SlotRef, Stage, flag};
use crate::switch::anchor;
use crate::switch::sleep;
use crate::{family, fd_table, outcome, sys};
pub use addresses::of as addresses_of;
pub use attach::{slot_ending, slot_named, still_sound};
pub use channel::{
    after_fork_in_child, channel_descriptor, collect, forget_channel, gives_up, has_business, instance, may_try, probe,
    receive, released, tell, tend_far, wait_for_mail,
};
pub use san::provider as provider_of;

/// Data calls after which a connection waits no longer for its other end.
const ENOUGH: u32 = 2_000;
/// It looks once in so many calls from then on.
const SELDOM: u32 = 64;
/// But so long in any case: a stream's sender makes those calls in 2 ms, when its receiver may not have come to read yet.
const LEAST_NS: u64 = 100_000_000;
/// And how long it waits at most for a policyd that has not read its meet.
const ENOUGH_NS: u64 = 1_000_000_000;
/// A connection that found no policyd so often stays on TCP.
const TRIES: u32 = 4;

/// One data call on a connection that is still counted: moves it along.
#[inline]
pub fn data_call(slot: SlotRef, fd: RawFd) {
    if slot.is_before(Stage::Attached) {
        begins(slot, fd);
    }
    collect();
}

/// The kernel has carried bytes in a data call.
#[inline]
pub fn has_moved(slot: SlotRef, fd: RawFd, way: sleep::Way) {
    if slot.is_before(Stage::Meeting) && config::attach() == Attach::Data {
        count(slot, fd, way);
    }
}

/// The same in front of the hook's guard, where `attach` is `data`.
#[inline(always)]
pub fn has_moved_at_once(slot: SlotRef, fd: RawFd, way: sleep::Way) {
    match slot.stage() {
        Stage::New => announce(slot, fd),
        Stage::Counting => {}
        _ => return,
    }
    if let Some(calls) = counting::count(&slot.data_calls, way)
        && slot.stage() == Stage::Counting
    {
        asks(slot, fd, calls);
    }
}

#[cold]
#[inline(never)]
fn asks(slot: SlotRef, fd: RawFd, calls: u32) {
    outcome::note("meet", || ask(slot, fd, calls));
}

#[cold]
fn begins(slot: SlotRef, fd: RawFd) {
    let calls = match (slot.stage(), config::attach()) {
        (Stage::Meeting, _) | (_, Attach::Connect) => {
            (slot.data_calls.fetch_add(1, Ordering::Relaxed) + 1) & counting::CALLS
        }
        _ => 0,
    };
    match (slot.stage(), config::attach()) {
        (Stage::New | Stage::Counting, Attach::Off) => {
            announce(slot, fd);
            settle(slot, Reason::AttachOff);
        }
        (Stage::New | Stage::Counting, Attach::Connect) => ask(slot, fd, calls),
        (Stage::Meeting, _) => awaits(slot, fd, calls),
        _ => {}
    }
}

#[cold]
fn count(slot: SlotRef, fd: RawFd, way: sleep::Way) {
    if slot.stage() == Stage::New {
        announce(slot, fd);
    }
    if let Some(calls) = counting::count(&slot.data_calls, way)
        && slot.stage() == Stage::Counting
    {
        ask(slot, fd, calls);
    }
}

fn awaits(slot: SlotRef, fd: RawFd, calls: u32) {
    match () {
        // The other end is known, and the way there is being made: see `collect`.
        () if slot.has(flag::FAR) => probe(),
        // Whoever has talked so long with nobody answering pays little for it, and soon nothing any more.
        () if calls >= ENOUGH && !calls.is_multiple_of(SELDOM) => {}
        () if calls >= ENOUGH && waited_enough(slot, fd) => settle(slot, Reason::PeerAbsent),
        () => probe(),
    }
}

/// policyd has heard of the connection by now, and knows no other end; or it gets so little of the processor that it will not. Where the
/// other end is another host's, that host's policyd is to hear of it too, which takes trips of the wire: there only time tells.
fn waited_enough(slot: SlotRef, fd: RawFd) -> bool {
    let waited = sys::tick_ns().saturating_sub(slot.asked_at.load(Ordering::Relaxed));
    let channel = channel_descriptor();
    let served = || addresses::of(fd).is_some_and(|addresses| matches!(san::way(&addresses), Way::Served { .. }));
    waited >= ENOUGH_NS || waited >= LEAST_NS && packet::all_read(channel) && packet::is_quiet(channel) && !served()
}

/// The connection is there: its row appears. The kernel is asked for nothing: it may be over in a moment. In front of the hook's guard, too.
#[inline(never)]
fn announce(slot: SlotRef, fd: RawFd) {
    if slot.raise(flag::IN_REGISTRY)
        && let Some(family) = family::existing()
    {
        let shown = (sys::pid(), fd);
        family.registry.announce(slot.index as usize, shown, !slot.has(flag::ACCEPTED), Reason::FewCalls);
        slot.set_reason(Reason::FewCalls);
    }
    slot.advance(Stage::New, Stage::Counting);
}

/// The connection's addresses, which its row shows from now on. `None` when it is not connected (yet).
fn identify(slot: SlotRef, fd: RawFd) -> Option<Addresses> {
    let addresses = addresses::of(fd)?;
    let cookie = anchor::socket_option::<u64>(fd, libc::SOL_SOCKET, libc::SO_COOKIE).unwrap_or(0);
    slot.cookie.store(cookie, Ordering::Relaxed);
    announce(slot, fd);
    if slot.raise(flag::IDENTIFIED)
        && let Some(family) = family::existing()
    {
        let identity = Identity { pid: sys::pid(), addresses, cookie, connected: !slot.has(flag::ACCEPTED) };
        family.registry.identify(slot.index as usize, &identity);
    }
    Some(addresses)
}

/// On TCP for good: data calls go to the kernel without a look at the slot.
pub fn settle(slot: SlotRef, reason: Reason) {
    for from in [Stage::New, Stage::Counting, Stage::Meeting] {
        if slot.advance(from, Stage::Settled) {
            slot.set_reason(reason);
            if let Some(family) = family::existing() {
                family.row(slot.index).settle(reason);
            }
            crate::log::debug(format_args!("slot {}: stays on TCP: {reason}", slot.index));
            // Where policy ends connections whose interface has gone, what its calls return is looked at.
            if !slot.slot.autobind.has(is::FAILS) {
                fd_table::settle(slot.descriptor());
            }
            return;
        }
    }
}

/// The connection goes on being counted, but is on TCP for this reason now.
pub fn explain(slot: SlotRef, reason: Reason) {
    slot.set_reason(reason);
    if let Some(family) = family::existing() {
        family.row(slot.index).set_provider(Provider::Tcp, reason);
    }
}

#[cold]
fn ask(slot: SlotRef, fd: RawFd, calls: u32) {
    slot.raise(flag::MET);
    if slot.has(flag::ODD_OPTION) {
        return settle(slot, Reason::Option);
    }
    if slot.has(flag::URGENT) {
        return settle(slot, Reason::UrgentData);
    }
    if drain::is_drained() {
        return settle(slot, Reason::Drained);
    }
    if slot.has(flag::LEAVING) {
        return settle(slot, slot.reason());
    }
    let now = sys::tick_ns();
    if !may_try(now) || !slot.sole_holder() {
        return;
    }
    let Ok(mut held) = channel::hold() else { return };
    let Some(addresses) = identify(slot, fd) else { return };
    let message = claim(slot, fd, addresses);
    slot.asked_at.store(sys::now_ns(), Ordering::Relaxed);
    if !examination::permit(slot, fd) || !slot.advance(Stage::Counting, Stage::Meeting) {
        return;
    }
    if held.tell(&message) {
        if let Message::Meet(meet) = &message {
            crate::log::trace(format_args!("slot {}: meets; by devices: {:?}", slot.index, san::way(&meet.addresses)));
        }
        explain(slot, Reason::WaitingForPeer);
        return;
    }
    slot.retreat();
    explain(slot, Reason::PolicydAbsent);
    channel::back_off();
    if slot.count_try() >= TRIES && calls > counting::FEW {
        settle(slot, Reason::PolicydAbsent);
    }
}

fn claim(slot: SlotRef, fd: RawFd, addresses: Addresses) -> Message {
    Message::Meet(Meet {
        slot: name(slot),
        fd,
        addresses,
        cookie: slot.cookie.load(Ordering::Relaxed),
        netns_cookie: anchor::socket_option::<u64>(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE).unwrap_or(0),
        // Whether it can be used is seen when there is somebody to meet.
        verbs: plugin::is_installed(san::provider(&addresses)),
    })
}

fn name(slot: SlotRef) -> tandem_protocol::message::SlotRef {
    tandem_protocol::message::SlotRef { slot: slot.index, generation: slot.generation }
}
