//! Where a direction's ring stands: it starts small, grows, and rewinds, without a byte being copied.
//!
//! Geometry n is a region and the absolute offset `start` from which the stream lies in it: byte t >= start stands
//! at (t - start) mod size, until geometry n + 1 starts. Two entries by parity hold the newest two.
//! The writer publishes n + 1 only when `consumed` >= start of n: whoever still takes bytes of n - 1 finds n untouched.

use super::words::{Place, Port, Word};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Geometry {
    pub start: u64,
    pub place: Place,
}

/// A run of ring bytes without a seam: `len` bytes at `offset` of the pair's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub offset: u64,
    pub len: u64,
}

impl Geometry {
    /// The bytes from `t` on, `len` at most, as far as they lie side by side. `t` >= `start`.
    #[inline]
    pub fn run(&self, t: u64, len: u64) -> Run {
        let size = self.place.size();
        let at = t.wrapping_sub(self.start) & (size - 1);
        Run { offset: self.place.offset() + at, len: len.min(size - at) }
    }

    /// How many more bytes this region takes when all below `consumed` is free.
    #[inline]
    pub fn room(&self, written: u64, consumed: u64) -> u64 {
        let used = written.wrapping_sub(consumed.max(self.start));
        self.place.size().saturating_sub(used)
    }
}

/// The writer's half: entry first, then the number that makes it valid.
pub(super) fn publish(port: &impl Port, number: u64, geometry: Geometry) {
    let (start, place) = entry(number);
    port.store(start, geometry.start);
    port.store(place, geometry.place.word());
    port.store(Word::Geometries, number);
}

/// What the reader copies out: the geometry that holds byte `consumed`, and the one that follows it, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub number: u64,
    pub current: Geometry,
    pub next: Geometry,
}

/// How often the newest two may change while we read them: an honest writer, held back by `consumed`, manages two.
const TRIES: usize = 4;

/// The reader's half: None when what the words say cannot be.
#[cold]
pub(super) fn view(port: &impl Port, consumed: u64) -> Option<View> {
    for _ in 0..TRIES {
        let number = port.load(Word::Geometries);
        let newest = read(port, number);
        let older = read(port, number.wrapping_sub(1));
        if port.load(Word::Geometries) != number {
            continue; // an entry may have been written while we read it
        }
        return if newest.start <= consumed {
            (number > 0 && port.admits(newest.place)).then_some(View { number, current: newest, next: NO_NEXT })
        } else {
            let valid = number > 1 && older.start <= consumed && port.admits(older.place) && port.admits(newest.place);
            valid.then_some(View { number, current: older, next: newest })
        };
    }
    None
}

/// Stands for "no later geometry": it starts where no stream gets to.
pub(super) const NO_NEXT: Geometry = Geometry { start: u64::MAX, place: Place::NONE };

fn read(port: &impl Port, number: u64) -> Geometry {
    let (start, place) = entry(number);
    Geometry { start: port.load(start), place: Place::from_word(port.load(place)) }
}

const fn entry(number: u64) -> (Word, Word) {
    if number.is_multiple_of(2) { (Word::Start0, Word::Place0) } else { (Word::Start1, Word::Place1) }
}
