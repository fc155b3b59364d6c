//! A family's board: the wake words its peers read. A memfd that the family maps writable and then seals, so that
//! whoever it is passed to can only map it for reading.

use std::sync::atomic::AtomicU32;

/// One sleeper of the family.
#[derive(Debug)]
#[repr(C)]
pub struct BoardEntry {
    /// Odd: asleep, wake it.
    pub sleep: AtomicU32,
    /// Which sleeper this is, for the peer that looks it up.
    pub bind: AtomicU32,
}

pub const ENTRIES: usize = 1_024;

#[derive(Debug)]
#[repr(C)]
pub struct Board {
    pub entries: [BoardEntry; ENTRIES],
}

impl Board {
    pub const BYTES: usize = size_of::<Board>();

    /// Seals that policyd demands before it passes a board on.
    pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

    /// `None` past the end: an index may come from a peer.
    #[inline]
    pub fn entry(&self, index: u32) -> Option<&BoardEntry> {
        self.entries.get(index as usize)
    }
}

const _: () = assert!(size_of::<BoardEntry>() == 8);
const _: () = assert!(Board::BYTES == 8_192);
