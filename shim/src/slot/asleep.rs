//! Calls that sleep on a connection hold it, as in the kernel they hold the file: where its last descriptor is closed meanwhile
//! the number is free, and the connection ends when they return. Until then it is shown by a descriptor of ours.
//!
//! Sleeper: counts itself, **full fence**, looks whether its number still shows the connection, sleeps. Closer: takes the number
//! out of the table, **full fence**, looks whether anybody is counted, rouses those who are.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use super::{SlotRef, own};
use crate::{fd_table, hidden, real, sys};

/// A call that has slept, until it returns, in whichever way.
pub struct Asleep {
    index: u32,
    before: Option<Counted>,
    /// The last one has returned: what is to be done with the descriptor that was kept.
    end: fn(u32, RawFd),
}

/// What this thread was counted for last, and where on its stack.
#[derive(Clone, Copy)]
struct Counted {
    index: u32,
    frame: usize,
}

thread_local! {
    // const-initialised and without Drop, as in `sys`.
    static HERE: Cell<Option<Counted>> = const { Cell::new(None) };
}

impl Asleep {
    #[inline(never)]
    pub fn on(slot: SlotRef, end: fn(u32, RawFd)) -> Asleep {
        let here = 0u8;
        let frame = (&raw const here).addr();
        // A caller's frame, if that is what it is, lies above ours: one at or below it was left by longjmp.
        let before = HERE.get().filter(|last| {
            let left = last.frame <= frame && !sys::on_signal_stack();
            if left {
                count_out(last.index, end);
            }
            !left
        });
        HERE.set(Some(Counted { index: slot.index, frame }));
        slot.own().asleep.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Asleep { index: slot.index, before, end }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        HERE.set(self.before);
        count_out(self.index, self.end);
    }
}

fn count_out(index: u32, end: fn(u32, RawFd)) {
    if count_down(index)
        && let Some(fd) = give_up(index)
    {
        end(index, fd);
    }
}

/// True: it was the last. In a forked child nobody may be counted.
fn count_down(index: u32) -> bool {
    own::of(index).asleep.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1)
}

/// Whoever closes a number does not sleep on it: a call of this thread's that is counted still was left by longjmp. (Or a signal
/// handler closes what its thread sleeps on, which is then told EBADF.)
fn closer_is_awake(index: u32) {
    if HERE.get().is_some_and(|last| last.index == index) {
        HERE.set(None);
        count_down(index);
    }
}

fn give_up(index: u32) -> Option<RawFd> {
    let kept = &own::of(index).kept;
    match kept.load(Ordering::SeqCst) {
        0 => None,
        _ => kept.swap(0, Ordering::SeqCst).checked_sub(1).filter(|&fd| fd >= 0),
    }
}

impl SlotRef {
    /// `fd` still is a number of this connection.
    #[inline]
    pub fn shows(&self, fd: RawFd) -> bool {
        fd_table::socket(fd) == Some(self.index) || self.kept() == Some(fd)
    }

    /// For a call that was made by `fd` and has slept since.
    pub fn number(&self, fd: RawFd) -> RawFd {
        if self.shows(fd) { fd } else { self.descriptor() }
    }

    /// Its last descriptor in this process is gone; calls that sleep keep it.
    pub fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    fn kept(&self) -> Option<RawFd> {
        self.own().kept.load(Ordering::SeqCst).checked_sub(1).filter(|&fd| fd >= 0)
    }

    pub fn has_sleepers(&self) -> bool {
        fence(Ordering::SeqCst);
        self.own().asleep.load(Ordering::SeqCst) > 0
    }

    /// The last descriptor is about to be closed, and the table knows it no longer. True: the connection goes on, by one of ours,
    /// until those who sleep on it return.
    pub fn keep(&self, fd: RawFd) -> bool {
        closer_is_awake(self.index);
        if !self.has_sleepers() {
            return false;
        }
        // SAFETY: a new number of the application's own socket.
        let ours = hidden::with_room(|first| unsafe { real::fcntl(fd, libc::F_DUPFD_CLOEXEC, first as usize) });
        let Some(ours) = (ours >= 0).then(|| hidden::hide(ours)).flatten() else { return false };
        self.set_descriptor(ours);
        self.own().kept.store(ours + 1, Ordering::SeqCst);
        if self.has_sleepers() || give_up(self.index).is_none() {
            return true;
        }
        // All have returned in between, and have not seen it.
        self.set_descriptor(fd);
        hidden::close(ours);
        false
    }
}

/// The child has none of those threads: it does not hold what they keep. `used`: so many slots have ever been in use.
pub fn after_fork_in_child(used: u32) {
    for (_, own) in own::first(used) {
        if own.asleep.load(Ordering::Relaxed) != 0 {
            own.asleep.store(0, Ordering::Relaxed);
        }
        if let fd @ 1.. = own.kept.load(Ordering::Relaxed) {
            own.kept.store(0, Ordering::Relaxed);
            own.forget();
            hidden::close(fd - 1);
        }
    }
}
