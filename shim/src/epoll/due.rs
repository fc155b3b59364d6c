//! Which adopted entries are to be looked at: found in the order of those, not of all.
//!
//! An entry becomes due by what can change its answer: the peer's news of its connection (a bit that the peer sets, see
//! `Pair::tell_news`), the kernel's news of its anchor (the outer epoll), epoll_ctl, or something that this process did to
//! the connection elsewhere ([`Mail`]). An entry that was ready stays due, for it may be level-triggered. Only entries
//! whose connection other sets watch too are looked through each time: the peer's bit serves one set.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use super::adopt::Adopted;
use super::collect::{changed, may_go_back, would_report};
use super::set::{Inner, Set};
use crate::provider::local::Pair;
use crate::slot::{SlotRef, flag};
use crate::stream::mail;
use crate::switch::{Conn, ready, receive};

/// The entries of one set whose connections are with one peer process.
struct News {
    pair: &'static Pair,
    /// One bit a connection.
    mask: Vec<u64>,
    /// The number it is registered by, by the connection's number.
    by: Vec<RawFd>,
}

#[derive(Default)]
pub struct Due {
    queue: VecDeque<RawFd>,
    news: Vec<News>,
    /// Entries whose connections are registered elsewhere too.
    shared: usize,
}

impl Due {
    /// From here on the peer's news of the connection are this entry's.
    fn expect(&mut self, conn: &Conn, fd: RawFd) {
        let number = conn.number as usize;
        let known = self.news.iter().position(|news| std::ptr::eq(news.pair, conn.pair));
        let at = known.unwrap_or_else(|| {
            self.news.push(News { pair: conn.pair, mask: Vec::new(), by: Vec::new() });
            self.news.len() - 1
        });
        let Some(news) = self.news.get_mut(at) else { return };
        if news.by.len() <= number {
            let length = (number + 1).next_multiple_of(64);
            news.by.resize(length, -1);
            news.mask.resize(length / 64, 0);
        }
        if let (Some(by), Some(mask)) = (news.by.get_mut(number), news.mask.get_mut(number / 64)) {
            *by = fd;
            *mask |= 1 << (number % 64);
        }
    }

    fn expect_no_more(&mut self, conn: &Conn) {
        let number = conn.number as usize;
        let known = self.news.iter_mut().find(|news| std::ptr::eq(news.pair, conn.pair));
        if let Some(mask) = known.and_then(|news| news.mask.get_mut(number / 64)) {
            *mask &= !(1 << (number % 64));
        }
    }

    /// Whoever makes an entry one of several wakes the set afterwards.
    pub fn any_shared(&self) -> bool {
        self.shared > 0
    }

    /// Is there news of any entry?
    fn has_news(&self) -> bool {
        self.news.iter().any(|news| news.mask.iter().enumerate().any(|(at, &mask)| news.pair.news(at) & mask != 0))
    }

    fn next_news(&mut self, found: &mut Vec<RawFd>) {
        for news in &mut self.news {
            for (at, &mask) in news.mask.iter().enumerate() {
                let mut bits = news.pair.take_news(at, mask);
                while bits != 0 {
                    let number = at * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    found.extend(news.by.get(number));
                }
            }
        }
    }
}

impl Inner {
    /// An entry has been adopted: it is looked at, and its news are awaited.
    pub fn begin_watching(&mut self, place: usize) {
        let Some(entry) = self.adopted.get_mut(place) else { return };
        let (fd, conn) = (entry.fd, entry.conn);
        entry.shared = conn.slot.has(flag::REGISTERED_TWICE);
        if entry.shared {
            self.due.shared += 1;
        } else {
            self.due.expect(&conn, fd);
        }
        self.make_due(fd);
    }

    /// Other sets have come to watch the connection of an entry that was alone.
    pub fn share(&mut self, fd: RawFd) {
        let Some(entry) = self.entry(fd).filter(|entry| !entry.shared) else { return };
        entry.shared = true;
        let conn = entry.conn;
        self.due.shared += 1;
        self.due.expect_no_more(&conn);
    }

    pub fn end_watching(&mut self, conn: &Conn, shared: bool) {
        if shared {
            self.due.shared -= 1;
        } else {
            self.due.expect_no_more(conn);
        }
    }

