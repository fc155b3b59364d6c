//! What the provider tells. Words that have landed become the image's, as if the other end had stored them there, and whoever waits for them
//! is woken. Nothing here takes a slot's lock: it may be called under one.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use tandem_provider::stream::extend;
use tandem_provider::{Completion, kind};

use super::layout::{self, Record, end, landed};
use super::push::Token;
use super::{Conn, Far, enter, told};
use crate::lock::Held;
use crate::stream::{Port, Word, sleepers, stamped};
use crate::wake;

/// Completions taken at once.
const BATCH: usize = 32;

/// What of the records was last taken over.
#[derive(Default)]
pub struct Seen {
    at: u64,
    want: u64,
    over: bool,
}

/// What a cookie names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    Queue,
    Domain(u32),
    Landing(u32),
    Staging(u32),
    Conn { number: u32, serial: u32 },
}

const SERIAL: u32 = 0xff_ffff;

impl Named {
    pub fn cookie(self) -> u64 {
        let word =
            |kind: u64, serial: u32, index: u32| kind << 56 | u64::from(serial & SERIAL) << 32 | u64::from(index);
        match self {
            Named::Queue => 0,
            Named::Domain(index) => word(1, 0, index),
            Named::Landing(index) => word(2, 0, index),
            Named::Staging(index) => word(3, 0, index),
            Named::Conn { number, serial } => word(4, serial, number),
        }
    }

    pub fn of(cookie: u64) -> Named {
        let (index, serial) = (cookie as u32, (cookie >> 32) as u32 & SERIAL);
        match cookie >> 56 {
            1 => Named::Domain(index),
            2 => Named::Landing(index),
            3 => Named::Staging(index),
            4 => Named::Conn { number: index, serial },
            _ => Named::Queue,
        }
    }
}

impl Far {
    /// Takes what has happened: no system call when nothing has. When it returns, all that had been told before is in the images, unless
    /// this is a signal handler that interrupted the very thing. True: there was something.
    pub fn poll(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let Some(inside) = enter() else { return false };
        let Ok(held) = self.polling.lock() else { return false };
        let mut any = false;
        // Most looks find nothing: no zeroes are written for those.
        let mut batch = [const { MaybeUninit::<Completion>::uninit() }; BATCH];
        for driver in self.drivers() {
            loop {
                // SAFETY: this process's queue, and room for so many.
                let count = unsafe { (driver.provider.poll)(driver.queue, batch.as_mut_ptr().cast(), BATCH as u32) };
                let count = usize::try_from(count).unwrap_or(0);
                for completion in batch.iter().take(count) {
                    // SAFETY: the first `count` were written.
                    self.take(&held, unsafe { completion.assume_init_ref() });
                }
                any |= count > 0;
                if count < BATCH {
                    break;
                }
            }
        }
        drop(held);
        drop(inside);
        any
    }

    fn take(&self, held: &Held<'_>, completion: &Completion) {
        let fine = completion.status >= 0;
        let (number, serial) = match Named::of(completion.cookie) {
            Named::Conn { number, serial } => (number, serial),
            other => {
                self.book_news(other, completion);
                return;
            }
        };
        let Some(conn) = self.conn(number).filter(|conn| conn.serial.load(Ordering::Acquire) & SERIAL == serial) else {
            return;
        };
        if !fine {
            conn.status.store(completion.status, Ordering::Relaxed);
        }
        match completion.kind {
            kind::NOTIFIED => self.notified(held, number, conn, completion.note),
            kind::LANDED => self.arrived(number, conn, Token::of(completion.token)),
            kind::READY if fine => self.tell(conn, told::READY),
            kind::CONNECTED if fine => self.tell(conn, told::CONNECTED),
            kind::ROOM => self.tell(conn, told::ROOM),
            kind::CLOSED => self.tell(conn, told::CLOSED),
            kind::READY | kind::CONNECTED | kind::DEAD => self.died(number, conn),
            _ => {}
        }
    }

    /// Nothing that this end stores from now on arrives.
    pub(super) fn died(&self, number: u32, conn: &Conn) {
        if let Some(ports) = self.ports(number) {
            ports.iter().for_each(|port| port.store(Word::Dead, 1));
            self.rouse(number, &ports);
        }
        self.tell(conn, told::DEAD);
    }

    /// One of our reported puts, and all before it, is there.
    fn arrived(&self, number: u32, conn: &Conn, token: Token) {
        let Some(ports) = self.ports(number) else { return };
        let [out, _] = &ports;
        match token {
            Token::Ready => self.tell(conn, told::PROVEN),
            Token::At { epoch } => out.store(Word::Landed, epoch),
            Token::End { last } => out.store(Word::EndLanded, last),
            Token::Nothing => {}
        }
        self.rouse(number, &ports);
    }

