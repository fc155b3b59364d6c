//! A sleep that the kernel itself restarts or ends, as it would a recv: for programs whose signal handlers are of both
//! kinds, where nobody else can know which one ran.
//!
//! The thread sleeps in read(2) of its wake (an eventfd), which restarts exactly when recv would. The anchor and wake 0
//! are armed on that eventfd by AIO polls, so they end the sleep too. An armed poll holds the file, so each is cancelled
//! before the call returns; what a late completion adds to the eventfd is a wake for nothing.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{c_long, c_short};

use crate::family::WAKES;
use crate::provider::local::WAKE0;
use crate::wake::Wake;
use crate::{real, sys};

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    second: i64,
}

const POLL: u16 = 5;
const RESULT_FD: u32 = 1;
/// What one sleep has under way: the anchor's poll and wake 0's.
const POLLS: usize = 2;

/// An AIO context for each wake that has slept this way: whoever holds the wake has the context to itself, and so knows which
/// completions are its own. A forked child has none of its parent's.
static CONTEXTS: [AtomicU64; WAKES] = [const { AtomicU64::new(0) }; WAKES];
static OWNER: AtomicU32 = AtomicU32::new(0);
static AVAILABLE: AtomicU32 = AtomicU32::new(0);

/// Whether such a sleep is to be had (a container's filter may refuse AIO). Asked of the kernel once, and without making a
/// context: to end one the kernel waits for tens of milliseconds. Room for no event is EINVAL; a filter says something else.
pub fn available() -> bool {
    if AVAILABLE.load(Ordering::Relaxed) == 0 {
        let mut none: c_long = 0;
        // SAFETY: a place for a context's number, zero before.
        let made = unsafe { real::raw!(libc::SYS_io_setup, 0, &raw mut none) };
        let known = made < 0 && sys::errno() == libc::EINVAL;
        AVAILABLE.store(1 + u32::from(known), Ordering::Relaxed);
    }
    AVAILABLE.load(Ordering::Relaxed) == 2
}

fn set_up() -> Option<u64> {
    let mut fresh: c_long = 0;
    // SAFETY: a place for the context's number, zero before.
    let made = unsafe { real::raw!(libc::SYS_io_setup, 2 * POLLS, &raw mut fresh) } == 0;
    made.then_some(fresh as u64)
}

fn context(wake: Wake) -> Option<u64> {
    let me = sys::pid();
    if OWNER.swap(me, Ordering::AcqRel) != me {
        CONTEXTS.iter().for_each(|context| context.store(0, Ordering::Relaxed));
    }
    let place = CONTEXTS.get(wake.id as usize)?;
    match place.load(Ordering::Acquire) {
        0 => {
            let fresh = set_up()?;
            place.store(fresh, Ordering::Release);
            Some(fresh)
        }
        known => Some(known),
    }
}

pub enum Slept {
    Woken,
    /// EINTR: a handler ran that does not restart.
    Interrupted,
    Impossible,
}

/// Sleeps until the anchor has `events`, the wake is signalled, or the kernel says EINTR.
pub fn sleep(anchor: RawFd, events: c_short, wake: Wake) -> Slept {
    let Some(context) = context(wake) else { return Slept::Impossible };
    let mut blocks = [armed(anchor, events, wake.fd), armed(WAKE0.load(Ordering::Acquire), libc::POLLIN, wake.fd)];
    let mut places = blocks.each_mut().map(|block| block as *mut Iocb);
    blocking(wake.fd, true);
    // SAFETY: two control blocks that stand on this frame until both are over (see `cancel`).
    let submitted = unsafe { real::raw!(libc::SYS_io_submit, context, POLLS, places.as_mut_ptr()) };
    let result = if submitted < 1 {
        Slept::Impossible
    } else {
        let mut count = 0u64;
        // SAFETY: eight bytes into this frame.
        let n = unsafe { real::read(wake.fd, (&raw mut count).cast(), 8) };
        if n < 0 && sys::errno() == libc::EINTR { Slept::Interrupted } else { Slept::Woken }
    };
    cancel(context, &mut places, usize::try_from(submitted).unwrap_or(0));
    blocking(wake.fd, false);
    // What the cancelled polls added is no wake; a real one is not lost with it, for the caller looks again.
    wake.drain();
    result
}

/// Ends what is under way. A cancelled poll completes a little later, in a kernel worker, and only then adds to the eventfd:
/// its completion is waited for, else it would end the next sleep at once, and that one the next.
fn cancel(context: u64, places: &mut [*mut Iocb; POLLS], submitted: usize) {
    let mut events = [Event::default(); POLLS];
    for place in places.iter().take(submitted) {
        // SAFETY: the block's address as its name.
        unsafe { real::raw!(libc::SYS_io_cancel, context, *place, events.as_mut_ptr()) };
    }
    let moment = sys::timespec(50_000_000);
    // SAFETY: room for that many events.
    unsafe {
        real::raw!(libc::SYS_io_getevents, context, submitted, submitted, events.as_mut_ptr(), &raw const moment)
    };
}

fn armed(fd: RawFd, events: c_short, result: RawFd) -> Iocb {
    Iocb {
        opcode: POLL,
        fd: fd.cast_unsigned(),
        buffer: u64::from(events.cast_unsigned()),
        flags: RESULT_FD,
        result_fd: result.cast_unsigned(),
        ..Iocb::default()
    }
}

fn blocking(fd: RawFd, yes: bool) {
    let flags = if yes { 0 } else { libc::O_NONBLOCK };
    // SAFETY: a descriptor of ours.
    unsafe { real::fcntl(fd, libc::F_SETFL, flags as usize) };
}
