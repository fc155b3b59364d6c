//! What this end has stored in its image is put into the other end's memory. Called after each change, with or without a slot's locks: the
//! own words are read as the peer of one host would read them, and what is new since the last time goes.

use std::sync::atomic::Ordering;

use tandem_provider::stream::note;
use tandem_provider::{IMMEDIATE, NOTE_BITS, NOTIFY, PUT, Put, REPORT};

use super::layout::{RECORDS, RING, Record, end, sealed, staged};
use super::{Conn, Driver, Far, enter, told};
use crate::stream::{LocalPort, Port, TRAVELLING_STRIDE, Word, stamped};
use crate::{real, sys};

/// Credit goes back when so much is free.
const CREDIT: u64 = RING as u64 / 4;
/// And the reader is told of so much at once: it copies, and gives credit, while more is under way.
const PIECE: u64 = TRAVELLING_STRIDE as u64;
const _: () = assert!(PIECE == CREDIT);
/// The provider tells two notes apart, older and newer, that differ by less than twice this.
const NOTE_STRIDE: u64 = 1 << (NOTE_BITS - 2);
/// Puts in one call; a run of the ring has one seam at most, and so has a change of geometry.
const RUNS: usize = 4;
/// How long a full queue of puts may take to move: a queue pair that does not is dead before.
const FULL_NS: u64 = 5_000_000_000;
const LOOK_NS: u64 = 1_000_000;

/// How far the other end has been told.
#[derive(Default)]
pub struct Pushed {
    at: u64,
    geometry: u64,
    end: [u64; 2],
    want: u64,
    consumed: u64,
    /// This end has said that it reads; and then that it does no more.
    reads: bool,
    over: bool,
    produced: u64,
    /// The last note.
    noted: u64,
}

/// What a reported put was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    Nothing,
    Ready,
    At { epoch: u64 },
    End { last: u64 },
}

impl Token {
    pub fn number(self) -> u64 {
        match self {
            Token::Nothing => 0,
            Token::Ready => 1 << 62,
            Token::At { epoch } => 2 << 62 | epoch & (u64::MAX >> 2),
            Token::End { last } => 3 << 62 | last & (u64::MAX >> 2),
        }
    }

    pub fn of(number: u64) -> Token {
        match number >> 62 {
            1 => Token::Ready,
            2 => Token::At { epoch: number & (u64::MAX >> 2) },
            3 => Token::End { last: number & (u64::MAX >> 2) },
            _ => Token::Nothing,
        }
    }
}

/// Why nothing could be put now.
enum Stuck {
    Full,
    Dead,
}

impl Far {
    /// Both directions' news.
    #[inline(never)]
    pub fn push(&self, number: u32) {
        self.push_with(number, CREDIT);
    }

    /// The same, and exactly how far this end has read: it is about to close, and the other end asks what was left unread.
    pub fn push_credit(&self, number: u32) {
        self.push_with(number, 1);
    }

    fn push_with(&self, number: u32, credit: u64) {
        let (Some(conn), Some(ports)) = (self.conn(number), self.ports(number)) else { return };
        if !self.is_ours() {
            // A forked child cannot put; what it asks for goes by the policyds.
            self.todo.store(true, Ordering::Release);
            return;
        }
        loop {
            let Ok(held) = conn.push.lock() else {
                // The handler of a signal that came here: who was interrupted goes on with it.
                conn.again.store(true, Ordering::Release);
                return;
            };
            // SAFETY: `push` is held.
            let pushed = unsafe { &mut *conn.pushed.get() };
            let outcome = self.push_all(number, conn, &ports, pushed, credit);
            drop(held);
            match outcome {
                Ok(()) => {}
                Err(Stuck::Dead) => self.died(number, conn),
                // To be tried again by whoever comes next.
                Err(Stuck::Full) => self.tell(conn, told::ROOM),
            }
            if !conn.again.swap(false, Ordering::AcqRel) {
                return;
            }
        }
    }

    /// A new companion: nothing has been told. `noted`: about how far the stream is that we write.
    pub(super) fn begin_pushing(&self, conn: &Conn, noted: u64) {
        if let Ok(_held) = conn.push.lock() {
            // SAFETY: `push` is held.
            unsafe { *conn.pushed.get() = Pushed { noted, ..Pushed::default() } };
        }
    }

    /// Proves the way, and says whose memory this is.
    pub(super) fn push_ready(&self, number: u32, id: u64) {
        let Some(conn) = self.conn(number) else { return };
        let Ok(_held) = conn.push.lock() else { return };
        // SAFETY: `push` is held.
        let pushed = unsafe { &mut *conn.pushed.get() };
        if self.put_record(conn, pushed, Record::Ready, &sealed([id]), 16, Token::Ready, true).is_err() {
            self.died(number, conn);
        }
    }

