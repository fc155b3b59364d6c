//! Which processes hold a slot's socket: fork adds one, the last close, an exec that closes it or the death of one takes it away.

use std::sync::atomic::{Ordering, fence};

use super::{SlotRef, flag};
use crate::{family, sys};

/// Beside its number: this forked child has the socket no more; by exec, or by a close that its parent, which signs it in when
/// fork has returned, may come later than.
const LEFT: u32 = 1 << 31;

impl SlotRef {
    /// Signs a process in as a holder; more than there is room for makes the slot shared for good.
    pub fn add_holder(&self, pid: u32) {
        if !self.holders.iter().any(|h| h.load(Ordering::Acquire) & !LEFT == pid) {
            self.strike_off_left();
            let free =
                self.holders.iter().find(|h| h.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok());
            if free.is_none() {
                self.raise(flag::MANY_HOLDERS);
            }
        }
        // By who forked, too, whose own entry may be gone in a moment: see `seen_at_once`.
        self.slot.joined.fetch_add(1, Ordering::AcqRel);
    }

    /// What a look at the holders says, if nobody joined them meanwhile: a child is signed in at a place that was looked at before its
    /// parent leaves one that was not.
    fn seen_at_once(&self, look: impl Fn() -> bool) -> bool {
        loop {
            let before = self.slot.joined.load(Ordering::Acquire);
            let seen = look();
            if self.slot.joined.load(Ordering::Acquire) == before {
                return seen;
            }
        }
    }

    /// Signs a child in that was just forked, unless it has left already.
    pub fn add_child(&self, pid: u32) {
        self.add_holder(pid);
        fence(Ordering::SeqCst);
        if self.slot.holders.iter().any(|h| h.load(Ordering::Acquire) == pid | LEFT) {
            self.rename(pid, 0);
            self.rename(pid | LEFT, 0);
        }
    }

    /// As `add_holder`, for the process itself: one that had its number is gone, and an exec has failed.
    pub fn hold(&self, pid: u32) {
        self.rename(pid | LEFT, pid);
        self.add_holder(pid);
    }

    /// This process, one of several holders, is about to have it no more.
    pub fn leave(&self, pid: u32) {
        self.rename(pid, pid | LEFT);
    }

    /// Before a fork: the child's number may be one that a process had which is gone.
    pub fn strike_off_left(&self) {
        for holder in &self.slot.holders {
            let pid = holder.load(Ordering::Acquire);
            if pid & LEFT != 0 && !sys::process_alive(pid & !LEFT) {
                let _ = holder.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// The process itself has closed it.
    pub fn drop_holder(&self, pid: u32) {
        let unsigned = family::existing().is_some_and(|f| f.shared.forks_pending.load(Ordering::SeqCst) > 0);
        if unsigned {
            self.leave(pid);
            fence(Ordering::SeqCst);
        }
        self.rename(pid, 0);
    }

    /// Where it stands. Nobody else puts it there meanwhile, and a load costs less than a locked operation.
    fn rename(&self, from: u32, to: u32) {
        for holder in &self.slot.holders {
            if holder.load(Ordering::Acquire) == from {
                let _ = holder.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// No other process holds the socket, as far as can be known. Dead holders are struck off.
    pub fn sole_holder(&self) -> bool {
        let pending = || family::existing().is_some_and(|f| f.shared.forks_pending.load(Ordering::Acquire) > 0);
        self.seen_at_once(|| !pending() && !self.has(flag::MANY_HOLDERS) && !self.held_elsewhere())
    }

    /// This process has no descriptor of it any more, and is about to end it, which may take a while.
    pub fn ends_here(&self) -> bool {
        !self.is_mine() && !self.has(flag::MANY_HOLDERS) && self.seen_at_once(|| !self.held_elsewhere())
    }

    fn held_elsewhere(&self) -> bool {
        let me = sys::pid();
        self.slot.holders.iter().any(|holder| {
            let pid = holder.load(Ordering::Acquire);
            if pid == 0 || pid == me || pid & LEFT != 0 {
                return false;
            }
            let alive = sys::process_alive(pid);
            if !alive {
                let _ = holder.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
            alive
        })
    }

    /// Nobody holds the socket any more.
    pub fn no_holder(&self) -> bool {
        let gone = |pid: u32| pid == 0 || pid & LEFT != 0 || !sys::process_alive(pid);
        self.seen_at_once(|| {
            self.slot.holders.iter().all(|h| gone(h.load(Ordering::Acquire))) && !self.has(flag::MANY_HOLDERS)
        })
    }
}
