//! One end of one companion between hosts.

use std::net::IpAddr;

use tandem_protocol::Reason;
use tandem_protocol::message::{Blob, SlotRef, Word};

use crate::broker::ClientId;

pub struct Companion {
    pub client: ClientId,
    pub uid: u32,
    pub slot: SlotRef,
    pub role: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The other side has accepted, and our switch has been told of it.
    pub open: bool,
    /// Of the link on which it came to be.
    pub born: u64,
    /// This end has not let go.
    pub ours: bool,
    /// The other end has not let go.
    pub theirs: bool,
    /// What our switch has said, once.
    pub own_blob: Option<Box<Blob>>,
    pub own_confirmed: bool,
    /// Said again on a new link: on the old one they may have been lost.
    pub own_words: Vec<Word>,
    pub their_blob: bool,
    pub their_confirmed: bool,
    pub their_words: Vec<Word>,
    pub to_switch: Due,
    pub to_peer: Due,
}

/// What one side is still to be told, in this order.
#[derive(Default)]
pub struct Due {
    pub introduction: bool,
    pub blob: Option<Box<Blob>>,
    pub confirmed: bool,
    /// The newest of each kind and direction, in the order in which they came: ten at most.
    pub words: Vec<Word>,
    pub trouble: Option<Reason>,
    pub gone: Option<Reason>,
    /// It stands in the queue of that side.
    pub queued: bool,
}

impl Due {
    /// Nothing of it is to be told.
    pub fn clear(&mut self) {
        *self = Self { queued: self.queued, ..Self::default() };
    }
}

/// The newest of each kind and direction stays. False: it is known.
pub fn note_word(words: &mut Vec<Word>, word: Word) -> bool {
    let new = !words.contains(&word);
    if new {
        words.retain(|known| (known.kind, known.writer) != (word.kind, word.writer));
        words.push(word);
    }
    new
}

impl Companion {
    /// Nobody is to hear of it any more.
    pub fn is_over(&self) -> bool {
        let peer_knows = !self.theirs || self.to_peer.gone.is_none();
        let switch_knows = !self.ours || self.to_switch.gone.is_none();
        !(self.ours && self.theirs) && peer_knows && switch_knows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_protocol::message::WordKind;

    #[test]
    fn the_newest_word_of_a_kind_and_direction_counts() {
        let mut words = Vec::new();
        for epoch in 0..1_000 {
            for kind in 1..=5 {
                for writer in 0..=1 {
                    let word = Word { kind: WordKind::from_code(kind).unwrap(), writer, epoch };
                    assert!(note_word(&mut words, word) && !note_word(&mut words, word));
                }
            }
        }
        assert_eq!(words.len(), 10);
        assert!(words.iter().all(|word| word.epoch == 999));
    }
}
