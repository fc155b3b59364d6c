//! What poll, select and epoll shall be told of a connection whose directions go through the switch.
//!
//! The kernel's answer about the anchor counts for what the kernel carries, and for hang-ups, errors and the peer's FIN,
//! which are told when TCP tells them. Readable and writable of a switched direction are the ring's.

use std::sync::atomic::Ordering;

use super::{Conn, anchor, receive, send};
use crate::slot::{SlotRef, THROUGH_SWITCH, flag};

pub const IN: u32 = (libc::POLLIN | libc::POLLRDNORM) as u32;
pub const OUT: u32 = (libc::POLLOUT | libc::POLLWRNORM) as u32;
const RDHUP: u32 = libc::POLLRDHUP as u32;
const HUP: u32 = libc::POLLHUP as u32;
const ERR: u32 = libc::POLLERR as u32;

/// A connection that the kernel alone cannot answer for.
#[inline]
pub fn switched(slot: SlotRef) -> bool {
    slot.send_phase.load(Ordering::Acquire) | slot.recv_phase.load(Ordering::Acquire) != 0
}

/// What the anchor must be polled for, when the application asked for `wanted`.
pub fn anchor_events(conn: &Conn, wanted: u32) -> u32 {
    let slot = conn.slot;
    let mut events = wanted & !(IN | OUT);
    let known = slot.anchor.load(Ordering::Acquire) & RDHUP != 0;
    if known && fin_would_wait(conn) {
        events &= !RDHUP;
    }
    if wanted & IN != 0 {
        events |= libc::POLLIN as u32;
    }
    if slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
        if send::owes(conn) {
            events |= libc::POLLOUT as u32;
        } else if wanted & OUT != 0 && !known {
            events |= RDHUP;
        }
    } else {
        events |= wanted & OUT;
    }
    events
}

/// The application's events out of what the kernel said of the anchor.
pub fn events(conn: &Conn, kernel: u32, wanted: u32) -> u32 {
    events_and_anchor(conn, kernel, wanted).0
}

/// And what was known of the anchor then: another thread's call may learn more of it at any time, which is not in these events.
pub fn events_and_anchor(conn: &Conn, kernel: u32, wanted: u32) -> (u32, u32) {
    let slot = conn.slot;
    let known = if kernel != 0 { anchor::note(conn, kernel) } else { slot.anchor.load(Ordering::Acquire) };
    let bits = known | own_end(slot) | if slot.error_is_owed() { ERR } else { 0 };
    let mut events = bits & (HUP | ERR) | (bits | kernel) & wanted & !(IN | OUT | HUP | ERR);
    if events & RDHUP != 0 && !slot.has(flag::SHUT_RD) && fin_would_wait(conn) {
        events &= !RDHUP;
    }
    if wanted & IN != 0 {
        let low = receive::low_water(slot, conn.fd);
        // The peer's end is something to read, whoever heard of it first: without IN programs take no RDHUP for an end.
        let tcp = (kernel & IN) | (kernel | known) & (RDHUP | HUP | ERR) != 0;
        let readable = slot.has(flag::SHUT_RD)
            || if slot.recv_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
                receive::readable(conn, tcp, low)
            } else {
                // What was readable when the kernel was asked may have been a record, which is gone by now.
                kernel & IN != 0 && kernel_has(conn, libc::POLLIN)
            };
        if readable {
            events |= IN;
        }
    }
    if wanted & OUT != 0 {
        let writable = if slot.send_phase.load(Ordering::Acquire) == THROUGH_SWITCH {
            // Pumping may have given the direction back: then the kernel is asked.
            send::pump(conn)
                || kernel & (HUP | ERR) != 0
                || slot.send_phase.load(Ordering::Acquire) != THROUGH_SWITCH && kernel_has(conn, libc::POLLOUT)
        } else {
            // The copy that was polled may have been made before the direction came back.
            kernel & OUT != 0 || kernel_has(conn, libc::POLLOUT)
        };
        if writable {
            events |= OUT;
        }
    } else if send::has_duties(conn) {
        send::pump(conn);
    }
    (events & (wanted | HUP | ERR), known)
}

/// As much as a reader waits for, or the end, from the peer: of what this end has shut, and of a reset, the kernel says nothing when it looks
/// anew.
pub fn has_come(conn: &Conn) -> bool {
    let unread = receive::arrived(conn).saturating_sub(conn.slot.delivered());
    unread > 0 && unread >= receive::low_water(conn.slot, conn.fd) as u64 || anchor::fin_has_come(conn)
}

/// What this end has shut is told too, as the kernel does it; of the peer it says nothing (see `anchor::note`).
fn own_end(slot: SlotRef) -> u32 {
    match (slot.has(flag::SHUT_RD), slot.has(flag::SHUT_WR)) {
        (true, true) => RDHUP | HUP,
        (true, false) => RDHUP,
        _ => 0,
    }
}

fn kernel_has(conn: &Conn, event: libc::c_short) -> bool {
    let mut entry = libc::pollfd { fd: conn.fd, events: event, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { crate::real::poll(&mut entry, 1, 0) };
    entry.revents & event != 0
}

/// On TCP the peer's FIN comes after its bytes, and those wait at the sender while the receive buffer is full.
pub fn fin_would_wait(conn: &Conn) -> bool {
    if conn.slot.recv_phase.load(Ordering::Acquire) != THROUGH_SWITCH {
        return false;
    }
    let unread = receive::produced(conn).saturating_sub(conn.slot.delivered());
    unread > (64 << 10)
        && anchor::socket_option::<i32>(conn.fd, libc::SOL_SOCKET, libc::SO_RCVBUF)
            .is_some_and(|size| unread > size.max(0) as u64)
}

/// As [`events_and_anchor`], asking the kernel first.
pub fn ask(conn: &Conn, wanted: u32) -> (u32, u32) {
    let events_wanted = anchor_events(conn, wanted) | RDHUP;
    let mut entry = libc::pollfd { fd: conn.fd, events: events_wanted as i16, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { crate::real::poll(&mut entry, 1, 0) };
    events_and_anchor(conn, u32::from(entry.revents.cast_unsigned()), wanted)
}
