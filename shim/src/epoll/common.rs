//! Sets that more than one process uses.
//!
//! A forked child shares the kernel's set and has a copy of what was adopted from it: as long as it leaves the set alone, that is all. So
//! from the first fork on what a process has adopted stands in shared memory too, as [`Registered`]. A child that uses the
//! set for the first time, while another that has used it lives, *joins*: both see each other's entries from then on, none is adopted to
//! stay, and the connections go back to TCP, where the kernel alone tells all who ask. Of those whose peers have not answered yet
//! each of them tells what the other has not told.
//!
//! Locks: those here are taken last, one at a time.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use libc::epoll_event;
use tandem_protocol::Reason;

use super::adopt::{Adopted, adopt};
use super::armed;
use super::outer::add_anchor;
use super::set::{Guard, Set, all};
use crate::family::{self, SLOTS};
use crate::fd_table;
use crate::lock::Lock;
use crate::slot::{self, SlotRef, flag};
use crate::switch::{self, Conn, ready};
use crate::{real, sys};

/// Sets at one time that were there at a fork. Of more than these each process has its own view.
const PLACES: usize = 256;
const USERS: usize = 8;

/// In the memory that forked processes share. All-zero is the initial state.
#[repr(C)]
pub struct Common {
    claiming: Lock,
    places: [Place; PLACES],
    registered: [Registered; SLOTS],
}

/// What is known of one set.
#[repr(C)]
struct Place {
    lock: Lock,
    /// The set's number, never used again; its remainder is the place's.
    id: AtomicU32,
    /// Two live processes use it, or did.
    joined: AtomicU32,
    /// Counts what was changed since.
    changes: AtomicU32,
    users: [AtomicU32; USERS],
}

/// A connection's adopted entries; what it is registered by beside these is each process's own.
#[repr(C)]
struct Registered {
    lock: Lock,
    entries: [Registration; 2],
}

#[repr(C)]
struct Registration {
    /// 0: there is none.
    set: AtomicU32,
    generation: AtomicU32,
    fd: AtomicI32,
    events: AtomicU32,
    bits: AtomicU32,
    told: AtomicU32,
    heard: AtomicU32,
    no_space: AtomicU32,
    data: AtomicU64,
    mark: AtomicU64,
}

const HOT: u32 = 1;
const EDGE_DUE: u32 = 2;
const STIRRED: u32 = 4;
const SPENT: u32 = 8;
/// The kernel's set has an event of ours that wakes who sleeps there, or had; it has not been seen yet.
const KICKED: u32 = 16;
const KICK_DUE: u32 = 32;

/// What that is: TCP has it wherever it has EPOLLOUT, and programs ask for that.
const KICK: u32 = libc::EPOLLWRNORM as u32;

fn common() -> Option<&'static Common> {
    family::existing().map(|family| &family.shared.common)
}

/// While it is this set's.
fn place(id: u32) -> Option<&'static Place> {
    let place = common()?.places.get(id as usize % PLACES)?;
    (place.id.load(Ordering::Acquire) == id).then_some(place)
}

fn registered(slot: SlotRef) -> Option<&'static Registered> {
    common()?.registered.get(slot.index as usize)
}

/// A process is about to be forked, which will have the set too.
pub fn before_fork(set: &Set, inner: &mut Guard<'_>) {
    let used = set.descriptors.load(Ordering::Acquire) > 0 && !set.inherited.load(Ordering::Relaxed);
    if !used || set.common.load(Ordering::Relaxed) != 0 {
        return;
    }
    set.common.store(claim(sys::pid()).unwrap_or(0), Ordering::Release);
    inner.adopted.iter_mut().for_each(|entry| publish(set, entry));
}

pub fn after_fork_in_child(set: &Set) {
    set.joined.store(false, Ordering::Relaxed);
    set.inherited.store(set.common.load(Ordering::Relaxed) != 0, Ordering::Relaxed);
}

fn claim(pid: u32) -> Option<u32> {
    let common = common()?;
    let _held = common.claiming.lock().ok()?;
    let (at, place) = common.places.iter().enumerate().find(|(_, place)| !place.has_others(0))?;
    let last = place.id.load(Ordering::Relaxed);
    let id = if last == 0 { at as u32 } else { last }.checked_add(PLACES as u32)?;
    place.id.store(id, Ordering::SeqCst);
    place.joined.store(0, Ordering::Relaxed);
    place.users.iter().for_each(|user| user.store(0, Ordering::Relaxed));
    place.users.first()?.store(pid, Ordering::Release);
    Some(id)
}

