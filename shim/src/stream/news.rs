//! News: one bit a connection, by which an epoll set finds what to look at in the order of what has changed, not of all it
//! watches. The peer sets the bit, whoever looks at the connection clears it before.
//!
//! Teller: stores, **full fence**, finds somebody named, `tell`, and looks who sleeps ([`super::sleepers::called`] has that
//! order). Set: own `sleep` counter + 1 (odd), **full fence**, `peek`, sleeps; awake: `take`, then looks at what was told of.
//! So a set that sleeps on past the bit is one that the teller sees asleep, and a bit that was set already belongs to
//! somebody who is still to look.

use super::faults::{Fault, planted};
use super::sync::{AtomicU64, Ordering, fence};

/// 64 connections' bits, as they lie in shared memory.
#[derive(Default)]
#[repr(transparent)]
pub struct Bits(AtomicU64);

/// There is news of this connection. The caller has put a full fence behind what it stored; whoever clears the bit looks
/// after that, so a bit that is set already will do. True: it was not, and a full fence stands behind it.
#[inline]
pub fn tell(words: &[Bits], number: u32) -> bool {
    let Some(Bits(word)) = words.get(number as usize / 64) else { return false };
    let bit = 1 << (number % 64);
    if word.load(Ordering::Relaxed) & bit != 0 {
        return false;
    }
    word.fetch_or(bit, Ordering::SeqCst);
    if !planted(Fault::UnfencedNews) {
        // Then the caller looks who sleeps.
        fence(Ordering::SeqCst);
    }
    true
}

/// Connections of `mask` in word `at` that there is news of; they are cleared, and looked at afterwards.
#[inline]
pub fn take(words: &[Bits], at: usize, mask: u64) -> u64 {
    let there = peek(words, at) & mask;
    if there != 0
        && let Some(Bits(word)) = words.get(at)
    {
        word.fetch_and(!there, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
    there
}

/// As [`take`], and leaves them.
#[inline]
pub fn peek(words: &[Bits], at: usize) -> u64 {
    words.get(at).map_or(0, |Bits(word)| word.load(Ordering::Relaxed))
}
