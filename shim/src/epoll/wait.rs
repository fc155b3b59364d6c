//! epoll_wait and its kin.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_short, epoll_event, sigset_t};

use super::collect::collect;
use super::common;
use super::nested;
use super::outer::{TAG_NEST, TAG_POLICYD, TAG_PROVIDER, TAG_SET, TAG_WAKE, TAG_WAKE0};
use super::set::{self, Set};
use crate::outcome::Outcome;
use crate::provider::far;
use crate::slot::flag;
use crate::switch::ready;
use crate::switch::sleep::{self, Standing, Way};
use crate::switch::spin::{self, Reach};
use crate::wake::Wake;
use crate::{meet, real, sys};

/// The kernel's set is asked at least every so many waits that the adopted entries could serve alone.
const KERNEL_TURN: usize = 8;
/// Without an outer epoll, how often to look.
const LOOK_NS: u64 = 500_000;
const OUTER_EVENTS: usize = 64;
const NS_A_MS: u64 = 1_000_000;

/// How long a wait may take, as the application's call says it. The kernel is asked by the same kind of call: another might be one that
/// a kernel lacks or a filter forbids.
#[derive(Clone, Copy)]
pub enum Limit {
    /// epoll_wait, epoll_pwait; below zero: for ever.
    Milliseconds(c_int),
    /// epoll_pwait2, in nanoseconds; `None`: for ever.
    Time(Option<u64>),
}

impl Limit {
    /// When it is over. The clock is asked only if it has to be.
    #[inline(always)]
    pub fn end(self) -> Option<u64> {
        match self {
            Self::Milliseconds(ms) => match u64::try_from(ms).ok()? {
                0 => Some(0),
                ms => Some(sys::now_ns().saturating_add(ms * NS_A_MS)),
            },
            Self::Time(ns) => match ns? {
                0 => Some(0),
                ns => Some(sys::now_ns().saturating_add(ns)),
            },
        }
    }

    /// What is left of it.
    fn left(self, until: Option<u64>) -> Self {
        match self {
            Self::Milliseconds(..=0) | Self::Time(None | Some(0)) => self,
            Self::Milliseconds(_) => Self::Milliseconds(left(until).map_or(-1, whole_ms)),
            Self::Time(_) => Self::Time(left(until)),
        }
    }
}

/// What is left until then.
fn left(until: Option<u64>) -> Option<u64> {
    until.map(|until| if until == 0 { 0 } else { until.saturating_sub(sys::now_ns()) })
}

fn whole_ms(ns: u64) -> c_int {
    ns.div_ceil(NS_A_MS).min(c_int::MAX as u64) as c_int
}

/// Waits on the application's set.
///
/// # Safety
/// `events` has room for `max` entries; `mask` is null or a signal set.
pub unsafe fn wait(
    epfd: RawFd,
    events: *mut epoll_event,
    max: c_int,
    limit: Limit,
    mask: *const sigset_t,
) -> Outcome<c_int> {
    meet::collect();
    let Some(set) = set::of(epfd) else { return Outcome::Bypass };
    let missing = matches!(limit, Limit::Time(_)) && !has_fine_wait();
    if max <= 0 || events.is_null() || missing {
        return Outcome::Bypass;
    }
    let until = limit.end();
    // SAFETY: by the caller.
    let out = unsafe { std::slice::from_raw_parts_mut(events, max as usize) };
    common::enter(set);
    match by_kernel(set, epfd, out, limit, mask) {
        Some(outcome) => outcome,
        None => on_both(set, epfd, out, (limit, until), mask),
    }
}

