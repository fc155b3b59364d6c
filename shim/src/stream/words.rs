//! The words that one direction shares between its two ends, and how an end reaches them.
//!
//! Between hosts each end has an image of them of its own: what this end stores is put into the other end's, by and by, and
//! some words stand for what the provider, or the policyds, have said of that.

use std::ptr;

use super::sync::{AtomicU64, Ordering, fence};

/// One shared word. Each has a single writing side; all zero is a direction that was never offered.
///
/// The numbers are indexes into [`Words`]: what changes with every call (`Produced`, `Consumed`) has
/// 128 bytes to itself, and what the other side looks at on its hot path shares one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Writer: epoch and kind (`at`), stored after [`Word::AtOffset`].
    AtKind = 0,
    /// Writer: N, the stream offset at which the epoch was taken.
    AtOffset = 1,
    /// Writer: W + 1, the final offset; 0 is "none yet".
    Final = 2,
    /// Writer: where geometry 0, 2, 4, ... starts.
    Start0 = 3,
    /// Writer: in which region it is.
    Place0 = 4,
    /// Writer: where geometry 1, 3, 5, ... starts.
    Start1 = 5,
    /// Writer: in which region it is.
    Place1 = 6,
    /// Writer: the last epoch that it has left, or [`FOR_GOOD`], for a reader that has come to the ring's end: what follows is on TCP,
    /// or will be. No more than a hint.
    Left = 7,
    /// Writer: the number of the newest geometry, stored after its start and place.
    Geometries = 8,
    /// Writer: whom the reader should wake, id + 1.
    WSleep = 9,
    /// Writer: the companion's id, once the writer's words are this companion's and not its predecessor's.
    WriterReady = 10,
    /// Writer, where words travel: W + 1 of a direction that ended in the ring. There the kernel's FIN alone is no end.
    End = 11,
    /// Writer's end, where words travel: the epoch whose `at` is known to have arrived.
    Landed = 12,
    /// The same: this W + 1, and all before it, has arrived.
    EndLanded = 13,
    /// Both ends, where words travel: nothing that is stored arrives any more.
    Dead = 14,
    /// Writer's end, by the policyds: what the reader saw of an epoch when that was asked. As `AtKind`.
    Answer = 15,
    /// Writer: ring bytes exist below this offset; below N it means nothing.
    Produced = 16,
    /// Reader: epoch and kind (`want`).
    Want = 32,
    /// Reader: whom the writer should wake, id + 1.
    RSleep = 33,
    /// Reader: the companion's id, once the reader's words are this companion's.
    ReaderReady = 34,
    /// Reader's end, by the policyds: this epoch is never taken.
    Voided = 35,
    /// Reader: ring bytes below this offset are free.
    Consumed = 48,
}

impl Word {
    /// Those that the writing end stores.
    pub const WRITERS: [Word; 11] = [
        Word::AtKind,
        Word::AtOffset,
        Word::Final,
        Word::Start0,
        Word::Place0,
        Word::Start1,
        Word::Place1,
        Word::Left,
        Word::Geometries,
        Word::WSleep,
        Word::Produced,
    ];
    /// Those that the reading end stores.
    pub const READERS: [Word; 3] = [Word::Want, Word::RSleep, Word::Consumed];

    pub const ALL: [Word; 22] = [
        Word::AtKind,
        Word::AtOffset,
        Word::Final,
        Word::Start0,
        Word::Place0,
        Word::Start1,
        Word::Place1,
        Word::Left,
        Word::Geometries,
        Word::WSleep,
        Word::WriterReady,
        Word::End,
        Word::Landed,
        Word::EndLanded,
        Word::Dead,
        Word::Answer,
        Word::Produced,
        Word::Want,
        Word::RSleep,
        Word::ReaderReady,
        Word::Voided,
        Word::Consumed,
    ];
}

/// [`Word::Left`] of a writer that takes no offer any more: nothing is offered then.
pub const FOR_GOOD: u64 = u64::MAX;

/// How many words a direction has room for: 512 bytes.
pub const WORDS: usize = 64;

