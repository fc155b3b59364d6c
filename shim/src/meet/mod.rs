//! Meeting: the switch's side of the conversation with policyd.
//!
//! `packet` is one packet with descriptors, `addresses` names a connection, `counting` says when it asks, `examination` keeps a close from overtaking policyd's look at the socket, `san`
//! knows which addresses devices serve, `drain` what is to stay on TCP; here are the channel (opened when a connection first wants its other end, opened anew after a fork, a change of user, or
//! policyd's death), the meets, and the answers. Nothing here waits: answers are collected by whichever call comes next,
//! told by one word of shared memory that there are any.

mod addresses;
mod attach;
mod counting;
mod drain;
pub mod examination;
pub mod packet;
pub mod san;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::message::{CompanionRef, MAX_MESSAGE, Meet, Message};
use tandem_protocol::registry::{Identity, Provider};
use tandem_protocol::san::Way;
use tandem_protocol::{Addresses, Reason};

use crate::autobind::assignment;
use crate::autobind::record::is;
use crate::config::{self, Attach};
use crate::debug::{self, Fault};
use crate::lock::Lock;
use crate::provider::{far, plugin};
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::anchor;
use crate::switch::sleep;
use crate::{family, fd_table, hidden, real, sys, wake};
pub use addresses::of as addresses_of;
pub use attach::{slot_ending, slot_named, still_sound};
use packet::Arrival;

/// Data calls after which a connection waits no longer for its other end.
const ENOUGH: u32 = 2_000;
/// It looks once in so many calls from then on.
const SELDOM: u32 = 64;
/// But so long in any case: a stream's sender makes those calls in 2 ms, when its receiver may not have come to read yet.
const LEAST_NS: u64 = 100_000_000;
/// And how long it waits at most for a policyd that has not read its meet.
const ENOUGH_NS: u64 = 1_000_000_000;
/// After policyd could not be reached, how long nobody tries again.
const BACK_OFF_NS: u64 = 500_000_000;
/// How often a connection that waits for an answer looks whether policyd still lives.
const PROBE_NS: u64 = 100_000_000;
/// A connection that found no policyd so often stays on TCP.
const TRIES: u32 = 4;

static CHANNEL: AtomicI32 = AtomicI32::new(-1);
static INSTANCE: AtomicU64 = AtomicU64::new(0);
static NEXT_TRY: AtomicU64 = AtomicU64::new(0);
static NEXT_PROBE: AtomicU64 = AtomicU64::new(0);
static MAIL_SEEN: AtomicU32 = AtomicU32::new(0);
static LOCK: Lock = Lock::new();

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
    let channel = CHANNEL.load(Ordering::Acquire);
    let served = || addresses::of(fd).is_some_and(|addresses| matches!(san::way(&addresses), Way::Served { .. }));
    waited >= ENOUGH_NS || waited >= LEAST_NS && packet::all_read(channel) && packet::is_quiet(channel) && !served()
}

/// The connection is there: its row appears. The kernel is asked for nothing: it may be over in a moment.
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
    if now < NEXT_TRY.load(Ordering::Relaxed) || !slot.sole_holder() {
        return;
    }
    let Ok(_held) = LOCK.lock() else { return };
    let Some(addresses) = identify(slot, fd) else { return };
    let message = claim(slot, fd, addresses);
    slot.asked_at.store(now, Ordering::Relaxed);
    if !examination::permit(slot, fd) || !slot.advance(Stage::Counting, Stage::Meeting) {
        return;
    }
    if channel().is_some_and(|channel| send(channel, &message, &[])) {
        if let Message::Meet(meet) = &message {
            crate::log::trace(format_args!("slot {}: meets; by devices: {:?}", slot.index, san::way(&meet.addresses)));
        }
        explain(slot, Reason::WaitingForPeer);
        return;
    }
    slot.retreat();
    explain(slot, Reason::PolicydAbsent);
    NEXT_TRY.store(sys::now_ns() + BACK_OFF_NS, Ordering::Relaxed);
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
        verbs: plugin::is_installed(),
    })
}

fn name(slot: SlotRef) -> tandem_protocol::message::SlotRef {
    tandem_protocol::message::SlotRef { slot: slot.index, generation: slot.generation }
}

/// Answers of policyd, if there are any: one load when there are none.
#[inline]
pub fn collect() {
    let Some(family) = family::existing() else { return };
    let mail = family.registry.header.mail.load(Ordering::Acquire);
    if mail != MAIL_SEEN.load(Ordering::Relaxed) {
        fetch(mail);
    }
    far::tend();
}

/// There is something for [`collect`], or may be.
#[inline]
pub fn has_business() -> bool {
    let mail = family::existing().map_or(0, |family| family.registry.header.mail.load(Ordering::Acquire));
    mail != MAIL_SEEN.load(Ordering::Relaxed) || crate::provider::far::existing().is_some()
}

