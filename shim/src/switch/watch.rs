//! poll and select over connections that have companions.
//!
//! The application's entries are copied; a switched connection's copy asks the kernel only for what the kernel can say of
//! its anchor, and what it answers is put together with the ring's side. Where nothing is ready the thread names itself
//! at every switched connection, looks again, and sleeps in one ppoll over the copies, its own wake and wake 0: what that
//! says is the next look. Where only rings are asked about, and their anchors were looked at in this clock tick, the first
//! look is at the rings alone.

use std::sync::atomic::Ordering;

use libc::{c_int, c_short, c_ulong, fd_set, nfds_t, pollfd, sigset_t};

use super::sleep::{self, Borrowed, Standing, Way, stand};
use smallvec::SmallVec;

use super::spin::{self, Reach};
use super::{Conn, anchor, far, ready, receive, send};
use crate::fd_table::{self, Entry};
use crate::outcome::Outcome;
use crate::provider::local::WAKE0;
use crate::slot::{self, SlotRef, Stage, THROUGH_SWITCH, flag};
use crate::{epoll, meet, real, sys};

/// Where no wake can be had: so long at most, then look.
const TIMED_NS: u64 = 5_000_000;
const LOW: u32 = 0xffff;

/// # Safety
/// `count` entries; `mask` is null or a signal set.
pub unsafe fn poll(entries: *mut pollfd, count: usize, limit: Option<u64>, mask: *const sigset_t) -> Outcome<c_int> {
    meet::collect();
    if entries.is_null() || count > fd_table::CAPACITY {
        return Outcome::Bypass;
    }
    // SAFETY: by the caller.
    let entries = unsafe { std::slice::from_raw_parts_mut(entries, count) };
    match watch(entries, limit, mask) {
        Ok(n) => Outcome::Done(n),
        Err(errno) => Outcome::Fail(errno),
    }
}

/// # Safety
/// The sets are null or hold what select(2) says; `mask` is null or a signal set.
pub unsafe fn select(
    count: c_int,
    sets: [*mut fd_set; 3],
    limit: Option<u64>,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    const ASKED: [c_short; 3] = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
    // What the kernel counts for each set (fs/select.c).
    const TOLD: [c_short; 3] = [
        libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR,
        libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR,
        libc::POLLPRI,
    ];
    meet::collect();
    let Ok(size) = usize::try_from(count) else { return Outcome::Bypass };
    let mut entries = SmallVec::<[pollfd; 16]>::new();
    let mut numbers = SmallVec::<[usize; 16]>::new();
    for fd in 0..size {
        let mut events = 0;
        for (set, asked) in sets.iter().zip(ASKED) {
            // SAFETY: by the caller, the set holds `count` bits.
            if unsafe { bit(*set, fd) } {
                events |= asked;
            }
        }
        if events != 0 {
            entries.push(pollfd { fd: fd as c_int, events, revents: 0 });
            numbers.push(fd);
        }
    }
    let until = limit.map(|ns| sys::now_ns().saturating_add(ns));
    loop {
        let left = until.map(|until| until.saturating_sub(sys::now_ns()));
        match watch(&mut entries, left, mask) {
            Err(errno) => return Outcome::Fail(errno),
            Ok(0) => break,
            Ok(_) if entries.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) => {
                return Outcome::Fail(libc::EBADF);
            }
            Ok(_) => {}
        }
        let told = |entry: &pollfd| {
            let mut asked = ASKED.into_iter().zip(TOLD).filter(|(asked, _)| entry.events & asked != 0);
            asked.any(|(_, told)| entry.revents & told != 0)
        };
        if entries.iter().any(told) {
            break;
        }
        // poll tells of hang-ups and errors whatever it was asked for: nothing that was, and it would say so for ever.
        entries.iter_mut().filter(|entry| entry.revents != 0).for_each(|entry| entry.fd = -1);
    }
    let mut found = 0;
    for (set, (asked, told)) in sets.iter().zip(ASKED.into_iter().zip(TOLD)) {
        for (entry, number) in entries.iter().zip(&numbers).filter(|(entry, _)| entry.events & asked != 0) {
            let ready = entry.revents & told != 0;
            found += c_int::from(ready);
            // SAFETY: as above.
            unsafe { put_bit(*set, *number, ready) };
        }
    }
    Outcome::Done(found)
}

/// # Safety
/// Null, or a set that holds the bit.
unsafe fn bit(set: *const fd_set, fd: usize) -> bool {
    let (word, shift) = (fd / c_ulong::BITS as usize, fd % c_ulong::BITS as usize);
    // SAFETY: by the caller.
    !set.is_null() && unsafe { *set.cast::<c_ulong>().add(word) } >> shift & 1 != 0
}

