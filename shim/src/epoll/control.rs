//! How entries come, change and go: epoll_ctl, and the close of a registered socket.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::{c_int, epoll_event};
use tandem_protocol::Reason;

use super::adopt::adopt;
use super::common;
use super::nested;
use super::set::{self, Entered, Guard, Set, at};
use crate::fd_table;
use crate::outcome::Outcome;
use crate::real;
use crate::slot::{self, SlotRef, Stage};
use crate::switch::{self, Conn, ready};

/// epoll_ctl. `event` is null for EPOLL_CTL_DEL at most.
///
/// # Safety
/// `event` is as epoll_ctl(2) has it.
pub unsafe fn control(epfd: RawFd, op: c_int, fd: RawFd, event: *mut epoll_event) -> Outcome<c_int> {
    if let Some(inner) = fd_table::epoll(fd) {
        // SAFETY: by the caller.
        return unsafe { nested::control(epfd, op, (fd, inner), event) };
    }
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    // One that is not connected yet is settled in the table, and may be carried later: programs register, then connect.
    if slot.stage() == Stage::Settled {
        if let (Some(set), true) = (set::of(epfd), op == libc::EPOLL_CTL_DEL)
            && let Some(mut inner) = set.lock()
        {
            inner.native.remove(&fd);
        }
        return Outcome::Bypass;
    }
    let Some((number, set)) = fd_table::epoll(epfd).and_then(|n| Some((n, at(n)?))) else {
        // A set that came from elsewhere: what waits on it cannot be told of the ring.
        if op == libc::EPOLL_CTL_ADD {
            switch::leave(slot, fd, Reason::EpollUnseen);
        }
        return Outcome::Bypass;
    };
    common::enter(set);
    if op == libc::EPOLL_CTL_ADD {
        common::may_be_alone(set);
    }
    let Some(mut inner) = set.lock() else { return Outcome::Fail(libc::EAGAIN) };
    // SAFETY: by the caller.
    let given = unsafe { event.as_ref() }.map(|e| (e.events, e.u64));
    if !inner.place.contains_key(&fd) {
        set.name_again(&mut inner, fd, slot);
    }
    if inner.place.contains_key(&fd) {
        return set.control_adopted(&mut inner, number, op, fd, given);
    }
    if op == libc::EPOLL_CTL_ADD
        && let Some(given) = given
        && set.come_back(&mut inner, number, slot, fd, given)
    {
        return Outcome::Done(0);
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
            inner.release_and_fence();
            entered(set, slot, fd);
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

/// An entry has been made, and a full fence stands behind it: the connection may be carried by now.
pub fn entered(set: &Set, slot: SlotRef, fd: RawFd) {
    if ready::switched(slot)
        && let Some(conn) = Conn::of(slot, fd)
    {
        adopt(&conn);
        if set.native.load(Ordering::Acquire) || set.joined.load(Ordering::Acquire) {
            nested::rouse_holders();
            switch::leave(slot, fd, Reason::EpollUnseen);
        }
    }
}

/// One of the socket's numbers is about to be closed, `other` stays. An entry made by it reports on (epoll(7), question 6), and
/// can be named no more: the kernel's own stays what it is, and the connection stays the kernel's.
pub fn number_closes(slot: SlotRef, fd: RawFd, other: RawFd) {
    for set in slot.sets().filter_map(at) {
        let Some(mut inner) = set.lock() else { continue };
        set.show_by(&mut inner, fd, other);
        if inner.native.get(&fd).is_some_and(|entry| entry.slot == slot) {
            inner.native.remove(&fd);
            switch::give_up(slot, Reason::EpollUnseen);
        } else if inner.entry(fd).is_some_and(|entry| entry.conn.slot == slot) {
            set.unname(&mut inner, fd, other);
        }
    }
}

/// The socket's last descriptor in this process is about to be closed. While another has it open, the sets that this one uses tell of it
/// on: the kernel does, from here on.
pub fn forget(slot: SlotRef) {
    let mut goes_on = false;
    for (number, set) in slot.sets().filter_map(|number| Some((number, at(number)?))) {
        let lasts = !set.inherited.load(Ordering::Acquire) && !slot.ends_here();
        let Some(mut inner) = set.lock() else { continue };
        for fd in inner.descriptors_of(slot) {
            if inner.native.get(&fd).is_some_and(|entry| entry.slot == slot) {
                inner.native.remove(&fd);
                goes_on |= lasts;
            }
            if let Some(&place) = inner.place.get(&fd)
                && inner.adopted.get(place).is_some_and(|entry| entry.conn.slot == slot)
            {
                goes_on |= lasts;
                if lasts {
                    set.give_back(&mut inner, place);
                    inner.native.remove(&fd);
                } else {
                    set.remove(&mut inner, place);
                }
            }
        }
        slot.leave_set(number);
    }
    if goes_on {
        switch::leave(slot, slot.descriptor(), Reason::EpollUnseen);
    }
}

impl Set {
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
                self.take_out(inner, place);
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
                    (entry.hint, entry.hot, entry.spent, entry.edge_due) = (true, true, false, true);
                    common::publish(self, entry);
                    common::kick(self, entry);
                }
                inner.make_due(fd);
                self.rouse();
                Outcome::Done(0)
            }
            (libc::EPOLL_CTL_MOD, None) => Outcome::Fail(libc::EFAULT),
            _ => Outcome::Fail(libc::EINVAL),
        }
    }
}