/// The words of one direction as they lie in shared memory.
#[repr(C, align(64))]
pub struct Words([AtomicU64; WORDS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Words>() == 512);

impl Default for Words {
    fn default() -> Self {
        Words(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// What `AtKind` says of its epoch.
pub(super) mod at {
    pub const TAKEN: u64 = 1;
    pub const VOID: u64 = 2;
    /// The answer to HOLD: what the reader has not consumed goes on by TCP, without a record.
    pub const RETURNED: u64 = 3;
    /// The answer to HOLD after a record was begun: the writer will not end before TCP has all that is due.
    pub const PROMISED: u64 = 4;
}

/// What `Want` says of its epoch.
pub(super) mod want {
    pub const READY: u64 = 1;
    pub const LEAVE: u64 = 2;
    /// The same, for a reader without a switch, who knows no record: this one has stopped reading, so that what it has
    /// consumed is final. It is answered by who only waits, too.
    pub const HOLD: u64 = 3;
}

/// An epoch and its kind in one word, so that they are published by one store.
pub(super) const fn stamp(epoch: u64, kind: u64) -> u64 {
    epoch << KIND_BITS | kind
}

pub(super) const fn epoch_of(word: u64) -> u64 {
    word >> KIND_BITS
}

pub(super) const fn kind_of(word: u64) -> u64 {
    word & ((1 << KIND_BITS) - 1)
}

const KIND_BITS: u32 = 3;

/// What [`Word::AtKind`] says, for who carries the word to where it is read.
pub mod stamped {
    pub fn epoch(word: u64) -> u64 {
        super::epoch_of(word)
    }

    pub fn is_taken(word: u64) -> bool {
        super::kind_of(word) == super::at::TAKEN
    }

    /// The reader's answer to who asks whether an epoch was taken.
    pub fn answer(epoch: u64, taken: bool) -> u64 {
        super::stamp(epoch, if taken { super::at::TAKEN } else { super::at::VOID })
    }

    /// The epoch that a reader's [`Word::Want`](super::Word::Want) asks back, in either way.
    pub fn left(want: u64) -> Option<u64> {
        let asks = matches!(super::kind_of(want), super::want::LEAVE | super::want::HOLD);
        asks.then(|| super::epoch_of(want))
    }

    /// What [`Word::Want`](super::Word::Want) is when the reader asks its direction back, where it wanted `now` before. `None`: it wants
    /// something else already.
    pub fn leave(now: u64, epoch: u64) -> Option<u64> {
        use super::{epoch_of, kind_of, stamp, want};
        let newer = epoch_of(now) < epoch || epoch_of(now) == epoch && kind_of(now) == want::READY;
        newer.then(|| stamp(epoch, want::LEAVE))
    }
}

/// A region of the pair's memory: a power-of-two size, at a multiple of 64 bytes. 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Place(u64);

impl Place {
    pub const NONE: Place = Place(0);

    /// `offset` in the pair's memory, `size` in bytes.
    pub const fn new(offset: u64, size: u64) -> Place {
        assert!(offset.is_multiple_of(64) && size.is_power_of_two() && size > 1);
        Place(offset | size.trailing_zeros() as u64)
    }

    /// As found in a shared word: anything, until [`Port::admits`] has said yes.
    pub const fn from_word(word: u64) -> Place {
        Place(word)
    }

    pub const fn word(self) -> u64 {
        self.0
    }

    pub const fn offset(self) -> u64 {
        self.0 & !63
    }

    pub const fn size(self) -> u64 {
        1 << (self.0 & 63)
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// One direction as one of its ends sees it. What is loaded may be a lie, and is checked by the caller
/// in its private copy.
pub trait Port {
    /// A word of the other side (acquire); the own side's words read back what was stored.
    fn load(&self, word: Word) -> u64;

    /// A word of the own side (release).
    fn store(&self, word: Word, value: u64);

    /// The full fence between publishing and looking who sleeps, and between saying so and looking again.
    fn fence(&self);

    /// May a ring of this direction be here? Says no to everything outside of the memory that was
    /// mapped for it; whatever was admitted is reached by the three methods below without further checks.
    fn admits(&self, place: Place) -> bool;

    /// The address of an offset in the pair's memory; the offset lies in an admitted place.
    fn pointer(&self, offset: u64) -> *mut u8;

    /// Ring to application.
    ///
    /// # Safety
    /// `offset..offset + len` lies in an admitted place, `dst` may be written for `len` bytes.
    #[inline]
    unsafe fn copy_out(&self, offset: u64, dst: *mut u8, len: usize) {
        // SAFETY: by this function's contract. A peer that writes there meanwhile garbles its own stream:
        // nothing is decided by these bytes.
        unsafe { ptr::copy_nonoverlapping(self.pointer(offset), dst, len) }
    }

    /// Application to ring.
    ///
    /// # Safety
    /// `offset..offset + len` lies in an admitted place, `src` may be read for `len` bytes.
    #[inline]
    unsafe fn copy_in(&self, offset: u64, src: *const u8, len: usize) {
        // SAFETY: as in `copy_out`.
        unsafe { ptr::copy_nonoverlapping(src, self.pointer(offset), len) }
    }
}

/// `count` regions of `size` bytes each, one after the other from `first`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots {
    pub first: u64,
    pub size: u64,
    pub count: u64,
}

impl Slots {
    fn hold(&self, place: Place) -> bool {
        let Some(from) = place.offset().checked_sub(self.first) else {
            return false;
        };
        place.size() == self.size && from % self.size == 0 && from / self.size < self.count
    }
}

/// The `local` provider's port: words and rings in memory that both processes have mapped.
#[derive(Clone, Copy)]
pub struct LocalPort<'a> {
    words: &'a Words,
    base: *mut u8,
    first: Place,
    small: Place,
    big: Slots,
}

impl<'a> LocalPort<'a> {
    /// `first` and `small` are the connection's own rings in this direction (NONE: it has no first one), `big` those its writer may grow
    /// into.
    ///
    /// # Safety
    /// `first`, `small` and all of `big`, counted from `base`, stay mapped readable and writable for `'a`.
    pub const unsafe fn new(words: &'a Words, base: *mut u8, first: Place, small: Place, big: Slots) -> Self {
        LocalPort { words, base, first, small, big }
    }

    /// The ring that a direction begins in.
    pub const fn first(&self) -> Place {
        if self.first.is_none() { self.small } else { self.first }
    }

    /// The larger one that every direction has.
    pub const fn small(&self) -> Place {
        self.small
    }
}

impl Port for LocalPort<'_> {
    #[inline]
    fn load(&self, word: Word) -> u64 {
        self.words.0.get(word as usize).map_or(0, |shared| shared.load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, word: Word, value: u64) {
        if let Some(shared) = self.words.0.get(word as usize) {
            shared.store(value, Ordering::Release);
        }
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn admits(&self, place: Place) -> bool {
        !place.is_none() && (place == self.small || place == self.first || self.big.hold(place))
    }

    #[inline]
    fn pointer(&self, offset: u64) -> *mut u8 {
        self.base.wrapping_add(offset as usize)
    }
}
