//! Mail: connections whose state this process has changed itself, for an epoll set to look at.
//!
//! Poster: changes, `post`, **full fence**, rouses the set if it sleeps. Set: own `sleep` counter + 1 (odd), **full fence**,
//! `any`, sleeps; awake: `take`, then looks at the connections it names.

use super::faults::{Fault, planted};
use super::sync::{AtomicBool, AtomicU32, Ordering, fence};

/// Room for `N` letters, each a number that is not 0.
pub struct Mail<const N: usize> {
    letters: [AtomicU32; N],
    /// More than there was room for.
    all: AtomicBool,
    any: AtomicBool,
}

impl<const N: usize> Default for Mail<N> {
    fn default() -> Self {
        let letters = std::array::from_fn(|_| AtomicU32::new(0));
        Mail { letters, all: AtomicBool::new(false), any: AtomicBool::new(false) }
    }
}

impl<const N: usize> Mail<N> {
    pub fn post(&self, letter: u32) {
        // A letter that lies there already is taken by somebody who looks at the connection after this.
        if !planted(Fault::UnfencedPost) {
            fence(Ordering::SeqCst);
        }
        let lies = |place: &AtomicU32| {
            let there = place.load(Ordering::Relaxed);
            there == letter
                || there == 0 && place.compare_exchange(0, letter, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if !self.letters.iter().any(lies) {
            self.all.swap(true, Ordering::AcqRel);
        }
        // Read-modify-write at both ends: whoever takes the flag back has all that was there before it was raised.
        self.any.swap(true, Ordering::AcqRel);
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The letters (0: none), and whether there were more.
    pub fn take(&self) -> ([u32; N], bool) {
        if !planted(Fault::FlagLast) {
            self.any.swap(false, Ordering::AcqRel);
        }
        let letters = std::array::from_fn(|at| self.letters.get(at).map_or(0, |place| place.swap(0, Ordering::AcqRel)));
        let all = self.all.swap(false, Ordering::AcqRel);
        if !planted(Fault::UnfencedTake) {
            // Then the caller looks. Whoever saw its letter lie here has changed what it says before that.
            fence(Ordering::SeqCst);
        }
        if planted(Fault::FlagLast) {
            self.any.swap(false, Ordering::AcqRel);
        }
        (letters, all)
    }
}
