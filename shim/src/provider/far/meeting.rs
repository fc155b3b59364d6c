//! One companion between hosts, from policyd's word to its end: create, bind, options, endpoints by the policyds, connect, proof by the
//! provider itself; then the words that go by the policyds when the provider's way is dead. All of it under the lock of policyd's channel;
//! nothing waits: each call of the application's goes on from where the last one got to.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use tandem_protocol::message::{CompanionRef, FarCompanion, FarRef, Message, SlotRef as Named};
use tandem_protocol::{Addresses, Reason};
use tandem_provider::{Address, Blob, Companion, Provider};

use super::dispatch::{self, Seen};
use super::domains::{Domains, Place};
use super::layout::{self, Endpoint};
use super::{Driver, Far, identity, told, words};
use crate::slot::{SlotRef, Stage, flag};
use crate::stream::{Port, Word};
use crate::switch::{self, anchor};
use crate::{family, meet};

/// Says something to policyd.
pub type Say<'a> = dyn Fn(&Message) -> bool + 'a;

#[derive(Default)]
pub struct Book {
    pub(super) domains: Domains,
    /// By number.
    pub(super) meetings: Vec<Option<Meeting>>,
}

pub(super) struct Meeting {
    pub(super) slot: Named,
    pub(super) far: FarRef,
    pub(super) role: u8,
    /// policyd's start that knows its name.
    pub(super) instance: u64,
    pub(super) place: Place,
    pub(super) handle: *mut Companion,
    pub(super) life: Life,
    /// All bits of [`told`] so far.
    pub(super) known: u32,
    /// The other end's memory.
    pub(super) remote: Option<u32>,
    /// What the other end has said.
    peer: Option<tandem_protocol::message::Blob>,
    /// It is connected: what comes before that would be lost, and the queue pair with it.
    confirmed: bool,
    pub(super) closing: bool,
    /// Nobody here has to do with it any more.
    pub(super) ended: bool,
    /// The reader's wishes go by the policyds, too.
    pub(super) by_words: bool,
    /// The other end asks whether an epoch was taken.
    pub(super) asked: Option<u64>,
    /// What has been said, each an epoch + 1.
    pub(super) asks: u64,
    pub(super) voids: u64,
    pub(super) leaves: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Its memory and its endpoint are being made.
    Preparing,
    /// The other end has been told.
    Told,
    Connecting,
    /// The other end may not be yet.
    Connected,
    /// Each end's first word is under way.
    Proving,
    Up,
}

/// What policyd says of companions between hosts.
pub fn hear(message: &Message, instance: u64, say: &Say<'_>) {
    match *message {
        Message::FarCompanion(found) => companion(&found, instance, say),
        Message::FarEndpoint { far, blob } => endpoint(far, blob, say),
        Message::FarConfirmed(far) => confirmed(far, say),
        Message::FarWord { far, word } => words::hear(far, word, say),
        Message::FarGone { far, reason } => gone(far, reason, say),
        Message::FarTrouble { far, reason } => trouble(far, reason, say),
        _ => {}
    }
}

/// policyd has found the other end.
fn companion(found: &FarCompanion, instance: u64, say: &Say<'_>) {
    if let Err(reason) = begin(found, instance) {
        say(&Message::FarUnable(found.far));
        if let Some(slot) = meet::slot_named(found.slot) {
            meet::settle(slot, reason);
        }
    }
}

fn begin(found: &FarCompanion, instance: u64) -> Result<(), Reason> {
    let meeting = |slot: &SlotRef| slot.stage() == Stage::Meeting;
    let slot = meet::slot_named(found.slot).filter(meeting).ok_or(Reason::Closed)?;
    let fd = slot.descriptor();
    // An end that one side has closed meanwhile, or that a forked process holds too, is no fault of the provider's.
    let unsound = if slot.sole_holder() { Reason::NotEstablished } else { Reason::Forked };
    let addresses = meet::addresses_of(fd).filter(|_| meet::still_sound(slot, fd)).ok_or(unsound)?;
    let name = meet::provider_of(&addresses).ok_or(Reason::NoDevice)?;
    let (far, driver) = super::get(name).ok_or(Reason::NoProvider)?;
    far.begin(driver, slot, &addresses, found, instance)
}

