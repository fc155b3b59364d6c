//! Epoll sets inside epoll sets.
//!
//! A set that is held by another stays the kernel's: its connections go back to TCP, and none is adopted any more. Until
//! the last has gone back (that takes their peers' next calls) a wait on the holding set asks the held one's adopted entries
//! too, and sleeps on its outer epoll as well.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use libc::{c_int, epoll_event};
use tandem_protocol::Reason;

use super::outer::TAG_NEST;
use super::set::{self, Inner, Set, all, at};
use super::wait;
use crate::outcome::Outcome;
use crate::stream::{Port, Word};
use crate::{real, switch};

const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;

/// A set among another's entries.
#[derive(Clone, Copy)]
pub struct Nested {
    fd: RawFd,
    index: u32,
    events: u32,
    data: u64,
    /// How far the set's connections had come when it was last reported.
    mark: Option<u64>,
    /// EPOLLONESHOT has fired.
    spent: bool,
}

/// epoll_ctl of a set, `inner` being its descriptor and number.
///
/// # Safety
/// `event` is as epoll_ctl(2) has it.
pub unsafe fn control(epfd: RawFd, op: c_int, inner: (RawFd, u32), event: *mut epoll_event) -> Outcome<c_int> {
    let (fd, index) = inner;
    if op == libc::EPOLL_CTL_ADD
        && let Some(held) = at(index)
    {
        for conn in held.stay_native() {
            switch::leave(conn.slot, conn.fd, Reason::EpollUnseen);
        }
    }
    // SAFETY: the application's own call.
    let result = unsafe { real::epoll_ctl(epfd, op, fd, event) };
    // SAFETY: by the caller.
    let given = unsafe { event.as_ref() }.map(|event| (event.events, event.u64));
    if result == 0
        && let Some(set) = set::of(epfd)
    {
        set.note_nested(op, inner, given);
    }
    Outcome::of(result)
}

/// The last descriptor of a set is closed: the kernel has taken it out of all others.
pub fn ended(index: u32) {
    for set in all().filter(|set| set.nests.load(Ordering::Acquire) > 0) {
        if let Some(mut inner) = set.lock() {
            inner.nested.retain(|nested| nested.index != index);
            set.count_nested(&inner);
        }
    }
}

/// The sets among a set's entries.
fn children(set: &Set) -> Vec<&'static Set> {
    if set.nests.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    set.lock().map_or(Vec::new(), |inner| inner.nested.iter().filter_map(|nested| at(nested.index)).collect())
}

/// Those among them and among theirs, to the last, that have adopted entries: a wait on the set has to ask them.
pub fn below(set: &Set) -> Vec<&'static Set> {
    let mut found = Vec::new();
    for child in children(set) {
        if child.adopted.load(Ordering::SeqCst) != 0 {
            found.push(child);
        }
        found.extend(below(child));
    }
    found
}

pub fn adopted_below(set: &Set) -> bool {
    set.nests.load(Ordering::SeqCst) > 0 && !below(set).is_empty()
}

fn concerns(set: &Set) -> bool {
    set.adopted.load(Ordering::SeqCst) != 0 || adopted_below(set)
}

/// Somebody sleeps in the kernel on a set that holds others.
pub fn waited_on() -> bool {
    all().any(|set| set.nests.load(Ordering::SeqCst) > 0 && set.in_kernel.load(Ordering::SeqCst) > 0)
}

/// A held set has entries that it had not: who sleeps on sets that hold others looks at them anew.
pub fn rouse_holders() {
    all().filter(|set| set.nests.load(Ordering::SeqCst) > 0).for_each(Set::rouse);
}

/// The outer epoll watches those of the sets below. False: it cannot, and looks are needed.
pub fn link(set: &Set) -> bool {
    below(set).into_iter().all(|child| {
        let mut event = epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: TAG_NEST };
        let (own, theirs) = (set.outer.load(Ordering::Acquire), child.outer.load(Ordering::Acquire));
        // SAFETY: descriptors of ours, an event on this frame.
        let rc = unsafe { real::epoll_ctl(own, libc::EPOLL_CTL_ADD, theirs, &mut event) };
        rc == 0 || crate::sys::errno() == libc::EEXIST
    })
}

/// Entries of the sets below that the kernel carries again go back to it, before it is asked.
pub fn settle(set: &Set) {
    for held in below(set) {
        if held.lock().is_some_and(|mut inner| held.settle(&mut inner)) {
            set.kernel_due.store(true, Ordering::SeqCst);
        }
    }
}

