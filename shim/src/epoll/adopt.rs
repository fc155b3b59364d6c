//! Adopting entries and giving them back: when it may be done, and what the kernel's set and the outer epoll hold meanwhile.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use libc::epoll_event;
use tandem_protocol::Reason;

use super::collect::may_go_back;
use super::common;
use super::outer::{add_anchor, add_provider};
use super::set::{Entered, Guard, Inner, Set, all, at};
use super::stir::{unwatch, watch};
use super::{armed, nested};
use crate::slot::{self, SlotRef, flag};
use crate::switch::{self, Conn, ready};
use crate::{hidden, real};

/// An entry that was taken out of the kernel's set.
#[derive(Clone, Copy)]
pub struct Adopted {
    /// What the entry is found by: the number that it was made by, or, when that is closed, one that is no descriptor's.
    pub fd: RawFd,
    /// By a number that shows the socket now.
    pub conn: Conn,
    pub made_by: RawFd,
    pub events: u32,
    pub data: u64,
    /// The kernel has news of the anchor.
    pub hint: bool,
    /// Was ready when last looked at, or was just set: look again.
    pub hot: bool,
    /// In the queue of those to be looked at.
    pub due: bool,
    /// Its connection is registered elsewhere too.
    pub shared: bool,
    /// EPOLLONESHOT has fired.
    pub spent: bool,
    pub seen_produced: u64,
    pub seen_consumed: u64,
    pub seen_delivered: u64,
    pub seen_no_space: u32,
    /// A send found no room, or the entry is new or set anew, and no edge was reported since.
    pub edge_due: bool,
    pub seen_turns: u32,
    /// There are bytes that cannot be read before others.
    pub behind: bool,
    /// Edge-triggered: how far the stream had come when it was last looked at, whether bytes have come since the last report, and which
    /// lasting events were told.
    pub mark: u64,
    pub stirred: bool,
    pub told: u32,
    /// Of those: the peer's end.
    pub heard: u32,
    /// Still in the kernel's set, for one event: it wakes whoever slept there.
    pub kicked: bool,
    /// That event has not been seen yet.
    pub kick_due: bool,
    /// It stands in memory that forked processes share: see `common`.
    pub published: bool,
}

