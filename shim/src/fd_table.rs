//! Which descriptor numbers concern the switch: one word a number, read by every hook before anything else.
//!
//! The array lives in .bss: 4 MiB of address space, of which a program touches the first page or two. A number past its
//! end is plain for ever (a process that opens more than a million descriptors keeps them on TCP).

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Numbers from here on are always plain.
pub const CAPACITY: usize = 1 << 20;

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const SOCKET: u32 = 1 << INDEX_BITS;
const EPOLL: u32 = 2 << INDEX_BITS;
const HIDDEN: u32 = 3 << INDEX_BITS;
const DATAGRAM: u32 = 4 << INDEX_BITS;
/// Plain for data calls, tracked for life-cycle calls. The sign bit, so that "concerns a data call" is "greater than zero".
const SETTLED: u32 = 1 << 31;
const SETTLED_SOCKET: u32 = SETTLED | SOCKET;
const SETTLED_DATAGRAM: u32 = SETTLED | DATAGRAM;
const SETTLED_HIDDEN: u32 = SETTLED | HIDDEN;

static TABLE: [AtomicU32; CAPACITY] = [const { AtomicU32::new(0) }; CAPACITY];

/// One more than the highest number that ever held a socket or an epoll set. Bounds a scan of select's sets, which may
/// be shorter than the count the caller passes.
static CEILING: AtomicI32 = AtomicI32::new(0);
/// The same of UDP sockets, which select is none the wiser for.
static DATAGRAM_CEILING: AtomicI32 = AtomicI32::new(0);

/// What a number holds, as far as the switch is concerned. Indices have 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing of ours: every call goes to the kernel.
    Plain,
    /// A socket with this slot.
    Socket(u32),
    /// A socket with this slot whose data calls go straight to the kernel; life-cycle calls still concern the switch.
    Settled(u32),
    /// An epoll set of the application with this record.
    Epoll(u32),
    /// A UDP socket with this record: only naming calls and sends to an address concern the switch.
    Datagram(u32),
    /// A descriptor of ours, which the application must not see: EBADF.
    Hidden,
    /// The same, and a provider's device libraries use it by libc's calls: read, write and ioctl reach the kernel.
    Lent,
}

impl Entry {
    const fn encode(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Socket(index) => SOCKET | (index & INDEX_MASK),
            Self::Settled(index) => SETTLED | SOCKET | (index & INDEX_MASK),
            Self::Epoll(index) => EPOLL | (index & INDEX_MASK),
            Self::Datagram(index) => SETTLED_DATAGRAM | (index & INDEX_MASK),
            Self::Hidden => HIDDEN,
            Self::Lent => SETTLED_HIDDEN,
        }
    }

    const fn decode(word: u32) -> Self {
        let index = word & INDEX_MASK;
        match word & !INDEX_MASK {
            SOCKET => Self::Socket(index),
            SETTLED_SOCKET => Self::Settled(index),
            EPOLL => Self::Epoll(index),
            SETTLED_DATAGRAM => Self::Datagram(index),
            HIDDEN => Self::Hidden,
            SETTLED_HIDDEN => Self::Lent,
            _ => Self::Plain,
        }
    }
}

/// Whether a data call (read, send, poll) on this number goes straight to the kernel.
#[inline(always)]
pub fn is_plain(fd: c_int) -> bool {
    word(fd).cast_signed() <= 0
}

/// Whether nobody tracks this number at all: close, dup, fcntl and the like go straight to the kernel.
#[inline(always)]
pub fn is_untracked(fd: c_int) -> bool {
    word(fd) == 0
}

/// Whether this number is a descriptor of ours, which the application must not see.
pub fn is_hidden(fd: c_int) -> bool {
    matches!(life(fd), Entry::Hidden | Entry::Lent)
}

/// The same, but for a provider's device libraries.
pub fn is_hidden_from_devices(fd: c_int) -> bool {
    life(fd) == Entry::Hidden
}

/// What the number holds.
#[inline]
pub fn life(fd: c_int) -> Entry {
    Entry::decode(word(fd))
}

/// The slot of the socket at this number, settled or not.
#[inline]
pub fn socket(fd: c_int) -> Option<u32> {
    match life(fd) {
        Entry::Socket(index) | Entry::Settled(index) => Some(index),
        _ => None,
    }
}

/// The slot of the socket at this number, whose data calls concern the switch.
#[inline(always)]
pub fn unsettled(fd: c_int) -> Option<u32> {
    let word = word(fd);
    (word & !INDEX_MASK == SOCKET).then_some(word & INDEX_MASK)
}

/// The record of the epoll set at this number.
#[inline]
pub fn epoll(fd: c_int) -> Option<u32> {
    match life(fd) {
        Entry::Epoll(index) => Some(index),
        _ => None,
    }
}

/// Puts an entry in place; false if the number is outside the table (then it stays plain).
pub fn set(fd: c_int, entry: Entry) -> bool {
    let Some(cell) = cell(fd) else { return false };
    raise_ceiling(fd, entry);
    cell.store(entry.encode(), Ordering::Release);
    true
}