/// Adds what the kernel cannot know of the sets below to what it has told; `found` entries of `out` are filled.
pub fn collect(set: &Set, out: &mut [epoll_event], mut found: usize) -> usize {
    if !adopted_below(set) {
        return found;
    }
    let Some(entries) = set.lock().map(|inner| inner.nested.clone()) else { return found };
    for entry in entries {
        let Some(held) = at(entry.index).filter(|held| concerns(held)) else { continue };
        let told = out.iter().take(found).any(|event| { event.u64 } == entry.data);
        let mark = mark(held);
        let news = entry.events & EDGE == 0 || entry.mark != Some(mark);
        let reports = !told && !entry.spent && entry.events & READABLE != 0 && news && wait::to_report(held);
        if reports {
            let Some(place) = out.get_mut(found) else { break };
            *place = epoll_event { events: entry.events & READABLE, u64: entry.data };
            found += 1;
        }
        if told || reports {
            set.reported(&entry, mark);
        }
    }
    found
}

/// Moves with whatever comes to the set's connections.
fn mark(set: &Set) -> u64 {
    let own = set.lock().map_or(0, |inner| {
        let arrivals = inner.adopted.iter().map(|entry| {
            let slot = entry.conn.slot;
            let state = slot.anchor.load(Ordering::Acquire) ^ slot.turns.load(Ordering::Acquire);
            entry.conn.inward.load(Word::Produced).wrapping_add(u64::from(state))
        });
        arrivals.fold(0, u64::wrapping_add)
    });
    children(set).into_iter().map(mark).fold(own, u64::wrapping_add)
}

impl Set {
    fn note_nested(&self, op: c_int, (fd, index): (RawFd, u32), given: Option<(u32, u64)>) {
        let Some(mut inner) = self.lock() else { return };
        inner.nested.retain(|nested| nested.fd != fd);
        if let (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, Some((events, data))) = (op, given) {
            inner.nested.push(Nested { fd, index, events, data, mark: None, spent: false });
        }
        self.count_nested(&inner);
        drop(inner);
        fence(Ordering::SeqCst);
        // Who sleeps in the kernel on this set, or on one that holds it, has not asked.
        if let (Some(held), true) = (at(index), op == libc::EPOLL_CTL_ADD && waited_on()) {
            kick(held);
        }
        rouse_holders();
    }

    fn count_nested(&self, inner: &Inner) {
        self.nests.store(inner.nested.len() as u32, Ordering::SeqCst);
    }

    fn reported(&self, told: &Nested, mark: u64) {
        let Some(mut inner) = self.lock() else { return };
        let same = |nested: &&mut Nested| nested.fd == told.fd && nested.index == told.index;
        let Some(entry) = inner.nested.iter_mut().find(same) else { return };
        entry.mark = Some(mark);
        if entry.events & ONE_SHOT != 0 {
            entry.spent = true;
            let mut event = epoll_event { events: entry.events & !0xffff, u64: entry.data };
            // SAFETY: the application's descriptors, an event on this frame.
            unsafe { real::epoll_ctl(self.fd.load(Ordering::Acquire), libc::EPOLL_CTL_MOD, entry.fd, &mut event) };
        }
    }
}

/// Takes out what the kernel told only because of a kick; how many events remain.
pub fn without_kicks(set: &Set, events: &mut [epoll_event]) -> usize {
    let kicked = |set: &Set| set.kicks.load(Ordering::Acquire) > 0;
    if set.nests.load(Ordering::Acquire) == 0 || waited_on() || !below(set).iter().any(|held| kicked(held)) {
        return events.len();
    }
    for held in below(set).iter().filter(|held| kicked(held)) {
        if let Some(mut inner) = held.lock() {
            held.unkick(&mut inner);
        }
    }
    let Some(entries) = set.lock().map(|inner| inner.nested.clone()) else { return events.len() };
    let mut kept = 0;
    for place in 0..events.len() {
        let Some(data) = events.get(place).map(|event| event.u64) else { break };
        let of_a_set = entries.iter().find(|entry| entry.data == data);
        if of_a_set.is_none_or(|entry| readable_in_kernel(entry.fd)) {
            events.swap(kept, place);
            kept += 1;
        }
    }
    kept
}

fn readable_in_kernel(fd: RawFd) -> bool {
    let mut look = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { real::poll(&mut look, 1, 0) > 0 }
}

fn kick(set: &Set) {
    if let Some(mut inner) = set.lock() {
        set.kick(&mut inner);
    }
    children(set).into_iter().for_each(kick);
}