fn endpoint(name: FarRef, blob: tandem_protocol::message::Blob, say: &Say<'_>) {
    with(name, |far, book, number| {
        if let Some(meeting) = book.at(number) {
            meeting.peer = Some(blob);
        }
        far.step(book, number, say);
    });
}

/// The other end is connected.
fn confirmed(name: FarRef, say: &Say<'_>) {
    with(name, |far, book, number| {
        if let Some(meeting) = book.at(number) {
            meeting.confirmed = true;
        }
        far.step(book, number, say);
    });
}

/// The other end has gone, and with it the name. What is carried goes on: whether the peer still has its end TCP will say.
fn gone(name: FarRef, reason: Reason, say: &Say<'_>) {
    with(name, |far, book, number| {
        let Some(meeting) = book.at(number) else { return };
        meeting.instance = 0;
        if meeting.life != Life::Up {
            far.give_up(book, number, reason, say);
        }
    });
}

/// A device has gone, here or there.
fn trouble(name: FarRef, reason: Reason, say: &Say<'_>) {
    with(name, |far, book, number| {
        let Some(meeting) = book.at(number) else { return };
        meeting.by_words = true;
        if meeting.life != Life::Up {
            return far.give_up(book, number, reason, say);
        }
        if let Some(slot) = meet::slot_named(meeting.slot) {
            switch::leave(slot, slot.descriptor(), reason);
        }
        far.step(book, number, say);
    });
}

/// What the provider has told since the last time.
pub fn advance(say: &Say<'_>) {
    let Some(far) = super::existing() else { return };
    if !far.todo.swap(false, Ordering::AcqRel) {
        return;
    }
    if !far.is_ours() {
        return far.leave_in_child(say);
    }
    // SAFETY: the channel's lock is held.
    let book = unsafe { &mut *far.book.get() };
    book.domains.tidy(far);
    for (number, meeting) in book.meetings.iter().enumerate() {
        if let Some(meeting) = meeting
            && far.stalls(number as u32)
            && let Some(slot) = meet::slot_named(meeting.slot)
        {
            switch::look_anew(slot, slot.descriptor());
        }
    }
    for number in 0..book.meetings.len() as u32 {
        far.step(book, number, say);
    }
}

pub(super) fn with(name: FarRef, work: impl FnOnce(&Far, &mut Book, u32)) {
    let Some(far) = super::existing().filter(|far| far.is_ours()) else { return };
    // SAFETY: the channel's lock is held.
    let book = unsafe { &mut *far.book.get() };
    let known = |meeting: &Option<Meeting>| meeting.as_ref().is_some_and(|meeting| meeting.far == name);
    if let Some(number) = book.meetings.iter().position(known) {
        work(far, book, number as u32);
    }
}

impl Book {
    pub(super) fn at(&mut self, number: u32) -> Option<&mut Meeting> {
        self.meetings.get_mut(number as usize)?.as_mut()
    }
}

/// Making one.
impl Far {
    fn begin(
        &self,
        driver: &'static Driver,
        slot: SlotRef,
        addresses: &Addresses,
        found: &FarCompanion,
        instance: u64,
    ) -> Result<(), Reason> {
        let fd = slot.descriptor();
        let (local, remote) = (address(addresses, true), address(addresses, false));
        // SAFETY: the channel's lock is held.
        let book = unsafe { &mut *self.book.get() };
        let own = Address { port: 0, ..local };
        let place = book.domains.claim(self, driver, found.far.host, own).ok_or(Reason::NoProvider)?;
        // Before it is made: another thread may be told at once that it is ready.
        self.clean(place.number, found.far, found.role, slot);
        let Some(handle) = self.make(place, &local, &remote, fd) else {
            book.domains.give_back(self, place, None);
            return Err(Reason::NoProvider);
        };
        slot.conn.store(place.number, Ordering::Relaxed);
        slot.raise(flag::FAR);
        let meeting = Meeting {
            slot: found.slot,
            far: found.far,
            role: found.role,
            instance,
            place,
            handle,
            life: Life::Preparing,
            known: 0,
            remote: None,
            peer: None,
            confirmed: false,
            closing: false,
            ended: false,
            by_words: false,
            asked: None,
            asks: 0,
            voids: 0,
            leaves: 0,
        };
        let at = place.number as usize;
        if book.meetings.len() <= at {
            book.meetings.resize_with(at + 1, || None);
        }
        if let Some(entry) = book.meetings.get_mut(at) {
            *entry = Some(meeting);
        }
        Ok(())
    }