impl Place {
    fn sign_in(&self, pid: u32) {
        let free = |user: &&AtomicU32| {
            let known = user.load(Ordering::Acquire);
            known == pid || known == 0 || !sys::process_alive(known)
        };
        // More are not counted: those who are speak for them.
        if let Some(user) = self.users.iter().find(free) {
            user.store(pid, Ordering::Release);
        }
    }

    fn sign_out(&self, pid: u32) {
        self.users.iter().filter(|user| user.load(Ordering::Acquire) == pid).for_each(|user| {
            user.store(0, Ordering::Release);
        });
    }

    fn has_others(&self, pid: u32) -> bool {
        let users = self.users.iter().map(|user| user.load(Ordering::Acquire));
        users.filter(|&user| user != 0 && user != pid).any(sys::process_alive)
    }
}

/// This process is about to use the set: what others have done with it is seen from here on.
#[inline]
pub fn enter(set: &Set) {
    if set.common.load(Ordering::Acquire) != 0 {
        meet_others(set);
    }
}

#[cold]
fn meet_others(set: &Set) {
    let Some(place) = place(set.common.load(Ordering::Acquire)) else {
        // Nobody else was left who used it.
        set.common.store(0, Ordering::Release);
        set.joined.store(false, Ordering::Release);
        return set.inherited.store(false, Ordering::Release);
    };
    let first = set.inherited.swap(false, Ordering::AcqRel);
    if first && let Ok(_held) = place.lock.lock() {
        let me = sys::pid();
        place.sign_in(me);
        if place.has_others(me) {
            place.joined.store(1, Ordering::SeqCst);
        }
    }
    let joined = place.joined.load(Ordering::SeqCst) != 0;
    let joins = set.joined.load(Ordering::Relaxed) != joined;
    if joins {
        set.joined.store(joined, Ordering::SeqCst);
    }
    if !joined && !first {
        return;
    }
    if first || set.seen_changes.load(Ordering::Relaxed) != place.changes.load(Ordering::SeqCst) {
        let Some(mut inner) = set.lock() else { return };
        set.sync(&mut inner, place);
        let conns: Vec<Conn> = inner.adopted.iter().map(|entry| entry.conn).collect();
        // Carried since the fork, while nobody here asked the set, which others may have taken them out of.
        let own = set.fd.load(Ordering::Acquire);
        let carried = inner.native.iter().filter(|&(&fd, entry)| {
            first && entry.slot.current() && ready::switched(entry.slot) && armed::is_there(own, fd)
        });
        let carried: Vec<Conn> = carried.filter_map(|(&fd, entry)| Conn::of(entry.slot, fd)).collect();
        drop(inner);
        carried.iter().for_each(adopt);
        // Between hosts the peer hears of it from the parent alone.
        let leaves = |conn: &&Conn| joined && (joins || !conn.slot.has(flag::LEAVING));
        for conn in conns.iter().chain(&carried).filter(leaves) {
            switch::leave(conn.slot, conn.slot.descriptor(), Reason::EpollUnseen);
        }
    }
    if joined
        && set.adopted.load(Ordering::Acquire) > 0
        && let Some(mut inner) = set.lock()
    {
        set.settle(&mut inner);
    }
}

/// A connection is about to be added: those who used the set too may have gone since.
pub fn may_be_alone(set: &Set) {
    if !set.joined.load(Ordering::Acquire) {
        return;
    }
    let Some(place) = place(set.common.load(Ordering::Acquire)) else { return };
    if let Ok(_held) = place.lock.lock()
        && !place.has_others(sys::pid())
    {
        place.joined.store(0, Ordering::SeqCst);
        set.joined.store(false, Ordering::SeqCst);
    }
}

/// This process uses the set no more, or another program takes its place: should that fail, the next use is a first one.
pub fn leave(set: &Set) {
    if let Some(place) = place(set.common.load(Ordering::Acquire))
        && !set.inherited.swap(true, Ordering::AcqRel)
    {
        place.sign_out(sys::pid());
    }
}

pub fn before_exec() {
    all().filter(|set| set.descriptors.load(Ordering::Acquire) > 0).for_each(leave);
}

/// What this process knows of an adopted entry others may know.
#[inline]
pub fn publish(set: &Set, entry: &mut Adopted) {
    if set.common.load(Ordering::Relaxed) != 0 && !set.inherited.load(Ordering::Relaxed) && entry.fd >= 0 {
        write(set, entry);
    }
}

