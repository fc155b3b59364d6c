//! One assignment, compiled: a seqlock that policyd writes and switches read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::{Binding, Decision, InterfaceName, Mode, PortBind, State, Why};

/// Of each family.
pub const MAX_RANGES: usize = 1_024;
pub const MAX_SOURCES: usize = 8;

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Table {
    /// Odd: being written.
    sequence: AtomicU32,
    state: AtomicU32,
    mode: AtomicU32,
    by_source: AtomicU32,
    port_bind: AtomicU32,
    needs_source: AtomicU32,
    interface_index: AtomicU32,
    /// There were more ranges than fit: destinations outside those that stand here are left alone like any other.
    partial: AtomicU32,
    name: [AtomicU64; 2],
    v4_sources: [AtomicU32; MAX_SOURCES],
    v6_sources: [[AtomicU64; 2]; MAX_SOURCES],
    v4_source_count: AtomicU32,
    v6_source_count: AtomicU32,
    v4_count: AtomicU32,
    v6_count: AtomicU32,
    existing_fail: AtomicU32,
    _pad: AtomicU32,
    v4: [Range4; MAX_RANGES],
    v6: [Range6; MAX_RANGES],
}

#[derive(Debug)]
#[repr(C)]
struct Range4 {
    first: AtomicU32,
    last: AtomicU32,
    source: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
struct Range6 {
    /// High, low.
    first: [AtomicU64; 2],
    last: [AtomicU64; 2],
    source: AtomicU64,
}

/// Destinations `first..=last` leave with the source address at that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<A> {
    pub first: A,
    pub last: A,
    pub source: usize,
}

/// What a table says. Ranges are sorted and disjoint; what is past `MAX_RANGES` or `MAX_SOURCES` is cut off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Content<'a> {
    pub state: State,
    pub mode: Mode,
    pub by_source: bool,
    pub needs_source: bool,
    pub port_bind: PortBind,
    pub existing_fail: bool,
    pub interface_index: u32,
    pub interface: InterfaceName,
    pub v4_sources: &'a [Ipv4Addr],
    pub v6_sources: &'a [Ipv6Addr],
    pub v4: &'a [Range<Ipv4Addr>],
    pub v6: &'a [Range<Ipv6Addr>],
}

