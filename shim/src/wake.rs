//! Wakes: eventfds that belong to whoever sleeps (a thread, or an epoll set that is being waited on), none to a
//! connection. A wake has a number in the family's board; the peer learns number and descriptor when first needed.
//!
//! The rule that keeps a wake from being lost: a sleeper names itself in the direction's word, makes its board entry odd,
//! puts a full fence, looks again, and only then sleeps; a waker stores, puts a full fence, and looks at the word.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use crate::debug::{self, Fault};
use crate::family::{self, WAKES};
use crate::provider::local::{WAKE0, signal};
use crate::{hidden, real, sys};

/// Wake number -> this process's descriptor + 1; 0 where the wake is not ours.
static MINE: [AtomicI32; WAKES] = [const { AtomicI32::new(0) }; WAKES];
/// Ours and in nobody's use: one bit a wake.
static FREE: [AtomicU64; WAKES / 64] = [const { AtomicU64::new(0) }; WAKES / 64];

/// A wake in use by one sleeper. Not `Drop`: [`Wake::put_back`] says when it is free again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    pub id: u32,
    pub fd: RawFd,
    pub bind: u32,
}

impl Wake {
    /// A wake for the caller alone; `None` when there is none to be had (the caller then must not sleep untimed).
    pub fn take() -> Option<Wake> {
        for (at, word) in FREE.iter().enumerate() {
            let mut seen = word.load(Ordering::Relaxed);
            while seen != 0 {
                let bit = seen.trailing_zeros();
                match word.compare_exchange_weak(seen, seen & !(1 << bit), Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Wake::of(at as u32 * 64 + bit),
                    Err(now) => seen = now,
                }
            }
        }
        Wake::make()
    }

    fn of(id: u32) -> Option<Wake> {
        let fd = MINE.get(id as usize)?.load(Ordering::Acquire) - 1;
        let bind = family::existing()?.board.entry(id)?.bind.load(Ordering::Relaxed);
        (fd >= 0).then_some(Wake { id, fd, bind })
    }

    /// It is this process's, and has been since it was taken.
    pub fn is_ours(self) -> bool {
        Wake::of(self.id) == Some(self)
    }

