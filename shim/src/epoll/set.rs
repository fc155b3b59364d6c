//! The record of one epoll set, and the table of all of them.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use smallvec::{SmallVec, smallvec};

use super::adopt::Adopted;
use super::common;
use super::due::{Due, Mail};
use super::nested::{self, Nested};
use super::stir::unwatch;
use crate::fd_table::{self, Entry};
use crate::hidden;
use crate::lock::{Held, Lock};
use crate::slot::{SlotRef, flag};
use crate::switch::Conn;
use crate::wake::{self, Wake};

const SETS: usize = 4_096;

static TABLE: [AtomicPtr<Set>; SETS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SETS];

pub struct Set {
    lock: Lock,
    inner: UnsafeCell<Inner>,
    /// Descriptors of this process that show it; 0: the record is free.
    pub descriptors: AtomicU32,
    pub fd: AtomicI32,
    /// The outer epoll, or -1.
    pub outer: AtomicI32,
    /// Its wake's number + 1, 0 while it has none.
    pub wake_id: AtomicU32,
    /// It must stay the kernel's: nested in another, or no outer one can be had.
    pub native: AtomicBool,
    /// Sets that it holds, as far as they are known: see `nested`.
    pub nests: AtomicU32,
    /// Entries of which the kernel's set still has an event of ours: see `adopt_one`.
    pub kicks: AtomicU32,
    /// Threads inside the kernel's own wait on it.
    pub in_kernel: AtomicU32,
    /// Entries adopted, or about to be.
    pub adopted: AtomicU32,
    pub sleepers: AtomicU32,
    /// The kernel's own set may have something to report.
    pub kernel_due: AtomicBool,
    pub mail: Mail,
    /// Its number among the sets that were there at a fork, or 0; a parent's, and not used here yet; used by others too; how far
    /// their changes are known: see `common`.
    pub common: AtomicU32,
    pub inherited: AtomicBool,
    pub joined: AtomicBool,
    pub seen_changes: AtomicU32,
}

// SAFETY: `inner` is reached through `Guard` only, which holds the lock.
unsafe impl Sync for Set {}

#[derive(Default)]
pub struct Inner {
    /// Entries that the kernel answers for.
    pub native: HashMap<RawFd, Entered, BuildHasherDefault<FdHasher>>,
    pub adopted: Vec<Adopted>,
    /// Those among them that no number of the application names: see `Set::unname`.
    pub nameless: usize,
    /// Where in `adopted` a descriptor's entry is.
    pub place: HashMap<RawFd, usize, BuildHasherDefault<FdHasher>>,
    /// Taken out by the application while they were adopted: the outer epoll watches their anchors still, in case they come
    /// back, as they do at each turn of some event loops. True: it had news meanwhile.
    pub ghosts: HashMap<RawFd, (SlotRef, bool), BuildHasherDefault<FdHasher>>,
    pub due: Due,
    /// Sets among the kernel's entries.
    pub nested: Vec<Nested>,
    /// Scratch of `gather_due`, and of `collect`.
    pub found: Vec<RawFd>,
    pub again: Vec<RawFd>,
    /// Counts collections.
    pub turn: usize,
    /// An entry was given back to the kernel: it is asked at once.
    pub returned: bool,
    pub wake: Option<Wake>,
}

#[derive(Clone, Copy)]
pub struct Entered {
    pub slot: SlotRef,
    pub events: u32,
    pub data: u64,
}

pub struct Guard<'a> {
    held: Held<'a>,
    set: &'a Set,
}

impl Guard<'_> {
    /// Gives the lock back, with a full fence behind it.
    #[inline(always)]
    pub fn release_and_fence(self) {
        self.held.release_and_fence();
    }
}

impl std::ops::Deref for Guard<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        // SAFETY: the lock is held.
        unsafe { &*self.set.inner.get() }
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        // SAFETY: the lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.set.inner.get() }
    }
}

#[inline]
pub fn at(index: u32) -> Option<&'static Set> {
    // SAFETY: null, or leaked by `create` and never freed.
    unsafe { TABLE.get(index as usize)?.load(Ordering::Acquire).as_ref() }
}

/// The set that a descriptor of the application shows.
pub fn of(epfd: RawFd) -> Option<&'static Set> {
    at(fd_table::epoll(epfd)?)
}

/// The set that an outer epoll belongs to.
pub fn by_outer(outer: RawFd) -> Option<&'static Set> {
    all().find(|set| set.outer.load(Ordering::Acquire) == outer)
}

pub fn all() -> impl Iterator<Item = &'static Set> {
    (0..SETS as u32).map_while(at)
}

/// The application has made an epoll set. Without room for a record its sockets stay on TCP.
pub fn create(fd: RawFd) {
    for (index, place) in TABLE.iter().enumerate() {
        let known = place.load(Ordering::Acquire);
        let set = if known.is_null() {
            let fresh = Box::into_raw(Box::new(Set::new()));
            if place.compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: never published.
                drop(unsafe { Box::from_raw(fresh) });
                continue;
            }
            fresh
        } else {
            known
        };
        // SAFETY: published and never freed.
        let set = unsafe { &*set };
        if set.descriptors.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            set.fd.store(fd, Ordering::Release);
            set.native.store(false, Ordering::Release);
            set.nests.store(0, Ordering::Release);
            fd_table::set(fd, Entry::Epoll(index as u32));
            return;
        }
    }
}

/// Another descriptor shows the set.
pub fn duplicate(index: u32) {
    if let Some(set) = at(index) {
        set.descriptors.fetch_add(1, Ordering::AcqRel);
    }
}

