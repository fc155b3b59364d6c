//! The end of a companion between hosts, before anything was carried or after. Under the lock of policyd's channel, as `meeting`.

use std::sync::atomic::Ordering;

use tandem_protocol::Reason;
use tandem_protocol::message::Message;

use super::meeting::{Book, Meeting, Say};
use super::{Far, told};
use crate::slot::Stage;
use crate::{meet, switch};

impl Far {
    /// Nothing has been carried: TCP goes on.
    pub(super) fn give_up(&self, book: &mut Book, number: u32, reason: Reason, say: &Say<'_>) {
        let Some(meeting) = book.at(number) else { return };
        crate::log::info(format_args!("companion {:x}: {reason} ({:?})", meeting.far.id, meeting.life));
        if meeting.instance == meet::instance() && !meeting.ended {
            say(&Message::FarUnable(meeting.far));
        }
        meeting.ended = true;
        if let Some(slot) = meet::slot_named(meeting.slot) {
            match slot.stage() {
                Stage::Attached => switch::leave(slot, slot.descriptor(), reason),
                _ => meet::settle(slot, reason),
            }
        }
        self.end(book, number);
    }

    /// No put is made there any more, and by and by none lands.
    pub(super) fn close(&self, book: &mut Book, number: u32) {
        let (Some(conn), Some(meeting)) = (self.conn(number), book.at(number)) else { return };
        if meeting.closing {
            return;
        }
        // Whoever is in the middle of a put has it behind them then.
        let Ok(_held) = conn.push.lock() else {
            self.todo.store(true, Ordering::Release);
            return;
        };
        meeting.closing = true;
        conn.companion.store(std::ptr::null_mut(), Ordering::Release);
        // SAFETY: not used again.
        unsafe { (meeting.place.driver.provider.close)(meeting.handle) };
    }

    pub(super) fn end(&self, book: &mut Book, number: u32) {
        self.close(book, number);
        let over =
            |meeting: &mut Meeting| (meeting.known & told::CLOSED != 0).then_some((meeting.place, meeting.remote));
        if let Some((place, remote)) = book.at(number).and_then(over) {
            if let Some(entry) = book.meetings.get_mut(number as usize) {
                *entry = None;
            }
            book.domains.give_back(self, place, remote);
        }
    }
}
