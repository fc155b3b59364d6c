//! This process's assignment: a cell of an arena that policyd writes and we map to read.
//!
//! It is asked for once a channel, at the first destination that could be served. Whoever needs it then waits 20 ms at most;
//! after that sockets are left alone until the answer comes. The cell is ours for as long as the channel lives, so with the channel
//! the assignment goes too, and everything is native until policyd has answered again.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::Message;
use tandem_protocol::assignment::{Arena, Decision, Why, is_never_bound};

use crate::{config, debug, filter, meet, real, sys};

/// How long the first socket waits for the answer.
const PATIENCE_NS: u64 = 20_000_000;
/// How long a wait sleeps before it looks whether another thread has received the answer.
const LOOK_NS: u64 = 1_000_000;
/// After policyd could not be reached, how long nobody tries again.
const BACK_OFF_NS: u64 = 500_000_000;

const IDLE: u32 = 0;
const ASKED: u32 = 1;
/// The answer is here: a cell, or that there is none for us.
const ANSWERED: u32 = 2;

/// `serial << 32 | cell + 1`; 0 while there is none. The serial tells the answers apart. In a page of its own that the kernel wipes
/// in a child, also in one that was made where no hook could see it: the cell is this process's alone.
static CELL: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// Once mapped it stays at its place; a later arena replaces it there.
static ARENA: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());
static PHASE: AtomicU32 = AtomicU32::new(IDLE);
static SERIAL: AtomicU32 = AtomicU32::new(0);
/// Until when sockets wait for the answer.
static DEADLINE: AtomicU64 = AtomicU64::new(0);
static NEXT_TRY: AtomicU64 = AtomicU64::new(0);
static OFF: AtomicBool = AtomicBool::new(false);
/// Nobody has ever answered, and a moment ago nobody was there.
static DORMANT: AtomicBool = AtomicBool::new(false);

/// Whether a message to an address need not be looked at: one load. It ends when a socket is made or connected and policyd is there.
#[inline(always)]
pub fn is_dormant() -> bool {
    DORMANT.load(Ordering::Relaxed)
}

/// What a socket gets whose destination this is.
pub fn look_up(destination: IpAddr) -> Decision {
    if is_never_bound(destination) {
        return Decision::LeaveAlone(Why::Local);
    }
    let cell = cell();
    // SAFETY: null, or a mapping of an arena's size that is never unmapped; all in it are atomics.
    let arena = unsafe { ARENA.load(Ordering::Acquire).as_ref() };
    let (Some(arena), 1..) = (arena, cell) else { return Decision::LeaveAlone(Why::NoAssignment) };
    let decision = arena.look_up(cell as u32 - 1, destination);
    // Another arena may have taken its place meanwhile.
    if known_cell() == cell { decision } else { Decision::LeaveAlone(Why::Unreadable) }
}

/// Whether this process's sockets are bound to that address now, by an interface that is there.
#[cold]
pub fn has_source(source: IpAddr) -> bool {
    let cell = known_cell();
    // SAFETY: as above.
    let arena = unsafe { ARENA.load(Ordering::Acquire).as_ref() };
    arena.is_some_and(|arena| cell != 0 && arena.has_source(cell as u32 - 1, source))
}

#[inline]
fn cell() -> u64 {
    if OFF.load(Ordering::Relaxed) {
        return 0;
    }
    if known_cell() == 0 {
        return fetch();
    }
    // Nobody tells us that policyd has died.
    meet::probe();
    known_cell()
}

#[inline]
fn known_cell() -> u64 {
    // SAFETY: null, or a word in a page that is never unmapped.
    unsafe { CELL.load(Ordering::Acquire).as_ref() }.map_or(0, |cell| cell.load(Ordering::Acquire))
}

fn set_cell(word: u64) {
    // SAFETY: as above.
    if let Some(cell) = unsafe { CELL.load(Ordering::Acquire).as_ref() } {
        cell.store(word, Ordering::Release);
    }
}

#[cold]
fn fetch() -> u64 {
    let now = sys::now_ns();
    if PHASE.load(Ordering::Acquire) == IDLE && !ask(now) {
        return 0;
    }
    if PHASE.load(Ordering::Acquire) == ASKED && now < DEADLINE.load(Ordering::Acquire) {
        wait();
    } else {
        meet::collect();
        meet::probe();
    }
    known_cell()
}

