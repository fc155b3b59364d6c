//! When a connection has shown that it will live: before that it asks nobody for its other end, so that a short one pays nothing.
//!
//! One that alternates asks when its second exchange begins. One whose calls all go one way asks at the eighth: a server's
//! answer is often several (a header, a file), and the connection over then. So does one in a forked child that has not spoken
//! to policyd yet, for the child would have to introduce itself first: a server that forks for each connection.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::switch::sleep::Way;

/// Data calls that have moved bytes: two exchanges' beginning.
pub const FEW: u32 = 3;
/// Whichever way they went, and in whichever process.
const MANY: u32 = 8;

/// A connection's word: calls in the low bits, then changes of direction, as many as count, then the last direction + 1.
pub const CALLS: u32 = (1 << TURNS_AT) - 1;
const TURNS_AT: u32 = 24;
const TURNS: u32 = 3 << TURNS_AT;
const WAY_AT: u32 = 26;

/// This is a forked child that has not spoken to policyd yet.
static STRANGER: AtomicBool = AtomicBool::new(false);

pub fn after_fork_in_child() {
    STRANGER.store(true, Ordering::Relaxed);
}

/// policyd knows this process.
pub fn introduced() {
    STRANGER.store(false, Ordering::Relaxed);
}

/// Counts a data call that has moved bytes. `Some`: how many there were, and they are enough to ask.
/// Two threads' calls at once may count for one: a meet is a call later then, and no call pays for a locked operation.
#[inline]
pub fn count(word: &AtomicU32, way: Way) -> Option<u32> {
    let now = counted(word.load(Ordering::Relaxed), way);
    word.store(now, Ordering::Relaxed);
    is_enough(now, STRANGER.load(Ordering::Relaxed)).then_some(now & CALLS)
}

fn counted(seen: u32, way: Way) -> u32 {
    let way = if way == Way::In { 1 } else { 2 } << WAY_AT;
    let last = seen & (3 << WAY_AT);
    let turns = seen & TURNS;
    let turned = last != 0 && last != way && turns != TURNS;
    let calls = (seen & CALLS).saturating_add(1).min(CALLS);
    way | (turns + (u32::from(turned) << TURNS_AT)) | calls
}

fn is_enough(word: u32, stranger: bool) -> bool {
    let (calls, turns) = (word & CALLS, (word & TURNS) >> TURNS_AT);
    calls >= MANY || calls >= FEW && turns >= 2 && !stranger
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the call that asks, of those that `ways` tells again and again.
    fn asks_at(ways: &[Way], stranger: bool) -> u32 {
        let mut word = 0;
        for (&way, number) in ways.iter().cycle().zip(1..) {
            word = counted(word, way);
            assert_eq!(word & CALLS, number);
            if is_enough(word, stranger) {
                return number;
            }
        }
        0
    }

    #[test]
    fn who_alternates_asks_when_the_second_exchange_begins() {
        assert_eq!(asks_at(&[Way::Out, Way::In], false), 3);
        assert_eq!(asks_at(&[Way::In, Way::Out], false), 3);
    }

    #[test]
    fn an_answer_in_two_pieces_is_no_second_exchange() {
        assert_eq!(asks_at(&[Way::In, Way::Out, Way::Out], false), 4);
    }

    #[test]
    fn a_stream_asks_too_and_a_forked_child_later() {
        assert_eq!(asks_at(&[Way::Out], false), 8);
        assert_eq!(asks_at(&[Way::In], true), 8);
        assert_eq!(asks_at(&[Way::Out, Way::In], true), 8);
    }

    #[test]
    fn counts_do_not_run_into_each_other() {
        let full = CALLS | TURNS | 1 << WAY_AT;
        assert_eq!(counted(full, Way::In), full);
        assert_eq!(counted(full, Way::Out), CALLS | TURNS | 2 << WAY_AT);
    }
}
