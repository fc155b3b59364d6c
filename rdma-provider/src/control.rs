//! Control slots: 64 bytes a companion that the peer's provider puts to and fetches from, for what `notes` has to say.
//!
//! Each word stands beside its check (`tandem_provider::stream::seal`), for it may be looked at while it is landing. The memory is
//! registered in the domain, so that only that one peer process reaches it, and is shared across forks, so that no copy-on-write
//! parts it from the device.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tandem_provider::stream::{open, seal};

use crate::blob::SLOT_BYTES;
use crate::errors::{Result, made};
use crate::verbs::{Access, Domain, Region};

const BLOCK_BYTES: usize = 4096;
const SLOTS: u32 = (BLOCK_BYTES as u64 / SLOT_BYTES) as u32;
const WORDS: usize = SLOT_BYTES as usize / 8;

/// A word of a slot; its check stands behind it.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Word {
    /// Put by the peer: how many of our notifications it has had.
    Returned = 0,
    /// Put by the peer: its latest late note.
    Late = 2,
    /// Ours, for the peer to fetch.
    OwnLate = 4,
    /// The peer's, fetched.
    Fetched = 6,
}

/// Bytes of a word with its check.
pub const WORD_BYTES: u32 = 16;

/// Where in the *peer's* slot a put of ours goes, or a fetch comes from.
pub const RETURNED_AT: u64 = Word::Returned as u64 * 8;
pub const LATE_AT: u64 = Word::Late as u64 * 8;
pub const OWN_LATE_AT: u64 = Word::OwnLate as u64 * 8;

/// A word and its check, as they are put.
pub fn sealed(word: u64) -> [u64; 2] {
    let ([word], check) = seal([word]);
    [word, check]
}

/// A page of slots.
pub struct Block {
    region: Region,
    base: *mut AtomicU64,
    /// One bit a slot.
    used: AtomicU64,
}

// SAFETY: the page is only ever read and written as atomics.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    pub fn new(domain: &Domain) -> Result<Arc<Block>> {
        let page = Page::new()?;
        let access = Access { local_write: true, remote_write: true, remote_read: true };
        // SAFETY: the page is unmapped when the block is dropped, after the region.
        let region = unsafe { domain.register(page.0, BLOCK_BYTES, access) }?;
        let base = page.0.cast();
        std::mem::forget(page);
        Ok(Arc::new(Block { region, base, used: AtomicU64::new(0) }))
    }

    pub fn is_unused(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }

    /// A free slot, zeroed.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            let free = used.trailing_ones();
            (free < SLOTS).then(|| used | 1 << free)
        });
        let index = taken.ok()?.trailing_ones();
        let slot = Slot { block: Arc::clone(self), index };
        (0..WORDS).for_each(|at| slot.word(at).store(0, Ordering::Relaxed));
        Some(slot)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The region goes after this, but nobody's queue pair can reach it any more: they go before their domain.
        // SAFETY: mapped by `Page::new`, dropped once.
        unsafe { libc::munmap(self.base.cast(), BLOCK_BYTES) };
    }
}

struct Page(*mut c_void);

impl Page {
    fn new() -> Result<Page> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let page = unsafe { libc::mmap(ptr::null_mut(), BLOCK_BYTES, rights, flags, -1, 0) };
        made(if page == libc::MAP_FAILED { ptr::null_mut() } else { page }).map(Page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.0, BLOCK_BYTES) };
    }
}

/// One companion's.
pub struct Slot {
    block: Arc<Block>,
    index: u32,
}

impl Slot {
    /// Where the peer reaches it.
    pub fn address(&self) -> u64 {
        ptr::from_ref(self.word(0)).addr() as u64
    }

    pub fn remote_key(&self) -> u32 {
        self.block.region.remote_key()
    }

    /// Where a fetch of the peer's late note lands, and the key for it.
    pub fn fetch_to(&self) -> (u64, u32) {
        (self.address() + Word::Fetched as u64 * 8, self.block.region.local_key())
    }

    /// How many of our notifications the peer has had, if that is not just landing: what was there before will do then.
    pub fn returned(&self) -> Option<u64> {
        self.load(Word::Returned)
    }

    /// The peer's latest late note, as far as it has landed whole.
    pub fn late(&self) -> Option<u64> {
        self.load(Word::Late)
    }

    pub fn fetched(&self) -> Option<u64> {
        self.load(Word::Fetched)
    }

    /// The peer may fetch it at any moment: a half of it does not open.
    pub fn store_own_late(&self, word: u64) {
        let [word, check] = sealed(word);
        self.word(Word::OwnLate as usize).store(word, Ordering::Release);
        self.word(Word::OwnLate as usize + 1).store(check, Ordering::Release);
    }

    fn load(&self, which: Word) -> Option<u64> {
        let word = self.word(which as usize).load(Ordering::Acquire);
        let check = self.word(which as usize + 1).load(Ordering::Acquire);
        open([word], check).map(|[word]| word)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        let place = self.index as usize * WORDS + at.min(WORDS - 1);
        // SAFETY: within the block's page, which lives as long as the block; atomics have no invalid bits.
        unsafe { &*self.block.base.add(place) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.block.used.fetch_and(!(1 << self.index), Ordering::Release);
    }
}
