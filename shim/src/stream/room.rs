//! What the ring still takes, and where it stands.

use super::faults::{Fault, planted};
use super::geometry::{self, Geometry};
use super::words::{Place, Port, Word};
use super::writer::{WState, Writer};

/// Room and places.
impl Writer {
    /// Bytes that a write would take now. 0 when not `Ring`.
    pub fn room<P: Port>(&mut self, port: &P) -> usize {
        self.look(port);
        match self.state {
            WState::Ring => self.known_room() as usize,
            _ => 0,
        }
    }

    /// Accepted but not consumed: SIOCOUTQ.
    pub fn unconsumed<P: Port>(&mut self, port: &P) -> usize {
        self.look(port);
        match self.state {
            WState::Ring => (self.written - self.consumed) as usize,
            WState::FailBack => self.owed_bytes() as usize,
            _ => 0,
        }
    }

    /// Would a larger region take more of a write of `len` bytes? `grow` would be allowed now.
    pub fn want_growth<P: Port>(&mut self, port: &P, len: usize) -> bool {
        self.look(port);
        self.state == WState::Ring && self.may_publish() && {
            let wish = self.allowance().min(len as u64);
            self.current.room(self.written, self.consumed) < wish
        }
    }

    /// Goes on in another region (larger, or smaller when that suffices); what is unread stays where it is. False:
    /// the reader has not yet come to the present one, or a place is to be collected by `retired` first.
    pub fn grow<P: Port>(&mut self, port: &P, place: Place) -> bool {
        self.look(port);
        // Into its own region only when that is empty: its unread bytes would be written over.
        let apart = place != self.current.place || self.consumed == self.written;
        self.state == WState::Ring && apart && port.admits(place) && self.may_publish() && self.publish(port, place)
    }

    /// As [`Writer::grow`], and takes what is unread along, so that it may grow again before the reader has come that far. A reader that
    /// looks at the old place finds the same bytes there; this epoch never comes back to it.
    pub fn move_to<P: Port>(&mut self, port: &P, place: Place) -> bool {
        self.look(port);
        let unread = self.written - self.consumed;
        let fits = place != self.current.place && port.admits(place) && unread <= place.size();
        if self.state != WState::Ring || !fits || !self.may_publish() {
            return false;
        }
        let (from, to) = (self.current, Geometry { start: self.consumed, place });
        let mut at = self.consumed;
        while at < self.written {
            let run = from.run(at, self.written - at);
            let into = to.run(at, run.len);
            // SAFETY: both lie in admitted places, which are two; `into` begins its region, so it has no seam before its size.
            unsafe { port.copy_in(into.offset, port.pointer(run.offset), into.len as usize) };
            at += into.len;
        }
        self.publish_from(port, to)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn rewind<P: Port>(&mut self, port: &P) {
        self.rewind_if_empty(port);
    }

    /// An empty ring starts over at its region's first byte. `reserve` does it by itself after 16 KiB.
    pub fn rewind_if_empty<P: Port>(&mut self, port: &P) -> bool {
        self.look(port);
        let empty = self.state == WState::Ring && self.consumed == self.written;
        let moved = self.written != self.current.start;
        empty && moved && self.may_publish() && self.publish(port, self.current.place)
    }

    /// A place that the direction has left for good. Ask until None.
    pub fn retired<P: Port>(&mut self, port: &P) -> Option<Place> {
        if !self.previous.place.is_none() {
            self.look(port);
            self.let_go();
        }
        let freed = self.freed.iter_mut().find(|place| !place.is_none())?;
        Some(std::mem::take(freed))
    }

    /// The places that the reader may still look at, and what was not yet collected.
    pub fn places(&self) -> [Place; 4] {
        [self.current.place, self.previous.place, self.freed[0], self.freed[1]]
    }

    /// At most so many bytes accepted but not consumed; 0 is no limit but the region's.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    #[inline]
    pub(super) fn known_room(&self) -> u64 {
        self.current.room(self.written, self.consumed).min(self.allowance())
    }

    /// What `limit` leaves.
    #[inline]
    fn allowance(&self) -> u64 {
        match self.limit {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.written - self.consumed),
        }
    }

    /// Loads and checks `consumed`. What is below N or steps back is only old.
    #[inline]
    pub(super) fn look<P: Port>(&mut self, port: &P) {
        if self.state != WState::Ring {
            return;
        }
        let consumed = port.load(Word::Consumed);
        if consumed > self.written {
            self.state = WState::Broken;
        } else {
            self.consumed = self.consumed.max(consumed);
        }
    }

    fn may_publish(&self) -> bool {
        self.consumed >= self.current.start || planted(Fault::GrowthUnasked)
    }

    /// The next geometry starts at `written`. False while more places were left than were collected.
    pub(super) fn publish<P: Port>(&mut self, port: &P, place: Place) -> bool {
        self.publish_from(port, Geometry { start: self.written, place })
    }

    fn publish_from<P: Port>(&mut self, port: &P, next: Geometry) -> bool {
        let place = next.place;
        self.let_go();
        if self.current.place != place && self.freed.iter().all(|freed| !freed.is_none() && *freed != place) {
            return false;
        }
        for freed in &mut self.freed {
            if *freed == place {
                *freed = Place::NONE; // in use again before anybody asked
            }
        }
        self.previous = self.current;
        self.current = next;
        self.number += 1;
        geometry::publish(port, self.number, self.current);
        self.let_go();
        true
    }

    /// The previous region is done with when all below the present one's start is consumed.
    fn let_go(&mut self) {
        if self.consumed < self.current.start || self.previous.place.is_none() {
            return;
        }
        let left = self.previous.place;
        self.previous = Geometry::default();
        if left != self.current.place
            && let Some(free) = self.freed.iter_mut().find(|freed| freed.is_none())
        {
            *free = left;
        }
    }
}