    /// The kernel has news of an anchor.
    pub fn hint(&mut self, fd: RawFd) {
        if let Some(entry) = self.entry(fd) {
            entry.hint = true;
            if entry.shared {
                let slot = entry.conn.slot;
                let same = |entry: &&mut Adopted| entry.conn.slot == slot;
                self.adopted.iter_mut().filter(same).for_each(|entry| entry.hint = true);
            }
            self.make_due(fd);
        } else if let Some((_, stirred)) = self.ghosts.get_mut(&fd) {
            *stirred = true;
        }
        if self.nameless > 0 {
            let same = |entry: &&mut Adopted| entry.fd < 0 && entry.conn.fd == fd;
            self.adopted.iter_mut().filter(same).for_each(|entry| entry.hint = true);
            let found = self.adopted.iter().filter(|entry| entry.fd < 0 && entry.hint).map(|entry| entry.fd);
            found.collect::<Vec<_>>().into_iter().for_each(|fd| self.make_due(fd));
        }
    }

    /// Nothing tells of the anchors.
    pub fn look_at_all(&mut self) {
        for place in 0..self.adopted.len() {
            if let Some(entry) = self.adopted.get_mut(place) {
                entry.hint = true;
                let fd = entry.fd;
                self.make_due(fd);
            }
        }
    }

    pub fn make_due(&mut self, fd: RawFd) {
        let Some(entry) = self.entry(fd).filter(|entry| !entry.due) else { return };
        if !entry.shared {
            entry.due = true;
            self.due.queue.push_back(fd);
            return;
        }
        // All numbers of the connection are told together, the last that was registered first, as the kernel does.
        let slot = entry.conn.slot;
        let Inner { adopted, due, .. } = self;
        let same = |entry: &&mut Adopted| entry.shared && !entry.due && entry.conn.slot == slot;
        for entry in adopted.iter_mut().rev().filter(same) {
            entry.due = true;
            due.queue.push_back(entry.fd);
        }
    }

    /// The place of the next entry that is to be looked at, which then is due no longer.
    pub fn next_due(&mut self) -> Option<usize> {
        loop {
            let fd = self.due.queue.pop_front()?;
            let Some(&place) = self.place.get(&fd) else { continue };
            // One that was removed and added again while it was due is there twice.
            if let Some(entry) = self.adopted.get_mut(place).filter(|entry| entry.due) {
                entry.due = false;
                return Some(place);
            }
        }
    }

    /// How many are to be looked at, after all news are in.
    pub fn gather_due(&mut self, mail: &Mail) -> usize {
        let mut found = std::mem::take(&mut self.found);
        self.due.next_news(&mut found);
        if mail.any() {
            let (slots, all) = mail.0.take();
            let meant = |slot: &SlotRef| all || slots.contains(&(slot.index + 1));
            found.extend(self.adopted.iter().rev().filter(|entry| meant(&entry.conn.slot)).map(|entry| entry.fd));
        }
        if self.due.shared > 0 {
            found
                .extend(self.adopted.iter().rev().filter(|entry| entry.shared && changed(entry)).map(|entry| entry.fd));
        }
        for fd in found.drain(..) {
            self.make_due(fd);
        }
        self.found = found;
        self.due.queue.len()
    }

    /// Would any adopted entry be reported? Those that would not are due no longer, and those that are the kernel's again go back to it.
    pub fn any_to_report(&mut self, set: &Set) -> bool {
        for _ in 0..self.gather_due(&set.mail) {
            let Some(place) = self.next_due() else { break };
            let Some(entry) = self.adopted.get_mut(place) else { continue };
            let slot = entry.conn.slot;
            if !slot.current() {
                set.remove(self, place);
            } else if !ready::switched(slot) {
                if may_go_back(entry) {
                    set.give_back(self, place);
                }
            } else if would_report(entry) {
                let fd = entry.fd;
                self.make_due(fd);
                return true;
            }
        }
        false
    }

    /// Might any adopted entry have something to report? Loads only: no lock of a slot, no call.
    pub fn stirred(&self, set: &Set) -> bool {
        !self.due.queue.is_empty()
            || set.mail.any()
            || self.due.has_news()
            || self.due.shared > 0 && self.adopted.iter().any(|entry| entry.shared && changed(entry))
    }

    /// Bytes that stand in the rings of all entries.
    pub fn backlog(&self) -> u64 {
        let unread = |conn: &Conn| receive::produced(conn).saturating_sub(conn.slot.delivered());
        self.adopted.iter().map(|entry| unread(&entry.conn)).sum()
    }
}

/// Connections whose state this process has changed, for a set to look at: posted without the set's lock, under a slot's.
pub struct Mail(mail::Mail<16>);

impl Mail {
    pub fn new() -> Mail {
        Mail(mail::Mail::default())
    }

    pub fn any(&self) -> bool {
        self.0.any()
    }

    pub fn post(&self, slot: SlotRef) {
        self.0.post(slot.index + 1);
    }
}