/// What `at_once` waited for: the kernel has reported `n` events, which may be of ours alone. Then the wait goes on for what is left.
///
/// # Safety
/// As [`wait()`], whose first `n` entries are filled.
pub unsafe fn from_kernel(
    epfd: RawFd,
    events: *mut epoll_event,
    max: c_int,
    (limit, until): (Limit, Option<u64>),
    mask: *const sigset_t,
    n: c_int,
) -> Outcome<c_int> {
    let Some(set) = set::of(epfd) else { return Outcome::Done(n) };
    // SAFETY: by the caller.
    let out = unsafe { std::slice::from_raw_parts_mut(events, max as usize) };
    match without_kicks(set, out, n) {
        Some(outcome) => outcome,
        None => on_both(set, epfd, out, (limit, until), mask),
    }
}

/// By the kernel's set and the adopted entries, whenever the kernel cannot answer alone.
fn on_both(
    set: &'static Set,
    epfd: RawFd,
    out: &mut [epoll_event],
    (limit, until): (Limit, Option<u64>),
    mask: *const sigset_t,
) -> Outcome<c_int> {
    let mut spun = false;
    let mut first = true;
    loop {
        common::enter(set);
        if !std::mem::take(&mut first)
            && let Some(outcome) = by_kernel(set, epfd, out, limit.left(until), mask)
        {
            return outcome;
        }
        let whole = set.prepare() && nested::link(set);
        let left = left(until);
        // Who is about to sleep hears of the anchors and the kernel's set by that.
        let spins = !spun
            && set.sleepers.load(Ordering::Relaxed) == 0
            && set.nests.load(Ordering::Relaxed) == 0
            && spin::inclined();
        spun = true;
        nested::settle(set);
        let found = gather(set, epfd, out, mask, spins || left == Some(0));
        match found.map(|found| nested::collect(set, out, found)) {
            Ok(0) => {}
            Ok(n) => return Outcome::Done(n as c_int),
            Err(errno) => return Outcome::Fail(errno),
        }
        if left == Some(0) {
            return Outcome::Done(0);
        }
        let stirs = || {
            far::glance();
            set.lock().is_none_or(|inner| inner.stirred(set))
        };
        let backlog = || set.lock().map_or(0, |inner| inner.backlog());
        if spins && spin::spin(Reach::of(far::existing().is_some()), stirs, backlog) {
            continue;
        }
        if !whole {
            // No outer epoll is to be had (now), so nothing tells of the anchors: look at all again soon.
            if let Some(mut inner) = set.lock() {
                inner.look_at_all();
            }
            set.kernel_due.store(true, Ordering::SeqCst);
            sys::pause(left.unwrap_or(u64::MAX).min(LOOK_NS));
            continue;
        }
        if let Err(errno) = rest(set, left, mask) {
            set.pass_on();
            return Outcome::Fail(errno);
        }
        // Wake 0 may have been rung for it.
        meet::collect();
    }
}

/// The kernel's own wait, when it can answer for all entries. `None`: it cannot.
fn by_kernel(
    set: &Set,
    epfd: RawFd,
    out: &mut [epoll_event],
    limit: Limit,
    mask: *const sigset_t,
) -> Option<Outcome<c_int>> {
    set.in_kernel.fetch_add(1, Ordering::SeqCst);
    if set.adopted.load(Ordering::SeqCst) != 0 || nested::adopted_below(set) {
        set.in_kernel.fetch_sub(1, Ordering::SeqCst);
        return None;
    }
    let n = match limit {
        Limit::Milliseconds(ms) => coarse_wait(epfd, out, ms, mask),
        Limit::Time(ns) => fine_wait(epfd, out, ns, mask),
    };
    let outcome = Outcome::of(n);
    set.in_kernel.fetch_sub(1, Ordering::SeqCst);
    if n > 0 { without_kicks(set, out, n) } else { Some(outcome) }
}

/// The `n` events that the kernel's own wait has returned, without ours. `None`: there were no others.
fn without_kicks(set: &Set, out: &mut [epoll_event], n: c_int) -> Option<Outcome<c_int>> {
    let Some(events) = out.get_mut(..n as usize) else { return Some(Outcome::Done(n)) };
    let kept = common::without_kicks(set, events);
    let kept = events.get_mut(..kept).map_or(0, |events| set.without_kicks(events));
    let kept = events.get_mut(..kept).map_or(0, |events| nested::without_kicks(set, events));
    (kept > 0).then_some(Outcome::Done(kept as c_int))
}

