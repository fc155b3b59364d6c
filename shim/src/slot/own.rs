//! What this process alone knows of each slot: the descriptors that show it, the calls that sleep on it, the epoll sets that it is
//! registered in. Copied by fork, as descriptors are. One half of a cache line a slot, for a brief connection touches all of it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU16, AtomicU64, Ordering};

use super::{SlotRef, flag};
use crate::family::SLOTS;

/// Epoll sets of one process that may watch one connection.
pub const MOST_SETS: usize = LANES * WORDS;
/// Sets are numbered in 16 bits (+ 1; 0: none), so many in a word.
const LANES: usize = 4;
const WORDS: usize = 2;

#[repr(C, align(32))]
pub struct Own {
    /// How many of its descriptors show it.
    descriptors: AtomicU16,
    /// Calls that sleep on it: see `asleep`.
    pub(super) asleep: AtomicU16,
    /// One of those descriptors.
    descriptor: AtomicI32,
    /// Ours that shows it (+ 1): see `asleep`.
    pub(super) kept: AtomicI32,
    /// The descriptor by which it was registered first (+ 1).
    registered: AtomicI32,
    sets: [AtomicU64; WORDS],
}

static OWN: [Own; SLOTS] = [const { Own::new() }; SLOTS];

const _: () = assert!(size_of::<Own>() == 32);

#[inline(always)]
#[allow(clippy::indexing_slicing)] // in bounds whatever the index, so that no test is left of it
pub fn of(index: u32) -> &'static Own {
    &OWN[index as usize % SLOTS]
}

/// Those of the slots that have ever been in use (to look at all would cost a page fault a page).
pub fn first(used: u32) -> impl Iterator<Item = (u32, &'static Own)> {
    (0..).zip(OWN.iter().take(used as usize))
}