/// Makes the number plain.
pub fn clear(fd: c_int) {
    set(fd, Entry::Plain);
}

/// All that is the application's becomes plain.
pub fn forget_all() {
    for fd in (0..life_ceiling()).filter(|&fd| !is_hidden(fd)) {
        clear(fd);
    }
}

/// Puts an entry in place and returns the old one: of two threads that close one number, one gets it.
pub fn swap(fd: c_int, entry: Entry) -> Entry {
    let Some(cell) = cell(fd) else { return Entry::Plain };
    raise_ceiling(fd, entry);
    Entry::decode(cell.swap(entry.encode(), Ordering::AcqRel))
}

/// Replaces `old` by `new` only where `old` still stands; true if it did.
pub fn replace(fd: c_int, old: Entry, new: Entry) -> bool {
    cell(fd).is_some_and(|cell| {
        cell.compare_exchange(old.encode(), new.encode(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    })
}

/// From now on data calls on this socket go straight to the kernel.
pub fn settle(fd: c_int) {
    if let Entry::Socket(index) = life(fd) {
        replace(fd, Entry::Socket(index), Entry::Settled(index));
    }
}

/// From now on data calls on this socket concern the switch again.
pub fn unsettle(fd: c_int) {
    if let Entry::Settled(index) = life(fd) {
        replace(fd, Entry::Settled(index), Entry::Socket(index));
    }
}

/// One more than the highest number that ever held a socket or an epoll set.
#[inline(always)]
pub fn ceiling() -> c_int {
    CEILING.load(Ordering::Relaxed)
}

/// One more than the highest number that ever held anything of the application's that is tracked.
pub fn life_ceiling() -> c_int {
    ceiling().max(DATAGRAM_CEILING.load(Ordering::Relaxed))
}

fn raise_ceiling(fd: c_int, entry: Entry) {
    let ceiling = match entry {
        Entry::Plain | Entry::Hidden | Entry::Lent => return,
        Entry::Datagram(_) => &DATAGRAM_CEILING,
        Entry::Socket(_) | Entry::Settled(_) | Entry::Epoll(_) => &CEILING,
    };
    let above = fd.saturating_add(1);
    // Mostly it is high enough, and a load costs less than a locked operation.
    if ceiling.load(Ordering::Relaxed) < above {
        ceiling.fetch_max(above, Ordering::Relaxed);
    }
}

#[inline(always)]
fn word(fd: c_int) -> u32 {
    // Acquire: whoever sees an entry sees the slot it names. A plain load on x86-64.
    cell(fd).map_or(0, |cell| cell.load(Ordering::Acquire))
}

#[inline(always)]
fn cell(fd: c_int) -> Option<&'static AtomicU32> {
    // A negative number becomes a huge one, outside the table.
    TABLE.get(fd.cast_unsigned() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_the_table_everything_is_plain_and_stays_so() {
        for fd in [-1, c_int::MIN, c_int::MAX, CAPACITY as c_int] {
            assert!(is_plain(fd) && is_untracked(fd));
            assert!(!set(fd, Entry::Socket(1)));
            assert_eq!(swap(fd, Entry::Socket(1)), Entry::Plain);
            clear(fd);
            assert!(is_plain(fd));
        }
    }

    #[test]
    fn every_entry_survives_its_word() {
        for entry in [
            Entry::Plain,
            Entry::Socket(0),
            Entry::Settled(0x00ff_ffff),
            Entry::Epoll(7),
            Entry::Datagram(9),
            Entry::Hidden,
            Entry::Lent,
        ] {
            assert_eq!(Entry::decode(entry.encode()), entry);
        }
    }

    #[test]
    fn a_settled_socket_is_plain_for_data_calls_only() {
        let fd = 1000;
        assert!(set(fd, Entry::Socket(0x00ab_cdef)));
        assert!(!is_plain(fd) && !is_untracked(fd) && ceiling() > fd);
        settle(fd);
        assert!(is_plain(fd) && !is_untracked(fd));
        assert_eq!(socket(fd), Some(0x00ab_cdef));
        assert!(!replace(fd, Entry::Socket(0x00ab_cdef), Entry::Plain), "it is settled now");
        unsettle(fd);
        assert!(!is_plain(fd));
        assert_eq!(swap(fd, Entry::Plain), Entry::Socket(0x00ab_cdef));
        assert!(is_untracked(fd) && socket(fd).is_none());
    }

    #[test]
    fn a_hidden_number_concerns_every_call_and_not_the_ceiling() {
        let fd = CAPACITY as c_int - 1;
        assert!(set(fd, Entry::Hidden));
        assert!(is_hidden(fd) && !is_plain(fd) && ceiling() < fd);
        clear(fd);
        assert!(!is_hidden(fd));
        assert!(set(fd, Entry::Lent));
        assert!(is_hidden(fd) && is_plain(fd) && !is_untracked(fd) && !is_hidden_from_devices(fd) && ceiling() < fd);
        clear(fd);
    }
}
