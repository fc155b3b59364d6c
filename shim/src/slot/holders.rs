//! Which processes hold a slot's socket: fork adds one, the last close or the death of one takes it away.

use std::sync::atomic::Ordering;

use super::{SlotRef, flag};
use crate::{family, sys};

impl SlotRef {
    /// Signs a process in as a holder; more than there is room for makes the slot shared for good.
    pub fn add_holder(&self, pid: u32) {
        if self.holders.iter().any(|h| h.load(Ordering::Acquire) == pid) {
            return;
        }
        let free =
            self.holders.iter().find(|h| h.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if free.is_none() {
            self.raise(flag::MANY_HOLDERS);
        }
    }

    pub fn drop_holder(&self, pid: u32) {
        for holder in &self.slot.holders {
            let _ = holder.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// No other process holds the socket, as far as can be known. Dead holders are struck off.
    pub fn sole_holder(&self) -> bool {
        let pending = family::existing().is_some_and(|f| f.shared.forks_pending.load(Ordering::Acquire) > 0);
        !pending && !self.has(flag::MANY_HOLDERS) && !self.held_elsewhere()
    }

    fn held_elsewhere(&self) -> bool {
        let me = sys::pid();
        self.slot.holders.iter().any(|holder| {
            let pid = holder.load(Ordering::Acquire);
            if pid == 0 || pid == me {
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
        self.slot.holders.iter().all(|h| {
            let pid = h.load(Ordering::Acquire);
            pid == 0 || !sys::process_alive(pid)
        }) && !self.has(flag::MANY_HOLDERS)
    }
}
