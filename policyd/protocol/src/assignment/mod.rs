//! Which interface a process's unbound sockets get: compiled by policyd, looked up by the switch in a mapping that it can
//! only read, without a message or a system call.
//!
//! An *arena* is one sealed memfd, shared by processes of one user. A process has a *cell* in it for as long as its channel
//! lives: one word that names a *table*, or none. A table is one assignment: interface, source addresses, and the
//! destinations that it is for. Processes with an equal assignment name the same table. So policyd changes what one process
//! gets by one store to its cell, and what all get when a route changes by rewriting one table; no process is told.
//!
//! ```text
//! 0           arena: magic, version
//! 4,096       4,096 cells of 8 bytes
//! 36,864      64 tables of 56 KiB                   (virtual until one is used)
//! ```
//!
//! Destinations are ranges, sorted and disjoint: what the interface has a route to, less the host's own addresses,
//! broadcast, multicast, link-local and what another interface has a more specific route to. A destination in no range is
//! left alone. A table is a seqlock: a reader that meets a writer for too long leaves its socket alone.

mod name;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use name::{InterfaceName, Name, NetworkName};
pub use table::{Content, MAX_RANGES, MAX_SOURCES, Range, Table};

pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDA");
pub const VERSION: u32 = 2;
pub const CELLS: usize = 4_096;
pub const TABLES: usize = 64;

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Arena {
    header: Header,
    cells: [AtomicU64; CELLS],
    tables: [Table; TABLES],
}

#[derive(Debug)]
#[repr(C, align(4096))]
struct Header {
    magic: AtomicU32,
    version: AtomicU32,
}

/// What a socket's first destination is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    LeaveAlone(Why),
    Bind(Binding),
    /// The interface is gone, and policy says that connecting then fails.
    NetDown,
}

/// Why a socket is left to the routing table. `tandem explain` and the log name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody assigned anything to this process.
    NoAssignment,
    /// This host's own, multicast, broadcast, link-local or unspecified.
    Local,
    /// The interface has no route to it, another has a better one, or the assignment is not for it.
    NotRouted,
    /// The interface is gone, and policy says that sockets then stay unbound.
    Gone,
    /// Policyd was writing, or what stands there is no assignment.
    Unreadable,
}

/// How to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Of the family of the looked-up address; a v4-mapped destination counts as IPv4.
    pub source: IpAddr,
    pub interface_index: u32,
    pub interface: InterfaceName,
    pub mode: Mode,
    /// Policyd has made `from SOURCE` rules for this interface: the source address alone chooses the way out.
    pub by_source: bool,
    /// Some of the interface's routes are for its own source addresses alone: the interface without the address does not
    /// lead there.
    pub needs_source: bool,
    pub port_bind: PortBind,
    /// Policyd ends connections when the interface goes; calls on them then fail with ENETDOWN.
    pub existing_fail: bool,
}

/// What a socket is bound by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// By source address where that steers, else by device and source address.
    #[default]
    Auto = 0,
    /// By device alone.
    Device = 1,
    /// By source address alone.
    Address = 2,
}

/// What happens to a socket that the program bound to a port or the wildcard, but to no address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum PortBind {
    #[default]
    Leave = 0,
    /// It gets the device; its port is kept.
    Device = 1,
}

/// Whether the interface is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    #[default]
    Active = 1,
    /// Gone: sockets stay unbound.
    GoneUnbound = 2,
    /// Gone: connecting to what it would serve fails with ENETDOWN.
    GoneDown = 3,
}

impl Arena {
    pub const BYTES: usize = size_of::<Arena>();

    /// Set after policyd has mapped it writable: nobody else ever can.
    pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

    /// Policyd, in fresh zeroed memory.
    pub fn initialise(&self) {
        self.header.magic.store(MAGIC, Ordering::Relaxed);
        self.header.version.store(VERSION, Ordering::Release);
    }

    pub fn is_sound(&self) -> bool {
        self.header.version.load(Ordering::Acquire) == VERSION && self.header.magic.load(Ordering::Relaxed) == MAGIC
    }

    /// Policyd: this cell's process gets this table from now on; `None`: nothing.
    pub fn assign(&self, cell: usize, table: Option<usize>) {
        if let Some(word) = self.cells.get(cell) {
            word.store(table.map_or(0, |table| table as u64 + 1), Ordering::Release);
        }
    }

    /// Policyd's to write.
    pub fn table(&self, table: usize) -> Option<&Table> {
        self.tables.get(table)
    }

    /// Whether this cell has any assignment: one load.
    #[inline]
    pub fn has_assignment(&self, cell: u32) -> bool {
        self.word(cell) != 0
    }

    /// What a socket of this cell's process gets whose first destination this is.
    pub fn look_up(&self, cell: u32, destination: IpAddr) -> Decision {
        let destination = canonical(destination);
        if is_never_bound(destination) {
            return Decision::LeaveAlone(if self.has_assignment(cell) { Why::Local } else { Why::NoAssignment });
        }
        let decide = |table: &Table| table.look_up(destination);
        self.read(cell, decide).unwrap_or_else(Decision::LeaveAlone)
    }

    /// Whether this cell's process has this source address, of an interface that is there.
    pub fn has_source(&self, cell: u32, source: IpAddr) -> bool {
        let source = canonical(source);
        self.read(cell, |table| table.has_source(source)).unwrap_or(false)
    }

    #[inline]
    fn word(&self, cell: u32) -> u64 {
        self.cells.get(cell as usize).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Reads the cell's table at one moment. `read` may be called again, and `None` from it is a table that is none.
    fn read<T>(&self, cell: u32, read: impl Fn(&Table) -> Option<T>) -> Result<T, Why> {
        for _ in 0..TRIES {
            let word = self.word(cell);
            let Some(index) = word.checked_sub(1) else { return Err(Why::NoAssignment) };
            let table = usize::try_from(index).ok().and_then(|index| self.tables.get(index)).ok_or(Why::Unreadable)?;
            // The table may have become another's in between: the cell must still name it.
            if let Some(answer) = table.at_one_moment(&read)
                && self.word(cell) == word
            {
                return answer.ok_or(Why::Unreadable);
            }
            std::hint::spin_loop();
        }
        Err(Why::Unreadable)
    }
}

/// A policyd that is killed while it writes leaves a table torn for good.
const TRIES: usize = 64;

/// A v4-mapped address is its IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Left alone whatever a table says.
pub fn is_never_bound(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => {
            v4.octets().first() == Some(&0)
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4 == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_multicast()
                || v6 == Ipv6Addr::UNSPECIFIED
                || v6.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80)
        }
    }
}

const _: () = assert!(std::mem::offset_of!(Arena, cells) == 4_096);
const _: () = assert!(std::mem::offset_of!(Arena, tables) == 36_864);
const _: () = assert!(size_of::<Table>() == 56 << 10);
const _: () = assert!(Arena::BYTES == 36_864 + TABLES * (56 << 10));

#[cfg(test)]
mod tests;
