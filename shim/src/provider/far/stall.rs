//! Writers without room. A ring is smaller than what kernel TCP's buffers absorb, and two ends that both write before they read would wait for
//! each other for ever. So a direction in which nothing is read for a while goes back to TCP; when its reader reads again, it offers
//! the next epoch.

use std::sync::atomic::Ordering;

use super::{Conn, Far, existing};
use crate::stream::{Port, Word};
use crate::{switch, sys};

const STALL_NS: u64 = 500_000_000;

/// The writer of this direction has no room now.
pub fn no_room(conn: &switch::Conn) {
    let Some((far, own)) = conn.pair.far().and_then(|far| Some((far, far.conn(conn.number)?))) else { return };
    let (now, consumed) = (sys::now_ns(), conn.out.load(Word::Consumed));
    if own.full_since.load(Ordering::Relaxed) == 0 || own.full_at.load(Ordering::Relaxed) != consumed {
        own.full_at.store(consumed, Ordering::Relaxed);
        own.full_since.store(now, Ordering::Relaxed);
    }
    let _ = far.stall_at.compare_exchange(0, now + STALL_NS, Ordering::Relaxed, Ordering::Relaxed);
}

/// Nothing has been read for too long.
pub fn is_stalled(conn: &switch::Conn) -> bool {
    conn.pair
        .far()
        .and_then(|far| far.conn(conn.number))
        .is_some_and(|own| own.is_stalled(conn.out.load(Word::Consumed)))
}

/// How long a sleep may last: a writer without room may be another thread's.
pub fn bound(limit: Option<u64>) -> Option<u64> {
    match existing().map_or(0, |far| far.stall_at.load(Ordering::Relaxed)) {
        0 => limit,
        at => Some(limit.unwrap_or(u64::MAX).min(at.saturating_sub(sys::now_ns()).max(1_000_000))),
    }
}

impl Conn {
    fn is_stalled(&self, consumed: u64) -> bool {
        let since = self.full_since.load(Ordering::Relaxed);
        since != 0
            && self.full_at.load(Ordering::Relaxed) == consumed
            && sys::now_ns().saturating_sub(since) >= STALL_NS
    }
}

impl Far {
    /// Has the time come to look at those without room?
    pub(super) fn note_stall(&self) {
        let at = self.stall_at.load(Ordering::Relaxed);
        if at != 0 && sys::now_ns() >= at {
            self.stall_at.store(0, Ordering::Relaxed);
            self.todo.store(true, Ordering::Release);
        }
    }

    /// Such a one, once for each time that it had no room.
    pub(super) fn stalls(&self, number: u32) -> bool {
        let (Some(conn), Some([out, _])) = (self.conn(number), self.ports(number)) else { return false };
        conn.is_stalled(out.load(Word::Consumed))
    }
}