    #[cold]
    fn make() -> Option<Wake> {
        // Made by a child by vfork it would be the child's descriptor, noted in the parent's memory.
        if debug::fault(Fault::Wake) || sys::is_vfork_child() {
            return None;
        }
        let family = family::get()?;
        let me = sys::pid();
        let owners = &family.shared.wake_owner;
        let take =
            |owner: &AtomicU32, from| owner.compare_exchange(from, me, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // One that is nobody's, or that a forked child had which is gone.
        let id = owners.iter().position(|owner| take(owner, 0)).or_else(|| {
            owners.iter().position(|owner| {
                let had = owner.load(Ordering::Acquire);
                !sys::process_alive(had) && take(owner, had)
            })
        })?;
        let Some(fd) = eventfd() else {
            if let Some(owner) = family.shared.wake_owner.get(id) {
                owner.store(0, Ordering::Release);
            }
            return None;
        };
        let entry = family.board.entry(id as u32)?;
        entry.bind.fetch_add(1, Ordering::AcqRel);
        // Its owner may have died asleep.
        entry.sleep.fetch_add(entry.sleep.load(Ordering::Relaxed) & 1, Ordering::AcqRel);
        if let Some(mine) = MINE.get(id) {
            mine.store(fd + 1, Ordering::Release);
        }
        Wake::of(id as u32)
    }

    pub fn put_back(self) {
        if let Some(word) = FREE.get(self.id as usize / 64) {
            word.fetch_or(1 << (self.id % 64), Ordering::Release);
        }
    }

    /// From here on a waker will signal; the caller looks once more at everything before it sleeps.
    pub fn fall_asleep(self) {
        if let Some(sleep) = sleep_word(self.id) {
            sleep.fetch_or(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    pub fn wake_up(self) {
        if let Some(sleep) = sleep_word(self.id) {
            // Read-modify-write: the threads that sleep on one epoll set share its wake.
            let _ = sleep.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some((now | 1).wrapping_add(1)));
            fence(Ordering::SeqCst);
        }
    }

    /// One of those who share the wake is awake, others sleep on: they are to be woken anew, for a waker counts a wake as given
    /// for one value of the word.
    pub fn sleep_anew(self) {
        if let Some(sleep) = sleep_word(self.id) {
            sleep.fetch_add(2, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    pub fn sleeps(self) -> bool {
        sleep_word(self.id).is_some_and(|sleep| sleep.load(Ordering::Relaxed) & 1 != 0)
    }

    /// Takes back what was signalled, so that the next sleep is not ended by it.
    pub fn drain(self) {
        drain(self.fd);
    }
}

fn sleep_word(id: u32) -> Option<&'static AtomicU32> {
    Some(&family::existing()?.board.entry(id)?.sleep)
}

/// This process can wake it.
pub fn is_mine(id: u32) -> bool {
    MINE.get(id as usize).is_some_and(|fd| fd.load(Ordering::Acquire) != 0)
}

/// Somebody sleeps by it, or could: it is borrowed here, or the process that made it still lives.
pub fn in_use(id: u32) -> bool {
    if is_mine(id) {
        return FREE.get(id as usize / 64).is_some_and(|word| word.load(Ordering::Acquire) >> (id % 64) & 1 == 0);
    }
    family::existing()
        .and_then(|family| family.shared.wake_owner.get(id as usize))
        .is_some_and(|owner| sys::process_alive(owner.load(Ordering::Acquire)))
}

/// Wakes a sleeper of this process.
pub fn rouse(id: u32) {
    let asleep = sleep_word(id).is_some_and(|sleep| sleep.load(Ordering::Acquire) & 1 != 0);
    let fd = MINE.get(id as usize).map_or(0, |fd| fd.load(Ordering::Acquire)) - 1;
    if asleep && fd >= 0 {
        signal(fd);
    }
}

/// It would end every sleep at once until somebody has looked.
pub fn is_rung() -> bool {
    let mut entry = libc::pollfd { fd: WAKE0.load(Ordering::Acquire), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry of this frame, no waiting.
    unsafe { real::poll(&mut entry, 1, 0) > 0 }
}

/// Somebody rang wake 0, not knowing which of us to wake: everybody who sleeps looks.
pub fn rouse_all() {
    if let fd @ 0.. = WAKE0.load(Ordering::Acquire) {
        drain(fd);
    }
    for id in 0..WAKES as u32 {
        if MINE.get(id as usize).is_some_and(|fd| fd.load(Ordering::Relaxed) != 0) {
            rouse(id);
        }
    }
}

/// Wake 0, made at the first need. `None`: no companions in this process.
pub fn wake0() -> Option<RawFd> {
    let known = WAKE0.load(Ordering::Acquire);
    if known >= 0 {
        return Some(known);
    }
    if sys::is_vfork_child() {
        return None;
    }
    let fresh = eventfd()?;
    match WAKE0.compare_exchange(-1, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(fresh),
        Err(first) => {
            hidden::close(fresh);
            Some(first)
        }
    }
}

fn eventfd() -> Option<RawFd> {
    // SAFETY: a new descriptor of ours.
    let fd = hidden::with_room(|_| unsafe { real::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) });
    if fd < 0 { None } else { hidden::hide(fd) }
}

fn drain(fd: RawFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes into this frame; the descriptor does not block.
    unsafe { real::read(fd, (&raw mut count).cast(), 8) };
}

/// A forked child owns no wake: the parent's descriptors are inherited, but a signal on them is the parent's.
pub fn after_fork_in_child() {
    for (at, mine) in MINE.iter().enumerate() {
        // Stored to only where it must be: the pages are the parent's until then.
        if let fd @ 1.. = mine.load(Ordering::Relaxed) {
            mine.store(0, Ordering::Relaxed);
            hidden::close(fd - 1);
        }
        if let Some(word) = FREE.get(at / 64).filter(|word| word.load(Ordering::Relaxed) != 0) {
            word.store(0, Ordering::Relaxed);
        }
    }
    if let fd @ 0.. = WAKE0.swap(-1, Ordering::Relaxed) {
        hidden::close(fd);
    }
}
