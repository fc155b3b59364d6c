//! Who sleeps on a direction, and whom its other end wakes.
//!
//! A wake id names an entry of a family's board: its `sleep` counter is odd while the owner (a thread, an epoll set)
//! sleeps. A direction's `RSleep` or `WSleep` names one id, + 1. It may stay while the owner is awake.

use super::faults::{Fault, planted};
use super::words::{Port, Word};

/// What the waker sees of the other family's board, and its own memory of it.
pub trait Board {
    /// The `sleep` counter (acquire); an even number for an id that cannot be.
    fn sleep(&self, id: u32) -> u32;

    /// The counter that `id` was last woken at by this process (relaxed), 0 at first.
    fn woken(&self, id: u32) -> u32;
}

/// Somebody to be woken. After the wake the caller notes `counter` as `woken`, so that others spare theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    pub id: u32,
    pub counter: u32,
}

/// After `commit` (`RSleep`) or after taking ring bytes (`WSleep`), and after every other word the sleeper looks at:
/// full fence, then whom to wake.
#[inline]
pub fn whom<P: Port>(port: &P, word: Word, board: &impl Board) -> Option<Wake> {
    if !planted(Fault::NoFence) {
        port.fence();
    }
    let named = port.load(word);
    if named == 0 { None } else { sleeping(named, board) }
}

#[cold]
fn sleeping(named: u64, board: &impl Board) -> Option<Wake> {
    let id = u32::try_from(named - 1).ok()?;
    let counter = board.sleep(id);
    let wake = counter % 2 == 1 && counter != board.woken(id);
    wake.then_some(Wake { id, counter })
}

/// As [`whom`], where the named one may be an epoll set, which looks at nothing but what there is news of: `tell` sets the
/// bit, and says whether it was not set before. In that time whoever was named may have left and told the next one, which
/// found no news: so the name is read again.
#[inline]
pub fn called<P: Port>(port: &P, word: Word, tell: impl FnOnce() -> bool) -> Option<u32> {
    if !planted(Fault::NoFence) {
        port.fence();
    }
    called_behind_fence(port, word, tell)
}

/// As [`called`], where the caller has put the full fence already.
#[inline(always)]
pub fn called_behind_fence<P: Port>(port: &P, word: Word, tell: impl FnOnce() -> bool) -> Option<u32> {
    let mut named = port.load(word);
    if named != 0 && tell() && !planted(Fault::NameNotReread) {
        named = port.load(word);
    }
    named.checked_sub(1).and_then(|id| u32::try_from(id).ok())
}

/// How many threads a list holds.
const THREADS: usize = 8;

/// The private list of a direction's sleepers. Plain data, zero is empty; under the direction's lock.
///
/// Sleeper: `add` and name, own `sleep` counter + 1 (odd), **full fence**, look again, unlock, sleep; woken: counter + 1 (even),
/// lock, `remove` and name, **full fence**, wakes all `others` if the direction has `moved` since they were last told, look.
///
/// So nobody sleeps past what it waits for, though only one is ever named: the waker finds a name that stood there at or after
/// the sleeper's last look; whoever bears it gets up later than that, and tells the sleeper. And no two sleepers wake each
/// other for ever, because a move is told once.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Sleepers {
    /// id + 1, first come first; 0 is free, and only at the end.
    threads: [u32; THREADS],
    /// The epoll set that stays, id + 1.
    set: u32,
    /// Threads that found no room.
    over: u32,
    /// How far the direction had come when all were last told.
    told: u64,
}

impl Sleepers {
    /// A thread is about to sleep. False: no room, it must sleep by a timer (`overflow`, and `remove` afterwards).
    /// An id may stand there several times: threads that sleep on one epoll set share its wake.
    pub fn add(&mut self, id: u32) -> bool {
        match self.threads.iter_mut().find(|entry| **entry == 0) {
            Some(entry) => {
                *entry = id + 1;
                true
            }
            None => false,
        }
    }

    /// A thread that is not in the list sleeps by a timer.
    pub fn overflow(&mut self) {
        self.over += 1;
    }

    /// A thread is awake, for whatever reason. `added` is what `add` said.
    pub fn remove(&mut self, id: u32, added: bool) {
        if !added {
            self.over = self.over.saturating_sub(1);
            return;
        }
        let at = self.threads.iter().position(|entry| *entry == id + 1);
        if let Some([first, rest @ ..]) = at.and_then(|at| self.threads.get_mut(at..)) {
            *first = 0;
            rest.iter_mut().fold(first, |hole, entry| {
                std::mem::swap(hole, entry);
                entry
            });
        }
    }

    /// An epoll set that watches this direction, asleep or not; None when it is watched no longer. False: another is there.
    pub fn watch(&mut self, id: Option<u32>) -> bool {
        let entry = id.map_or(0, |id| id + 1);
        let free = self.set == 0 || entry == 0 || self.set == entry;
        if free {
            self.set = entry;
        }
        free
    }

    /// Whom the other end should wake next: the first thread, else the set.
    pub fn named(&self) -> Option<u32> {
        let entry = if self.threads[0] != 0 { self.threads[0] } else { self.set };
        entry.checked_sub(1)
    }

    /// All who stand there, the set too.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.threads.into_iter().chain([self.set]).filter_map(|entry| entry.checked_sub(1))
    }

    /// The watching set, if there is one, is such a one.
    pub fn set_is(&self, such: impl Fn(u32) -> bool) -> bool {
        self.set.checked_sub(1).is_none_or(such)
    }

    /// A sleeper is awake, and off the list as by [`Sleepers::remove`]: the next is named in `words.0`, and all others are told
    /// (`rouse`) if the direction, as `words.1` says, has moved since they last were.
    pub fn leave<P: Port>(&mut self, port: &P, words: (Word, Word), id: u32, added: bool, rouse: impl FnMut(u32)) {
        let (word, mark) = words;
        self.remove(id, added);
        if !planted(Fault::StaleName) {
            self.name(port, word);
        }
        if !planted(Fault::UnfencedLeave) {
            port.fence();
        }
        if self.moved(port.load(mark)) && !planted(Fault::OthersUntold) {
            self.all().filter(|&other| other != id).for_each(rouse);
        }
    }

    /// Whether the direction is elsewhere than when all were last told; then they are told now.
    pub fn moved(&mut self, mark: u64) -> bool {
        let before = self.told;
        if !planted(Fault::ToldForgotten) {
            self.told = mark;
        }
        before != mark
    }

    /// Strikes off those for whom `alive` is false.
    pub fn retain(&mut self, alive: impl Fn(u32) -> bool) {
        for id in self.threads.into_iter().filter_map(|entry| entry.checked_sub(1)) {
            if !alive(id) {
                self.remove(id, true);
            }
        }
        if self.set.checked_sub(1).is_some_and(|id| !alive(id)) {
            self.set = 0;
        }
    }

    /// Says so in the shared word. The caller's full fence follows, then its look at the words.
    #[inline]
    pub fn name<P: Port>(&self, port: &P, word: Word) {
        port.store(word, self.named().map_or(0, |id| u64::from(id) + 1));
    }

    /// Some sleep by a timer, for want of room.
    pub fn overflowed(&self) -> bool {
        self.over > 0
    }

    pub fn is_empty(&self) -> bool {
        self.named().is_none() && self.over == 0
    }
}