/// What the kernel tells beside what was asked for.
pub const BESIDE: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// While it lives no thread enters the kernel's own wait on the set.
pub struct Hold {
    sets: [Option<&'static Set>; slot::MOST_SETS],
}

impl Hold {
    /// No other set has come to watch the slot since. Asked after the phase was stored: whoever enters a set looks at the
    /// phase afterwards.
    pub fn covers(&self, slot: SlotRef) -> bool {
        fence(Ordering::SeqCst);
        used_sets(slot).all(|set| self.sets.iter().flatten().any(|held| std::ptr::eq(*held, set)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        for set in self.sets.iter().flatten() {
            set.adopted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Without those of a parent's that this process leaves alone.
fn used_sets(slot: SlotRef) -> impl Iterator<Item = &'static Set> {
    slot.sets().filter_map(at).filter(|set| !set.inherited.load(Ordering::Acquire))
}

/// The slot's entries could be adopted now: nobody sleeps in the kernel on its sets, and each has an outer one. Taken
/// before any of the slot's locks. `None`: not now.
pub fn hold(slot: SlotRef) -> Option<Hold> {
    let mut hold = Hold { sets: [None; slot::MOST_SETS] };
    for (place, set) in hold.sets.iter_mut().zip(used_sets(slot)) {
        if set.descriptors.load(Ordering::Acquire) == 0 {
            continue;
        }
        if set.native.load(Ordering::Acquire) {
            return None;
        }
        if set.joined.load(Ordering::Acquire) {
            switch::give_up(slot, Reason::EpollUnseen);
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
    for set in used_sets(conn.slot) {
        let Some(mut inner) = set.lock() else { continue };
        for fd in inner.descriptors_of(conn.slot) {
            set.adopt_one(&mut inner, conn, fd);
        }
        set.rouse();
    }
}

impl Set {
    fn adopt_one(&self, inner: &mut Guard<'_>, conn: &Conn, fd: RawFd) {
        if let Some(entry) = inner.entry(fd) {
            entry.hint = true;
            if conn.slot.has(flag::REGISTERED_TWICE) {
                inner.share(fd);
            }
            if let Some(wake) = inner.wake {
                watch(conn, wake);
            }
            inner.make_due(fd);
            return;
        }
        let Some(entered) = inner.native.remove(&fd) else { return };
        self.adopted.fetch_add(1, Ordering::SeqCst);
        if !self.prepare_locked(inner) {
            crate::log::info(format_args!("slot {}: adopted without an outer epoll", conn.slot.index));
        }
        let outer = self.outer.load(Ordering::Acquire);
        // Threads asleep in the kernel's own wait see this entry no more: it wakes them once, as writable, which the wait
        // takes out of what it returns.
        let kicks =
            self.in_kernel.load(Ordering::SeqCst) > 0 || self.native.load(Ordering::Acquire) && nested::waited_on();
        self.kicks.fetch_add(u32::from(kicks), Ordering::AcqRel);
        add_anchor(outer, fd, fd);
        let fired =
            entered.events & libc::EPOLLONESHOT as u32 != 0 && armed::has_fired(self.fd.load(Ordering::Acquire), fd);
        self.set_kick(fd, entered.data, if kicks { libc::EPOLL_CTL_MOD } else { libc::EPOLL_CTL_DEL });
        self.enlist(inner, conn, fd, (entered.events, entered.data), kicks);
        if let Some(entry) = inner.adopted.last_mut() {
            entry.spent = fired;
            common::publish(self, entry);
            common::kick(self, entry);
        }
    }

    pub fn enlist(&self, inner: &mut Guard<'_>, conn: &Conn, fd: RawFd, given: (u32, u64), kicked: bool) {
        add_provider(self.outer.load(Ordering::Acquire), conn);
        if let Some(wake) = inner.wake {
            watch(conn, wake);
        }
        let place = inner.adopted.len();
        inner.place.insert(fd, place);
        inner.nameless += usize::from(fd < 0);
        inner.adopted.push(Adopted {
            fd,
            conn: Conn { fd: if fd < 0 { conn.fd } else { fd }, ..*conn },
            made_by: fd,
            events: given.0,
            data: given.1,
            hint: true,
            hot: true,
            due: false,
            shared: false,
            spent: false,
            seen_produced: 0,
            seen_consumed: 0,
            seen_delivered: 0,
            seen_no_space: conn.slot.no_space.load(Ordering::Acquire),
            edge_due: true,
            behind: false,
            seen_turns: 0,
            mark: 0,
            stirred: false,
            told: 0,
            heard: 0,
            kicked,
            kick_due: kicked,
            published: false,
        });
        inner.begin_watching(place);
    }

    /// The number that the entry was made by is about to be closed, `other` shows the same socket: the entry reports on, and nobody
    /// can name it, unless that number comes to show the socket again.
    pub fn unname(&self, inner: &mut Guard<'_>, fd: RawFd, other: RawFd) {
        let Some(&place) = inner.place.get(&fd) else { return };
        let Some(old) = inner.adopted.get(place).copied() else { return };
        let Some(key) = (RawFd::MIN..-1).find(|key| !inner.place.contains_key(key)) else { return };
        common::withdraw(self, &old);
        self.remove(inner, place);
        self.go_on_as(inner, key, Adopted { conn: Conn { fd: other, ..old.conn }, ..old });
    }

    /// `fd` is about to be closed, `other` shows the same socket: those whom nobody can name are watched by that.
    pub fn show_by(&self, inner: &mut Guard<'_>, fd: RawFd, other: RawFd) {
        if inner.nameless == 0 {
            return;
        }
        let known = inner.watches(other);
        for entry in inner.adopted.iter_mut().filter(|entry| entry.fd < 0 && entry.conn.fd == fd) {
            entry.conn.fd = other;
            if !known {
                add_anchor(self.outer.load(Ordering::Acquire), other, entry.fd);
            }
        }
    }

    /// `fd` shows `slot`. An entry that was made by this number, and that nobody could name meanwhile, is named again.
    pub fn name_again(&self, inner: &mut Guard<'_>, fd: RawFd, slot: SlotRef) {
        if inner.nameless == 0 {
            return;
        }
        let nameless = |entry: &Adopted| entry.fd < 0 && entry.made_by == fd && entry.conn.slot == slot;
        let Some(place) = inner.adopted.iter().position(nameless) else { return };
        let Some(old) = inner.adopted.get(place).copied() else { return };
        self.remove(inner, place);
        self.go_on_as(inner, fd, Adopted { conn: Conn { fd, ..old.conn }, ..old });
    }

    fn go_on_as(&self, inner: &mut Guard<'_>, key: RawFd, old: Adopted) {
        self.adopted.fetch_add(1, Ordering::SeqCst);
        if !inner.watches(old.conn.fd) {
            add_anchor(self.outer.load(Ordering::Acquire), old.conn.fd, key);
        }
        self.enlist(inner, &old.conn, key, (old.events, old.data), false);
        old.conn.slot.registered_by(key);
        if let Some(entry) = inner.adopted.last_mut() {
            let (fd, shared, due) = (entry.fd, entry.shared, entry.due);
            *entry = Adopted { fd, shared, due, kicked: false, kick_due: false, hint: true, published: false, ..old };
            common::publish(self, entry);
        }
        self.rouse();
    }

    /// EPOLL_CTL_ADD of an entry that was adopted when it was taken out: the kernel need not be told again.
    pub fn come_back(&self, inner: &mut Guard<'_>, number: u32, slot: SlotRef, fd: RawFd, given: (u32, u64)) -> bool {
        const PLAIN: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLERR) as u32
            | (libc::EPOLLHUP | libc::EPOLLET | libc::EPOLLONESHOT) as u32;
        let Some((known, stirred)) = inner.ghosts.remove(&fd) else { return false };
        if known != slot || given.0 & !PLAIN != 0 || self.outer.load(Ordering::Acquire) < 0 || !ready::switched(slot) {
            return false;
        }
        let Some(conn) = Conn::of(slot, fd) else { return false };
        self.adopted.fetch_add(1, Ordering::SeqCst);
        // Who sleeps in the kernel's own wait would not hear of it, nor would another set that watches the connection.
        let alone = self.in_kernel.load(Ordering::SeqCst) == 0
            && slot.enter_set(number, fd)
            && !slot.has(flag::REGISTERED_TWICE);
        if !alone {
            self.adopted.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        self.enlist(inner, &conn, fd, given, false);
        if let Some(entry) = inner.adopted.last_mut() {
            entry.hint = stirred;
            common::publish(self, entry);
        }
        self.rouse();
        true
    }

    /// EPOLL_CTL_DEL of an adopted entry: its anchor is watched on, in case it comes back.
    pub fn take_out(&self, inner: &mut Inner, place: usize) {
        let Some(entry) = inner.adopted.get(place) else { return };
        let (fd, slot) = (entry.fd, entry.conn.slot);
        common::withdraw(self, entry);
        self.drop_entry(inner, place);
        inner.ghosts.insert(fd, (slot, false));
    }

    /// Drops an adopted entry.
    pub fn remove(&self, inner: &mut Inner, place: usize) {
        let Some(fd) = inner.adopted.get(place).map(|entry| entry.conn.fd) else { return };
        self.drop_entry(inner, place);
        if inner.nameless == 0 || !inner.watches(fd) {
            let mut event = epoll_event { events: 0, u64: 0 };
            // SAFETY: at worst the number is registered no longer, which is an errno.
            unsafe { real::epoll_ctl(self.outer.load(Ordering::Acquire), libc::EPOLL_CTL_DEL, fd, &mut event) };
        }
    }

    /// As [`Set::remove`], and the outer epoll goes on watching the anchor.
    fn drop_entry(&self, inner: &mut Inner, place: usize) {
        if place >= inner.adopted.len() {
            return;
        }
        let entry = inner.adopted.swap_remove(place);
        inner.place.remove(&entry.fd);
        if let Some(moved) = inner.adopted.get(place).map(|moved| moved.fd) {
            inner.place.insert(moved, place);
        }
        inner.nameless -= usize::from(entry.fd < 0);
        inner.end_watching(&entry.conn, entry.shared);
        self.kicks.fetch_sub(u32::from(entry.kick_due), Ordering::AcqRel);
        if entry.kicked {
            let mut event = epoll_event { events: 0, u64: 0 };
            // SAFETY: at worst the number is registered no longer, which is an errno.
            unsafe { real::epoll_ctl(self.fd.load(Ordering::Acquire), libc::EPOLL_CTL_DEL, entry.fd, &mut event) };
        }
        // Others may watch it still, by the number that stands for all.
        if !entry.conn.slot.has(flag::REGISTERED_TWICE) {
            unwatch(&entry.conn);
        }
        self.adopted.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes who sleeps in the kernel on a set that holds this one, by an adopted entry: see `adopt_one`.
    pub fn kick(&self, inner: &mut Inner) {
        let Some(entry) = inner.adopted.iter_mut().find(|entry| !entry.kicked && entry.fd >= 0) else { return };
        if self.set_kick(entry.fd, entry.data, libc::EPOLL_CTL_ADD) {
            (entry.kicked, entry.kick_due) = (true, true);
            self.kicks.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes kicks back that nobody is going to see: those who slept on a set that holds this one are awake.
    pub fn unkick(&self, inner: &mut Inner) {
        if self.in_kernel.load(Ordering::SeqCst) > 0 {
            return;
        }
        for entry in inner.adopted.iter_mut().filter(|entry| entry.kick_due) {
            self.set_kick(entry.fd, entry.data, libc::EPOLL_CTL_DEL);
            (entry.kicked, entry.kick_due) = (false, false);
            self.kicks.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Puts a kick into the kernel's set, in the place of the application's entry if there is one, or takes out what is there.
    fn set_kick(&self, fd: RawFd, data: u64, op: libc::c_int) -> bool {
        let mut kick = epoll_event { events: (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32, u64: data };
        // SAFETY: the application's descriptors, an event on this frame.
        unsafe { real::epoll_ctl(self.fd.load(Ordering::Acquire), op, fd, &mut kick) == 0 }
    }

    /// Entries that the kernel carries again go back to it, for who asks it instead of collecting. True: some did.
    pub fn settle(&self, inner: &mut Inner) -> bool {
        let before = inner.adopted.len();
        for place in (0..inner.adopted.len()).rev() {
            let Some(conn) = inner.adopted.get(place).map(|entry| entry.conn) else { continue };
            let slot = conn.slot;
            if slot.current() && slot.has(flag::LEAVING) {
                // What the peer has answered by now is the kernel's to tell, once.
                ready::ask(&Conn { fd: slot.descriptor(), ..conn }, ready::IN | ready::OUT);
            }
            if !slot.current() {
                self.remove(inner, place);
            } else if !ready::switched(slot)
                && let Some(entry) = inner.adopted.get_mut(place)
            {
                // The outer epoll's news of it may not have been taken.
                entry.hint = true;
                if may_go_back(entry) {
                    self.give_back(inner, place);
                }
            }
        }
        inner.adopted.len() != before
    }

    /// The kernel carries both directions again: back into its set, as it was.
    pub fn give_back(&self, inner: &mut Inner, place: usize) {
        let Some(entry) = inner.adopted.get(place) else { return };
        let Adopted { fd, conn, events, data, spent, .. } = *entry;
        let slot = conn.slot;
        // Of two processes that use the set one gives it back.
        let first = common::withdraw(self, entry);
        self.remove(inner, place);
        let mut event = epoll_event { events: if spent { events & 0xffff_0000 } else { events }, u64: data };
        let set = self.fd.load(Ordering::Acquire);
        if fd < 0 {
            // By a number that is closed at once: as the kernel would have it.
            // SAFETY: descriptors of the application and of ours, an event on this frame.
            hidden::with_room(|first| unsafe {
                let brief = real::fcntl(conn.fd, libc::F_DUPFD_CLOEXEC, first as usize);
                real::epoll_ctl(set, libc::EPOLL_CTL_ADD, brief, &mut event);
                real::close(brief)
            });
            switch::give_up(slot, Reason::EpollUnseen);
        } else {
            if first {
                // SAFETY: the application's descriptors, an event on this frame.
                unsafe { real::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event) };
            }
            inner.native.insert(fd, Entered { slot, events, data });
        }
        inner.returned = true;
        self.kernel_due.store(true, Ordering::Release);
    }

    fn give_all_back(&self) {
        let Some(mut inner) = self.lock() else { return };
        while !inner.adopted.is_empty() {
            self.give_back(&mut inner, 0);
        }
    }

    /// Takes the kicks (see `adopt_one`) out of what the kernel's own wait returned; how many events remain.
    pub fn without_kicks(&self, events: &mut [epoll_event]) -> usize {
        if self.kicks.load(Ordering::Acquire) == 0 {
            return events.len();
        }
        let Some(mut inner) = self.lock() else { return events.len() };
        let mut kept = 0;
        for at in 0..events.len() {
            let Some(&epoll_event { events: mask, u64: data }) = events.get(at) else { break };
            let kicked = |entry: &&mut Adopted| entry.kick_due && entry.data == data;
            let by = inner.adopted.iter_mut().find(kicked).filter(|_| mask & !BESIDE == libc::EPOLLOUT as u32);
            if let Some(entry) = by {
                // It has woken one thread. Others may sleep there still.
                if self.in_kernel.load(Ordering::SeqCst) > 0 {
                    self.set_kick(entry.fd, entry.data, libc::EPOLL_CTL_MOD);
                } else {
                    entry.kick_due = false;
                    self.kicks.fetch_sub(1, Ordering::AcqRel);
                }
            } else {
                events.swap(kept, at);
                kept += 1;
            }
        }
        kept
    }
}

/// Sets that stay open over exec are waited on by a program that sees the kernel's part only: their entries are the
/// kernel's before.
pub fn before_exec() {
    common::before_exec();
    for set in all().filter(|set| set.descriptors.load(Ordering::Acquire) > 0) {
        let fd = set.fd.load(Ordering::Acquire);
        // SAFETY: F_GETFD has no argument.
        let stays = unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC == 0;
        if !stays || set.adopted.load(Ordering::Acquire) == 0 {
            continue;
        }
        for conn in set.stay_native() {
            crate::calls::transfer::hand_over(conn.slot, conn.fd, Reason::EpollUnseen);
        }
        set.give_all_back();
    }
}

/// From now on the application's waits are the kernel's own. Its connections are by now.
pub fn retire() {
    all().filter(|set| set.descriptors.load(Ordering::Acquire) > 0).for_each(Set::give_all_back);
}
