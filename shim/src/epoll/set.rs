//! The record of one epoll set, and epoll_ctl on it.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering, fence};

use libc::{c_int, epoll_event};
use tandem_protocol::Reason;

use crate::debug::{self, Fault};
use crate::fd_table::{self, Entry};
use crate::lock::{Held, Lock};
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, flag};
use crate::stream::Word;
use crate::switch::{self, Conn, ready};
use crate::wake::{self, Wake};
use crate::{hidden, real, sys};

const SETS: usize = 4_096;
/// What an adopted anchor is watched for: everything, each change once.
const ANCHOR_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET) as u32;
/// Tags in the outer set; an anchor's is its descriptor.
pub const TAG_SET: u64 = u64::MAX;
pub const TAG_WAKE: u64 = u64::MAX - 1;
pub const TAG_WAKE0: u64 = u64::MAX - 2;

static TABLE: [AtomicPtr<Set>; SETS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SETS];

pub struct Set {
    lock: Lock,
    inner: UnsafeCell<Inner>,
    /// Descriptors of this process that show it; 0: the record is free.
    descriptors: AtomicU32,
    pub fd: AtomicI32,
    /// The outer epoll, or -1.
    pub outer: AtomicI32,
    /// Its wake's number + 1, 0 while it has none.
    pub wake_id: AtomicU32,
    /// It must stay the kernel's: nested in another, or no outer one can be had.
    native: AtomicBool,
    /// Threads inside the kernel's own wait on it.
    pub in_kernel: AtomicU32,
    /// Entries adopted, or about to be.
    pub adopted: AtomicU32,
    pub sleepers: AtomicU32,
}

// SAFETY: `inner` is reached through `Guard` only, which holds the lock.
unsafe impl Sync for Set {}

#[derive(Default)]
pub struct Inner {
    /// Entries that the kernel answers for.
    native: HashMap<RawFd, Entered, BuildHasherDefault<FdHasher>>,
    pub adopted: Vec<Adopted>,
    place: HashMap<RawFd, usize, BuildHasherDefault<FdHasher>>,
    /// Where the next collection starts, so that all get their turn.
    pub cursor: usize,
    pub wake: Option<Wake>,
}

#[derive(Clone, Copy)]
struct Entered {
    slot: SlotRef,
    events: u32,
    data: u64,
}

pub struct Adopted {
    pub fd: RawFd,
    pub conn: Conn,
    pub events: u32,
    pub data: u64,
    /// The kernel has news of the anchor.
    pub hint: bool,
    /// Was ready when last looked at, or was just set: look again.
    pub hot: bool,
    /// EPOLLONESHOT has fired.
    pub spent: bool,
    pub seen_produced: u64,
    pub seen_consumed: u64,
    pub seen_delivered: u64,
    pub seen_no_space: u32,
    /// A send found no room, and no edge was reported since.
    pub edge_due: bool,
    pub seen_turns: u32,
    /// There are bytes that cannot be read before others.
    pub behind: bool,
    /// Edge-triggered: how far the stream had come when it was last reported, and which lasting events were told.
    pub mark: u64,
    pub told: u32,
    /// Still in the kernel's set, spent: it woke whoever slept there.
    pub kicked: bool,
}

pub struct Guard<'a> {
    _held: Held<'a>,
    set: &'a Set,
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

pub fn at(index: u32) -> Option<&'static Set> {
    // SAFETY: null, or leaked by `create` and never freed.
    unsafe { TABLE.get(index as usize)?.load(Ordering::Acquire).as_ref() }
}

/// The set that an outer epoll belongs to.
pub fn by_outer(outer: RawFd) -> Option<&'static Set> {
    all().find(|set| set.outer.load(Ordering::Acquire) == outer)
}