/// # Safety
/// As [`bit`].
unsafe fn put_bit(set: *mut fd_set, fd: usize, value: bool) {
    let (word, shift) = (fd / c_ulong::BITS as usize, fd % c_ulong::BITS as usize);
    if !set.is_null() {
        // SAFETY: by the caller.
        let place = unsafe { &mut *set.cast::<c_ulong>().add(word) };
        *place = *place & !(1 << shift) | c_ulong::from(value) << shift;
    }
}

/// What stands behind one of the application's entries.
#[derive(Clone, Copy)]
enum Kind {
    /// The kernel's answer is the application's.
    Kernel,
    /// A TCP connection that is counted: nobody may switch it over while this thread is inside the kernel's poll.
    Counted(SlotRef),
    /// With the events that the application wants.
    Switched(Conn, u32),
    /// An epoll set with adopted entries: its outer one is watched.
    Set,
    Hidden,
}

/// Entries for which nothing is allocated.
const FEW: usize = 4;

struct Round {
    kinds: SmallVec<[Kind; FEW]>,
    /// The copies, and room for two more.
    copies: SmallVec<[pollfd; FEW + 2]>,
}

fn watch(entries: &mut [pollfd], limit: Option<u64>, mask: *const sigset_t) -> Result<c_int, c_int> {
    let until = limit.map(|ns| sys::now_ns().saturating_add(ns));
    let may_sleep = limit != Some(0);
    let mut spun = false;
    let mut rounds = 0u32;
    loop {
        let round = Round::begin(entries);
        if !round.any_of_ours() {
            let left = until.map(|until| until.saturating_sub(sys::now_ns()));
            return round.by_kernel(entries, left, mask);
        }
        let mut round = round;
        let lightly = may_sleep && mask.is_null() && round.is_about_rings_alone();
        let found = if lightly { round.sum(entries) } else { round.look(entries, mask)? };
        if found > 0 {
            return Ok(found);
        }
        let left = until.map(|until| until.saturating_sub(sys::now_ns()));
        if left == Some(0) {
            return Ok(0);
        }
        if !spun {
            spun = true;
            if round.spin() {
                continue;
            }
        }
        rounds = rounds.saturating_add(1);
        round.rest(left, mask, rounds > sleep::MOST_IN_VAIN)?;
        // Others' directions may have moved meanwhile: then all is looked at anew.
        if !round.counted().any(ready::switched) {
            let found = round.sum(entries);
            if found > 0 {
                return Ok(found);
            }
        }
    }
}

impl Round {
    fn begin(entries: &[pollfd]) -> Round {
        let mut round =
            Round { kinds: SmallVec::with_capacity(entries.len()), copies: SmallVec::with_capacity(entries.len() + 2) };
        for entry in entries {
            let kind = kind(entry);
            let copy = match kind {
                Kind::Kernel | Kind::Counted(_) => pollfd { revents: 0, ..*entry },
                Kind::Switched(conn, wanted) => {
                    let events = ready::anchor_events(&conn, wanted);
                    pollfd { fd: entry.fd, events: events as c_short, revents: 0 }
                }
                Kind::Set => {
                    let outer = epoll::outer_of(entry.fd).unwrap_or(entry.fd);
                    pollfd { fd: outer, events: entry.events, revents: 0 }
                }
                Kind::Hidden => pollfd { fd: -1, events: 0, revents: 0 },
            };
            round.kinds.push(kind);
            round.copies.push(copy);
        }
        round
    }

    fn any_of_ours(&self) -> bool {
        self.kinds.iter().any(|kind| !matches!(kind, Kind::Kernel | Kind::Counted(_)))
    }

    fn counted(&self) -> impl Iterator<Item = SlotRef> {
        self.kinds.iter().filter_map(|kind| if let Kind::Counted(slot) = kind { Some(*slot) } else { None })
    }

    /// Nothing is switched: the application's own call, counted.
    fn by_kernel(&self, entries: &mut [pollfd], left: Option<u64>, mask: *const sigset_t) -> Result<c_int, c_int> {
        self.enter_kernel();
        let moved = self.counted().any(ready::switched);
        // A direction that moved meanwhile is looked at anew by a round that returns at once.
        let n = if moved { 0 } else { real_poll(entries, left, mask) };
        self.leave_kernel();
        if moved {
            return watch(entries, left, mask);
        }
        if n < 0 { Err(sys::errno()) } else { Ok(n) }
    }

    fn enter_kernel(&self) {
        self.counted().for_each(|slot| {
            slot.kernel_reads.fetch_add(1, Ordering::SeqCst);
        });
    }