/// False when nobody is there to be asked.
fn ask(now: u64) -> bool {
    if now < NEXT_TRY.load(Ordering::Relaxed) || !meet::may_try(now) || sys::is_vfork_child() {
        return false;
    }
    DEADLINE.store(now + PATIENCE_NS.max(debug::patience_ns()), Ordering::Release);
    if PHASE.compare_exchange(IDLE, ASKED, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return true;
    }
    if meet::tell(&Message::Assign { interface: config::interface(), network: config::network() }) {
        return true;
    }
    NEXT_TRY.store(now + BACK_OFF_NS, Ordering::Relaxed);
    DORMANT.store(SERIAL.load(Ordering::Relaxed) == 0, Ordering::Relaxed);
    PHASE.store(IDLE, Ordering::Release);
    false
}

fn wait() {
    loop {
        if !meet::receive() {
            return;
        }
        let now = sys::now_ns();
        let end = DEADLINE.load(Ordering::Acquire);
        if PHASE.load(Ordering::Acquire) != ASKED || now >= end {
            return;
        }
        meet::wait_for_mail((end - now).min(LOOK_NS));
    }
}

/// A socket is made or connected: an occasion to see whether policyd is there by now.
#[inline]
pub fn occasion() {
    if is_dormant() && sys::tick_ns() >= NEXT_TRY.load(Ordering::Relaxed) && filter::permits() {
        DORMANT.store(false, Ordering::Relaxed);
    }
}

/// Policyd's answer, under the channel's lock. The descriptor is closed here.
pub fn arrived(cell: u32, arena: RawFd) {
    let mapped = map(arena);
    // SAFETY: received for us, and not used any more.
    unsafe { real::close(arena) };
    let serial = SERIAL.load(Ordering::Relaxed).wrapping_add(1).max(1);
    SERIAL.store(serial, Ordering::Relaxed);
    DORMANT.store(false, Ordering::Relaxed);
    let word = if mapped { u64::from(serial) << 32 | (u64::from(cell) + 1) } else { 0 };
    set_cell(word);
    PHASE.store(ANSWERED, Ordering::Release);
    if !mapped {
        crate::log::warn(format_args!("policyd's arena cannot be mapped: no interface is chosen for this process"));
    }
}

/// Policyd has no cell for this process.
pub fn refused() {
    set_cell(0);
    PHASE.store(ANSWERED, Ordering::Release);
}

/// The channel is gone, and the cell with it.
pub fn lost() {
    set_cell(0);
    PHASE.store(IDLE, Ordering::Release);
}

/// The cell is the parent's; the child asks for its own.
pub fn after_fork_in_child() {
    lost();
}

/// The interfaces of another network namespace, or a filter that would see our calls: no more of it in this program.
pub fn forbid() {
    OFF.store(true, Ordering::Relaxed);
    set_cell(0);
}

/// Maps the arena, in the old one's place if there is one: whoever is reading there reads the new one, and notices.
fn map(fd: RawFd) -> bool {
    if !is_arena(fd) || !make_cell() {
        return false;
    }
    let old = ARENA.load(Ordering::Acquire);
    let place = if old.is_null() { 0 } else { libc::MAP_FIXED };
    set_cell(0);
    // SAFETY: a fresh mapping where the kernel chooses, or in place of our own one of the same size, which nobody holds a
    // reference into that could not bear other values.
    let at = unsafe { libc::mmap(old.cast(), Arena::BYTES, libc::PROT_READ, libc::MAP_SHARED | place, fd, 0) };
    if at == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: just mapped. Ours to leave out of core files.
    unsafe { libc::madvise(at, Arena::BYTES, libc::MADV_DONTDUMP) };
    ARENA.store(at.cast(), Ordering::Release);
    // SAFETY: a mapping of an arena's size, of atomics.
    unsafe { (*at.cast::<Arena>()).is_sound() }
}

/// The cell's page, made once.
fn make_cell() -> bool {
    if !CELL.load(Ordering::Acquire).is_null() {
        return true;
    }
    const PAGE: usize = 4096;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh page where the kernel chooses.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
    if at == libc::MAP_FAILED {
        return false;
    }
    // A kernel that cannot has no such children forgotten; those that a hook sees are.
    // SAFETY: just mapped.
    unsafe { libc::madvise(at, PAGE, libc::MADV_WIPEONFORK) };
    CELL.store(at.cast(), Ordering::Release);
    true
}

/// Of the right size, and nobody can make it shorter under us.
fn is_arena(fd: RawFd) -> bool {
    // SAFETY: all-zero is a valid stat; the calls have no other arguments than our descriptor and its place.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        let seals = real::fcntl(fd, libc::F_GET_SEALS, 0);
        seals >= 0
            && seals & Arena::SEALS == Arena::SEALS
            && libc::fstat(fd, &mut stat) == 0
            && u64::try_from(stat.st_size) == Ok(Arena::BYTES as u64)
    }
}