/// What the provider has told is seen to. Nothing is lost where it cannot be now.
#[cold]
pub fn tend_far() {
    let Ok(_held) = LOCK.lock() else { return };
    if far::existing().is_some_and(|far| !far.is_ours()) {
        let _ = channel(); // a forked child's own
    }
    far::advance(&say);
}

/// Under the lock; false where nobody is there.
fn say(message: &Message) -> bool {
    let channel = CHANNEL.load(Ordering::Acquire);
    channel >= 0 && send(channel, message, &[])
}

/// policyd's start that this process speaks to; 0: none.
pub fn instance() -> u64 {
    INSTANCE.load(Ordering::Relaxed)
}

/// For who sleeps until something comes.
pub fn channel_descriptor() -> RawFd {
    CHANNEL.load(Ordering::Acquire)
}

#[cold]
fn fetch(mail: u32) {
    let Ok(_held) = LOCK.lock() else { return };
    MAIL_SEEN.store(mail, Ordering::Relaxed);
    receive_all();
}

/// While an answer is awaited, or an assignment relied on: is policyd still there? Nobody raises the word when it died.
#[inline]
pub fn probe() {
    let now = sys::tick_ns();
    let due = NEXT_PROBE.load(Ordering::Relaxed);
    if now < due || NEXT_PROBE.compare_exchange(due, now + PROBE_NS, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    // Nothing has come and nobody has left: one system call, no lock.
    if packet::is_quiet(CHANNEL.load(Ordering::Acquire)) {
        return;
    }
    receive();
}

/// Whatever has come by now. False in a signal handler that interrupted this very thing: nothing can come until it returns.
pub fn receive() -> bool {
    let Ok(_held) = LOCK.lock() else { return false };
    receive_all();
    true
}

/// Whether policyd may be asked, or was not there a moment ago.
pub fn may_try(now: u64) -> bool {
    now >= NEXT_TRY.load(Ordering::Relaxed)
}

/// Says something to policyd, on a channel opened now if need be; false when that cannot be done.
pub fn tell(message: &Message) -> bool {
    let Ok(_held) = LOCK.lock() else { return false };
    channel().is_some_and(|channel| send(channel, message, &[]))
}

/// Sleeps until something comes, or that long; a signal ends it early.
pub fn wait_for_mail(ns: u64) {
    packet::wait(CHANNEL.load(Ordering::Acquire), ns);
}

/// Under the lock.
fn receive_all() {
    let channel = CHANNEL.load(Ordering::Acquire);
    if channel < 0 {
        return;
    }
    let mut text = [0u8; MAX_MESSAGE];
    loop {
        match packet::arrive(channel, &mut text) {
            Arrival::Nothing => return,
            Arrival::Gone => return lost(),
            Arrival::Packet(packet) => {
                let message = text.get(..packet.length).map(Message::decode);
                match message {
                    Some(Ok(message)) => handle(channel, message, &packet),
                    _ => {
                        packet.drop_fds();
                        return lost();
                    }
                }
            }
        }
    }
}

fn handle(channel: RawFd, message: Message, packet: &packet::Packet) {
    crate::log::trace(format_args!("policyd: {message:?}"));
    match message {
        Message::Welcome { instance, .. } => {
            INSTANCE.store(instance, Ordering::Relaxed);
            packet.drop_fds();
        }
        Message::Companion(companion) => {
            let taken = attach::attach(INSTANCE.load(Ordering::Relaxed), &companion, packet);
            if !taken {
                send(channel, &Message::Unable { slot: companion.slot, companion: companion.companion }, &[]);
            }
        }
        Message::Prove(asked) => {
            packet.drop_fds();
            if !prove(channel, asked) {
                send(channel, &Message::NoProof(asked), &[]);
            }
        }
        Message::Refused { slot: refused, reason } => {
            packet.drop_fds();
            if let Some(slot) = attach::slot_named(refused) {
                attach::refused(slot, reason);
            }
        }
        Message::RefuseHello { reason } => {
            packet.drop_fds();
            crate::log::warn(format_args!("policyd refuses this process: {reason}"));
            lost();
            NEXT_TRY.store(sys::now_ns() + 20 * BACK_OFF_NS, Ordering::Relaxed);
        }
        Message::Assignment { cell } => {
            let mut fds = packet.fds();
            match (fds.next(), fds.next(), packet.truncated) {
                (Some(arena), None, false) => assignment::arrived(cell, arena),
                _ => {
                    packet.drop_fds();
                    assignment::refused();
                }
            }
        }
        Message::San => {
            let mut fds = packet.fds();
            match (fds.next(), fds.next(), packet.truncated) {
                (Some(file), None, false) => san::arrived(file),
                _ => packet.drop_fds(),
            }
        }
        Message::FarCompanion(_)
        | Message::FarEndpoint { .. }
        | Message::FarConfirmed(_)
        | Message::FarWord { .. }
        | Message::FarGone { .. }
        | Message::FarTrouble { .. } => {
            packet.drop_fds();
            far::hear(&message, instance(), &say);
        }
        Message::Drain(what) => {
            packet.drop_fds();
            drain::drain(INSTANCE.load(Ordering::Relaxed), what);
        }
        Message::Unassigned { reason } => {
            packet.drop_fds();
            crate::log::info(format_args!("policyd assigns no interface: {reason}"));
            assignment::refused();
        }
        _ => packet.drop_fds(),
    }
}

/// Sends the claimed socket itself. A close waits until policyd has closed what it was sent.
fn prove(channel: RawFd, asked: tandem_protocol::message::SlotRef) -> bool {
    let Some(family) = family::existing().filter(|_| attach::slot_named(asked).is_some()) else { return false };
    let claimed = family.registry.show(asked).filter(|&(_, claimant)| claimant == sys::pid());
    let sent = claimed.is_some_and(|(fd, _)| send(channel, &Message::Proof(asked), &[fd]));
    if !sent {
        family.registry.unshow(asked);
    }
    sent
}

/// Says that this end of a companion is done with; nothing is lost where it cannot be said (policyd has gone, or goes by
/// the process's end).
pub fn released(instance: u64, companion: CompanionRef) {
    let Ok(_held) = LOCK.lock() else { return };
    let channel = CHANNEL.load(Ordering::Acquire);
    if channel >= 0 && instance == INSTANCE.load(Ordering::Relaxed) {
        send(channel, &Message::Released(companion), &[]);
    }
}

/// The channel, opened now if need be. Under the lock.
fn channel() -> Option<RawFd> {
    let known = CHANNEL.load(Ordering::Acquire);
    if known >= 0 {
        return Some(known);
    }
    if debug::fault(Fault::Channel) {
        return None;
    }
    let opened = config::policyd_sockets().find_map(|path| {
        let fd = hidden::hide(open(&path)?)?;
        if introduce(fd) == Some(true) {
            return Some(fd);
        }
        hidden::close(fd);
        None
    })?;
    CHANNEL.store(opened, Ordering::Release);
    counting::introduced();
    Some(opened)
}

/// The first message. What it speaks of is made now if need be: only for a policyd that is there.
fn introduce(channel: RawFd) -> Option<bool> {
    let family = family::get()?;
    let wake0 = wake::wake0()?;
    let mail = family.registry.header.mail.load(Ordering::Acquire);
    let hello = Message::Hello { family: family.token, mail };
    Some(send(channel, &hello, &[family.registry_fd, family.board_fd, wake0]))
}

fn open(path: &tandem_protocol::socket_path::SocketPath) -> Option<RawFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a new socket of ours, closed here if it does not connect; the address has the stated length.
    unsafe {
        let fd = hidden::with_room(|_| real::socket(libc::AF_UNIX, kind, 0));
        if fd < 0 {
            return None;
        }
        let (address, length) = path.address();
        if real::connect(fd, (&raw const address).cast(), length) < 0 {
            real::close(fd);
            return None;
        }
        Some(fd)
    }
}

