//! A lock that lives in memory shared by forked processes and outlives the death of its owner.
//!
//! The word holds the owner's thread id; its top bit says that somebody waits on the futex. An uncontended lock is one
//! compare-and-swap, an uncontended unlock one swap, which stands for the fence that follows it, too. A waiter looks, now and then, whether the owner still exists and
//! takes the lock over where it does not: every critical section of the switch commits by single stores, so what a dead
//! owner left behind is a state that was, or was about to be, published.

use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};

use crate::sys;

const WAITERS: u32 = 1 << 31;
const TID: u32 = !WAITERS;
/// Looks before the futex is used; a critical section is short.
const SPINS: u32 = 200;
/// How long a waiter sleeps before it asks whether the owner is alive.
const LOOK_AT_OWNER_NS: u64 = 20_000_000;

#[derive(Default)]
#[repr(transparent)]
pub struct Lock {
    word: AtomicU32,
}

/// Held: unlocks when dropped.
pub struct Held<'a> {
    lock: &'a Lock,
}

/// The calling thread itself holds the lock: this is a signal handler that interrupted its own critical section.
#[derive(Debug)]
pub struct Reentered;

impl Lock {
    pub const fn new() -> Lock {
        Lock { word: AtomicU32::new(0) }
    }

    /// In a forked child, for a lock in private memory whose owner may not exist here.
    pub fn reset(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    #[inline(always)]
    pub fn lock(&self) -> Result<Held<'_>, Reentered> {
        let me = sys::tid();
        if self.word.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Held { lock: self });
        }
        self.contend(me)
    }

    /// Only if nobody holds it.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<Held<'_>> {
        // Made only then: one that is dropped gives the lock back, whoever has it.
        self.take(0, sys::tid()).then(|| Held { lock: self })
    }

    #[cold]
    fn contend(&self, me: u32) -> Result<Held<'_>, Reentered> {
        let mut spins = 0;
        // Once this thread has slept it must assume other sleepers, so it takes the word with the bit set.
        let mut claim = me;
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & TID == me {
                return Err(Reentered);
            }
            if seen & TID == 0 {
                if self.take(seen, claim | (seen & WAITERS)) {
                    return Ok(Held { lock: self });
                }
                continue;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            claim = me | WAITERS;
            if seen & WAITERS == 0
                && self.word.compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            let timed_out = sys::futex_wait(&self.word, seen | WAITERS, Some(LOOK_AT_OWNER_NS));
            if timed_out && !sys::thread_alive(seen & TID) && self.take(seen | WAITERS, claim) {
                return Ok(Held { lock: self });
            }
        }
    }

    #[inline(always)]
    fn take(&self, seen: u32, claim: u32) -> bool {
        self.word.compare_exchange(seen, claim, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl Held<'_> {
    /// Unlocks, with a full fence behind it: where an exchange is one by itself, as on x86-64, that is no second one.
    #[inline]
    pub fn release_and_fence(self) {
        drop(self);
        fence_behind_exchange();
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.lock.word.swap(0, Ordering::Release) & WAITERS != 0 {
            wake_one(&self.lock.word);
        }
    }
}

/// A full fence, straight behind an exchange of any word: where that is one by itself, as on x86-64, it is no second one.
#[inline(always)]
pub fn fence_behind_exchange() {
    if cfg!(target_arch = "x86_64") { compiler_fence(Ordering::SeqCst) } else { fence(Ordering::SeqCst) }
}

#[cold]
#[inline(never)]
fn wake_one(word: &AtomicU32) {
    sys::futex_wake(word, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_in_vain_leaves_the_lock_to_who_holds_it() {
        let lock = Lock::new();
        let held = lock.lock().ok().unwrap();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "it was given back by the first try");
        drop(held);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn excludes_and_wakes() {
        let lock = Lock { word: AtomicU32::new(0) };
        let mut count = 0u64;
        let cell = &raw mut count as usize;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let _held = lock.lock().unwrap();
                        // SAFETY: `count` outlives the scope and is only touched under the lock.
                        unsafe { *(cell as *mut u64) += 1 };
                    }
                });
            }
        });
        assert_eq!(count, 80_000);
    }

    #[test]
    fn reentering_is_told() {
        let lock = Lock { word: AtomicU32::new(0) };
        let _held = lock.lock().unwrap();
        assert!(lock.lock().is_err());
    }

    #[test]
    fn dead_owner_is_replaced() {
        let lock = Lock { word: AtomicU32::new(0) };
        #[allow(clippy::disallowed_types)] // the test's own child
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        lock.word.store(pid, Ordering::Relaxed);
        assert!(lock.lock().is_ok());
    }
}