#[cold]
fn write(set: &Set, entry: &mut Adopted) {
    let (id, slot) = (set.common.load(Ordering::Relaxed), entry.conn.slot);
    let (Some(registered), Some(whose)) = (registered(slot), place(id)) else { return };
    let Ok(_held) = registered.lock.lock() else { return };
    let known = registered.naming(id, entry);
    let Some(at) = known.or_else(|| registered.entries.iter().find(|at| at.is_free(slot))) else { return };
    let bits = [(entry.hot, HOT), (entry.edge_due, EDGE_DUE), (entry.stirred, STIRRED), (entry.spent, SPENT)];
    let kicks = if known.is_some() { at.bits.load(Ordering::Relaxed) & (KICKED | KICK_DUE) } else { 0 };
    let bits = bits.iter().filter(|(is, _)| *is).fold(kicks, |bits, (_, bit)| bits | bit);
    at.generation.store(slot.generation, Ordering::Relaxed);
    at.fd.store(entry.fd, Ordering::Relaxed);
    at.events.store(entry.events, Ordering::Relaxed);
    at.bits.store(bits, Ordering::Relaxed);
    at.told.store(entry.told, Ordering::Relaxed);
    at.heard.store(entry.heard, Ordering::Relaxed);
    at.no_space.store(entry.seen_no_space, Ordering::Relaxed);
    at.data.store(entry.data, Ordering::Relaxed);
    at.mark.store(entry.mark, Ordering::Relaxed);
    at.set.store(id, Ordering::Release);
    entry.published = true;
    whose.changes.fetch_add(1, Ordering::SeqCst);
}

/// An entry is taken out of the set, or goes back to the kernel. False: another process has done that. A child that leaves the set alone
/// does this with its copy.
pub fn withdraw(set: &Set, entry: &Adopted) -> bool {
    let id = set.common.load(Ordering::Relaxed);
    if !entry.published || id == 0 || set.inherited.load(Ordering::Relaxed) {
        return true;
    }
    let (Some(registered), Some(whose)) = (registered(entry.conn.slot), place(id)) else { return true };
    let Ok(_held) = registered.lock.lock() else { return true };
    let Some(at) = registered.naming(id, entry) else { return false };
    if at.bits.load(Ordering::Relaxed) & KICKED != 0 {
        set.put_kick(entry, libc::EPOLL_CTL_DEL);
    }
    at.set.store(0, Ordering::Release);
    whose.changes.fetch_add(1, Ordering::SeqCst);
    true
}

/// Before a look at an entry: what another process has told of it since. False: it has taken it out, or given it back to the kernel.
pub fn read(set: &Set, entry: &mut Adopted) -> bool {
    if !entry.published {
        return true;
    }
    let Some(registered) = registered(entry.conn.slot) else { return true };
    let Ok(_held) = registered.lock.lock() else { return true };
    let Some(at) = registered.naming(set.common.load(Ordering::Relaxed), entry) else { return false };
    let bits = at.bits.load(Ordering::Relaxed);
    entry.events = at.events.load(Ordering::Relaxed);
    entry.data = at.data.load(Ordering::Relaxed);
    (entry.hot, entry.edge_due) = (bits & HOT != 0, bits & EDGE_DUE != 0);
    (entry.stirred, entry.spent) = (bits & STIRRED != 0, bits & SPENT != 0);
    (entry.told, entry.heard) = (at.told.load(Ordering::Relaxed), at.heard.load(Ordering::Relaxed));
    entry.seen_no_space = at.no_space.load(Ordering::Relaxed);
    entry.mark = at.mark.load(Ordering::Relaxed);
    true
}

/// Wakes who sleeps on the set in another process, which looks at the entry then.
pub fn kick(set: &Set, entry: &Adopted) {
    let id = set.common.load(Ordering::Relaxed);
    if !set.joined.load(Ordering::Relaxed) || !entry.published {
        return;
    }
    let Some(registered) = registered(entry.conn.slot) else { return };
    let Ok(_held) = registered.lock.lock() else { return };
    let Some(at) = registered.naming(id, entry) else { return };
    let before = at.bits.fetch_or(KICKED | KICK_DUE, Ordering::SeqCst);
    set.put_kick(entry, if before & KICKED == 0 { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD });
}

/// Takes those kicks out of what the kernel's set returned; how many events remain.
pub fn without_kicks(set: &Set, events: &mut [epoll_event]) -> usize {
    let id = set.common.load(Ordering::Acquire);
    if id == 0 || place(id).is_none_or(|place| place.joined.load(Ordering::SeqCst) == 0) {
        return events.len();
    }
    let mut kept = 0;
    for at in 0..events.len() {
        let Some(&epoll_event { events: mask, u64: data }) = events.get(at) else { break };
        if mask & !super::adopt::BESIDE != KICK || !took_kick(id, data) {
            events.swap(kept, at);
            kept += 1;
        }
    }
    kept
}