/// Adopted entries first, then the kernel's, without waiting. `news`: the outer epoll is asked in any case.
fn gather(set: &Set, epfd: RawFd, out: &mut [epoll_event], mask: *const sigset_t, news: bool) -> Result<usize, i32> {
    if set.mail.any() && set.outer.load(Ordering::Acquire) >= 0 {
        // What this process did to a connection the kernel tells of the anchor too: one thing, told once.
        let _ = take_news(set, Some(0), std::ptr::null());
    }
    let Some(mut inner) = set.lock() else { return Err(libc::EINTR) };
    let mut found = collect(set, &mut inner, out);
    let its_turn =
        std::mem::take(&mut inner.returned) || inner.turn % KERNEL_TURN == 0 || set.nests.load(Ordering::Relaxed) > 0;
    drop(inner);
    if (its_turn || news && found == 0) && found < out.len() && set.outer.load(Ordering::Acquire) >= 0 {
        // What the outer epoll has to say of the anchors, and of the kernel's set.
        let _ = take_news(set, Some(0), std::ptr::null());
        if found == 0
            && let Some(mut inner) = set.lock()
        {
            found = collect(set, &mut inner, out);
        }
    }
    if found == out.len() && set.sleepers.load(Ordering::Acquire) > 0 {
        set.rouse();
    }
    let ask_kernel = (its_turn || found == 0) && set.kernel_due.load(Ordering::Acquire);
    let Some(rest) = out.get_mut(found..).filter(|rest| !rest.is_empty() && ask_kernel) else { return Ok(found) };
    set.kernel_due.store(false, Ordering::SeqCst);
    let n = real_wait(epfd, rest, Some(0), mask);
    if n != 0 {
        // More may be there, or the same again: level-triggered.
        set.kernel_due.store(true, Ordering::SeqCst);
    }
    if n < 0 {
        return if found > 0 { Ok(found) } else { Err(sys::errno()) };
    }
    if n > 0 && set.sleepers.load(Ordering::Acquire) > 0 {
        rearm(set, epfd);
    }
    let kept = rest.get_mut(..n as usize).map_or(0, |events| common::without_kicks(set, events));
    let kept = rest.get_mut(..kept).map_or(0, |events| set.without_kicks(events));
    Ok(found + kept)
}

/// Others sleep on the outer epoll, and what was taken may have left more: they look too.
fn rearm(set: &Set, epfd: RawFd) {
    let mut event = epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: TAG_SET };
    // SAFETY: descriptors of the application and of ours, an event on this frame.
    unsafe { real::epoll_ctl(set.outer.load(Ordering::Acquire), libc::EPOLL_CTL_MOD, epfd, &mut event) };
}

/// Sleeps on the outer epoll; what it says is noted for the next look.
fn rest(set: &'static Set, left: Option<u64>, mask: *const sigset_t) -> Result<(), i32> {
    let Some(asleep) = fall_asleep(set) else { return Ok(()) };
    far::arm();
    let stirs = stirred(set);
    let result = take_news(set, if stirs { Some(0) } else { far::bound(asleep.bound(left)) }, mask);
    drop(asleep);
    far::tend();
    result
}

/// A thread asleep on a set; dropped when it is awake, for whatever reason.
pub struct Asleep {
    set: &'static Set,
    wake: Wake,
    /// At connections that other sets watch too the set stands as a thread does, while it sleeps.
    shared: Vec<Standing>,
    /// And at the sets that it holds.
    below: Vec<Asleep>,
}

impl Asleep {
    pub fn bound(&self, left: Option<u64>) -> Option<u64> {
        let bound = self.shared.iter().fold(left, |bound, standing| standing.bound(bound));
        self.below.iter().fold(bound, |bound, asleep| asleep.bound(bound))
    }
}

