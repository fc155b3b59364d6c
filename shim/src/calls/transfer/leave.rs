//! What the switch cannot carry: the connection is the kernel's before it happens.

use std::os::fd::RawFd;

use tandem_protocol::Reason;

use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::{self, Conn, receive, send};
use crate::{meet, real, sys};

/// libc itself is about to read or write this descriptor, in a way that the switch cannot carry.
pub fn leave<R>(fd: c_int) -> Outcome<R> {
    if let Some(slot) = slot::of(fd) {
        hand_over(slot, fd, Reason::UnsupportedCall);
    }
    Outcome::Bypass
}

/// Waits until the kernel carries both directions, for good. How long a peer that computes may take for its answer is
/// bounded, once a connection.
pub fn hand_over(slot: SlotRef, fd: RawFd, reason: Reason) {
    const LIMIT_NS: u64 = 5_000_000_000;
    const LOOK_NS: u64 = 200_000;
    if slot.stage() != Stage::Attached {
        return meet::settle(slot, reason);
    }
    let end = sys::now_ns() + LIMIT_NS;
    let Some(conn) = Conn::of(slot, fd) else { return };
    // Before anybody asks the direction back in the other way, which has a record for its answer.
    receive::let_go(&conn);
    switch::give_up(slot, reason);
    while switch::ready::switched(slot) && slot.current() && !slot.has(flag::STUCK) {
        if conn.pair.is_far() {
            meet::collect();
        }
        switch::ready::ask(&conn, switch::ready::IN | switch::ready::OUT);
        send::pump(&conn);
        if !receive::let_go(&conn) || sys::now_ns() >= end {
            slot.raise(flag::STUCK);
            receive::read_on(&conn);
            if receive::hides_a_record(&conn) {
                sever(&conn);
            }
            crate::log::warn(format_args!("slot {}: handed over with bytes in the ring", slot.index));
        }
        sys::pause(LOOK_NS);
    }
    switch::refresh_row(slot);
}

/// The next program must not take a record for bytes: the connection is reset, for all who hold it.
fn sever(conn: &Conn) {
    // SAFETY: all-zero is an address of no family.
    let none: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: an address on this frame, of its size. To no family: tcp_disconnect, see connect(2).
    unsafe { real::connect(conn.fd, &raw const none, size_of::<libc::sockaddr>() as libc::socklen_t) };
    crate::log::warn(format_args!(
        "slot {}: reset, for a fail-back record stands behind unread bytes",
        conn.slot.index
    ));
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn lio_listio(_mode: c_int, list: *const *mut aiocb, count: c_int, _event: *mut sigevent) -> Outcome<c_int> {
    for at in 0..count.max(0) as usize {
        // SAFETY: by the caller, `count` control blocks, some of them null.
        if let Some(block) = unsafe { (*list.add(at)).as_ref() } {
            let _: Outcome<c_int> = leave(block.aio_fildes);
        }
    }
    Outcome::Bypass
}