    fn leave_kernel(&self) {
        self.counted().filter(SlotRef::current).for_each(|slot| {
            slot.kernel_reads.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// The kernel has nothing to say that is not known, and what it will say ends the sleep.
    fn is_about_rings_alone(&self) -> bool {
        const RINGS: u32 = ready::IN | ready::OUT | (libc::POLLHUP | libc::POLLERR) as u32;
        let tick = sys::tick_ns();
        self.kinds.iter().all(|kind| match kind {
            Kind::Switched(conn, wanted) => {
                // (After the own shutdown of reading a reset may have come, by what the peer still writes.)
                wanted & !RINGS == 0
                    && !conn.slot.has(flag::SHUT_RD)
                    && anchor::is_fresh(conn, tick)
                    && (wanted & ready::IN == 0 || receive::awaits_ring(conn))
                    && (wanted & ready::OUT == 0 || conn.slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH)
            }
            _ => false,
        })
    }

    /// Asks the kernel about the copies and puts the answers together; returns how many entries have events.
    fn look(&mut self, entries: &mut [pollfd], mask: *const sigset_t) -> Result<c_int, c_int> {
        let tick = sys::tick_ns();
        let n = real_poll(&mut self.copies, Some(0), mask);
        if n < 0 {
            return Err(sys::errno());
        }
        for (kind, copy) in self.kinds.iter().zip(&self.copies) {
            let (Kind::Switched(conn, _), 0) = (kind, copy.revents) else { continue };
            // The urgent byte that it told of has been fetched.
            conn.slot.anchor.fetch_and(!(libc::POLLPRI as u32), Ordering::AcqRel);
            if copy.events & (libc::POLLIN | libc::POLLRDHUP) != 0 {
                // Nothing, though the peer's end would have shown.
                conn.slot.anchor_tick.store(tick, Ordering::Relaxed);
            }
        }
        Ok(self.sum(entries))
    }

    /// What the kernel said of the copies last (nothing at first), and the rings.
    fn sum(&self, entries: &mut [pollfd]) -> c_int {
        let mut found = 0;
        for ((entry, copy), kind) in entries.iter_mut().zip(&self.copies).zip(&self.kinds) {
            let kernel = u32::from(copy.revents.cast_unsigned());
            entry.revents = match kind {
                Kind::Kernel | Kind::Counted(_) => copy.revents,
                Kind::Hidden => libc::POLLNVAL,
                Kind::Switched(..) if kernel & libc::POLLNVAL as u32 != 0 => libc::POLLNVAL,
                Kind::Switched(conn, wanted) => (ready::events(conn, kernel, *wanted) & LOW) as c_short,
                Kind::Set => epoll::readable(entry.fd, entry.events),
            };
            found += c_int::from(entry.revents != 0);
        }
        found
    }

    fn switched(&self) -> impl Iterator<Item = (&Conn, u32)> {
        self.kinds
            .iter()
            .filter_map(|kind| if let Kind::Switched(conn, wanted) = kind { Some((conn, *wanted)) } else { None })
    }

    /// The application's epoll sets among the entries, by what is watched in their place.
    fn sets(&self) -> impl Iterator<Item = c_int> {
        let pairs = self.kinds.iter().zip(&self.copies);
        pairs.filter_map(|(kind, copy)| matches!(kind, Kind::Set).then_some(copy.fd))
    }

    /// Spins while only rings are waited for in vain: the kernel's descriptors are looked at when it ends.
    fn spin(&self) -> bool {
        let marks: SmallVec<[_; FEW]> = self.switched().map(|(conn, _)| (*conn, conn.slot.delivered())).collect();
        let there = || marks.iter().map(|(conn, delivered)| receive::produced(conn).saturating_sub(*delivered)).sum();
        let ready = || {
            marks.iter().take(1).for_each(|(conn, _)| far::glance(conn));
            marks.iter().any(|(conn, delivered)| receive::produced(conn) > *delivered)
        };
        let reach = Reach::of(marks.iter().any(|(conn, _)| conn.pair.is_far()));
        !marks.is_empty() && spin::inclined() && spin::spin(reach, ready, there)
    }

    /// `fooled`: there was something so often of which nothing came that the next look is a moment later; see `sleep::MOST_IN_VAIN`.
    fn rest(&mut self, left: Option<u64>, mask: *const sigset_t, fooled: bool) -> Result<(), c_int> {
        let borrowed = Borrowed::take();
        let wake = borrowed.as_ref().map(|borrowed| borrowed.wake);
        let mut standing: SmallVec<[Standing; FEW]> = SmallVec::new();
        if let Some(wake) = wake {
            for (conn, wanted) in self.switched() {
                let slot = conn.slot;
                if wanted & ready::IN != 0 && slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
                    standing.push(stand(conn, Way::In, wake));
                }
                if wanted & ready::OUT != 0 && slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
                    standing.push(stand(conn, Way::Out, wake));
                }
            }
            wake.fall_asleep();
        }
        let bound = standing.iter().fold(left, |bound, standing| standing.bound(bound));
        let bound = if wake.is_some() { bound } else { Some(left.unwrap_or(u64::MAX).min(TIMED_NS)) };
        self.refresh_copies();
        self.enter_kernel();
        let asleep: SmallVec<[_; FEW]> = self.sets().filter_map(epoll::fall_asleep_on).collect();
        let bound = asleep.iter().fold(bound, |bound, asleep| asleep.bound(bound));
        let any_far = || !asleep.is_empty() || self.switched().any(|(conn, _)| conn.pair.is_far());
        let between_hosts = far::existing().is_some() && any_far();
        if between_hosts {
            far::arm();
        }
        let bound = if between_hosts { far::bound_all(bound) } else { bound };
        let bound = match self.stirs() {
            true if fooled => Some(bound.unwrap_or(u64::MAX).min(TIMED_NS)),
            true => Some(0),
            false => bound,
        };
        let own = self.copies.len();
        let wake_fd = wake.map_or(-1, |wake| wake.fd);
        self.copies.push(pollfd { fd: wake_fd, events: libc::POLLIN, revents: 0 });
        self.copies.push(pollfd { fd: WAKE0.load(Ordering::Acquire), events: libc::POLLIN, revents: 0 });
        if between_hosts {
            self.copies.extend(far::descriptors().map(|fd| pollfd { fd, events: libc::POLLIN, revents: 0 }));
        }
        let n = real_poll(&mut self.copies, bound, mask);
        let errno = sys::errno();
        drop(asleep);
        self.leave_kernel();
        if let Some(wake) = wake {
            wake.wake_up();
            if self.copies.get(own).is_some_and(|copy| copy.revents != 0) {
                wake.drain();
            }
        }
        drop(standing);
        drop(borrowed);
        if self.copies.get(own + 1).is_some_and(|copy| copy.revents != 0) {
            sleep::rung();
        }
        if between_hosts {
            // policyd's channel. A packet is there before the word that tells of it.
            if self.copies.last().is_some_and(|copy| copy.revents != 0) {
                meet::receive();
            }
            meet::collect();
        }
        if n < 0 {
            self.sets().for_each(epoll::pass_on);
            return Err(errno);
        }
        Ok(())
    }

    /// What the anchors are asked changes with the directions' states: bytes may be owed to the kernel by now.
    fn refresh_copies(&mut self) {
        for (kind, copy) in self.kinds.iter().zip(&mut self.copies) {
            if let Kind::Switched(conn, wanted) = kind {
                copy.events = ready::anchor_events(conn, *wanted) as c_short;
            }
        }
    }

    /// The second look, after the names are there: a ring has moved, or a connection has been switched over.
    fn stirs(&self) -> bool {
        self.counted().any(ready::switched)
            || self.switched().any(|(conn, wanted)| {
                wanted & ready::IN != 0 && receive::readable(conn, false, receive::low_water(conn.slot, conn.fd))
                    || wanted & ready::OUT != 0 && send::could_write(conn)
                    || send::asked_back(conn)
            })
            || self.sets().any(epoll::any_ready)
    }
}

fn kind(entry: &pollfd) -> Kind {
    let fd = entry.fd;
    match fd_table::life(fd) {
        Entry::Hidden | Entry::Lent => Kind::Hidden,
        Entry::Epoll(_) if epoll::outer_of(fd).is_some() => Kind::Set,
        Entry::Socket(index) => match slot::at(index) {
            Some(slot) if slot.stage() == Stage::Attached && ready::switched(slot) => {
                let wanted = u32::from(entry.events.cast_unsigned());
                Conn::of(slot, fd).map_or(Kind::Kernel, |conn| Kind::Switched(conn, wanted))
            }
            Some(slot) => Kind::Counted(slot),
            None => Kind::Kernel,
        },
        _ => Kind::Kernel,
    }
}

fn real_poll(entries: &mut [pollfd], limit: Option<u64>, mask: *const sigset_t) -> c_int {
    let time = limit.map(sys::timespec);
    let time_at = time.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the entries, a time on this frame, the caller's mask.
    unsafe { real::ppoll(entries.as_mut_ptr(), entries.len() as nfds_t, time_at, mask) }
}