/// A descriptor of the set goes. Called before the real close.
pub fn closed(index: u32, fd: RawFd) {
    let Some(set) = at(index) else { return };
    let Some(mut inner) = set.lock() else { return };
    if set.descriptors.load(Ordering::Acquire) > 1 {
        if set.fd.load(Ordering::Relaxed) == fd {
            let other = (0..fd_table::ceiling()).find(|&n| n != fd && fd_table::epoll(n) == Some(index));
            set.fd.store(other.unwrap_or(-1), Ordering::Release);
        }
        set.descriptors.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    common::leave(set);
    set.common.store(0, Ordering::Release);
    set.inherited.store(false, Ordering::Release);
    set.joined.store(false, Ordering::Release);
    for entry in inner.native.values() {
        entry.slot.leave_set(index);
    }
    for entry in &inner.adopted {
        entry.conn.slot.leave_set(index);
        unwatch(&entry.conn);
    }
    // Only the entries' share: whoever holds the set (see `Hold`) takes its own away later, from the record's next set maybe.
    set.adopted.fetch_sub(inner.adopted.len() as u32, Ordering::SeqCst);
    set.kicks.store(0, Ordering::Release);
    if let Some(wake) = inner.wake.take() {
        wake.put_back();
    }
    *inner = Inner::default();
    hidden::close(set.outer.swap(-1, Ordering::AcqRel));
    set.wake_id.store(0, Ordering::Release);
    set.native.store(false, Ordering::Release);
    set.nests.store(0, Ordering::Release);
    drop(inner);
    nested::ended(index);
    set.descriptors.store(0, Ordering::Release);
}

impl Inner {
    /// The adopted entry of a descriptor.
    pub fn entry(&mut self, fd: RawFd) -> Option<&mut Adopted> {
        let &place = self.place.get(&fd)?;
        self.adopted.get_mut(place)
    }

    /// Of an adopted entry the outer epoll watches the anchor by this number.
    pub fn watches(&self, fd: RawFd) -> bool {
        self.adopted.iter().any(|entry| entry.conn.fd == fd)
    }

    /// The numbers by which a connection is registered in the set.
    pub fn descriptors_of(&self, slot: SlotRef) -> SmallVec<[RawFd; 4]> {
        if !slot.has(flag::REGISTERED_TWICE) {
            return smallvec![slot.registered()];
        }
        let native = self.native.iter().filter(|(_, entry)| entry.slot == slot).map(|(&fd, _)| fd);
        native.chain(self.adopted.iter().filter(|entry| entry.conn.slot == slot).map(|entry| entry.fd)).collect()
    }

    /// Whether it is registered there at all.
    pub fn holds(&self, slot: SlotRef) -> bool {
        slot.has(flag::REGISTERED_TWICE) && !self.descriptors_of(slot).is_empty()
    }
}

impl Set {
    fn new() -> Set {
        Set {
            lock: Lock::new(),
            inner: UnsafeCell::new(Inner::default()),
            descriptors: AtomicU32::new(0),
            fd: AtomicI32::new(-1),
            outer: AtomicI32::new(-1),
            wake_id: AtomicU32::new(0),
            native: AtomicBool::new(false),
            nests: AtomicU32::new(0),
            kicks: AtomicU32::new(0),
            in_kernel: AtomicU32::new(0),
            adopted: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            kernel_due: AtomicBool::new(true),
            mail: Mail::new(),
            common: AtomicU32::new(0),
            inherited: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            seen_changes: AtomicU32::new(0),
        }
    }

    /// `None` in a signal handler that interrupted this thread's own use of the set.
    pub fn lock(&self) -> Option<Guard<'_>> {
        Some(Guard { held: self.lock.lock().ok()?, set: self })
    }

    /// `None`: somebody holds it.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        Some(Guard { held: self.lock.try_lock()?, set: self })
    }

    /// What has woken a thread that returns without a look is another's.
    pub fn pass_on(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.rouse();
        }
    }

    /// Wakes one thread that waits on the set, if one sleeps.
    pub fn rouse(&self) {
        if let id @ 1.. = self.wake_id.load(Ordering::Acquire) {
            wake::rouse(id - 1);
        }
    }

    /// It stays the kernel's from now on; the connections that it has adopted until then.
    pub fn stay_native(&self) -> Vec<Conn> {
        self.native.store(true, Ordering::Release);
        self.lock().map_or(Vec::new(), |inner| inner.adopted.iter().map(|entry| entry.conn).collect())
    }
}

/// Held over fork(), so that the child's copies are whole: no thread is in the middle of changing one.
pub fn before_fork() -> Vec<Guard<'static>> {
    let mut sets: Vec<_> = all().filter_map(Set::lock).collect();
    sets.iter_mut().for_each(|inner| common::before_fork(inner.set, inner));
    sets
}

/// The outer epolls and wakes are the parent's: the child makes its own at its first wait.
pub fn after_fork_in_child() {
    for set in all() {
        set.lock.reset();
        set.in_kernel.store(0, Ordering::Relaxed);
        set.sleepers.store(0, Ordering::Relaxed);
        set.wake_id.store(0, Ordering::Relaxed);
        common::after_fork_in_child(set);
        if let Some(mut inner) = set.lock() {
            inner.wake = None;
            inner.ghosts.clear();
            // Without the holds of threads that do not exist here.
            set.adopted.store(inner.adopted.len() as u32, Ordering::Relaxed);
        }
        hidden::close(set.outer.swap(-1, Ordering::AcqRel));
    }
}

/// Descriptor numbers are small and dense: one multiplication is hash enough.
#[derive(Default)]
pub struct FdHasher(u64);

impl Hasher for FdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_i32(&mut self, fd: i32) {
        self.0 = u64::from(fd.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