fn send(channel: RawFd, message: &Message, fds: &[RawFd]) -> bool {
    let mut text = [0u8; MAX_MESSAGE];
    let length = message.encode(&mut text);
    match packet::try_send(channel, text.get(..length).unwrap_or(&[]), fds) {
        Ok(()) => true,
        Err(errno) => {
            if errno != libc::EAGAIN && CHANNEL.load(Ordering::Relaxed) == channel {
                lost();
            }
            false
        }
    }
}

/// policyd is gone, or no longer to be trusted with this channel: connections that waited for it ask again later,
/// companions go on as they are.
fn lost() {
    let channel = CHANNEL.swap(-1, Ordering::AcqRel);
    if channel < 0 {
        return;
    }
    hidden::close(channel);
    INSTANCE.store(0, Ordering::Relaxed);
    assignment::lost();
    san::lost();
    crate::log::info(format_args!("policyd is gone; connections go on"));
    for slot in slot::mine().filter(|slot| slot.stage() == Stage::Meeting) {
        if slot.retreat() {
            explain(slot, Reason::PolicydAbsent);
        }
    }
}

/// Closes the channel if it has this number, for the application wants it; a new one is opened when needed.
pub fn gives_up(fd: RawFd) -> bool {
    let Ok(_held) = LOCK.lock() else { return false };
    let ours = CHANNEL.load(Ordering::Acquire) == fd;
    if ours {
        lost();
    }
    ours
}

/// The user changed, or will: the next meet introduces the process anew.
pub fn forget_channel() {
    let Ok(_held) = LOCK.lock() else { return };
    lost();
}

/// The inherited channel is the parent's.
pub fn after_fork_in_child() {
    let channel = CHANNEL.swap(-1, Ordering::AcqRel);
    if channel >= 0 {
        hidden::close(channel);
    }
    LOCK.reset();
    INSTANCE.store(0, Ordering::Relaxed);
    counting::after_fork_in_child();
    assignment::after_fork_in_child();
    san::lost();
    far::after_fork_in_child();
    NEXT_TRY.store(0, Ordering::Relaxed);
}
