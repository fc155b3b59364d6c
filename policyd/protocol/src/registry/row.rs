//! One connection's row: its words, and how they are written and read.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::address::{Addresses, Endpoint, IpFamily};
use crate::reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Provider {
    Tcp = 0,
    Local = 1,
    /// A plug-in, whose name the row's native text begins with.
    PlugIn = 2,
}

/// All that a connection touches which is never carried is in the first cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Row {
    /// 0 free, even live, odd being written.
    pub(super) sequence: AtomicU32,
    pub(super) last_sequence: AtomicU32,
    pub pid: AtomicU32,
    pub(super) flags: AtomicU32,
    pub(super) provider: AtomicU32,
    /// A [`Reason`] code, and [`SETTLED`].
    pub(super) reason: AtomicU32,
    pub(super) addr_family: AtomicU32,
    /// local << 16 | remote
    pub(super) ports: AtomicU32,
    pub tx_tcp: AtomicU64,
    pub rx_tcp: AtomicU64,
    /// Switch: what policyd may examine, as [`claim_word`]; 0: nothing.
    pub(super) claim: AtomicU64,
    /// Switch: the process whose descriptor that is.
    pub(super) claimant: AtomicU32,
    /// The generation whose descriptor the switch has sent; policyd stores 0 when it has closed it.
    pub(super) shown: AtomicU32,
    local: [AtomicU64; 2],
    remote: [AtomicU64; 2],
    /// 0 when a connection is announced: see [`Registry::wipe`].
    pub tx_companion: AtomicU64,
    pub rx_companion: AtomicU64,
    cookie: AtomicU64,
    _spare: AtomicU64,
}

/// In `reason`: on TCP for good, and no longer counted by the switch. Policyd asks the kernel for its bytes.
pub const SETTLED: u32 = 0x8000_0000;
/// In `flags`: this end connected (its SYN is one of the kernel's acknowledged bytes).
pub(super) const CONNECTED: u32 = 1;
/// In `addr_family`: no addresses and no cookie yet; `ports` is the descriptor.
pub(super) const ANNOUNCED: u32 = 1;

const _: () = assert!(size_of::<Row>() == 128 && offset_of!(Row, local) == 64);

/// Who and what a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    pub addresses: Addresses,
    /// SO_COOKIE
    pub cookie: u64,
    /// This end called connect (the other accepted).
    pub connected: bool,
}

/// A private copy of a live row: what stood in it at one moment, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Without addresses and cookie where `descriptor` is given.
    pub identity: Identity,
    /// The connection is announced: the one that this descriptor of the process shows.
    pub descriptor: Option<i32>,
    pub provider: Provider,
    /// `None`: a code that this version doesn't know.
    pub reason: Option<Reason>,
    pub settled: bool,
    pub tx_tcp: u64,
    pub rx_tcp: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
}

impl Provider {
    pub(super) fn from_word(word: u32) -> Option<Provider> {
        match word {
            0 => Some(Provider::Tcp),
            1 => Some(Provider::Local),
            2 => Some(Provider::PlugIn),
            _ => None,
        }
    }
}

impl Snapshot {
    /// Some of it went by a companion, even if it is on TCP again.
    pub fn carried(&self) -> bool {
        self.provider != Provider::Tcp || self.tx_companion != 0 || self.rx_companion != 0
    }

    /// The reason that the totals count it under.
    pub fn counted_reason(&self) -> Option<Reason> {
        self.reason.filter(|&r| self.provider == Provider::Tcp && r != Reason::None)
    }
}

