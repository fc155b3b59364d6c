//! A family's registry: what `tandem ss` and `tandem status` show. A memfd that the family's first process makes, every
//! process of the family writes, and policyd maps. Policyd writes `mail` and nothing else, and believes nothing.
//!
//! A connection's row lives from the moment it is established until it is closed; [`Registry::retire`] then folds it into
//! the totals. What a host has carried is therefore: the totals that policyd kept of dead families, the headers' totals,
//! and the live rows.
//!
//! A row is a seqlock for its identity (who, which addresses). Provider, reason and byte counts are words of their own:
//! each is stored by itself while the row is live.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::address::{Addresses, Endpoint, IpFamily};
use crate::reason::{REASON_SLOTS, Reason};

pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDR");
pub const VERSION: u32 = 1;
/// Rows; a switch uses its slot's index.
pub const ROWS: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Provider {
    Tcp = 0,
    Local = 1,
    Verbs = 2,
}

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Registry {
    pub header: Header,
    rows: [Row; ROWS],
}

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    magic: AtomicU32,
    version: AtomicU32,
    capacity: AtomicU32,
    /// Policyd adds one (release) after every packet it has sent to a process of the family.
    pub mail: AtomicU32,
    /// One past the highest row ever live: policyd looks no further, and never touches the pages behind it.
    rows_used: AtomicU32,
    _pad: AtomicU32,
    pub totals: Totals,
}

/// Sums over retired rows. `fail_backs` is counted as they happen.
#[derive(Debug)]
#[repr(C)]
pub struct Totals {
    pub connections: AtomicU64,
    pub carried: AtomicU64,
    pub tx_companion: AtomicU64,
    pub rx_companion: AtomicU64,
    pub fail_backs: AtomicU64,
    /// By [`Reason::code`], of connections that ended on TCP.
    pub reasons: [AtomicU64; REASON_SLOTS],
}

#[derive(Debug)]
#[repr(C, align(64))]
pub struct Row {
    /// 0 free, even live, odd being written.
    sequence: AtomicU32,
    pub pid: AtomicU32,
    provider: AtomicU32,
    /// A [`Reason`] code, and [`SETTLED`].
    reason: AtomicU32,
    addr_family: AtomicU32,
    /// local << 16 | remote
    ports: AtomicU32,
    local: [AtomicU64; 2],
    remote: [AtomicU64; 2],
    pub tx_tcp: AtomicU64,
    pub rx_tcp: AtomicU64,
    pub tx_companion: AtomicU64,
    pub rx_companion: AtomicU64,
    cookie: AtomicU64,
    flags: AtomicU32,
    last_sequence: AtomicU32,
    _spare: [AtomicU64; 3],
}

/// In `reason`: on TCP for good, and no longer counted by the switch. Policyd asks the kernel for its bytes.
pub const SETTLED: u32 = 0x8000_0000;
/// In `flags`: this end connected (its SYN is one of the kernel's acknowledged bytes).
const CONNECTED: u32 = 1;

const _: () = assert!(size_of::<Header>() == 4_096);
const _: () = assert!(size_of::<Row>() == 128);
const _: () = assert!(Registry::BYTES == 4_096 + ROWS * 128);

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
    pub identity: Identity,
    pub provider: Provider,
    /// `None`: a code that this version doesn't know.
    pub reason: Option<Reason>,
    pub settled: bool,
    pub tx_tcp: u64,
    pub rx_tcp: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
}

impl Registry {
    pub const BYTES: usize = size_of::<Registry>();

    /// Seals that policyd demands: the size is fixed, so that reading it never faults.
    pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

    /// In fresh zeroed memory, before anybody else sees it.
    pub fn initialise(&self) {
        self.header.magic.store(MAGIC, Ordering::Relaxed);
        self.header.version.store(VERSION, Ordering::Relaxed);
        self.header.capacity.store(ROWS as u32, Ordering::Release);
    }

    /// Whether it is a registry of this version.
    pub fn is_sound(&self) -> bool {
        self.header.capacity.load(Ordering::Acquire) == ROWS as u32
            && self.header.magic.load(Ordering::Relaxed) == MAGIC
            && self.header.version.load(Ordering::Relaxed) == VERSION
    }

