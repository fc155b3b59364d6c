//! Writers without room. A ring is smaller than what kernel TCP's buffers absorb, and two ends that both write before they read would wait for
//! each other for ever. So a direction in which nothing is read for a while goes back to TCP; when its reader reads again, it offers
//! the next epoch.

use std::sync::atomic::Ordering;

use super::{Conn, Far, existing};
use crate::stream::{Port, Word};
use crate::{switch, sys};

const STALL_NS: u64 = 500_000_000;
const AGAIN_NS: u64 = 100_000_000;

/// The writer of this direction has no room now.
pub fn no_room(conn: &switch::Conn) {
    let Some((far, own)) = conn.pair.far().and_then(|far| Some((far, far.conn(conn.number)?))) else { return };
    let now = sys::now_ns();
    own.note_full(conn.out.load(Word::Consumed), now);
    let _ = far.stall_at.compare_exchange(0, now + STALL_NS, Ordering::Relaxed, Ordering::Relaxed);
}

/// Nothing has been read for too long.
pub fn is_stalled(conn: &switch::Conn) -> bool {
    conn.pair
        .far()
        .and_then(|far| far.conn(conn.number))
        .is_some_and(|own| own.is_stalled(conn.out.load(Word::Consumed), sys::now_ns()))
}

/// How long a sleep may last: a writer without room may be another thread's; and what a forked child could not say to policyd it says later.
pub fn bound(limit: Option<u64>) -> Option<u64> {
    let Some(far) = existing() else { return limit };
    if !far.is_ours() && far.todo.load(Ordering::Relaxed) {
        return Some(limit.unwrap_or(u64::MAX).min(AGAIN_NS));
    }
    match far.stall_at.load(Ordering::Relaxed) {
        0 => limit,
        at => Some(limit.unwrap_or(u64::MAX).min(at.saturating_sub(sys::now_ns()).max(1_000_000))),
    }
}

impl Conn {
    /// Its time runs from the first look at which nothing had been read since the last.
    fn note_full(&self, consumed: u64, now: u64) {
        if self.full_since.load(Ordering::Relaxed) == 0 || self.full_at.load(Ordering::Relaxed) != consumed {
            self.full_at.store(consumed, Ordering::Relaxed);
            self.full_since.store(now, Ordering::Relaxed);
        }
    }

    fn is_stalled(&self, consumed: u64, now: u64) -> bool {
        let since = self.full_since.load(Ordering::Relaxed);
        since != 0 && self.full_at.load(Ordering::Relaxed) == consumed && now.saturating_sub(since) >= STALL_NS
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
        conn.is_stalled(out.load(Word::Consumed), sys::now_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;

    #[test]
    fn who_is_read_from_is_not_stalled_however_long_it_has_no_room() {
        let conn = Conn::default();
        assert!(!conn.is_stalled(0, u64::MAX), "it never had no room");
        for step in 0..10 {
            let now = START + step * (STALL_NS - 1);
            assert!(!conn.is_stalled(step, now));
            conn.note_full(step, now);
            assert!(!conn.is_stalled(step, now + STALL_NS - 1));
        }
    }

    #[test]
    fn who_is_not_read_from_is_stalled_after_a_while_from_its_first_look() {
        let conn = Conn::default();
        for look in [0, 1, STALL_NS / 2, STALL_NS - 1] {
            conn.note_full(70_000, START + look);
            assert!(!conn.is_stalled(70_000, START + look));
        }
        conn.note_full(70_000, START + STALL_NS);
        assert!(conn.is_stalled(70_000, START + STALL_NS));
        // One byte read: it is not, and its time runs anew.
        assert!(!conn.is_stalled(70_001, START + STALL_NS));
        conn.note_full(70_001, START + STALL_NS + 1);
        assert!(!conn.is_stalled(70_001, START + 2 * STALL_NS));
        assert!(conn.is_stalled(70_001, START + 2 * STALL_NS + 1));
    }

    #[test]
    fn a_clock_that_goes_back_is_no_stall() {
        let conn = Conn::default();
        conn.note_full(5, START + STALL_NS);
        assert!(!conn.is_stalled(5, START));
    }
}
