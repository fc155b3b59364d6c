//! The SAN subnet table: which of this host's addresses a device serves and by which provider, which addresses listed peers have, and which of
//! those a device serves there. Policyd writes it, every switch maps it to read: whether a companion between hosts can be
//! is decided by loads, without a message or a system call.
//!
//! One page range for all processes, a seqlock as a whole: it changes when a device, an address or a link does. Addresses
//! are compared as 128-bit numbers, IPv4 as v4-mapped IPv6.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::ProviderName;

pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDS");
pub const VERSION: u32 = 2;
pub const MAX_LOCAL: usize = 256;
pub const MAX_PREFIXES: usize = 1_024;
pub const MAX_REMOTE: usize = 4_096;

/// Policyd writes for microseconds; one that is killed meanwhile leaves the table torn for good.
const TRIES: usize = 64;

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct San {
    magic: AtomicU32,
    version: AtomicU32,
    /// Odd: being written.
    sequence: AtomicU32,
    local_count: AtomicU32,
    prefix_count: AtomicU32,
    remote_count: AtomicU32,
    _spare: [AtomicU32; 10],
    /// Sorted.
    local: [[AtomicU64; 2]; MAX_LOCAL],
    prefixes: [SharedPrefix; MAX_PREFIXES],
    /// Sorted by address.
    remote: [SharedRemote; MAX_REMOTE],
    /// Of `local`, each.
    providers: [[AtomicU64; 2]; MAX_LOCAL],
}

#[derive(Debug)]
#[repr(C)]
struct SharedPrefix {
    address: [AtomicU64; 2],
    length: AtomicU32,
    host: AtomicU32,
    up: AtomicU32,
    _spare: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
struct SharedRemote {
    address: [AtomicU64; 2],
    host: AtomicU32,
    _spare: AtomicU32,
}

/// Addresses that the configuration gives a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its own lower bits are zero.
    pub address: u128,
    /// Of 128 bits.
    pub length: u8,
    pub host: u32,
    /// There is a link to its policyd.
    pub up: bool,
}

/// What the table says. What is past its bounds is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content<'a> {
    /// This host's addresses that a device serves, sorted, each with its provider.
    pub local: &'a [(u128, ProviderName)],
    pub prefixes: &'a [Prefix],
    /// Peers' addresses that a device serves there, sorted, with their host.
    pub remote: &'a [(u128, u32)],
}

/// Whether a connection can have a companion between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Devices serve both ends, and the policyds are linked.
    Served {
        host: u32,
    },
    /// The remote address is no listed peer's.
    NotAPeer,
    PeerUnreachable,
    NoDevice,
    PeerNoDevice,
    /// Policyd was writing for too long.
    Unreadable,
}

/// As it is compared.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of such a number.
pub fn address(number: u128) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(number);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

impl Prefix {
    fn contains(&self, address: u128) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0);
        address & mask == self.address & mask
    }
}

impl San {
    pub const BYTES: usize = size_of::<San>();

    /// Set after policyd has mapped it writable: nobody else ever can.
    pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

    /// Policyd, in fresh zeroed memory.
    pub fn initialise(&self) {
        self.magic.store(MAGIC, Ordering::Relaxed);
        self.version.store(VERSION, Ordering::Release);
    }

    pub fn is_sound(&self) -> bool {
        self.version.load(Ordering::Acquire) == VERSION && self.magic.load(Ordering::Relaxed) == MAGIC
    }

    /// Policyd, which has one writer.
    pub fn write(&self, content: &Content) {
        let live = self.sequence.load(Ordering::Relaxed).wrapping_add(2) & !1;
        self.sequence.store(live | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for ((words, name), &(address, provider)) in self.local.iter().zip(&self.providers).zip(content.local) {
            store(words, address);
            store(name, u128::from_le_bytes(provider.bytes()));
        }
        for (shared, prefix) in self.prefixes.iter().zip(content.prefixes) {
            store(&shared.address, prefix.address);
            shared.length.store(prefix.length.into(), Ordering::Relaxed);
            shared.host.store(prefix.host, Ordering::Relaxed);
            shared.up.store(prefix.up.into(), Ordering::Relaxed);
        }
        for (shared, &(address, host)) in self.remote.iter().zip(content.remote) {
            store(&shared.address, address);
            shared.host.store(host, Ordering::Relaxed);
        }
        self.local_count.store(content.local.len().min(MAX_LOCAL) as u32, Ordering::Relaxed);
        self.prefix_count.store(content.prefixes.len().min(MAX_PREFIXES) as u32, Ordering::Relaxed);
        self.remote_count.store(content.remote.len().min(MAX_REMOTE) as u32, Ordering::Relaxed);
        self.sequence.store(live, Ordering::Release);
    }

    /// Whether a connection between these two can have a companion.
    pub fn way(&self, local: IpAddr, remote: IpAddr) -> Way {
        let (local, remote) = (number(local), number(remote));
        self.consistently(|| self.look_up(local, remote)).unwrap_or(Way::Unreadable)
    }

    /// What serves this address of our own.
    pub fn provider(&self, local: IpAddr) -> Option<ProviderName> {
        let local = number(local);
        let words = self.consistently(|| {
            let at = used(&self.local, &self.local_count).binary_search_by_key(&local, load).ok()?;
            self.providers.get(at).map(load)
        });
        ProviderName::from_bytes(words??.to_le_bytes())
    }

    /// `None`: policyd was writing for too long.
    fn consistently<T>(&self, read: impl Fn() -> T) -> Option<T> {
        for _ in 0..TRIES {
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let found = read();
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return Some(found);
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    fn look_up(&self, local: u128, remote: u128) -> Way {
        let prefixes = used(&self.prefixes, &self.prefix_count).iter().map(SharedPrefix::read);
        let longest = prefixes.filter(|prefix| prefix.contains(remote)).max_by_key(|prefix| prefix.length);
        let Some(peer) = longest else { return Way::NotAPeer };
        let locals = used(&self.local, &self.local_count);
        if locals.binary_search_by_key(&local, load).is_err() {
            return Way::NoDevice;
        }
        if !peer.up {
            return Way::PeerUnreachable;
        }
        let remotes = used(&self.remote, &self.remote_count);
        let found = remotes.binary_search_by_key(&remote, |shared| load(&shared.address));
        match found.ok().and_then(|at| remotes.get(at)) {
            Some(shared) if shared.host.load(Ordering::Relaxed) == peer.host => Way::Served { host: peer.host },
            _ => Way::PeerNoDevice,
        }
    }
}

impl SharedPrefix {
    fn read(&self) -> Prefix {
        Prefix {
            address: load(&self.address),
            length: self.length.load(Ordering::Relaxed).min(128) as u8,
            host: self.host.load(Ordering::Relaxed),
            up: self.up.load(Ordering::Relaxed) != 0,
        }
    }
}

fn used<'a, T>(all: &'a [T], count: &AtomicU32) -> &'a [T] {
    all.get(..count.load(Ordering::Relaxed) as usize).unwrap_or(all)
}

fn store([high, low]: &[AtomicU64; 2], value: u128) {
    high.store((value >> 64) as u64, Ordering::Relaxed);
    low.store(value as u64, Ordering::Relaxed);
}

fn load([high, low]: &[AtomicU64; 2]) -> u128 {
    u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed))
}