impl Row {
    pub(super) fn publish(&self, reason: Reason, describe: impl FnOnce(&Row)) {
        let live = self.last_sequence.load(Ordering::Relaxed).wrapping_add(2) & !1;
        let live = if live == 0 { 2 } else { live };
        self.last_sequence.store(live, Ordering::Relaxed);
        self.sequence.store(live | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.provider.store(Provider::Tcp as u32, Ordering::Relaxed);
        self.reason.store(u32::from(reason.code()), Ordering::Relaxed);
        self.tx_tcp.store(0, Ordering::Relaxed);
        self.rx_tcp.store(0, Ordering::Relaxed);
        describe(self);
        self.sequence.store(live, Ordering::Release);
    }

    /// `None`: a code that this version doesn't know.
    pub(super) fn known_reason(&self) -> Option<Reason> {
        let reason = self.reason.load(Ordering::Relaxed);
        u16::try_from(reason & !SETTLED).ok().and_then(Reason::from_code)
    }

    /// Of a live row, what the seqlock guards.
    pub(super) fn rewrite(&self, describe: impl FnOnce(&Row)) {
        let live = self.sequence.load(Ordering::Relaxed);
        if live == 0 || self.sequence.compare_exchange(live, live | 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        fence(Ordering::Release);
        let next = self.last_sequence.load(Ordering::Relaxed).wrapping_add(2) & !1;
        let next = if next == 0 { 2 } else { next };
        self.last_sequence.store(next, Ordering::Relaxed);
        describe(self);
        // Not where it was retired meanwhile.
        let _ = self.sequence.compare_exchange(live | 1, next, Ordering::Release, Ordering::Relaxed);
    }

    pub(super) fn describe(&self, identity: &Identity) {
        let addresses = identity.addresses;
        self.pid.store(identity.pid, Ordering::Relaxed);
        self.addr_family.store(addresses.family as u32, Ordering::Relaxed);
        let ports = u32::from(addresses.local.port) << 16 | u32::from(addresses.remote.port);
        self.ports.store(ports, Ordering::Relaxed);
        store_ip(&self.local, addresses.local.ip);
        store_ip(&self.remote, addresses.remote.ip);
        self.cookie.store(identity.cookie, Ordering::Relaxed);
        self.flags.store(if identity.connected { CONNECTED } else { 0 }, Ordering::Relaxed);
    }

    /// Switch: what carries it now. Reason [`Reason::None`] with any provider but TCP.
    #[inline]
    pub fn set_provider(&self, provider: Provider, reason: Reason) {
        self.reason.store(u32::from(reason.code()), Ordering::Relaxed);
        self.provider.store(provider as u32, Ordering::Relaxed);
    }

    #[inline]
    pub fn set_reason(&self, reason: Reason) {
        self.reason.store(u32::from(reason.code()), Ordering::Relaxed);
    }

    /// Switch: on TCP for good, and from now on past the switch.
    #[inline]
    pub fn settle(&self, reason: Reason) {
        self.provider.store(Provider::Tcp as u32, Ordering::Relaxed);
        self.reason.store(u32::from(reason.code()) | SETTLED, Ordering::Relaxed);
    }

    /// `None`: free, torn by a writer for too long, or no row that a switch writes.
    pub fn read(&self) -> Option<Snapshot> {
        (0..4).find_map(|_| self.read_once()).flatten()
    }

    /// Outer `None`: torn, look again.
    fn read_once(&self) -> Option<Option<Snapshot>> {
        let before = self.sequence.load(Ordering::Acquire);
        if before == 0 {
            return Some(None);
        }
        if before & 1 == 1 {
            std::hint::spin_loop();
            return None;
        }
        let copy = self.copy();
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(copy)
    }

    fn addresses(&self, family: IpFamily) -> Addresses {
        let ports = self.ports.load(Ordering::Relaxed);
        let local = Endpoint { ip: load_ip(&self.local), port: (ports >> 16) as u16 };
        let remote = Endpoint { ip: load_ip(&self.remote), port: ports as u16 };
        Addresses { family, local, remote }
    }

    fn copy(&self) -> Option<Snapshot> {
        let (addresses, cookie, descriptor) = match self.addr_family.load(Ordering::Relaxed) {
            ANNOUNCED => (NO_ADDRESSES, 0, Some(self.ports.load(Ordering::Relaxed).cast_signed())),
            code => {
                let family = u8::try_from(code).ok().and_then(IpFamily::from_code)?;
                (self.addresses(family), self.cookie.load(Ordering::Relaxed), None)
            }
        };
        let reason = self.reason.load(Ordering::Relaxed);
        Some(Snapshot {
            identity: Identity {
                pid: self.pid.load(Ordering::Relaxed),
                addresses,
                cookie,
                connected: self.flags.load(Ordering::Relaxed) & CONNECTED != 0,
            },
            descriptor,
            provider: Provider::from_word(self.provider.load(Ordering::Relaxed))?,
            reason: self.known_reason(),
            settled: reason & SETTLED != 0,
            tx_tcp: self.tx_tcp.load(Ordering::Relaxed),
            rx_tcp: self.rx_tcp.load(Ordering::Relaxed),
            tx_companion: self.tx_companion.load(Ordering::Relaxed),
            rx_companion: self.rx_companion.load(Ordering::Relaxed),
        })
    }
}

const NO_ADDRESSES: Addresses = Addresses {
    family: IpFamily::V4,
    local: Endpoint { ip: [0; 16], port: 0 },
    remote: Endpoint { ip: [0; 16], port: 0 },
};

fn store_ip(words: &[AtomicU64; 2], ip: [u8; 16]) {
    let value = u128::from_ne_bytes(ip);
    let [low, high] = words;
    low.store(value as u64, Ordering::Relaxed);
    high.store((value >> 64) as u64, Ordering::Relaxed);
}

fn load_ip([low, high]: &[AtomicU64; 2]) -> [u8; 16] {
    let value = u128::from(low.load(Ordering::Relaxed)) | u128::from(high.load(Ordering::Relaxed)) << 64;
    value.to_ne_bytes()
}