    /// All that the peer had put before has landed.
    fn notified(&self, _held: &Held<'_>, number: u32, conn: &Conn, note: u32) {
        let Some(ports) = self.ports(number) else { return };
        let [out, inward] = &ports;
        // SAFETY: `polling` is held.
        let seen = unsafe { &mut *conn.seen.get() };
        let records = self.records(number);
        // SAFETY: a connection's records, and so below.
        if let Some([id]) = unsafe { landed(records, Record::Ready) }
            && id != 0
            && id == conn.id.load(Ordering::Relaxed)
            && out.load(Word::ReaderReady) != id
            && !seen.over
        {
            out.store(Word::ReaderReady, id);
            inward.store(Word::WriterReady, id);
            inward.store(Word::ReaderReady, id);
            self.tell(conn, told::PEER_READY);
        }
        // SAFETY: as above.
        if let Some([want, consumed, over]) = unsafe { landed(records, Record::Want) } {
            if consumed > out.load(Word::Consumed) {
                out.store(Word::Consumed, consumed);
            }
            if want != seen.want {
                seen.want = want;
                out.store(Word::Want, want);
            }
            if over != 0 && !seen.over {
                seen.over = true;
                out.store(Word::ReaderReady, 0);
            }
        }
        let known = seen.at;
        if let Some(kind) = self.take_at(number, inward, |kind| kind != known) {
            seen.at = kind;
        }
        let start = inward.load(Word::Consumed).max(inward.load(Word::AtOffset));
        let produced = inward.load(Word::Produced);
        // Without an epoch a note says nothing of the ring.
        let meant = if seen.at == 0 { None } else { extend(note, start, layout::RING as u64) };
        if let Some(meant) = meant.filter(|&meant| meant > produced) {
            inward.store(Word::Produced, meant);
        }
        self.take_end(number, inward);
        self.rouse(number, &ports);
    }

    /// What the writer says of its switch-over: its kind and epoch, where those are `new`.
    fn take_at(&self, number: u32, inward: &impl Port, new: impl FnOnce(u64) -> bool) -> Option<u64> {
        // SAFETY: a connection's records.
        let [kind, offset, geometry, start, before] = unsafe { landed(self.records(number), Record::At) }?;
        if geometry != inward.load(Word::Geometries) {
            // Whoever reads meanwhile has nothing to read before `Produced` is stored, and looks again then.
            let odd = !geometry.is_multiple_of(2);
            let (even_start, odd_start) = if odd { (before, start) } else { (start, before) };
            inward.store(Word::Start0, even_start);
            inward.store(Word::Start1, odd_start);
            for place in [Word::Place0, Word::Place1] {
                inward.store(place, layout::read_ring(number).word());
            }
            inward.store(Word::Geometries, geometry);
        }
        if !new(kind) {
            return None;
        }
        inward.store(Word::AtOffset, offset);
        inward.store(Word::AtKind, kind);
        Some(kind)
    }

    fn take_end(&self, number: u32, inward: &impl Port) {
        // SAFETY: a connection's records.
        let Some([last, bits]) = (unsafe { landed(self.records(number), Record::End) }) else { return };
        if last == 0 {
            return;
        }
        let whole = inward.load(Word::Produced).max(inward.load(Word::AtOffset)) >= last - 1;
        if bits & end::RING == 0 || whole {
            inward.store(Word::End, if bits & end::RING != 0 { last } else { 0 });
            if bits & end::HALF != 0 {
                inward.store(Word::Final, last);
            }
        }
    }

    /// For a forked child, which polls nothing, though all lands in memory that it shares: what bears on whether bytes on TCP are the
    /// application's. Its parent may be at the same, with the same values: while an offer is not answered there is one answer to it.
    #[cold]
    pub fn take_in_child(&self, number: u32) {
        let Some([_, inward]) = self.ports(number) else { return };
        let known = stamped::epoch(inward.load(Word::AtKind));
        self.take_at(number, &inward, |kind| stamped::epoch(kind) > known);
        // SAFETY: a connection's records.
        if let Some([last, bits]) = unsafe { landed(self.records(number), Record::End) }
            && bits & end::RING != 0
            && last > 0
            && inward.load(Word::Produced) < last - 1
        {
            // It was put behind all bytes.
            inward.store(Word::Produced, last - 1);
        }
        self.take_end(number, &inward);
    }

    /// As the other end does it on one host: after what was stored, a full fence, and then whoever is named.
    pub(super) fn rouse(&self, number: u32, ports: &[impl Port; 2]) {
        let Some(pair) = self.pair() else { return };
        let [out, inward] = ports;
        for (port, word) in [(inward, Word::RSleep), (out, Word::WSleep)] {
            if let Some(id) = sleepers::called(port, word, || pair.tell_own_news(number)) {
                wake::rouse(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_names_what_it_was_made_of() {
        let all = [
            Named::Queue,
            Named::Domain(3),
            Named::Landing(511),
            Named::Staging(0),
            Named::Conn { number: 4_095, serial: SERIAL },
        ];
        for named in all {
            assert_eq!(Named::of(named.cookie()), named);
        }
    }
}
