//! The channel to policyd: opened when a connection first wants its other end, opened anew after a fork, a change of user, or policyd's
//! death. What policyd says is collected by whichever call comes next.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::Reason;
use tandem_protocol::message::{CompanionRef, MAX_MESSAGE, Message};

use super::packet::{self, Arrival};
use super::{attach, counting, drain, explain, san};
use crate::autobind::assignment;
use crate::config;
use crate::debug::{self, Fault};
use crate::lock::{Held, Lock, Reentered};
use crate::provider::far;
use crate::slot::{self, Stage};
use crate::{family, hidden, real, sys, wake};

/// After policyd could not be reached, how long nobody tries again.
const BACK_OFF_NS: u64 = 500_000_000;
/// How often a connection that waits for an answer looks whether policyd still lives.
const PROBE_NS: u64 = 100_000_000;

static CHANNEL: AtomicI32 = AtomicI32::new(-1);
static INSTANCE: AtomicU64 = AtomicU64::new(0);
static NEXT_TRY: AtomicU64 = AtomicU64::new(0);
static NEXT_PROBE: AtomicU64 = AtomicU64::new(0);
static MAIL_SEEN: AtomicU32 = AtomicU32::new(0);
static LOCK: Lock = Lock::new();

/// The channel, while nobody else speaks on it.
pub struct Speaker {
    _held: Held<'static>,
}

/// `Err`: this is a signal handler that interrupted a thread of this process while it spoke.
pub fn hold() -> Result<Speaker, Reentered> {
    LOCK.lock().map(|held| Speaker { _held: held })
}

impl Speaker {
    /// On a channel opened now if need be; false when that cannot be done.
    pub fn tell(&mut self, message: &Message) -> bool {
        channel().is_some_and(|channel| send(channel, message, &[]))
    }
}

/// policyd could not be reached.
pub fn back_off() {
    NEXT_TRY.store(sys::now_ns() + BACK_OFF_NS, Ordering::Relaxed);
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
    mail != MAIL_SEEN.load(Ordering::Relaxed) || far::existing().is_some()
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
    hold().is_ok_and(|mut speaker| speaker.tell(message))
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
    NEXT_TRY.store(0, Ordering::Relaxed);
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
