//! What becomes of a sleep that a signal ended: the kernel restarts recv under SA_RESTART, but never poll.
//!
//! Nothing tells which signal came. But the kernel tells, for each of the 64, whether it has a handler and whether that
//! handler restarts; asked again only after something may have changed it (the whole signal() family is hooked and does
//! nothing but say so).

use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_int;

use crate::real::raw;
use crate::sys;

const DIRTY: u32 = 0;
const NONE: u32 = 1;
const ALL_RESTART: u32 = 2;
const NONE_RESTARTS: u32 = 3;
const MIXED: u32 = 4;

static HANDLERS: AtomicU32 = AtomicU32::new(DIRTY);

pub enum AfterSignal {
    GoOn,
    Return,
}

/// A handler was, or may have been, changed.
pub fn changed() {
    HANDLERS.store(DIRTY, Ordering::Release);
}

/// The handlers of this process are of both kinds: which one ran cannot be known.
pub fn mixed() -> bool {
    handlers() == MIXED
}

/// The program catches signals at all.
pub fn caught() -> bool {
    handlers() != NONE
}

/// A sleep ended with EINTR. `limited`: the call has a time limit of its own (SO_RCVTIMEO), which the kernel never
/// restarts.
pub fn after_interruption(limited: bool) -> AfterSignal {
    if limited {
        return AfterSignal::Return;
    }
    match handlers() {
        NONE | ALL_RESTART => AfterSignal::GoOn,
        _ => AfterSignal::Return,
    }
}

fn handlers() -> u32 {
    let known = HANDLERS.load(Ordering::Acquire);
    if known != DIRTY {
        return known;
    }
    let found = scan();
    let _ = HANDLERS.compare_exchange(DIRTY, found, Ordering::AcqRel, Ordering::Relaxed);
    found
}

/// `struct sigaction` as the kernel has it on 64-bit machines, restorer included where there is one.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

impl KernelAction {
    /// There is a handler, or there was one until it ran (SA_RESETHAND takes it away and leaves the flags).
    fn is_caught(&self) -> bool {
        self.handler > 1 || self.flags & libc::SA_RESETHAND as u32 as u64 != 0
    }
}

fn scan() -> u32 {
    let (mut restarting, mut others) = (0, 0);
    for signal in 1..=64 {
        // Faults of the program's own code interrupt no sleep; libc's own two (cancellation, set*id in every thread)
        // concern a sleeper only where it is cancelled.
        if matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | 32 | 33) {
            continue;
        }
        match action(signal) {
            Some(action) if action.is_caught() && action.flags & libc::SA_RESTART as u64 != 0 => restarting += 1,
            Some(action) if action.is_caught() => others += 1,
            _ => {}
        }
    }
    match (restarting, others) {
        (0, 0) => NONE,
        (_, 0) => ALL_RESTART,
        (0, _) => NONE_RESTARTS,
        _ => MIXED,
    }
}

fn action(signal: c_int) -> Option<KernelAction> {
    let mut action = KernelAction::default();
    // SAFETY: asks only; the place has the kernel's size, with a set of eight bytes.
    let rc = unsafe { raw!(libc::SYS_rt_sigaction, signal, std::ptr::null::<KernelAction>(), &raw mut action, 8usize) };
    (rc == 0).then_some(action)
}

/// The kernel asked anew, for [`sys`]'s forked child: handlers are inherited, so nothing changes but the caution.
pub fn after_fork_in_child() {
    changed();
    let _ = sys::pid();
}