    /// Created, bound, with the application's options; its endpoint follows.
    fn make(&self, place: Place, local: &Address, remote: &Address, fd: RawFd) -> Option<*mut Companion> {
        let conn = self.conn(place.number)?;
        let provider = place.driver.provider;
        conn.driver.store(std::ptr::from_ref(place.driver).cast_mut(), Ordering::Relaxed);
        let serial = conn.serial.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let cookie = dispatch::Named::Conn { number: place.number, serial }.cookie();
        let mut handle = std::ptr::null_mut();
        // SAFETY: a domain that is open or about to be, places of this frame.
        let made = unsafe { (provider.create)(place.handle, cookie, &mut handle) };
        if made < 0 {
            return None;
        }
        // SAFETY: the companion just made, addresses of this frame.
        let bound = unsafe { (provider.bind)(handle, local, remote) } >= 0;
        // SAFETY: as above.
        let ready =
            bound && self.replay(provider, handle, local.family, fd) && unsafe { (provider.prepare)(handle) } >= 0;
        if !ready {
            // CLOSED will be told of a serial that is not used again.
            conn.serial.fetch_add(1, Ordering::AcqRel);
            // SAFETY: not used again.
            unsafe { (provider.close)(handle) };
            return None;
        }
        Some(handle)
    }

    /// The options that mean something for packets other than the anchor's, as the kernel has them now. An IPv6 socket has those of both
    /// families, and its packets those of the connection's own: v4-mapped addresses are IPv4.
    fn replay(&self, provider: &Provider, handle: *mut Companion, family: u16, fd: RawFd) -> bool {
        const OPTIONS: [(i32, i32); 5] = [
            (libc::IPPROTO_IP, libc::IP_TOS),
            (libc::IPPROTO_IP, libc::IP_TTL),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
        ];
        let other = if i32::from(family) == libc::AF_INET { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
        OPTIONS.into_iter().filter(|(level, _)| *level != other).all(|(level, name)| {
            let Some(value) = anchor::socket_option::<i32>(fd, level, name) else { return true };
            // SAFETY: a companion that is not prepared yet, a number of this frame.
            let code = unsafe { (provider.set_option)(handle, level, name, (&raw const value).cast(), 4) };
            if code < 0 {
                crate::log::info(format_args!("option {level}/{name} = {value}: the provider says errno {}", -code));
            }
            code >= 0
        })
    }

    /// Nothing of a predecessor is left, before the peer can put anything here.
    fn clean(&self, number: u32, name: FarRef, role: u8, slot: SlotRef) {
        let (Some(conn), Some(ports)) = (self.conn(number), self.ports(number)) else { return };
        for port in &ports {
            Word::ALL.iter().for_each(|&word| port.store(word, 0));
        }
        // SAFETY: the records of a connection that nobody knows yet.
        unsafe { self.records(number).write_bytes(0, layout::RECORDS) };
        conn.host.store(name.host, Ordering::Relaxed);
        conn.id.store(name.id, Ordering::Relaxed);
        conn.slot.store(identity(slot), Ordering::Relaxed);
        conn.role.store(u32::from(role), Ordering::Relaxed);
        for word in [&conn.ask, &conn.void, &conn.asked_at, &conn.left, &conn.full_since] {
            word.store(0, Ordering::Relaxed);
        }
        conn.told.store(0, Ordering::Relaxed);
        conn.status.store(0, Ordering::Relaxed);
        if let Ok(_held) = self.polling.lock() {
            // SAFETY: `polling` is held.
            unsafe { *conn.seen.get() = Seen::default() };
        }
        self.begin_pushing(conn, slot.accepted());
    }
}

/// Going on.
impl Far {
    pub(super) fn step(&self, book: &mut Book, number: u32, say: &Say<'_>) {
        let Some(conn) = self.conn(number) else { return };
        let Some(meeting) = book.at(number) else { return };
        let news = conn.told.swap(0, Ordering::AcqRel);
        meeting.known |= news;
        let own = meet::slot_named(meeting.slot);
        // While its close waits until all has arrived the connection is nobody else's.
        let slot = own.or_else(|| meet::slot_ending(meeting.slot));
        if !meeting.ended && (meeting.known & told::SLOT_GONE != 0 || slot.is_none()) {
            meeting.ended = true;
            if meeting.instance == meet::instance() {
                say(&Message::FarReleased(meeting.far));
            }
        }
        if meeting.ended {
            return self.end(book, number);
        }
        if meeting.known & told::DEAD != 0 && !meeting.closing {
            let status = -conn.status.load(Ordering::Relaxed);
            let (life, domain) = (meeting.life, meeting.place.domain);
            crate::log::info(format_args!("companion {:x} is dead ({life:?}): errno {status}", meeting.far.id));
            if matches!(status, libc::EACCES | libc::ENODEV) {
                book.domains.spoil(domain);
            }
            if life != Life::Up {
                return self.give_up(book, number, Reason::PeerUnable, say);
            }
            // What had arrived before is the reader's: the peer may never say it again.
            self.poll();
            self.close(book, number);
            if let Some(slot) = slot {
                switch::leave(slot, slot.descriptor(), Reason::FailedBack);
            }
        }
        if news & told::ROOM != 0 {
            self.push(number);
        }
        self.say_words(book, number, slot, say);
        while self.go_on(book, number, own, say) {}
    }

