//! How one TCP stream lies above a provider: which word and which ring is put where, in what order, and what waits for what.
//!
//! The stream logic (ring, credit, switch-over, fail-back) is the one that runs above shared memory. It knows words with one writer
//! each, a ring, and "publish, then wake"; it never asks by what they travel. Above a provider each of these has two places: the
//! writing side's own copy, and the one that lands at the other end.
//!
//! # Memory
//!
//! A *domain* is a peer process. In it each end registers two kinds of memory, both MAP_SHARED, so that a forked child reads on and can
//! fail back by TCP though it may put nothing:
//!
//! | memory | rights | holds | written by |
//! |---|---|---|---|
//! | landing | [`PEER_PUTS`](crate::PEER_PUTS) | rings that we read, and the peer's words | the peer alone |
//! | staging | none | rings that we write | us alone: the source of every put, and of a fail-back |
//!
//! Each is an arena, registered once and carved into connections; one [`Share`](crate::Share) of the landing arena is told to the peer once a
//! domain. A connection's ring has the same size and the same index (offset modulo size) in the writer's staging and in the reader's landing
//! memory, so a put copies a run onto its own image. A staged byte stays until it is credited: what a fail-back sends is there whatever
//! became of the queue pair, and the source of a put never changes while it is under way.
//!
//! # Words
//!
//! A word lands by a put of immediate bytes, as a [sealed record](seal): the words that belong together, and a check over
//! them. No transport promises that eight bytes land in one piece, nor two puts in the order in which a processor will see them, until
//! something says so; a record that was only half seen does not open, and counts as not there yet.
//!
//! | record | put by | with | when |
//! |---|---|---|---|
//! | `at` = {epoch and kind, N, geometry's number and start} | writer | notify, report | takes or voids an epoch. TAKEN is put **alone**, and the state is PROPOSED until LANDED is polled for it |
//! | the same, for another geometry | writer | nothing | before the bytes that need it: in order, so it is there when their notification is |
//! | `W`, and how the stream ended | writer | notify, report | at the close; the kernel's FIN **only when LANDED was polled for it** |
//! | `want` = {epoch and kind, `consumed`} | reader | notify | offers, leaves; a quarter of the ring is free since it was last put; all is consumed and W is known. In one record: who asks has consumed that much |
//! | `ready` = {the companion's id} | both | notify, report | once, when both ends have said by the policyds that they are CONNECTED. LANDED: our way is proven. Opened: the peer's is |
//!
//! `produced` is no record. The bytes of a write are one list of puts, of which the last notifies, and its note is the low bits of `produced`
//! ([`note`], [`extend`]): one message on the wire for a small write, and no byte is believed in before its arrival was told. Every other
//! notification carries the note that is current, for several may become one.
//!
//! `rsleep` and `wsleep` are not put at all. Whatever one end waits for is notified, so nobody needs to be told who sleeps.
//!
//! # What poll reports, and what is then done
//!
//! | kind | then |
//! |---|---|
//! | NOTIFIED | `produced` of the direction that we read is the note; every record may have changed. Wakes this companion's first sleeper (its private list), or marks the companion in its epoll set's news |
//! | ROOM | wakes the first sleeper for room |
//! | LANDED, token of an `at` | PROPOSED becomes RING |
//! | LANDED, token of a `W` | the kernel's FIN may go |
//! | DEAD | writer in RING: fixes R = max(`consumed`, N) and E, FAILBACK. In PROPOSED: close, and `ask` by the policyds. In TCP with an epoch offered to it: `void` by them. Reader: **close first**, then `ans`, or LEAVE by the policyds. A put that was not reported may yet land until the peer has closed its end |
//! | CLOSED | the rings may be used again; a new companion may be made for the connection |
//!
//! # Sleeping
//!
//! A sleeper looks, puts itself on the private list, calls `arm`, polls until there is nothing, looks again, and sleeps on {TCP, own
//! wake, the queue's descriptor}. This needs
//! no fence towards the peer: what lands later is told later, and what was told before `arm` is found by the polls behind it. While anybody
//! polls, nothing is armed and nothing is signalled.
//!
//! # Room
//!
//! Two things bound a writer: ring room, as over shared memory, and -EAGAIN of `put`. Neither accepts a byte: it is "no room" to the application.
//! After -EAGAIN ROOM is told, as NOTIFIED is when the peer gives credit; so a writer without room sleeps as a reader without bytes does. Notifications
//! need no room of the peer's: the provider merges those that it has no receive for.

use crate::NOTE_BITS;