    fn push_all(
        &self,
        number: u32,
        conn: &Conn,
        [out, inward]: &[LocalPort<'static>; 2],
        pushed: &mut Pushed,
        credit: u64,
    ) -> Result<(), Stuck> {
        if conn.companion.load(Ordering::Acquire).is_null() || out.load(Word::Dead) != 0 {
            if inward.load(Word::Want) != pushed.want {
                // By the policyds, then.
                self.todo.store(true, Ordering::Release);
            }
            return Ok(());
        }
        self.push_reader(conn, inward, pushed, credit)?;
        // From the last that was stored to the first: what is seen has all that was stored before it.
        let last = end_of(out);
        let produced = out.load(Word::Produced);
        self.push_at(conn, out, pushed)?;
        self.push_bytes(number, conn, out, pushed, produced)?;
        if last != pushed.end && (last[1] & end::RING == 0 || last[0] <= pushed.produced + 1) {
            self.put_record(conn, pushed, Record::End, &sealed(last), 24, Token::End { last: last[0] }, true)?;
            pushed.end = last;
        }
        Ok(())
    }

    fn push_reader(
        &self,
        conn: &Conn,
        inward: &LocalPort<'static>,
        pushed: &mut Pushed,
        credit: u64,
    ) -> Result<(), Stuck> {
        let want = inward.load(Word::Want);
        let consumed = inward.load(Word::Consumed);
        let last = inward.load(Word::End);
        let all = last != 0 && consumed.wrapping_add(1) == last && consumed != pushed.consumed;
        let ready = inward.load(Word::ReaderReady) != 0;
        pushed.reads |= ready;
        let over = pushed.reads && !ready;
        if want == pushed.want && consumed.saturating_sub(pushed.consumed) < credit && !all && over == pushed.over {
            return Ok(());
        }
        let record = sealed([want, consumed, over.into()]);
        self.put_record(conn, pushed, Record::Want, &record, 32, Token::Nothing, true)?;
        (pushed.want, pushed.consumed, pushed.over) = (want, consumed, over);
        Ok(())
    }

    /// The epoch's word, and where the ring stands. One that is taken is told alone: nothing is accepted before that has landed.
    fn push_at(&self, conn: &Conn, out: &LocalPort<'static>, pushed: &mut Pushed) -> Result<(), Stuck> {
        let (geometry, start, before) = newest(out);
        let kind = out.load(Word::AtKind);
        if kind == pushed.at && geometry == pushed.geometry {
            return Ok(());
        }
        let offset = out.load(Word::AtOffset);
        let epoch = stamped::epoch(kind);
        let taken = stamped::is_taken(kind) && epoch != stamped::epoch(pushed.at);
        let token = if taken { Token::At { epoch } } else { Token::Nothing };
        if taken {
            pushed.produced = offset;
            self.approach(conn, pushed, offset)?;
        }
        let record = sealed([kind, offset, geometry, start, before]);
        self.put_record(conn, pushed, Record::At, &record, 48, token, kind != pushed.at)?;
        (pushed.at, pushed.geometry) = (kind, geometry);
        Ok(())
    }

    /// Notes only ever grow, and not too far at once: TCP may have carried gigabytes since the last one.
    fn approach(&self, conn: &Conn, pushed: &mut Pushed, to: u64) -> Result<(), Stuck> {
        let mask = (1u64 << NOTE_BITS) - 1;
        let mut ahead = to.wrapping_sub(pushed.noted) & mask;
        while ahead > NOTE_STRIDE {
            ahead -= NOTE_STRIDE;
            pushed.noted = to.wrapping_sub(ahead);
            self.try_until(conn, |provider, companion| {
                // SAFETY: a companion that is not closed.
                unsafe { (provider.notify)(companion, note(pushed.noted)) }
            })?;
        }
        pushed.noted = to;
        Ok(())
    }

    fn push_bytes(
        &self,
        number: u32,
        conn: &Conn,
        out: &LocalPort<'static>,
        pushed: &mut Pushed,
        produced: u64,
    ) -> Result<(), Stuck> {
        // A word of an epoch before this means nothing.
        if produced <= pushed.produced || !stamped::is_taken(pushed.at) {
            return Ok(());
        }
        while pushed.produced < produced {
            let mut puts = [NOTHING; RUNS];
            let (mut at, mut count) = (pushed.produced, 0);
            let until_here = produced.min(at + PIECE);
            for put in &mut puts {
                if at >= until_here {
                    break;
                }
                let (start, until) = standing(out, at);
                let from = at.wrapping_sub(start) % RING as u64;
                let bytes = (RING as u64 - from).min(until.min(until_here) - at);
                at += bytes;
                count += 1;
                *put = Put {
                    local: conn.staging.load(Ordering::Relaxed),
                    remote: conn.remote.load(Ordering::Relaxed),
                    local_offset: staged(number) + from,
                    remote_offset: conn.remote_at.load(Ordering::Relaxed) + RECORDS as u64 + from,
                    bytes: bytes as u32,
                    flags: if at == until_here || count == RUNS { NOTIFY } else { 0 },
                    note: note(at),
                    ..NOTHING
                };
            }
            self.put(conn, puts.get(..count).unwrap_or(&[]))?;
            pushed.produced = at;
            pushed.noted = at;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one put's parts")]
    fn put_record(
        &self,
        conn: &Conn,
        pushed: &Pushed,
        record: Record,
        words: &[u64; 8],
        bytes: u32,
        token: Token,
        notify: bool,
    ) -> Result<(), Stuck> {
        let report = if token == Token::Nothing { 0 } else { REPORT };
        let put = Put {
            kind: PUT,
            flags: IMMEDIATE | report | if notify { NOTIFY } else { 0 },
            local: 0,
            remote: conn.remote.load(Ordering::Relaxed),
            local_offset: 0,
            remote_offset: conn.remote_at.load(Ordering::Relaxed) + record.offset() as u64,
            immediate: words.as_ptr().cast(),
            bytes,
            note: note(pushed.noted),
            token: token.number(),
        };
        self.put(conn, &[put])
    }

    fn put(&self, conn: &Conn, puts: &[Put]) -> Result<(), Stuck> {
        self.try_until(conn, |provider, companion| {
            // SAFETY: a companion that is not closed, so many puts, whose immediate words stand on a frame below this.
            unsafe { (provider.put)(companion, puts.as_ptr(), puts.len() as u32) }
        })
    }

    /// What has been accepted is not held back: where too much is under way, this waits until the device has made room, a trip of the wire.
    fn try_until(
        &self,
        conn: &Conn,
        mut call: impl FnMut(&tandem_provider::Provider, *mut tandem_provider::Companion) -> i32,
    ) -> Result<(), Stuck> {
        let mut until = 0;
        loop {
            let companion = conn.companion.load(Ordering::Acquire);
            let Some(inside) = enter().filter(|_| !companion.is_null()) else { return Err(Stuck::Full) };
            // SAFETY: a connection that has a companion has a provider, which is never freed.
            let Some(driver) = (unsafe { conn.driver.load(Ordering::Relaxed).as_ref() }) else {
                return Err(Stuck::Full);
            };
            let code = call(driver.provider, companion);
            drop(inside);
            match -code {
                ..=0 => return Ok(()),
                libc::EAGAIN => {}
                errno => {
                    conn.status.store(-errno, Ordering::Relaxed);
                    return Err(Stuck::Dead);
                }
            }
            let now = sys::now_ns();
            if until == 0 {
                until = now + FULL_NS;
            } else if now > until {
                return Err(Stuck::Full);
            }
            self.poll();
            self.pause(driver);
        }
    }

    /// Until something is told, or a moment.
    fn pause(&self, driver: &Driver) {
        if let Some(_inside) = enter() {
            // SAFETY: this process's queue.
            unsafe { (driver.provider.arm)(driver.queue) };
        }
        self.poll();
        let mut entry = libc::pollfd { fd: driver.descriptor, events: libc::POLLIN, revents: 0 };
        let time = sys::timespec(LOOK_NS);
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: an entry and a time of this frame. The raw call: no cancellation point.
        unsafe { real::raw!(libc::SYS_ppoll, &raw mut entry, 1, &raw const time, no_mask, 0) };
    }
}

const NOTHING: Put = Put {
    kind: PUT,
    flags: 0,
    local: 0,
    remote: 0,
    local_offset: 0,
    remote_offset: 0,
    immediate: std::ptr::null(),
    bytes: 0,
    note: 0,
    token: 0,
};

/// Where the writer's end is, as the record has it: W + 1, and how it came to be.
fn end_of(out: &LocalPort<'static>) -> [u64; 2] {
    match (out.load(Word::End), out.load(Word::Final)) {
        (0, 0) => [0, 0],
        (0, half) => [half, end::HALF],
        (last, 0) => [last, end::RING],
        (last, _) => [last, end::RING | end::HALF],
    }
}

/// Number and start of the newest geometry, and the start of the one before.
fn newest(out: &LocalPort<'static>) -> (u64, u64, u64) {
    loop {
        let number = out.load(Word::Geometries);
        let (start, before) = (out.load(start_word(number)), out.load(start_word(number.wrapping_sub(1))));
        if out.load(Word::Geometries) == number {
            return (number, start, before);
        }
    }
}

/// Where the geometry of a byte that is not pushed yet starts, and where the next one does: bytes that the peer has not consumed are in
/// one of the newest two.
fn standing(out: &LocalPort<'static>, at: u64) -> (u64, u64) {
    loop {
        let number = out.load(Word::Geometries);
        let (start, before) = (out.load(start_word(number)), out.load(start_word(number.wrapping_sub(1))));
        if out.load(Word::Geometries) == number {
            return if at >= start { (start, u64::MAX) } else { (before, start) };
        }
    }
}

fn start_word(number: u64) -> Word {
    if number.is_multiple_of(2) { Word::Start0 } else { Word::Start1 }
}
