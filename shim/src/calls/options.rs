//! A socket's options and controls.

use tandem_protocol::Reason;

use crate::autobind::{self, record};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, Stage, flag};
use crate::switch::{self, Conn, receive, send};
use crate::{meet, real};

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> Outcome<c_int> {
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
        Meaning::None => {}
        Meaning::Remember(what) => {
            slot.raise(what);
        }
        Meaning::NoCompanion => {
            slot.raise(flag::ODD_OPTION);
            if slot.stage() == Stage::Attached {
                switch::leave(slot, fd, Reason::Option);
            } else if slot.stage() != Stage::New {
                meet::settle(slot, Reason::Option);
            }
        }
    }
    outcome
}

/// What an option, set on the anchor, means beside it.
enum Meaning {
    /// Nothing: it concerns the anchor alone, or the switch asks the kernel for it when it matters.
    None,
    Remember(u32),
    /// Not known to be harmless: the connection stays on, or goes back to, TCP.
    NoCompanion,
}

/// The allow-list. What has no row here means no companion.
fn meaning(level: c_int, name: c_int) -> Meaning {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => Meaning::Remember(flag::LOW_WATER),
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => Meaning::Remember(flag::SEND_BUFFER),
        (
            libc::SOL_SOCKET,
            // Time-outs are read from the anchor at each sleep; the rest shapes the anchor's own packets or its end.
            libc::SO_RCVTIMEO
            | libc::SO_SNDTIMEO
            | libc::SO_RCVBUF
            | libc::SO_RCVBUFFORCE
            | libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_KEEPALIVE
            | libc::SO_LINGER
            | libc::SO_PRIORITY
            | libc::SO_BROADCAST
            | libc::SO_DONTROUTE
            | libc::SO_INCOMING_CPU
            | libc::SO_BUSY_POLL,
        ) => Meaning::None,
        (
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY
            | libc::TCP_CORK
            | libc::TCP_QUICKACK
            | libc::TCP_MAXSEG
            | libc::TCP_KEEPIDLE
            | libc::TCP_KEEPINTVL
            | libc::TCP_KEEPCNT
            | libc::TCP_SYNCNT
            | libc::TCP_LINGER2
            | libc::TCP_DEFER_ACCEPT
            | libc::TCP_WINDOW_CLAMP
            | libc::TCP_USER_TIMEOUT
            | libc::TCP_CONGESTION
            | libc::TCP_FASTOPEN
            | libc::TCP_FASTOPEN_CONNECT
            | libc::TCP_NOTSENT_LOWAT
            | libc::TCP_THIN_LINEAR_TIMEOUTS
            | libc::TCP_THIN_DUPACK,
        ) => Meaning::None,
        (libc::IPPROTO_IP, libc::IP_TOS | libc::IP_TTL | libc::IP_BIND_ADDRESS_NO_PORT | libc::IP_MTU_DISCOVER) => {
            Meaning::None
        }
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY | libc::IPV6_TCLASS | libc::IPV6_UNICAST_HOPS) => Meaning::None,
        _ => Meaning::NoCompanion,
    }
}

pub fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> Outcome<c_int> {
    let Some(conn) = slot::of(fd).and_then(|slot| Conn::of(slot, fd)) else { return Outcome::Bypass };
    match request {
        libc::FIONREAD => match receive::available(&conn) {
            Some(n) => answer(argument, n),
            None => Outcome::Bypass,
        },
        libc::TIOCOUTQ if switch::ready::switched(conn.slot) => {
            let mut kernels: c_int = 0;
            // SAFETY: the request writes one int.
            unsafe { real::ioctl(fd, request, (&raw mut kernels) as usize) };
            answer(argument, kernels.max(0) as usize + send::queued(&conn))
        }
        SIOCATMARK => sockatmark(fd),
        libc::FIOASYNC => super::transfer::leave(fd),
        _ => Outcome::Bypass,
    }
}

/// asm-generic/sockios.h
const SIOCATMARK: c_ulong = 0x8905;

fn answer(argument: usize, n: usize) -> Outcome<c_int> {
    let place = argument as *mut c_int;
    if place.is_null() {
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