/// The largest ring: a note must tell any two offsets in it apart.
pub const MOST_RING: u64 = 1 << (NOTE_BITS - 1);

const MASK: u64 = (1 << NOTE_BITS) - 1;

/// The note that says "ring bytes exist below this offset".
#[inline]
pub const fn note(produced: u64) -> u32 {
    (produced & MASK) as u32
}

/// The offset that a note means: at or after `from` (the larger of `consumed` and N), and within the ring. `None`: an older note, or
/// a lie; there is nothing to be read for it.
#[inline]
pub const fn extend(note: u32, from: u64, ring: u64) -> Option<u64> {
    let ahead = (note as u64).wrapping_sub(from) & MASK;
    if ahead <= ring { from.checked_add(ahead) } else { None }
}

/// Words that belong together, as they are put: themselves, and the check.
#[inline]
pub fn seal<const N: usize>(words: [u64; N]) -> ([u64; N], u64) {
    (words, check(&words))
}

/// What landed, in a private copy: the words, if they are one record.
#[inline]
pub fn open<const N: usize>(words: [u64; N], landed: u64) -> Option<[u64; N]> {
    (check(&words) == landed).then_some(words)
}

/// Zeroed memory opens as zeroes: a record that was never put. Otherwise every bit of every word, and its place, moves about half
/// of the check's bits, so a mixture of two records does not open by chance. It holds off halves, not lies.
#[inline]
fn check(words: &[u64]) -> u64 {
    let mut sum = 0u64;
    for &word in words {
        // The finalizer of splitmix64.
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum = (sum ^ sum >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        sum = (sum ^ sum >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        sum ^= sum >> 31;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_says_every_offset_of_the_ring(from in 0..u64::MAX / 2, ahead in 0..=MOST_RING, ring in 1..=MOST_RING) {
            let meant = from + ahead;
            prop_assert_eq!(extend(note(meant), from, ring), (ahead <= ring).then_some(meant));
        }

        #[test]
        fn an_older_note_is_nothing(from in 1..u64::MAX / 2, back in 1..MOST_RING) {
            prop_assert_eq!(extend(note(from.saturating_sub(back)), from, MOST_RING - 1).filter(|&at| at > from), None);
        }

        #[test]
        fn a_sealed_record_opens(words: [u64; 3]) {
            let (landed, check) = seal(words);
            prop_assert_eq!(open(landed, check), Some(words));
        }

        /// Some bytes of the new record have landed over the old one, in whatever order.
        #[test]
        fn half_a_record_does_not_open(old: [u64; 2], new: [u64; 2], landed: [bool; 24]) {
            let bytes = |(words, check): ([u64; 2], u64)| -> Vec<u8> {
                words.iter().chain([&check]).flat_map(|word| word.to_le_bytes()).collect()
            };
            let (before, after) = (bytes(seal(old)), bytes(seal(new)));
            let mixed: Vec<u8> = (0..24).map(|at| if landed[at] { after[at] } else { before[at] }).collect();
            prop_assume!(mixed != before && mixed != after);
            let word = |at: usize| u64::from_le_bytes(mixed[at * 8..at * 8 + 8].try_into().unwrap());
            prop_assert_eq!(open([word(0), word(1)], word(2)), None);
        }
    }

    #[test]
    fn memory_that_was_never_put_to_opens_as_zeroes() {
        assert_eq!(open([0, 0, 0], 0), Some([0, 0, 0]));
    }

    /// Neighbours differ in few bytes: any mixture of those must be noticed too.
    #[test]
    fn no_mixture_of_neighbours_opens() {
        for offset in (0..40u64).chain(65_520..65_560).chain((1 << 32) - 20..(1 << 32) + 20) {
            let (old, new) = (seal([offset]), seal([offset + 1 + offset % 300]));
            let (before, after) = (bytes(old), bytes(new));
            for pattern in 1u32..0xffff {
                let mixed: [u8; 16] =
                    std::array::from_fn(|at| if pattern >> at & 1 != 0 { after[at] } else { before[at] });
                let word = u64::from_le_bytes(mixed[..8].try_into().unwrap());
                let opened = open([word], u64::from_le_bytes(mixed[8..].try_into().unwrap()));
                assert!(
                    opened.is_none_or(|[word]| word == old.0[0] || word == new.0[0]),
                    "{old:?} {new:?} {pattern:x}"
                );
            }
        }
    }

    fn bytes((words, check): ([u64; 1], u64)) -> [u8; 16] {
        let mut all = [0; 16];
        all[..8].copy_from_slice(&words[0].to_le_bytes());
        all[8..].copy_from_slice(&check.to_le_bytes());
        all
    }
}