impl Own {
    const fn new() -> Own {
        Own {
            descriptors: AtomicU16::new(0),
            asleep: AtomicU16::new(0),
            descriptor: AtomicI32::new(0),
            kept: AtomicI32::new(0),
            registered: AtomicI32::new(0),
            sets: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// The slot has a new life, shown by this descriptor.
    pub fn begin(&self, fd: RawFd) {
        self.descriptors.store(1, Ordering::Relaxed);
        self.descriptor.store(fd, Ordering::Relaxed);
        self.sets.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// This process has none of its descriptors.
    pub fn forget(&self) {
        self.descriptors.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub fn is_mine(&self) -> bool {
        self.descriptors.load(Ordering::Relaxed) > 0
    }

    /// Shown by one descriptor, no call sleeps on it, and none of ours keeps it.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.descriptors.load(Ordering::Relaxed) == 1 && self.is_awake()
    }

    /// The latter two.
    #[inline(always)]
    pub fn is_awake(&self) -> bool {
        self.asleep.load(Ordering::SeqCst) == 0 && self.kept.load(Ordering::SeqCst) == 0
    }

    /// The only descriptor goes. False: there is another by now.
    #[inline(always)]
    pub fn drop_only_descriptor(&self) -> bool {
        self.descriptors.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The one set that it is registered in, where that is its first and no other has been there meanwhile.
    #[inline(always)]
    pub fn only_set(&self) -> Option<u32> {
        let [first, second] = &self.sets;
        let mark = first.load(Ordering::Acquire);
        let only = second.load(Ordering::Acquire) == 0 && (1..=u64::from(u16::MAX)).contains(&mark);
        only.then(|| mark as u32 - 1)
    }

    /// It is registered nowhere.
    #[inline(always)]
    pub fn is_in_no_set(&self) -> bool {
        self.sets.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }
}

impl SlotRef {
    #[inline(always)]
    pub fn own(&self) -> &'static Own {
        of(self.index)
    }

    /// A descriptor of this process that shows the slot.
    pub fn descriptor(&self) -> RawFd {
        self.own().descriptor.load(Ordering::Relaxed)
    }

    pub(super) fn set_descriptor(&self, fd: RawFd) {
        self.own().descriptor.store(fd, Ordering::Relaxed);
    }

    /// This process has a descriptor that shows the slot.
    pub fn is_mine(&self) -> bool {
        self.own().is_mine()
    }

    /// More than one descriptor of this process does.
    pub fn has_others(&self) -> bool {
        self.own().descriptors.load(Ordering::Relaxed) > 1
    }

    /// One more descriptor of this process shows the slot (dup and its kin).
    pub fn add_descriptor(&self) {
        self.own().descriptors.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer; true when it was this process's last. `others` looks for one that remains.
    pub fn drop_descriptor(&self, fd: RawFd, others: impl FnOnce() -> Option<RawFd>) -> bool {
        let left = self.own().descriptors.fetch_sub(1, Ordering::Relaxed) - 1;
        if left > 0
            && self.descriptor() == fd
            && let Some(other) = others()
        {
            self.set_descriptor(other);
        }
        left == 0
    }

    /// The epoll sets of this process that it is registered in.
    pub fn sets(&self) -> impl Iterator<Item = u32> + use<> {
        let words = self.own().sets.iter().map(|word| word.load(Ordering::Acquire));
        words.flat_map(lanes).filter(|&mark| mark > 0).map(|mark| u32::from(mark) - 1)
    }

    /// The descriptor by which it was registered first.
    pub fn registered(&self) -> RawFd {
        self.own().registered.load(Ordering::Relaxed) - 1
    }

    pub fn registered_by(&self, fd: RawFd) {
        self.own().registered.store(fd + 1, Ordering::Relaxed);
    }

    /// False when it is in too many others already.
    #[inline]
    pub fn enter_set(&self, set: u32, fd: RawFd) -> bool {
        let mark = set as u16 + 1;
        let [first, second] = &self.own().sets;
        // Mostly it is in none. Of two threads that enter two sets at once both have the first word to go by, and one finds the other there.
        if second.load(Ordering::Acquire) == 0
            && first.compare_exchange(0, u64::from(mark), Ordering::SeqCst, Ordering::Acquire).is_ok()
        {
            self.registered_by(fd);
            return true;
        }
        self.enter_another(mark, fd)
    }

    #[cold]
    fn enter_another(&self, mark: u16, fd: RawFd) -> bool {
        let known = self.own().sets.iter().any(|word| lanes(word.load(Ordering::Acquire)).contains(&mark));
        let entered = known || self.own().sets.iter().any(|word| enter(word, mark));
        // Whoever is in the second word came when the first was full, whoever has left that meanwhile.
        let second = self.own().sets.iter().skip(1).any(|word| word.load(Ordering::Acquire) != 0);
        if known || !entered || second || self.sets().count() > 1 {
            self.raise(flag::REGISTERED_TWICE);
        } else {
            self.registered_by(fd);
        }
        entered
    }

    #[inline]
    pub fn leave_set(&self, set: u32) {
        let own = set as u16 + 1;
        let [first, second] = &self.own().sets;
        let alone = first.compare_exchange(u64::from(own), 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !alone || second.load(Ordering::Acquire) != 0 {
            self.own().sets.iter().for_each(|word| leave(word, own));
        }
    }
}

/// What stands in a word.
fn lanes(word: u64) -> [u16; LANES] {
    [0, 16, 32, 48].map(|shift| (word >> shift) as u16)
}

/// False: it is full.
fn enter(word: &AtomicU64, mark: u16) -> bool {
    let entered = |seen: u64| {
        let free = lanes(seen).iter().position(|&lane| lane == 0)?;
        Some(seen | u64::from(mark) << (16 * free))
    };
    word.fetch_update(Ordering::SeqCst, Ordering::Acquire, entered).is_ok()
}

fn leave(word: &AtomicU64, mark: u16) {
    let left = |seen: u64| {
        let place = lanes(seen).iter().position(|&lane| lane == mark)?;
        Some(seen & !(0xffff << (16 * place)))
    };
    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{self, Stage};

    #[test]
    fn sets_are_entered_and_left_in_any_order() {
        let slot = slot::claim(3_001, Stage::New, 0).unwrap();
        assert!(slot.own().is_in_no_set());
        assert!(slot.enter_set(7, 3_001));
        assert!(!slot.has(flag::REGISTERED_TWICE) && slot.registered() == 3_001);
        assert_eq!(slot.own().only_set(), Some(7));
        slot.leave_set(7);
        assert!(slot.own().is_in_no_set() && slot.own().only_set().is_none());
        for set in 0..MOST_SETS as u32 {
            assert!(slot.enter_set(set, 3_001));
            assert_eq!(slot.has(flag::REGISTERED_TWICE), set > 0);
            assert_eq!(slot.own().only_set().is_some(), set == 0);
        }
        assert!(!slot.enter_set(4_000, 3_001), "it is full");
        assert!(slot.enter_set(5, 3_001), "it is there already");
        slot.leave_set(0);
        slot.leave_set(6);
        assert_eq!(slot.sets().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 7]);
        (1..6).for_each(|set| slot.leave_set(set));
        assert!(slot.enter_set(9, 3_001));
        assert_eq!(slot.sets().collect::<Vec<_>>(), [9, 7]);
        assert!(slot.end());
    }
}