/// Several threads may sleep on one set: its board entry is odd while any does.
fn fall_asleep(set: &'static Set) -> Option<Asleep> {
    let mut asleep = fall_asleep_alone(set)?;
    asleep.below = nested::below(set).into_iter().filter_map(fall_asleep_alone).collect();
    Some(asleep)
}

fn fall_asleep_alone(set: &'static Set) -> Option<Asleep> {
    let inner = set.lock()?;
    let wake = inner.wake?;
    let shared = stand_shared(&inner, wake);
    drop(inner);
    set.sleepers.fetch_add(1, Ordering::SeqCst);
    wake.fall_asleep();
    Some(Asleep { set, wake, shared, below: Vec::new() })
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if self.set.sleepers.fetch_sub(1, Ordering::SeqCst) > 1 {
            self.wake.sleep_anew();
        } else {
            self.wake.wake_up();
            if self.set.sleepers.load(Ordering::SeqCst) > 0 {
                // One that has just fallen asleep was taken for awake for a moment.
                self.wake.fall_asleep();
                self.set.rouse();
            }
        }
        if self.shared.is_empty() {
            return;
        }
        self.shared.clear();
        if let Some(mut inner) = self.set.lock() {
            // Others may have read, or left, what this set was not told of.
            inner.adopted.iter_mut().filter(|entry| entry.shared).for_each(|entry| entry.hint = true);
        }
    }
}

/// Connections that other sets watch too: the set names itself there while it sleeps.
fn stand_shared(inner: &set::Guard<'_>, wake: Wake) -> Vec<Standing> {
    if !inner.due.any_shared() {
        return Vec::new();
    }
    let shared = inner.adopted.iter().filter(|entry| entry.conn.slot.has(flag::REGISTERED_TWICE));
    shared
        .flat_map(|entry| {
            let ways = [(Way::In, ready::IN), (Way::Out, ready::OUT)];
            ways.into_iter().filter(|(_, events)| entry.events & events != 0).map(|(way, _)| (entry.conn, way))
        })
        .map(|(conn, way)| sleep::stand(&conn, way, wake))
        .collect()
}

/// Waits on the outer epoll and notes what it says for the next look. It says each thing once: what is for the whole process is seen to here.
fn take_news(set: &Set, limit: Option<u64>, mask: *const sigset_t) -> Result<(), i32> {
    let mut news = [epoll_event { events: 0, u64: 0 }; OUTER_EVENTS];
    let n = real_wait(set.outer.load(Ordering::Acquire), &mut news, limit, mask);
    if n < 0 {
        return Err(sys::errno());
    }
    let told = |tag: u64| news.iter().take(n as usize).any(|event| event.u64 == tag);
    let (by_policyd, by_provider) = (told(TAG_POLICYD), told(TAG_PROVIDER));
    if let Some(mut inner) = set.lock() {
        for event in news.iter().take(n as usize) {
            match event.u64 {
                // Wake 0 wakes every outer epoll by itself; only who sleeps in poll has to be told (see `rouse_all`).
                TAG_WAKE | TAG_WAKE0 | TAG_NEST | TAG_PROVIDER | TAG_POLICYD => {}
                TAG_SET => set.kernel_due.store(true, Ordering::SeqCst),
                fd => inner.hint(fd as RawFd),
            }
        }
    }
    if by_policyd {
        // A packet is there before the word that tells of it.
        meet::receive();
    }
    if by_policyd || by_provider || told(TAG_WAKE0) {
        meet::collect();
    }
    Ok(())
}

/// Waits on a set of ours, or on the application's for no time at all: as exactly as the kernel lets us.
fn real_wait(epfd: RawFd, out: &mut [epoll_event], limit_ns: Option<u64>, mask: *const sigset_t) -> c_int {
    if limit_ns.is_some_and(|ns| ns % NS_A_MS != 0) && has_fine_wait() {
        return fine_wait(epfd, out, limit_ns, mask);
    }
    coarse_wait(epfd, out, limit_ns.map_or(-1, whole_ms), mask)
}