fn all() -> impl Iterator<Item = &'static Set> {
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
    for entry in inner.native.values() {
        entry.slot.leave_set(index);
    }
    for entry in &inner.adopted {
        entry.conn.slot.leave_set(index);
        unwatch(&entry.conn);
    }
    // Only the entries' share: whoever holds the set (see `Hold`) takes its own away later, from the record's next set maybe.
    set.adopted.fetch_sub(inner.adopted.len() as u32, Ordering::SeqCst);
    if let Some(wake) = inner.wake.take() {
        wake.put_back();
    }
    *inner = Inner::default();
    hidden::close(set.outer.swap(-1, Ordering::AcqRel));
    set.wake_id.store(0, Ordering::Release);
    set.native.store(false, Ordering::Release);
    drop(inner);
    set.descriptors.store(0, Ordering::Release);
}

/// epoll_ctl. `event` is null for EPOLL_CTL_DEL at most.
///
/// # Safety
/// `event` is as epoll_ctl(2) has it.
pub unsafe fn control(epfd: RawFd, op: c_int, fd: RawFd, event: *mut epoll_event) -> Outcome<c_int> {
    if let (Some(inner), true) = (fd_table::epoll(fd), op == libc::EPOLL_CTL_ADD) {
        nested(inner);
        return Outcome::Bypass;
    }
    let Entry::Socket(index) = fd_table::life(fd) else {
        if let (Some(set), Entry::Settled(_), true) =
            (fd_table::epoll(epfd).and_then(at), fd_table::life(fd), op == libc::EPOLL_CTL_DEL)
            && let Some(mut inner) = set.lock()
        {
            inner.native.remove(&fd);
        }
        return Outcome::Bypass;
    };
    let Some(slot) = slot::at(index) else { return Outcome::Bypass };
    let Some((number, set)) = fd_table::epoll(epfd).and_then(|n| Some((n, at(n)?))) else {
        // A set that came from elsewhere: what waits on it cannot be told of the ring.
        if op == libc::EPOLL_CTL_ADD {
            switch::leave(slot, fd, Reason::EpollUnseen);
        }
        return Outcome::Bypass;
    };
    let Some(mut inner) = set.lock() else { return Outcome::Fail(libc::EAGAIN) };
    // SAFETY: by the caller.
    let given = unsafe { event.as_ref() }.map(|e| (e.events, e.u64));
    if inner.place.contains_key(&fd) {
        return set.control_adopted(&mut inner, number, op, fd, given);
    }
    // SAFETY: the application's own call.
    let result = unsafe { real::epoll_ctl(epfd, op, fd, event) };
    if result < 0 {
        return Outcome::of(result);
    }
    match (op, given) {
        (libc::EPOLL_CTL_ADD, Some((events, data))) => {
            if !slot.enter_set(number, fd) {
                switch::leave(slot, fd, Reason::RegisteredTwice);
            }
            inner.native.insert(fd, Entered { slot, events, data });
            drop(inner);
            fence(Ordering::SeqCst);
            if ready::switched(slot)
                && let Some(conn) = Conn::of(slot, fd)
            {
                adopt(&conn);
            }
        }
        (libc::EPOLL_CTL_MOD, Some((events, data))) => {
            if let Some(entry) = inner.native.get_mut(&fd) {
                entry.events = events;
                entry.data = data;
            }
        }
        (libc::EPOLL_CTL_DEL, _) => {
            inner.native.remove(&fd);
            if !inner.holds(slot) {
                slot.leave_set(number);
            }
        }
        _ => {}
    }
    Outcome::Done(result)
}

/// A set inside another: whoever waits on the outer one sees the kernel's part only.
fn nested(index: u32) {
    let Some(set) = at(index) else { return };
    set.native.store(true, Ordering::Release);
    let Some(inner) = set.lock() else { return };
    let adopted: Vec<_> = inner.adopted.iter().map(|entry| entry.conn).collect();
    drop(inner);
    for conn in adopted {
        switch::leave(conn.slot, conn.fd, Reason::EpollUnseen);
    }
}