impl Table {
    /// Policyd, which has one writer.
    pub fn write(&self, content: &Content) {
        let live = self.sequence.load(Ordering::Relaxed).wrapping_add(2) & !1;
        self.sequence.store(live | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.store(content);
        self.sequence.store(live, Ordering::Release);
    }

    pub fn is_partial(&self) -> bool {
        self.partial.load(Ordering::Relaxed) != 0
    }

    fn store(&self, content: &Content) {
        let put = |word: &AtomicU32, value: u32| word.store(value, Ordering::Relaxed);
        put(&self.state, content.state as u32);
        put(&self.mode, content.mode as u32);
        put(&self.by_source, content.by_source.into());
        put(&self.needs_source, content.needs_source.into());
        put(&self.port_bind, content.port_bind as u32);
        put(&self.existing_fail, content.existing_fail.into());
        put(&self.interface_index, content.interface_index);
        put(&self.partial, (content.v4.len().max(content.v6.len()) > MAX_RANGES).into());
        store_wide(&self.name, u128::from_be_bytes(*content.interface.bytes()));
        for (word, source) in self.v4_sources.iter().zip(content.v4_sources) {
            put(word, source.to_bits());
        }
        for (words, source) in self.v6_sources.iter().zip(content.v6_sources) {
            store_wide(words, source.to_bits());
        }
        let ranges = self.v4.iter().zip(content.v4);
        for (words, range) in ranges {
            put(&words.first, range.first.to_bits());
            put(&words.last, range.last.to_bits());
            put(&words.source, range.source as u32);
        }
        let ranges = self.v6.iter().zip(content.v6);
        for (words, range) in ranges {
            store_wide(&words.first, range.first.to_bits());
            store_wide(&words.last, range.last.to_bits());
            words.source.store(range.source as u64, Ordering::Relaxed);
        }
        put(&self.v4_source_count, content.v4_sources.len().min(MAX_SOURCES) as u32);
        put(&self.v6_source_count, content.v6_sources.len().min(MAX_SOURCES) as u32);
        put(&self.v4_count, content.v4.len().min(MAX_RANGES) as u32);
        put(&self.v6_count, content.v6.len().min(MAX_RANGES) as u32);
    }

    /// `None`: it was being written.
    pub(super) fn at_one_moment<T>(&self, read: impl FnOnce(&Self) -> T) -> Option<T> {
        let before = self.sequence.load(Ordering::Acquire);
        if before & 1 == 1 {
            return None;
        }
        let answer = read(self);
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(answer)
    }

    /// `None`: a value that policyd never writes (or half of what it was just writing).
    pub(super) fn look_up(&self, destination: IpAddr) -> Option<Decision> {
        let state = self.state()?;
        let source = match destination {
            IpAddr::V4(v4) => self.source_v4(v4),
            IpAddr::V6(v6) => self.source_v6(v6),
        };
        let source = match source? {
            None => return Some(Decision::LeaveAlone(Why::NotRouted)),
            Some(source) => source,
        };
        match state {
            State::Active => self.binding(source).map(Decision::Bind),
            State::GoneUnbound => Some(Decision::LeaveAlone(Why::Gone)),
            State::GoneDown => Some(Decision::NetDown),
        }
    }

    /// Whether sockets are bound to this address now. `None`: no table.
    pub(super) fn has_source(&self, source: IpAddr) -> Option<bool> {
        let known = match source {
            IpAddr::V4(v4) => {
                let sources = self.v4_sources.get(..load_count(&self.v4_source_count, MAX_SOURCES)?)?;
                sources.iter().any(|word| word.load(Ordering::Relaxed) == v4.to_bits())
            }
            IpAddr::V6(v6) => {
                let sources = self.v6_sources.get(..load_count(&self.v6_source_count, MAX_SOURCES)?)?;
                sources.iter().any(|words| load_wide(words) == v6.to_bits())
            }
        };
        Some(known && self.state()? == State::Active)
    }

    fn state(&self) -> Option<State> {
        match self.state.load(Ordering::Relaxed) {
            1 => Some(State::Active),
            2 => Some(State::GoneUnbound),
            3 => Some(State::GoneDown),
            _ => None,
        }
    }

    fn binding(&self, source: IpAddr) -> Option<Binding> {
        let interface = InterfaceName::from_bytes(load_wide(&self.name).to_be_bytes())?;
        let interface_index = self.interface_index.load(Ordering::Relaxed);
        if interface.is_none() || interface_index == 0 || i32::try_from(interface_index).is_err() {
            return None;
        }
        let mode = match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Auto,
            1 => Mode::Device,
            2 => Mode::Address,
            _ => return None,
        };
        let port_bind = match self.port_bind.load(Ordering::Relaxed) {
            0 => PortBind::Leave,
            1 => PortBind::Device,
            _ => return None,
        };
        let by_source = self.by_source.load(Ordering::Relaxed) != 0;
        let [needs_source, existing_fail] =
            [&self.needs_source, &self.existing_fail].map(|word| word.load(Ordering::Relaxed) != 0);
        Some(Binding { source, interface_index, interface, mode, by_source, needs_source, port_bind, existing_fail })
    }

    /// Outer `None`: no table. Inner: not in a range.
    fn source_v4(&self, destination: Ipv4Addr) -> Option<Option<IpAddr>> {
        let ranges = self.v4.get(..load_count(&self.v4_count, MAX_RANGES)?)?;
        let wanted = destination.to_bits();
        let at = ranges.partition_point(|range| range.last.load(Ordering::Relaxed) < wanted);
        let Some(range) = ranges.get(at).filter(|range| range.first.load(Ordering::Relaxed) <= wanted) else {
            return Some(None);
        };
        let known = load_count(&self.v4_source_count, MAX_SOURCES)?;
        let index = load_count(&range.source, known.checked_sub(1)?)?;
        let source = self.v4_sources.get(index)?.load(Ordering::Relaxed);
        Some(Some(IpAddr::V4(Ipv4Addr::from_bits(source))))
    }

    fn source_v6(&self, destination: Ipv6Addr) -> Option<Option<IpAddr>> {
        let ranges = self.v6.get(..load_count(&self.v6_count, MAX_RANGES)?)?;
        let wanted = destination.to_bits();
        let at = ranges.partition_point(|range| load_wide(&range.last) < wanted);
        let Some(range) = ranges.get(at).filter(|range| load_wide(&range.first) <= wanted) else {
            return Some(None);
        };
        let known = load_count(&self.v6_source_count, MAX_SOURCES)?;
        let index = usize::try_from(range.source.load(Ordering::Relaxed)).ok().filter(|&index| index < known)?;
        let source = load_wide(self.v6_sources.get(index)?);
        Some(Some(IpAddr::V6(Ipv6Addr::from_bits(source))))
    }
}

/// A count or index no greater than `most`.
fn load_count(word: &AtomicU32, most: usize) -> Option<usize> {
    usize::try_from(word.load(Ordering::Relaxed)).ok().filter(|&count| count <= most)
}

fn store_wide([high, low]: &[AtomicU64; 2], value: u128) {
    high.store((value >> 64) as u64, Ordering::Relaxed);
    low.store(value as u64, Ordering::Relaxed);
}

fn load_wide([high, low]: &[AtomicU64; 2]) -> u128 {
    u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed))
}