/// Whether there is an epoll_pwait2: glibc 2.35 and Linux 5.11 have it; valgrind 3.19 and some containers' filters know none.
fn has_fine_wait() -> bool {
    const UNKNOWN: u32 = 0;
    const THERE: u32 = 1;
    const MISSING: u32 = 2;
    static KNOWN: AtomicU32 = AtomicU32::new(UNKNOWN);
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let mut event = [epoll_event { events: 0, u64: 0 }];
            // No set: EBADF from whoever knows the call.
            let there = real::present::epoll_pwait2()
                && fine_wait(-1, &mut event, Some(0), std::ptr::null()) < 0
                && sys::errno() == libc::EBADF;
            KNOWN.store(if there { THERE } else { MISSING }, Ordering::Relaxed);
            there
        }
        known => known == THERE,
    }
}

fn fine_wait(epfd: RawFd, out: &mut [epoll_event], limit_ns: Option<u64>, mask: *const sigset_t) -> c_int {
    let time = limit_ns.map(sys::timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: room for `room` events, null or a time on this frame, the caller's mask.
    unsafe { real::epoll_pwait2(epfd, out.as_mut_ptr(), room(out), time, mask) }
}

fn coarse_wait(epfd: RawFd, out: &mut [epoll_event], ms: c_int, mask: *const sigset_t) -> c_int {
    // SAFETY: room for `room` events, the caller's mask.
    unsafe {
        if mask.is_null() {
            real::epoll_wait(epfd, out.as_mut_ptr(), room(out), ms)
        } else {
            real::epoll_pwait(epfd, out.as_mut_ptr(), room(out), ms, mask)
        }
    }
}

fn room(out: &[epoll_event]) -> c_int {
    out.len().min(c_int::MAX as usize) as c_int
}

/// poll on a set's own descriptor that has adopted entries: POLLIN, if it would report something.
pub fn readable(epfd: RawFd, events: c_short) -> c_short {
    let Some(set) = set::of(epfd) else { return 0 };
    nested::settle(set);
    let adopted = to_report(set);
    let mut kernels = libc::pollfd { fd: epfd, events, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { real::poll(&mut kernels, 1, 0) };
    let ours = if adopted { libc::POLLIN | libc::POLLRDNORM } else { 0 };
    kernels.revents | ours & events
}

/// Whether an adopted entry would be reported, of the set or of one that it holds.
pub fn to_report(set: &Set) -> bool {
    let asked = |set: &Set| {
        let _ = take_news(set, Some(0), std::ptr::null());
        set.lock().is_some_and(|mut inner| inner.any_to_report(set))
    };
    asked(set) || nested::below(set).into_iter().any(asked)
}

/// For a second look: has an adopted entry stirred? By the outer epoll's descriptor.
pub fn any_ready(outer: RawFd) -> bool {
    set::by_outer(outer).is_some_and(stirred)
}

fn stirred(set: &Set) -> bool {
    let stirs = |set: &Set| set.lock().is_none_or(|inner| inner.stirred(set));
    stirs(set) || nested::below(set).into_iter().any(stirs)
}

/// The outer epoll that is to be watched in place of a set with adopted entries.
pub fn outer_of(epfd: RawFd) -> Option<RawFd> {
    let set = set::of(epfd)?;
    common::enter(set);
    let ours = set.adopted.load(Ordering::Acquire) != 0 || nested::adopted_below(set);
    if !ours || !set.prepare() || !nested::link(set) {
        return None;
    }
    Some(set.outer.load(Ordering::Acquire))
}

/// A signal has ended a sleep in poll on an outer epoll.
pub fn pass_on(outer: RawFd) {
    if let Some(set) = set::by_outer(outer) {
        set.pass_on();
    }
}

/// A thread is about to sleep in poll on an outer epoll.
pub fn fall_asleep_on(outer: RawFd) -> Option<Asleep> {
    set::by_outer(outer).and_then(fall_asleep)
}