/// By its data, for this process may not hold the connection.
fn took_kick(id: u32, data: u64) -> bool {
    let Some(common) = common() else { return false };
    common.registered.iter().take(slot::used() as usize).any(|registered| {
        let due = |at: &&Registration| {
            at.set.load(Ordering::Acquire) == id
                && at.data.load(Ordering::Relaxed) == data
                && at.bits.load(Ordering::Relaxed) & KICK_DUE != 0
        };
        registered.lock.lock().is_ok_and(|_held| {
            let kicked = registered.entries.iter().find(due);
            kicked.is_some_and(|at| at.bits.fetch_and(!KICK_DUE, Ordering::SeqCst) & KICK_DUE != 0)
        })
    })
}

impl Registered {
    fn naming(&self, id: u32, entry: &Adopted) -> Option<&Registration> {
        self.entries.iter().find(|at| at.is_of(id, entry.conn.slot) && at.fd.load(Ordering::Relaxed) == entry.fd)
    }
}

impl Registration {
    fn is_of(&self, id: u32, slot: SlotRef) -> bool {
        self.set.load(Ordering::Acquire) == id && self.generation.load(Ordering::Relaxed) == slot.generation
    }

    fn is_free(&self, slot: SlotRef) -> bool {
        let known = self.set.load(Ordering::Acquire);
        known == 0 || self.generation.load(Ordering::Relaxed) != slot.generation || place(known).is_none()
    }
}

impl Set {
    /// The entries here are made those that stand in shared memory, as far as this process holds the connections.
    fn sync(&self, inner: &mut Guard<'_>, place: &Place) {
        self.seen_changes.store(place.changes.load(Ordering::SeqCst), Ordering::Relaxed);
        let Some(number) = fd_table::epoll(self.fd.load(Ordering::Acquire)) else { return };
        for at in (0..inner.adopted.len()).rev() {
            let Some(entry) = inner.adopted.get_mut(at) else { continue };
            let (fd, slot, goes_on) = (entry.fd, entry.conn.slot, read(self, entry));
            if goes_on {
                self.look_at_each_time(inner, slot, fd);
                continue;
            }
            self.remove(inner, at);
            if !inner.holds(slot) {
                slot.leave_set(number);
            }
        }
        let id = self.common.load(Ordering::Relaxed);
        for slot in slot::mine() {
            let Some(registered) = registered(slot) else { return };
            for at in registered.entries.iter().filter(|at| at.is_of(id, slot)) {
                let fd = at.fd.load(Ordering::Relaxed);
                let new = fd_table::socket(fd) == Some(slot.index) && !inner.place.contains_key(&fd);
                if new && let Some(conn) = Conn::of(slot, fd) {
                    self.take_over(inner, number, &conn);
                }
            }
        }
    }

    /// What another process has registered.
    fn take_over(&self, inner: &mut Guard<'_>, number: u32, conn: &Conn) {
        if !self.prepare_locked(inner) || !conn.slot.enter_set(number, conn.fd) {
            return;
        }
        self.adopted.fetch_add(1, Ordering::SeqCst);
        inner.native.remove(&conn.fd);
        add_anchor(self.outer.load(Ordering::Acquire), conn.fd, conn.fd);
        self.enlist(inner, conn, conn.fd, (0, 0), false);
        if let Some(entry) = inner.entry(conn.fd) {
            entry.published = true;
            read(self, entry);
        }
        self.look_at_each_time(inner, conn.slot, conn.fd);
    }

    fn put_kick(&self, entry: &Adopted, op: libc::c_int) {
        let mut kick = epoll_event { events: KICK | libc::EPOLLONESHOT as u32, u64: entry.data };
        // SAFETY: the application's descriptors, an event on this frame.
        unsafe { real::epoll_ctl(self.fd.load(Ordering::Acquire), op, entry.fd, &mut kick) };
    }

    /// The peer's news of the connection may be taken by either process.
    fn look_at_each_time(&self, inner: &mut Guard<'_>, slot: SlotRef, fd: RawFd) {
        if self.joined.load(Ordering::Relaxed) {
            slot.raise(flag::REGISTERED_TWICE);
            inner.share(fd);
        }
        inner.make_due(fd);
    }
}
