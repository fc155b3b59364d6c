//! epoll_ctl and epoll_wait as long as no connection of the set is carried: what brief connections make most calls of. The kernel's answer is the
//! whole answer then, and all that is left to do is to note what stands in its set.
//!
//! This runs in front of the hook's guard against panics: nothing here may panic, or allocate. `None`: nothing has happened, and the whole
//! way (`control`, `wait`) finds everything as it was.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::{c_int, epoll_event, sigset_t};
use tandem_protocol::Reason;

use super::control::entered;
use super::set::{self, Entered, Set, at};
use super::wait::{self, Limit};
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::{self, ready};
use crate::{fd_table, meet, outcome, real};

/// # Safety
/// The arguments of epoll_ctl(2).
#[inline(always)]
pub unsafe fn control(epfd: RawFd, op: c_int, fd: RawFd, event: *mut epoll_event) -> Option<c_int> {
    let slot = slot::of(fd)?;
    let number = fd_table::epoll(epfd)?;
    if !slot.is_before(Stage::Attached) || slot.has(flag::REGISTERED_TWICE) {
        return None;
    }
    let set = at(number)?;
    let mut inner = set.try_lock()?;
    // Entries are adopted under this lock, and a fork that shares the set takes it: none is, none has been, and none will be before it is
    // given back.
    if set.adopted.load(Ordering::Acquire) != 0 || set.common.load(Ordering::Acquire) != 0 || !inner.ghosts.is_empty() {
        return None;
    }
    // SAFETY: by the caller.
    let given = unsafe { event.as_ref() }.map(|event| (event.events, event.u64));
    // SAFETY: the application's own call.
    let call = || unsafe { real::epoll_ctl(epfd, op, fd, event) };
    match (op, given) {
        (libc::EPOLL_CTL_MOD, Some((events, data))) => {
            let result = call();
            if result == 0
                && let Some(entry) = inner.native.get_mut(&fd)
            {
                (entry.events, entry.data) = (events, data);
            }
            Some(result)
        }
        // There is room for it already.
        (libc::EPOLL_CTL_ADD, Some((events, data))) if inner.native.len() < inner.native.capacity() => {
            let result = call();
            if result == 0 {
                let has_room = slot.enter_set(number, fd);
                inner.native.insert(fd, Entered { slot, events, data });
                // Who adopts has stored the phase before it looks for sets: see `Hold::covers`.
                inner.release_and_fence();
                if !has_room || ready::switched(slot) {
                    is_more(set, slot, fd, has_room);
                }
            }
            Some(result)
        }
        (libc::EPOLL_CTL_DEL, _) => {
            let result = call();
            if result == 0 {
                inner.native.remove(&fd);
                slot.leave_set(number);
            }
            Some(result)
        }
        _ => None,
    }
}

#[cold]
#[inline(never)]
fn is_more(set: &Set, slot: SlotRef, fd: RawFd, has_room: bool) {
    outcome::note("epoll_ctl", || {
        if !has_room {
            switch::leave(slot, fd, Reason::RegisteredTwice);
        }
        entered(set, slot, fd);
    });
}

/// The last descriptor of a connection that nothing carries is about to be closed. False: it is in more sets than one, or the set is in use.
#[inline(always)]
pub fn forget(slot: SlotRef) -> bool {
    let Some(number) = slot.own().only_set() else { return false };
    let Some(set) = at(number) else { return false };
    let Some(mut inner) = set.try_lock() else { return false };
    let shared = set.common.load(Ordering::Acquire) != 0;
    if shared || set.adopted.load(Ordering::Acquire) != 0 || slot.has(flag::REGISTERED_TWICE) {
        return false;
    }
    let fd = slot.registered();
    if inner.native.get(&fd).is_some_and(|entry| entry.slot == slot) {
        inner.native.remove(&fd);
    }
    slot.leave_set(number);
    true
}

/// # Safety
/// The arguments of epoll_wait(2), or of its kin, whose `call` it is.
#[inline(always)]
pub unsafe fn wait(
    epfd: RawFd,
    events: *mut epoll_event,
    max: c_int,
    limit: Limit,
    mask: *const sigset_t,
    call: impl FnOnce() -> c_int,
) -> Option<c_int> {
    let set = set::of(epfd)?;
    let linked = set.nests.load(Ordering::Relaxed) | set.common.load(Ordering::Acquire);
    if meet::has_business() || max <= 0 || events.is_null() || linked != 0 {
        return None;
    }
    set.in_kernel.fetch_add(1, Ordering::SeqCst);
    if set.adopted.load(Ordering::SeqCst) != 0 {
        set.in_kernel.fetch_sub(1, Ordering::SeqCst);
        return None;
    }
    let until = limit.end();
    let n = call();
    set.in_kernel.fetch_sub(1, Ordering::SeqCst);
    let kicked = set.kicks.load(Ordering::Acquire) | set.nests.load(Ordering::Acquire);
    if n > 0 && kicked | set.common.load(Ordering::Acquire) != 0 {
        // SAFETY: by the caller.
        return Some(unsafe { perhaps_kicked(epfd, events, max, (limit, until), mask, n) });
    }
    Some(n)
}

/// Some of it may be no event of the application's: then the wait goes on.
///
/// # Safety
/// As [`wait()`].
#[cold]
#[inline(never)]
unsafe fn perhaps_kicked(
    epfd: RawFd,
    events: *mut epoll_event,
    max: c_int,
    limit: (Limit, Option<u64>),
    mask: *const sigset_t,
    n: c_int,
) -> c_int {
    // SAFETY: by the caller.
    let handler = || unsafe { wait::from_kernel(epfd, events, max, limit, mask, n) };
    outcome::settle("epoll_wait", handler).unwrap_or(n)
}
