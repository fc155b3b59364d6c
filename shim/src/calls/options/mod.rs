//! A socket's options and controls. What each option means beside the anchor is in `table`.

mod table;

use std::sync::atomic::Ordering;

use tandem_protocol::Reason;

use crate::autobind::record::is;
use crate::autobind::{self, record};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::{self, Conn, anchor, ready, receive, send};
use crate::{epoll, meet, real, sys};
use table::{Meaning, meaning};

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> Outcome<c_int> {
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR)
        && let Some(slot) =
            slot::of(fd).filter(|slot| slot.stage() >= Stage::Attached && !slot.slot.autobind.has(is::FAILS))
    {
        // SAFETY: the application's own call.
        return unsafe { error(slot, fd, value.cast(), length) };
    }
    if (level, name) == (libc::IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE)
        && let Some(slot) = slot::of(fd)
    {
        // It receives.
        super::transfer::hand_over(slot, fd, Reason::Option);
    }
    // Every option is set on the anchor too, so the kernel's answer is TCP's; but not what AutoBind set.
    match record::of(fd) {
        // SAFETY: the application's own call.
        Some(record) => unsafe { autobind::options::get(record, fd, level, name, value, length) },
        None => Outcome::Bypass,
    }
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> Outcome<c_int> {
    if let Some(record) = record::of_datagram(fd) {
        // SAFETY: the application's own call.
        return unsafe { autobind::options::set(record, fd, level, name, value, length) };
    }
    let Some(slot) = slot::of(fd) else { return Outcome::Bypass };
    if level == libc::IPPROTO_TCP && matches!(name, libc::TCP_ULP | libc::TCP_REPAIR) {
        // The kernel takes the stream over: it must have it all.
        super::transfer::hand_over(slot, fd, Reason::Option);
    }
    // SAFETY: the application's own call.
    let outcome = unsafe { autobind::options::set(&slot.slot.autobind, fd, level, name, value, length) };
    if matches!(outcome, Outcome::Fail(_)) {
        return outcome;
    }
    match meaning(level, name) {
        Meaning::Carried(_) | Meaning::Anchors | Meaning::ReadOnly => {}
        Meaning::Remembered(what) => {
            if what == flag::LOW_WATER {
                epoll::note_arrivals(slot);
            }
            slot.raise(what);
            if what == flag::LOW_WATER && slot.stage() == Stage::Attached {
                // SAFETY: the application's own call.
                let outcome = Outcome::of(unsafe { real::setsockopt(fd, level, name, value, length) });
                if Conn::of(slot, fd).is_some_and(|conn| ready::has_come(&conn)) && outcome == Outcome::Done(0) {
                    epoll::ask_anew(slot);
                }
                return outcome;
            }
        }
        Meaning::NoCompanion(_) => refuse(slot, fd),
        Meaning::BetweenHostsUnlessZero(_) => {
            // SAFETY: the application's own call.
            let outcome = Outcome::of(unsafe { real::setsockopt(fd, level, name, value, length) });
            if outcome == Outcome::Done(0) && anchor::socket_option::<c_int>(fd, level, name) != Some(0) {
                slot.raise(flag::USER_TIMEOUT);
                if slot.stage() == Stage::Attached && !slot.has(flag::FAR) {
                    refuse(slot, fd);
                }
            }
            return outcome;
        }
    }
    outcome
}

fn refuse(slot: SlotRef, fd: c_int) {
    slot.raise(flag::ODD_OPTION);
    if slot.stage() == Stage::Attached {
        switch::leave(slot, fd, Reason::Option);
    } else if slot.stage() != Stage::New {
        meet::settle(slot, Reason::Option);
    }
}

/// SO_ERROR: the kernel's, or the one that a call of ours took from it. Told here, it is told by no other call.
///
/// # Safety
/// As getsockopt has it.
unsafe fn error(slot: SlotRef, fd: c_int, value: *mut c_int, length: *mut socklen_t) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let outcome = Outcome::of(unsafe { real::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value.cast(), length) });
    // SAFETY: by the caller; the kernel has just taken both.
    if outcome == Outcome::Done(0) && unsafe { *length } as usize >= size_of::<c_int>() {
        let untold = slot.untold.swap(0, Ordering::AcqRel) as c_int;
        // SAFETY: as above; it may stand anywhere.
        unsafe {
            if untold != 0 && value.read_unaligned() == 0 {
                value.write_unaligned(untold);
            }
            if value.read_unaligned() != 0 {
                slot.raise(flag::RESET_TOLD);
            }
        }
    }
    outcome
}

pub fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> Outcome<c_int> {
    let Some(conn) = slot::of(fd).and_then(|slot| Conn::of(slot, fd)) else { return Outcome::Bypass };
    if conn.pair.is_far() {
        // A program may ask nothing else.
        meet::collect();
    }
    match request {
        libc::FIONREAD => match receive::available(&conn) {
            Some(n) => answer(argument, n),
            None => Outcome::Bypass,
        },
        libc::TIOCOUTQ if switch::ready::switched(conn.slot) => {
            let mut kernels: c_int = 0;
            // SAFETY: the request writes one int.
            unsafe { real::ioctl(fd, request, (&raw mut kernels) as usize) };
            answer(argument, kernels.max(0) as usize + send::not_arrived(&conn))
        }
        SIOCATMARK => sockatmark(fd),
        libc::FIOASYNC => super::transfer::leave(fd),
        libc::FIONCLEX => super::lifecycle::lets_through(fd),
        libc::FIONBIO => super::lifecycle::mode_changes(fd),
        _ => Outcome::Bypass,
    }
}

/// asm-generic/sockios.h
const SIOCATMARK: c_ulong = 0x8905;

fn answer(argument: usize, n: usize) -> Outcome<c_int> {
    let place = argument as *mut c_int;
    if !sys::may_be_memory(place) {
        return Outcome::Fail(libc::EFAULT);
    }
    // SAFETY: both requests write one int where the application said.
    unsafe { place.write(c_int::try_from(n).unwrap_or(c_int::MAX)) };
    Outcome::Done(0)
}

pub fn sockatmark(fd: c_int) -> Outcome<c_int> {
    if let Some(conn) = slot::of(fd).and_then(|slot| Conn::of(slot, fd)) {
        receive::attend(&conn);
    }
    Outcome::Bypass
}