/// Sets that stay open over exec are waited on by a program that sees the kernel's part only: their entries are the
/// kernel's before.
pub fn before_exec() {
    for set in all().filter(|set| set.descriptors.load(Ordering::Acquire) > 0) {
        let fd = set.fd.load(Ordering::Acquire);
        // SAFETY: F_GETFD has no argument.
        let stays = unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC == 0;
        if !stays || set.adopted.load(Ordering::Acquire) == 0 {
            continue;
        }
        set.native.store(true, Ordering::Release);
        let conns: Vec<_> =
            set.lock().map_or(Vec::new(), |inner| inner.adopted.iter().map(|entry| entry.conn).collect());
        for conn in conns {
            crate::calls::transfer::hand_over(conn.slot, conn.fd, Reason::EpollUnseen);
        }
        if let Some(mut inner) = set.lock() {
            while !inner.adopted.is_empty() {
                set.give_back(&mut inner, 0);
            }
        }
    }
}

/// While it lives no thread enters the kernel's own wait on the set.
pub struct Hold {
    sets: [Option<&'static Set>; slot::MOST_SETS],
}

impl Hold {
    /// No other set has come to watch the slot since. Asked after the phase was stored: whoever enters a set looks at the
    /// phase afterwards.
    pub fn covers(&self, slot: SlotRef) -> bool {
        fence(Ordering::SeqCst);
        slot.sets().filter_map(at).all(|set| self.sets.iter().flatten().any(|held| std::ptr::eq(*held, set)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        for set in self.sets.iter().flatten() {
            set.adopted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The slot's entries could be adopted now: nobody sleeps in the kernel on its sets, and each has an outer one. Taken
/// before any of the slot's locks. `None`: not now.
pub fn hold(slot: SlotRef) -> Option<Hold> {
    let mut hold = Hold { sets: [None; slot::MOST_SETS] };
    for (place, set) in hold.sets.iter_mut().zip(slot.sets().filter_map(at)) {
        if set.descriptors.load(Ordering::Acquire) == 0 {
            continue;
        }
        if set.native.load(Ordering::Acquire) {
            return None;
        }
        set.adopted.fetch_add(1, Ordering::SeqCst);
        *place = Some(set);
        if set.in_kernel.load(Ordering::SeqCst) > 0 {
            return None;
        }
        if !set.prepare() {
            if set.native.load(Ordering::Acquire) {
                switch::give_up(slot, Reason::NoDescriptor);
            }
            return None;
        }
    }
    Some(hold)
}

/// Takes a connection's entries out of the kernel's sets, if it is in any. Under a [`Hold`], no slot lock held.
pub fn adopt(conn: &Conn) {
    for set in conn.slot.sets().filter_map(at) {
        let Some(mut inner) = set.lock() else { continue };
        if conn.slot.has(flag::REGISTERED_TWICE) {
            for fd in inner.descriptors_of(conn.slot) {
                set.adopt_one(&mut inner, conn, fd);
            }
        } else {
            set.adopt_one(&mut inner, conn, conn.slot.registered());
        }
        set.rouse();
    }
}

impl Inner {
    /// The numbers by which a connection is registered in the set.
    fn descriptors_of(&self, slot: SlotRef) -> Vec<RawFd> {
        let native = self.native.iter().filter(|(_, entry)| entry.slot == slot).map(|(&fd, _)| fd);
        native.chain(self.adopted.iter().filter(|entry| entry.conn.slot == slot).map(|entry| entry.fd)).collect()
    }

    /// Whether it is registered there at all.
    fn holds(&self, slot: SlotRef) -> bool {
        slot.has(flag::REGISTERED_TWICE) && !self.descriptors_of(slot).is_empty()
    }
}

impl Set {
    fn adopt_one(&self, inner: &mut Guard<'_>, conn: &Conn, fd: RawFd) {
        let set = self;
        if let Some(&place) = inner.place.get(&fd) {
            if let Some(entry) = inner.adopted.get_mut(place) {
                entry.hint = true;
            }
            if let Some(wake) = inner.wake {
                watch(conn, wake);
            }
            return;
        }
        let Some(entered) = inner.native.remove(&fd) else { return };
        set.adopted.fetch_add(1, Ordering::SeqCst);
        if !set.prepare_locked(inner) {
            crate::log::info(format_args!("slot {}: adopted without an outer epoll", conn.slot.index));
        }
        let outer = set.outer.load(Ordering::Acquire);
        // Threads asleep in the kernel's own wait see this entry no more: it wakes them once, as writable, which the wait
        // takes out of what it returns.
        let kicks = set.in_kernel.load(Ordering::SeqCst) > 0;
        let kick = (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32;
        let mut event = epoll_event { events: ANCHOR_EVENTS, u64: fd as u64 };
        // SAFETY: descriptors of the application and of ours, an event on this frame.
        unsafe {
            real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event);
            if kicks {
                event = epoll_event { events: kick, u64: entered.data };
                real::epoll_ctl(set.fd.load(Ordering::Acquire), libc::EPOLL_CTL_MOD, fd, &mut event);
            } else {
                real::epoll_ctl(set.fd.load(Ordering::Acquire), libc::EPOLL_CTL_DEL, fd, &mut event);
            }
        }
        if let Some(wake) = inner.wake {
            watch(conn, wake);
        }
        let place = inner.adopted.len();
        inner.place.insert(fd, place);
        inner.adopted.push(Adopted {
            fd,
            conn: Conn { fd, ..*conn },
            events: entered.events,
            data: entered.data,
            hint: true,
            hot: true,
            spent: false,
            seen_produced: 0,
            seen_consumed: 0,
            seen_delivered: 0,
            seen_no_space: conn.slot.no_space.load(Ordering::Acquire),
            edge_due: false,
            behind: false,
            seen_turns: 0,
            mark: 0,
            told: 0,
            kicked: kicks,
        });
    }
}

/// Wakes whoever sleeps on the sets that watch the connection: they look anew. Takes no set's lock.
pub fn rouse(slot: SlotRef) {
    slot.sets().filter_map(at).for_each(Set::rouse);
}

/// The set's wake is named as the one to wake when the ring has bytes, unless a thread that sleeps comes first. Where
/// several sets watch one connection none of them stays named: each names itself as a thread does, while it sleeps.
fn watch(conn: &Conn, wake: Wake) {
    conn.pair.introduce(wake.id, wake.bind, wake.fd);
    let alone = !conn.slot.has(flag::REGISTERED_TWICE);
    if let Ok(mut side) = conn.slot.recv_side() {
        side.sleepers.watch(None);
        if alone {
            side.sleepers.watch(Some(wake.id));
        }
        side.sleepers.name(&conn.inward, Word::RSleep);
    }
}

fn unwatch(conn: &Conn) {
    if !conn.slot.current() {
        return;
    }
    if let Ok(mut side) = conn.slot.recv_side() {
        side.sleepers.watch(None);
        side.sleepers.name(&conn.inward, Word::RSleep);
    }
    watch_room(conn, None);
}

/// As [`watch`], for room to write.
pub fn watch_room(conn: &Conn, wake: Option<Wake>) {
    if let Ok(mut side) = conn.slot.send_side() {
        side.sleepers.watch(None);
        side.sleepers.watch(wake.filter(|_| !conn.slot.has(flag::REGISTERED_TWICE)).map(|wake| wake.id));
        side.sleepers.name(&conn.out, Word::WSleep);
    }
}

/// The socket's last descriptor in this process is about to be closed.
pub fn forget(slot: SlotRef) {
    for (number, set) in slot.sets().filter_map(|number| Some((number, at(number)?))) {
        let Some(mut inner) = set.lock() else { continue };
        let known = if slot.has(flag::REGISTERED_TWICE) { inner.descriptors_of(slot) } else { vec![slot.registered()] };
        for fd in known {
            if inner.native.get(&fd).is_some_and(|entry| entry.slot == slot) {
                inner.native.remove(&fd);
            }
            if let Some(&place) = inner.place.get(&fd)
                && inner.adopted.get(place).is_some_and(|entry| entry.conn.slot == slot)
            {
                set.remove(&mut inner, place);
            }
        }
        slot.leave_set(number);
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
            in_kernel: AtomicU32::new(0),
            adopted: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    /// `None` in a signal handler that interrupted this thread's own use of the set.
    pub fn lock(&self) -> Option<Guard<'_>> {
        Some(Guard { _held: self.lock.lock().ok()?, set: self })
    }

    /// Wakes one thread that waits on the set, if one sleeps.
    pub fn rouse(&self) {
        if let id @ 1.. = self.wake_id.load(Ordering::Acquire) {
            wake::rouse(id - 1);
        }
    }

    /// The outer epoll and its wake, made now if need be.
    pub fn prepare(&self) -> bool {
        if self.outer.load(Ordering::Acquire) >= 0 {
            return true;
        }
        let Some(mut inner) = self.lock() else { return false };
        self.prepare_locked(&mut inner)
    }

    fn prepare_locked(&self, inner: &mut Guard<'_>) -> bool {
        if self.outer.load(Ordering::Acquire) >= 0 {
            return true;
        }
        if self.descriptors.load(Ordering::Acquire) == 0 {
            return false;
        }
        let (Some(wake), Some(wake0)) = (inner.wake.or_else(Wake::take), wake::wake0()) else { return false };
        inner.wake = Some(wake);
        let Some(outer) = self.make_outer(wake, wake0) else {
            self.native.store(true, Ordering::Release);
            return false;
        };
        for entry in &inner.adopted {
            let mut event = epoll_event { events: ANCHOR_EVENTS, u64: entry.fd as u64 };
            // SAFETY: as in `adopt`.
            unsafe { real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, entry.fd, &mut event) };
            watch(&entry.conn, wake);
        }
        self.wake_id.store(wake.id + 1, Ordering::Release);
        self.outer.store(outer, Ordering::Release);
        true
    }

    fn make_outer(&self, wake: Wake, wake0: RawFd) -> Option<RawFd> {
        if debug::fault(Fault::Epoll) {
            return None;
        }
        // SAFETY: a new descriptor of ours.
        let outer = hidden::with_room(|_| unsafe { real::epoll_create1(libc::EPOLL_CLOEXEC) });
        if outer < 0 {
            return None;
        }
        let outer = hidden::hide(outer)?;
        let edge = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let entries = [(self.fd.load(Ordering::Acquire), TAG_SET), (wake.fd, TAG_WAKE), (wake0, TAG_WAKE0)];
        for (fd, tag) in entries {
            let mut event = epoll_event { events: edge, u64: tag };
            // SAFETY: descriptors of the application and of ours. ELOOP (a set that holds others, four deep) ends it.
            if unsafe { real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event) } < 0 {
                crate::log::info(format_args!("no outer epoll for set {fd}: errno {}", sys::errno()));
                hidden::close(outer);
                return None;
            }
        }
        Some(outer)
    }

    fn control_adopted(
        &self,
        inner: &mut Guard<'_>,
        number: u32,
        op: c_int,
        fd: RawFd,
        given: Option<(u32, u64)>,
    ) -> Outcome<c_int> {
        let Some(&place) = inner.place.get(&fd) else { return Outcome::Bypass };
        match (op, given) {
            (libc::EPOLL_CTL_ADD, _) => Outcome::Fail(libc::EEXIST),
            (libc::EPOLL_CTL_DEL, _) => {
                let slot = inner.adopted.get(place).map(|entry| entry.conn.slot);
                self.remove(inner, place);
                if let Some(slot) = slot.filter(|&slot| !inner.holds(slot)) {
                    slot.leave_set(number);
                }
                Outcome::Done(0)
            }
            (libc::EPOLL_CTL_MOD, Some((events, _))) if events & libc::EPOLLEXCLUSIVE as u32 != 0 => {
                Outcome::Fail(libc::EINVAL)
            }
            (libc::EPOLL_CTL_MOD, Some((events, data))) => {
                if let Some(entry) = inner.adopted.get_mut(place) {
                    if entry.events & libc::EPOLLEXCLUSIVE as u32 != 0 {
                        return Outcome::Fail(libc::EINVAL);
                    }
                    (entry.events, entry.data) = (events, data);
                    (entry.hint, entry.hot, entry.spent) = (true, true, false);
                }
                self.rouse();
                Outcome::Done(0)
            }
            (libc::EPOLL_CTL_MOD, None) => Outcome::Fail(libc::EFAULT),
            _ => Outcome::Fail(libc::EINVAL),
        }
    }

    /// Drops an adopted entry.
    pub fn remove(&self, inner: &mut Inner, place: usize) {
        if place >= inner.adopted.len() {
            return;
        }
        let entry = inner.adopted.swap_remove(place);
        inner.place.remove(&entry.fd);
        if let Some(moved) = inner.adopted.get(place).map(|moved| moved.fd) {
            inner.place.insert(moved, place);
        }
        let mut event = epoll_event { events: 0, u64: 0 };
        // SAFETY: at worst the number is registered no longer, which is an errno.
        unsafe {
            real::epoll_ctl(self.outer.load(Ordering::Acquire), libc::EPOLL_CTL_DEL, entry.fd, &mut event);
            if entry.kicked {
                real::epoll_ctl(self.fd.load(Ordering::Acquire), libc::EPOLL_CTL_DEL, entry.fd, &mut event);
            }
        }
        // Others may watch it still, by the number that stands for all.
        if !entry.conn.slot.has(flag::REGISTERED_TWICE) {
            unwatch(&entry.conn);
        }
        self.adopted.fetch_sub(1, Ordering::SeqCst);
    }

    /// The kernel carries both directions again: back into its set, as it was.
    pub fn give_back(&self, inner: &mut Inner, place: usize) {
        let Some(entry) = inner.adopted.get(place) else { return };
        let (fd, slot, events, data, spent) = (entry.fd, entry.conn.slot, entry.events, entry.data, entry.spent);
        self.remove(inner, place);
        let mut event = epoll_event { events: if spent { events & 0xffff_0000 } else { events }, u64: data };
        // SAFETY: the application's descriptors, an event on this frame.
        unsafe { real::epoll_ctl(self.fd.load(Ordering::Acquire), libc::EPOLL_CTL_ADD, fd, &mut event) };
        inner.native.insert(fd, Entered { slot, events, data });
    }

    /// Takes the kicks (see `adopt_one`) out of what the kernel's own wait returned; how many events remain.
    pub fn without_kicks(&self, events: &mut [epoll_event]) -> usize {
        let Some(inner) = self.lock() else { return events.len() };
        let is_kick = |event: &epoll_event| {
            let (mask, data) = (event.events, event.u64);
            mask == libc::EPOLLOUT as u32
                && inner.adopted.iter().any(|entry| entry.kicked && entry.data == data && entry.events & mask == 0)
        };
        let mut kept = 0;
        for at in 0..events.len() {
            if events.get(at).is_some_and(|event| !is_kick(event)) {
                events.swap(kept, at);
                kept += 1;
            }
        }
        kept
    }

    pub fn hint(&self, inner: &mut Inner, fd: RawFd) {
        if let Some(&place) = inner.place.get(&fd)
            && let Some(entry) = inner.adopted.get_mut(place)
        {
            entry.hint = true;
        }
    }
}

/// Held over fork(), so that the child's copies are whole: no thread is in the middle of changing one.
pub fn before_fork() -> Vec<Guard<'static>> {
    all().filter_map(Set::lock).collect()
}

/// The outer epolls and wakes are the parent's: the child makes its own at its first wait.
pub fn after_fork_in_child() {
    for set in all() {
        set.lock.reset();
        set.in_kernel.store(0, Ordering::Relaxed);
        set.sleepers.store(0, Ordering::Relaxed);
        set.wake_id.store(0, Ordering::Relaxed);
        if let Some(mut inner) = set.lock() {
            inner.wake = None;
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