const _: () = assert!(std::mem::offset_of!(San, local) == 64);
const _: () = assert!(size_of::<San>() == 35 << 12);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str, length: u8, host: u32, up: bool) -> Prefix {
        Prefix { address: number(ip(text)), length, host, up }
    }

    fn table() -> Box<San> {
        // SAFETY: all fields are atomic integers, for which zeros are valid.
        unsafe { Box::<San>::new_zeroed().assume_init() }
    }

    #[test]
    fn a_way_needs_both_devices_and_the_link() {
        let san = table();
        san.initialise();
        assert!(san.is_sound());
        assert_eq!(san.way(ip("10.0.0.1"), ip("10.0.0.2")), Way::NotAPeer);
        let other = ProviderName::new("other").unwrap();
        let mut local = [(number(ip("10.0.0.1")), ProviderName::VERBS), (number(ip("fd00::1")), other)];
        local.sort_unstable();
        let prefixes =
            [prefix("10.0.0.0", 96 + 24, 1, true), prefix("10.0.0.9", 128, 2, false), prefix("fd00::", 64, 1, true)];
        let mut remote = [(number(ip("10.0.0.2")), 1), (number(ip("fd00::2")), 1), (number(ip("10.0.0.9")), 1)];
        remote.sort_unstable();
        san.write(&Content { local: &local, prefixes: &prefixes, remote: &remote });
        let way = |local, remote| san.way(ip(local), ip(remote));
        assert_eq!(way("10.0.0.1", "10.0.0.2"), Way::Served { host: 1 });
        assert_eq!(way("::ffff:10.0.0.1", "::ffff:10.0.0.2"), Way::Served { host: 1 });
        assert_eq!(way("fd00::1", "fd00::2"), Way::Served { host: 1 });
        assert_eq!(way("10.0.0.3", "10.0.0.2"), Way::NoDevice);
        let provider = |local| san.provider(ip(local));
        assert_eq!(provider("::ffff:10.0.0.1"), Some(ProviderName::VERBS));
        assert_eq!((provider("fd00::1"), provider("10.0.0.3")), (Some(other), None));
        assert_eq!(way("10.0.0.1", "10.0.0.3"), Way::PeerNoDevice);
        assert_eq!(way("10.0.0.1", "10.0.0.9"), Way::PeerUnreachable, "the longest prefix says whose it is");
        assert_eq!(way("10.0.0.1", "10.0.1.2"), Way::NotAPeer);
        san.write(&Content { local: &local, prefixes: &[prefix("10.0.0.9", 128, 2, true)], remote: &remote });
        assert_eq!(way("10.0.0.1", "10.0.0.9"), Way::PeerNoDevice, "served by a host that it doesn't belong to");
        san.write(&Content::default());
        assert_eq!(way("10.0.0.1", "10.0.0.2"), Way::NotAPeer);
    }

    #[test]
    fn a_default_route_like_prefix_is_every_address() {
        let san = table();
        san.write(&Content { local: &[], prefixes: &[prefix("::", 0, 1, true)], remote: &[] });
        assert_eq!(san.way(ip("10.0.0.1"), ip("192.0.2.1")), Way::NoDevice);
    }

    #[test]
    fn a_torn_table_is_unreadable_and_counts_that_lie_stay_inside() {
        let san = table();
        san.sequence.store(1, Ordering::Relaxed);
        assert_eq!(san.way(ip("10.0.0.1"), ip("10.0.0.2")), Way::Unreadable);
        san.sequence.store(2, Ordering::Relaxed);
        for count in [&san.local_count, &san.prefix_count, &san.remote_count] {
            count.store(u32::MAX, Ordering::Relaxed);
        }
        let _ = san.way(ip("10.0.0.1"), ip("10.0.0.2"));
        assert_eq!(san.provider(ip("0.0.0.0")), None);
    }

    #[test]
    fn numbers_are_addresses() {
        for text in ["10.0.0.1", "fd00::1", "::1"] {
            assert_eq!(address(number(ip(text))), ip(text));
        }
    }
}
