//! The memory that a process shares with the children it forks: slots with their locks and cursors (seen by nobody
//! else), the registry (rows that policyd reads) and the wake board (words that peers may read).
//!
//! It is made at the first TCP socket, so a program that never has one pays nothing, and a socket is always younger than
//! the memory that describes it: a fork shares both from birth.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::board::Board;
use tandem_protocol::registry::{Registry, Row};

use crate::slot::Slot;
use crate::{epoll, filter, hidden, stranger, sys};

pub const SLOTS: usize = 65_536;
pub const WAKES: usize = 1_024;
/// Pairs of processes a family can have companions with at one time.
pub const PAIRS: usize = 256;
const BIG_RING_WORDS: usize = 32;

/// Shared words beside the slots. All-zero is the initial state.
#[repr(C)]
pub struct Shared {
    /// Forks under way whose child has not yet signed in as a holder.
    pub forks_pending: AtomicU32,
    /// One past the highest slot ever used: bounds every walk.
    pub slots_used: AtomicU32,
    slot_hint: AtomicU32,
    taken: [AtomicU64; SLOTS / 64],
    /// Which process owns a wake id (0: nobody yet).
    pub wake_owner: [AtomicU32; WAKES],
    /// One past the highest place of a pair ever used; whose each is (0: nobody's); how many conns of it were ever used.
    pub next_pair: AtomicU32,
    pub pair_owner: [AtomicU32; PAIRS],
    pub conns_used: [AtomicU32; PAIRS],
    /// Big rings in use, per pair: this side's half of the pair's memory.
    pub big_rings: [[AtomicU64; BIG_RING_WORDS]; PAIRS],
    /// Of closed connections, by their number in the pair: a big ring that the peer may still be reading.
    pub held_rings: [[AtomicU64; tandem_protocol::pair::CONNS as usize]; PAIRS],
    /// Epoll sets that were there at a fork.
    pub common: epoll::Common,
}

pub struct Family {
    pub token: [u8; 16],
    pub shared: &'static Shared,
    slots: *const Slot,
    pub registry: &'static Registry,
    pub board: &'static Board,
    pub registry_fd: RawFd,
    pub board_fd: RawFd,
}

// SAFETY: everything behind the pointer is atomics or guarded by locks that stand beside it.
unsafe impl Sync for Family {}

static FAMILY: AtomicPtr<Family> = AtomicPtr::new(std::ptr::null_mut());
/// Set when making it failed once: the process then stays on plain TCP.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// The family's memory if it has been made.
#[inline]
pub fn existing() -> Option<&'static Family> {
    // SAFETY: the pointer is null or was leaked by `make` and never freed.
    unsafe { FAMILY.load(Ordering::Acquire).as_ref() }
}

/// The family's memory, made now if need be. `None`: no memory, no descriptor, or refused before.
pub fn get() -> Option<&'static Family> {
    match existing() {
        Some(family) => Some(family),
        None if REFUSED.load(Ordering::Relaxed) == 0 => make(),
        None => None,
    }
}

#[cold]
fn make() -> Option<&'static Family> {
    let made = build();
    let Some(made) = made else {
        REFUSED.store(1, Ordering::Relaxed);
        crate::log::warn(format_args!("no shared memory for the switch: every connection stays on TCP"));
        return None;
    };
    let fresh = Box::into_raw(Box::new(made));
    match FAMILY.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just leaked.
        Ok(_) => unsafe { fresh.as_ref() },
        // Another thread was first: ours is given up (its mappings stay, once a process at most).
        Err(winner) => {
            // SAFETY: `fresh` was never published; `winner` is the published one.
            let (mine, winner) = unsafe { (Box::from_raw(fresh), winner.as_ref()) };
            hidden::close(mine.registry_fd);
            hidden::close(mine.board_fd);
            winner
        }
    }
}

fn build() -> Option<Family> {
    if !filter::permits() || sys::space_is_limited() {
        return None;
    }
    stranger::start();
    let slots = sys::map_shared(None, SLOTS * size_of::<Slot>(), true)?.cast::<Slot>();
    let shared = sys::map_shared(None, size_of::<Shared>(), true)?.cast::<Shared>();
    let registry_file = sys::memfd(c"tandem-registry", Registry::BYTES)?;
    let registry = sys::map_shared(Some(registry_file), Registry::BYTES, true);
    let registry_fd = hidden::hide(registry_file)?;
    let board_file = sys::memfd(c"tandem-board", Board::BYTES)?;
    let board = sys::map_shared(Some(board_file), Board::BYTES, true);
    let board_fd = hidden::hide(board_file)?;
    let sized = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
    seal(registry_fd, sized | libc::F_SEAL_SEAL);
    // Peers map the board, and may only read it. (Kernels before 5.1 lack this seal: no companion then.)
    if !seal(board_fd, sized | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL) {
        return None;
    }
    let mut token = [0u8; 16];
    sys::fill_random(&mut token);
    // SAFETY: fresh zeroed mappings of the types' sizes, never unmapped; all-zero is valid for each.
    let (shared, registry, board) =
        unsafe { (shared.as_ref()?, registry?.cast::<Registry>().as_ref()?, board?.cast::<Board>().as_ref()?) };
    registry.initialise();
    Some(Family { token, shared, slots, registry, board, registry_fd, board_fd })
}

fn seal(fd: RawFd, seals: i32) -> bool {
    // SAFETY: a descriptor of ours.
    unsafe { crate::real::fcntl(fd, libc::F_ADD_SEALS, seals as usize) == 0 }
}

impl Family {
    #[inline]
    pub fn slot(&self, index: u32) -> &'static Slot {
        debug_assert!((index as usize) < SLOTS);
        // SAFETY: the index is masked into the mapping, which lives as long as the process.
        unsafe { &*self.slots.add(index as usize % SLOTS) }
    }

    #[inline]
    pub fn row(&self, index: u32) -> &'static Row {
        self.registry.row(index as usize % SLOTS)
    }

    /// A free slot's index, marked as taken.
    pub fn claim_slot(&self) -> Option<u32> {
        let words = self.shared.taken.len();
        let start = self.shared.slot_hint.load(Ordering::Relaxed) as usize;
        for step in 0..words {
            let at = (start + step) % words;
            let Some(word) = self.shared.taken.get(at) else { continue };
            let mut seen = word.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                match word.compare_exchange_weak(seen, seen | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => {
                        self.shared.slot_hint.store(at as u32, Ordering::Relaxed);
                        let index = at as u32 * 64 + bit;
                        if self.shared.slots_used.load(Ordering::Relaxed) <= index {
                            self.shared.slots_used.fetch_max(index + 1, Ordering::Relaxed);
                        }
                        return Some(index);
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    pub fn free_slot(&self, index: u32) {
        if let Some(word) = self.shared.taken.get(index as usize / 64) {
            word.fetch_and(!(1 << (index % 64)), Ordering::Release);
            if self.shared.slot_hint.load(Ordering::Relaxed) > index / 64 {
                self.shared.slot_hint.fetch_min(index / 64, Ordering::Relaxed);
            }
        }
    }
}