    /// True: there may be more to do at once.
    fn go_on(&self, book: &mut Book, number: u32, slot: Option<SlotRef>, say: &Say<'_>) -> bool {
        let Some(meeting) = book.meetings.get_mut(number as usize).and_then(Option::as_mut) else { return false };
        let outcome = match meeting.life {
            _ if meeting.closing || meeting.ended => return false,
            Life::Preparing => match book.domains.memory(self, number) {
                Ok(Some(memory)) if meeting.known & told::READY != 0 => self.introduce(meeting, memory, say),
                Ok(_) => return false,
                Err(reason) => Err(reason),
            },
            Life::Told => match meeting.peer {
                Some(peer) => self.connect(meeting, &mut book.domains, &peer),
                None => return false,
            },
            Life::Connecting if meeting.known & told::CONNECTED != 0 => {
                meeting.life = Life::Connected;
                say(&Message::FarConfirmed(meeting.far));
                Ok(())
            }
            Life::Connected if meeting.confirmed => {
                meeting.life = Life::Proving;
                if let Some(conn) = self.conn(number) {
                    conn.companion.store(meeting.handle, Ordering::Release);
                }
                self.push_ready(number, meeting.far.id);
                Ok(())
            }
            Life::Proving if meeting.known & (told::PROVEN | told::PEER_READY) == told::PROVEN | told::PEER_READY => {
                meeting.life = Life::Up;
                self.attach(meeting, slot)
            }
            Life::Connecting | Life::Connected | Life::Proving | Life::Up => return false,
        };
        match outcome {
            Ok(()) => true,
            Err(reason) => {
                self.give_up(book, number, reason, say);
                false
            }
        }
    }

