//! Notifications of one companion, in both directions: bounded by the receives that the other end keeps for them, and never lost for
//! want of one.
//!
//! A notification travels as the immediate of a write and takes up one receive of the other end, which polls it and posts another. An
//! end that does not poll (stopped, or computing) posts none, and a write that finds none kills the queue pair in the end. So each end may have
//! only a *window* of them under way, and the other end *returns* them by a put of the number that it has had so far.
//!
//! Without one left a notification is *late*: its note is put into the other end's slot. Who gets the immediate that was marked as the window's
//! last returns it and then fetches the sender's own copy of the latest late note. Both ends store first and look afterwards:
//!
//! | sender without a notification left | receiver of the last one |
//! |---|---|
//! | own copy of the late note; **fence**; looks at what was returned: one there → sends it as well | puts what it returns; **then** fetches the sender's copy |
//!
//! So either the sender finds one, or the receiver finds the note. What is fetched may be ahead of what has landed: then it fetches
//! again until it is not, so that all the bytes before that note have landed when it is told.
//!
//! The switch is told notes that only ever grow; a late one that comes after a younger one is not told again.

use tandem_provider::NOTE_BITS;

use crate::errors::{Errno, Result};

const MASK: u32 = (1 << NOTE_BITS) - 1;
/// In an immediate: the sender has none left until some are returned.
const LAST: u32 = 1 << NOTE_BITS;

/// The other end's words cannot be.
const LIE: Errno = Errno(libc::EPROTO);

/// The sending end.
#[derive(Debug)]
pub struct Sent {
    window: u32,
    sent: u32,
    late: u32,
}

impl Sent {
    pub fn new(window: u16) -> Sent {
        Sent { window: u32::from(window), sent: 0, late: 0 }
    }

    /// The immediate for this note, if one may be sent; `returned` is the number that the other end has put.
    pub fn immediate(&mut self, note: u32, returned: u32) -> Result<Option<u32>> {
        let under_way = self.sent.wrapping_sub(returned);
        if under_way > self.window {
            return Err(LIE);
        }
        if under_way == self.window {
            return Ok(None);
        }
        self.sent = self.sent.wrapping_add(1);
        let last = under_way + 1 == self.window;
        Ok(Some(note & MASK | if last { LAST } else { 0 }))
    }

    /// The word that says this note late.
    pub fn late(&mut self, note: u32) -> u64 {
        self.late = self.late.wrapping_add(1);
        u64::from(self.late) << 32 | u64::from(note & MASK)
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Heard {
    window: u32,
    had: u32,
    returned: u32,
    /// The last of the window has come, and late notes may have followed it.
    ask: bool,
    asking: bool,
    late: u32,
    told: Option<u32>,
}

/// What the receiving end has to put, and whether a fetch of the late note follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    pub returned: u32,
    pub fetch: bool,
}

/// What became of a fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// What was fetched has not all landed yet.
    Again,
    /// This note is to be told.
    Tell(u32),
    Nothing,
}

impl Heard {
    pub fn new(window: u16) -> Heard {
        Heard { window: u32::from(window), had: 0, returned: 0, ask: false, asking: false, late: 0, told: None }
    }

    /// An immediate has come. The note to be told.
    pub fn arrived(&mut self, immediate: u32) -> Result<u32> {
        self.had = self.had.wrapping_add(1);
        if self.had.wrapping_sub(self.returned) > self.window {
            return Err(LIE);
        }
        self.ask |= immediate & LAST != 0;
        Ok(self.newest(immediate & MASK))
    }

    /// Anything to be put now? Then [`Heard::done`] once it was.
    pub fn due(&self) -> Option<Due> {
        let owed = self.had.wrapping_sub(self.returned);
        // One fetch at a time; whatever it will find was stored before this, so another follows.
        let fetch = self.ask && !self.asking;
        let due = fetch || owed >= self.window.div_ceil(2);
        due.then_some(Due { returned: self.had, fetch })
    }

    pub fn done(&mut self, due: Due) {
        self.returned = due.returned;
        if due.fetch {
            (self.ask, self.asking) = (false, true);
        }
    }

    /// A fetch has ended: what it brought, and what has landed, each if it is whole. Unless another is needed at once, look what is
    /// due afterwards.
    pub fn fetched(&mut self, theirs: Option<u64>, landed: Option<u64>) -> Fetched {
        let (Some(theirs), Some(landed)) = (theirs, landed) else { return Fetched::Again };
        let number = |word: u64| (word >> 32) as u32;
        // Ahead of what was fetched is fine, too: it has landed since.
        if (number(landed).wrapping_sub(number(theirs)) as i32) < 0 {
            return Fetched::Again;
        }
        self.asking = false;
        if number(landed) == self.late {
            return Fetched::Nothing;
        }
        self.late = number(landed);
        Fetched::Tell(self.newest(landed as u32 & MASK))
    }

    /// After [`Fetched::Again`]: that is due now.
    pub fn ask_again(&mut self) {
        (self.ask, self.asking) = (true, false);
    }

    /// The younger one of this note and all that were told.
    fn newest(&mut self, note: u32) -> u32 {
        let newest = match self.told {
            // Both in 31 bits: the sign of the difference, taken in so many.
            Some(told) if (note.wrapping_sub(told) << 1) as i32 >= 0 => note,
            Some(told) => told,
            None => note,
        };
        self.told = Some(newest);
        newest
    }
}

#[cfg(test)]
mod tests;
