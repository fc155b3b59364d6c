//! How requests are posted: room for them, their numbers, and what notifications need beside them.

use std::sync::atomic::{Ordering, fence};

use tandem_provider::kind;

use super::{Companion, DEPTH, Inner, Life};
use crate::adapter::lock;
use crate::control::{LATE_AT, OWN_LATE_AT, RETURNED_AT, Slot, WORD_BYTES, sealed};
use crate::errors::{self, Errno, Result};
use crate::queue::Sink;
use crate::send::Purpose;
use crate::verbs::pair::Request;

/// Room for any list of puts, and then some: not told for each.
const ENOUGH: u32 = DEPTH / 2;

impl Companion {
    /// Runs `work` on a pair that may be posted to.
    pub(super) fn while_up<R>(&self, work: impl FnOnce(&mut Inner) -> Result<R>) -> Result<R> {
        let mut inner = lock(&self.inner);
        match inner.life {
            Life::Up => work(&mut inner),
            Life::Dead => Err(Errno(libc::EPIPE)),
            _ => Err(Errno(libc::ENOTCONN)),
        }
    }

    /// Room for so many requests, on the pair and in the completion queue.
    pub(super) fn reserve(&self, inner: &Inner, count: u32) -> Result<()> {
        let adapter = &inner.opened.as_ref().ok_or(Errno(libc::EPIPE))?.adapter;
        if inner.sends.room() < count || !adapter.take_sends(count) {
            return Err(Errno(libc::EAGAIN));
        }
        Ok(())
    }

    /// A put was refused for want of room: that there is some again will be told.
    pub(super) fn refuse_put(&self, inner: &Inner) {
        if let Some(opened) = &inner.opened {
            opened.adapter.refuse(self.pair_number());
        }
    }

    /// True: told, or nobody waits for it any more.
    pub fn has_room_again(&self, sink: &mut Sink) -> bool {
        let inner = lock(&self.inner);
        let (Life::Up, Some(opened)) = (inner.life, &inner.opened) else { return true };
        let room = inner.sends.room() >= ENOUGH && opened.adapter.has_room(ENOUGH);
        if room {
            sink.push(self.completion(kind::ROOM));
        }
        room
    }

    /// The requests have room. When they cannot be posted, none of this pair ever is again.
    pub(super) fn post(&self, inner: &mut Inner, requests: &[Request]) -> Result<()> {
        let Some(pair) = inner.pair.as_ref() else { return Err(Errno(libc::EPIPE)) };
        pair.post(requests).map_err(|why| {
            // Another user's rights: whatever is made from now on needs the device opened anew.
            if why == Errno(libc::EACCES)
                && let Some(opened) = &inner.opened
            {
                opened.adapter.close();
                self.domain.worker().renew();
            }
            self.refuse(inner, why)
        })
    }

    /// A request's number and whether it is signalled.
    pub(super) fn number(&self, inner: &mut Inner, purpose: Option<Purpose>) -> (u64, bool) {
        let (number, signalled) = inner.sends.add(purpose);
        (crate::adapter::request(self.serial, number), signalled)
    }

    /// The immediate for a note, or the request that says it late and the immediate after all, if one has come back meanwhile. The caller
    /// has room for both.
    pub(super) fn immediate(&self, inner: &mut Inner, note: u32) -> Result<Immediate> {
        self.look_returned(inner)?;
        if let Some(immediate) = inner.sent.immediate(note, inner.returned)? {
            return Ok(Immediate::Now(immediate));
        }
        let word = inner.sent.late(note);
        let Some(slot) = &inner.slot else { return Err(Errno(libc::EPIPE)) };
        slot.store_own_late(word);
        // Stored before looking; the peer puts before it fetches.
        fence(Ordering::SeqCst);
        self.look_returned(inner)?;
        Ok(Immediate::Late { word: sealed(word), after_all: inner.sent.immediate(note, inner.returned)? })
    }

    fn look_returned(&self, inner: &mut Inner) -> Result<()> {
        if let Some(word) = inner.slot.as_ref().and_then(Slot::returned) {
            inner.returned = u32::try_from(word).map_err(|_| Errno(libc::EPROTO))?;
        }
        Ok(())
    }

    /// Where the peer's provider takes late notes.
    pub(super) fn late_request(&self, inner: &mut Inner, word: &[u64; 2]) -> Request {
        self.word_request(inner, word, LATE_AT)
    }

    /// The peer has lied: the pair goes. What `put` answers.
    pub(super) fn refuse(&self, inner: &mut Inner, why: Errno) -> Errno {
        self.die(inner, why);
        self.tell(kind::DEAD, errors::status(&Err(why)));
        Errno(libc::EPIPE)
    }

    pub(super) fn owe(&self) {
        if lock(&self.inner).heard.due().is_some() {
            self.domain.queue.call();
        }
    }

    /// Returns notifications, and fetches what may have become late. False: there was no room for it.
    pub fn put_what_is_owed(&self) -> bool {
        let mut inner = lock(&self.inner);
        if inner.life != Life::Up {
            return true;
        }
        let Some(due) = inner.heard.due() else { return true };
        if self.reserve(&inner, 1 + u32::from(due.fetch)).is_err() {
            return false;
        }
        let word = sealed(u64::from(due.returned));
        let returned = self.word_request(&mut inner, &word, RETURNED_AT);
        let posted = match if due.fetch { self.fetch_request(&mut inner) } else { None } {
            Some(fetch) => self.post(&mut inner, &[returned, fetch]),
            None => self.post(&mut inner, &[returned]),
        };
        if posted.is_ok() {
            inner.heard.done(due);
        }
        true
    }

    /// A word into the peer's control memory.
    fn word_request(&self, inner: &mut Inner, word: &[u64; 2], at: u64) -> Request {
        let (id, signalled) = self.number(inner, None);
        Request {
            id,
            fetch: false,
            signalled,
            local: word.as_ptr().addr() as u64,
            local_key: None,
            bytes: WORD_BYTES,
            remote: inner.peer.control + at,
            remote_key: inner.peer.control_key,
            note: None,
        }
    }

    fn fetch_request(&self, inner: &mut Inner) -> Option<Request> {
        let (to, key) = inner.slot.as_ref()?.fetch_to();
        let (id, signalled) = self.number(inner, Some(Purpose::Fetched));
        Some(Request {
            id,
            fetch: true,
            signalled,
            local: to,
            local_key: Some(key),
            bytes: WORD_BYTES,
            remote: inner.peer.control + OWN_LATE_AT,
            remote_key: inner.peer.control_key,
            note: None,
        })
    }
}

/// How a note goes.
pub(super) enum Immediate {
    Now(u32),
    Late { word: [u64; 2], after_all: Option<u32> },
}

impl Inner {
    pub(super) fn give_sends(&self, count: u32) {
        if let Some(opened) = &self.opened {
            opened.adapter.give_sends(count);
        }
    }

    pub(super) fn inline(&self) -> u32 {
        self.pair.as_ref().map_or(0, |pair| pair.inline)
    }
}