    fn introduce(&self, meeting: &mut Meeting, memory: (u32, u32), say: &Say<'_>) -> Result<(), Reason> {
        let Place { number, driver, .. } = meeting.place;
        let mut share = tandem_provider::Share { bytes: [0; tandem_provider::SHARE_BYTES] };
        let mut own = Blob::EMPTY;
        // SAFETY: registered memory of a domain that is open, a companion that is ready, places of this frame.
        let fine = unsafe {
            (driver.provider.share)(meeting.place.handle, memory.0, &mut share) >= 0
                && (driver.provider.endpoint)(meeting.handle, &mut own) >= 0
        };
        let content = own.content().filter(|_| fine).ok_or(Reason::NoProvider)?;
        let endpoint = Endpoint { name: driver.name, landing: layout::landing(number), share, provider: content };
        let blob = endpoint.encode().ok_or(Reason::NoProvider)?;
        if let Some(conn) = self.conn(number) {
            conn.staging.store(memory.1, Ordering::Relaxed);
        }
        meeting.life = Life::Told;
        say(&Message::FarEndpoint { far: meeting.far, blob });
        Ok(())
    }

    fn connect(
        &self,
        meeting: &mut Meeting,
        domains: &mut Domains,
        blob: &tandem_protocol::message::Blob,
    ) -> Result<(), Reason> {
        let theirs = Endpoint::decode(blob.content()).ok_or(Reason::PeerUnable)?;
        if theirs.name != meeting.place.driver.name {
            crate::log::info(format_args!("the other end's provider is {}", theirs.name));
            return Err(Reason::OtherProvider);
        }
        let (remote, bytes) = domains.adopt(meeting.place.domain, &theirs.share).ok_or(Reason::PeerMisbehaved)?;
        meeting.remote = Some(remote);
        if !theirs.fits(bytes) {
            return Err(Reason::PeerMisbehaved);
        }
        if let Some(conn) = self.conn(meeting.place.number) {
            conn.remote.store(remote, Ordering::Relaxed);
            conn.remote_at.store(theirs.landing, Ordering::Relaxed);
        }
        let mut peer = Blob::EMPTY;
        peer.used = theirs.provider.len() as u32;
        peer.bytes.get_mut(..theirs.provider.len()).ok_or(Reason::PeerMisbehaved)?.copy_from_slice(theirs.provider);
        // SAFETY: a companion whose endpoint has been asked for, a blob of this frame.
        let code = unsafe { (meeting.place.driver.provider.connect)(meeting.handle, &peer) };
        meeting.life = Life::Connecting;
        if code < 0 { Err(Reason::PeerUnable) } else { Ok(()) }
    }

    fn attach(&self, meeting: &Meeting, slot: Option<SlotRef>) -> Result<(), Reason> {
        let (Some(slot), Some(pair)) = (slot, self.pair()) else { return Err(Reason::Closed) };
        let end = CompanionRef { pair: 0, conn: meeting.place.number, role: 0, id: meeting.far.id };
        let native = describe(meeting);
        if let Some(family) = family::existing() {
            family.registry.set_native(slot.index as usize, &native);
        }
        if !meet::still_sound(slot, slot.descriptor()) || !switch::attach(slot, pair, end) {
            return Err(Reason::Closed);
        }
        crate::log::debug(format_args!("slot {}: {native}", slot.index));
        Ok(())
    }
}

/// The provider's name, and both ends in its own terms.
fn describe(meeting: &Meeting) -> String {
    let driver = meeting.place.driver;
    let mut text = [0u8; 256];
    // SAFETY: a companion that is connected, and room for so many bytes.
    let count = unsafe { (driver.provider.describe)(meeting.handle, text.as_mut_ptr().cast(), 256) };
    let count = usize::try_from(count).unwrap_or(0);
    format!("{} {}", driver.name, String::from_utf8_lossy(text.get(..count).unwrap_or(&[])))
}

fn address(addresses: &Addresses, local: bool) -> Address {
    use std::net::IpAddr;
    let key = addresses.normalised();
    let from = if local { key.local_address() } else { key.remote_address() };
    let (family, bytes) = match from.ip() {
        IpAddr::V4(four) => {
            let mut bytes = [0; 16];
            if let Some(place) = bytes.first_chunk_mut() {
                *place = four.octets();
            }
            (libc::AF_INET, bytes)
        }
        IpAddr::V6(six) => (libc::AF_INET6, six.octets()),
    };
    Address { family: family as u16, port: from.port().to_be(), scope: 0, bytes }
}