    /// Indices wrap, so that this is total.
    #[inline]
    pub fn row(&self, index: usize) -> &Row {
        &self.rows[index % ROWS]
    }

    /// Switch: the connection is established. Starts on TCP with no bytes.
    pub fn publish(&self, index: usize, identity: &Identity, reason: Reason) {
        self.row(index).publish(identity, reason);
        self.header.rows_used.fetch_max((index % ROWS) as u32 + 1, Ordering::Release);
    }

    /// Switch: the connection is closed. Frees the row and adds it to the totals; a second call does nothing.
    pub fn retire(&self, index: usize) {
        let row = self.row(index);
        let copy = row.read();
        if row.sequence.swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        if let Some(copy) = copy {
            self.header.totals.add(&copy);
        }
    }

    /// Rows worth looking at, whatever the header claims.
    pub fn used_rows(&self) -> &[Row] {
        let used = self.header.rows_used.load(Ordering::Acquire) as usize;
        self.rows.get(..used).unwrap_or(&self.rows)
    }
}

impl Totals {
    fn add(&self, row: &Snapshot) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if row.carried() {
            self.carried.fetch_add(1, Ordering::Relaxed);
        }
        self.tx_companion.fetch_add(row.tx_companion, Ordering::Relaxed);
        self.rx_companion.fetch_add(row.rx_companion, Ordering::Relaxed);
        if let Some(counter) = row.counted_reason().and_then(|r| self.reasons.get(r.code() as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
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
    fn publish(&self, identity: &Identity, reason: Reason) {
        let addresses = identity.addresses;
        let live = self.last_sequence.load(Ordering::Relaxed).wrapping_add(2) & !1;
        let live = if live == 0 { 2 } else { live };
        self.last_sequence.store(live, Ordering::Relaxed);
        self.sequence.store(live | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.pid.store(identity.pid, Ordering::Relaxed);
        self.provider.store(Provider::Tcp as u32, Ordering::Relaxed);
        self.reason.store(u32::from(reason.code()), Ordering::Relaxed);
        self.addr_family.store(addresses.family as u32, Ordering::Relaxed);
        let ports = u32::from(addresses.local.port) << 16 | u32::from(addresses.remote.port);
        self.ports.store(ports, Ordering::Relaxed);
        store_ip(&self.local, addresses.local.ip);
        store_ip(&self.remote, addresses.remote.ip);
        for count in [&self.tx_tcp, &self.rx_tcp, &self.tx_companion, &self.rx_companion] {
            count.store(0, Ordering::Relaxed);
        }
        self.cookie.store(identity.cookie, Ordering::Relaxed);
        self.flags.store(if identity.connected { CONNECTED } else { 0 }, Ordering::Relaxed);
        self.sequence.store(live, Ordering::Release);
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

    fn copy(&self) -> Option<Snapshot> {
        let family = u8::try_from(self.addr_family.load(Ordering::Relaxed)).ok().and_then(IpFamily::from_code)?;
        let ports = self.ports.load(Ordering::Relaxed);
        let local = Endpoint { ip: load_ip(&self.local), port: (ports >> 16) as u16 };
        let remote = Endpoint { ip: load_ip(&self.remote), port: ports as u16 };
        let reason = self.reason.load(Ordering::Relaxed);
        Some(Snapshot {
            identity: Identity {
                pid: self.pid.load(Ordering::Relaxed),
                addresses: Addresses { family, local, remote },
                cookie: self.cookie.load(Ordering::Relaxed),
                connected: self.flags.load(Ordering::Relaxed) & CONNECTED != 0,
            },
            provider: match self.provider.load(Ordering::Relaxed) {
                0 => Provider::Tcp,
                1 => Provider::Local,
                2 => Provider::Verbs,
                _ => return None,
            },
            reason: u16::try_from(reason & !SETTLED).ok().and_then(Reason::from_code),
            settled: reason & SETTLED != 0,
            tx_tcp: self.tx_tcp.load(Ordering::Relaxed),
            rx_tcp: self.rx_tcp.load(Ordering::Relaxed),
            tx_companion: self.tx_companion.load(Ordering::Relaxed),
            rx_companion: self.rx_companion.load(Ordering::Relaxed),
        })
    }
}

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

#[cfg(test)]
mod tests;
