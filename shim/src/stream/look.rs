//! Looking at the reader's side without taking a byte: peek, readability, FIONREAD, and news on TCP.

use super::reader::{RState, Reader, Source, Take, Verdict};
use super::receive::from;
use super::record::Record;
use super::tcp::{TcpReceive, TcpTake};
use super::words::{FOR_GOOD, Port, Word, at, epoch_of, stamp};

/// Did `attend` find anything?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attended {
    Quiet,
    /// State, readability or both have changed.
    News,
}

/// May TCP have bytes for the reader: before N, or because the writer has left the ring? Loads only, and no more than a hint.
pub fn tcp_may_have<P: Port>(port: &P, delivered: u64) -> bool {
    let epoch = epoch_of(port.load(Word::Want));
    let left = port.load(Word::Left);
    epoch_of(port.load(Word::AtKind)) != epoch
        || port.load(Word::AtOffset) > delivered
        || left == epoch
        || left == FOR_GOOD
}

/// Readability.
impl Reader {
    /// TCP may have news: takes the record's pieces, drops what comes again, notices FIN and errors. Never takes a
    /// byte of the application's. To know whether a `receive` would give something: poll TCP (or its edge came), then
    /// `attend`, then `readable() || wants_tcp() && TCP was readable`.
    pub fn attend<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> Attended {
        let mut found = Attended::Quiet;
        loop {
            let news = self.verdict == Verdict::None
                && match self.state {
                    RState::Plain | RState::End => false,
                    RState::Offered => self.answered(port),
                    RState::Held => self.held_news(port, tcp),
                    RState::Ring => self.consumed >= self.taken_at && self.collect(tcp),
                    RState::Rejoin => {
                        (self.tcp_at < self.consumed || self.tcp_at >= self.to) && self.drop_again(port, tcp)
                    }
                };
            if !news {
                return found;
            }
            found = Attended::News;
        }
    }

    /// The companion's part: would `receive` give bytes of the ring, the end, or an error, without asking TCP?
    /// Two loads, no change of state.
    #[inline]
    pub fn readable<P: Port>(&self, port: &P) -> bool {
        let (taken_at, bound) = match self.state {
            RState::Plain | RState::Held => return false,
            RState::End => return true,
            RState::Offered => {
                if port.load(Word::AtKind) != stamp(self.epoch, at::TAKEN) {
                    return false;
                }
                (port.load(Word::AtOffset), u64::MAX)
            }
            RState::Ring | RState::Rejoin => (self.taken_at, self.to),
        };
        if self.verdict != Verdict::None || taken_at < self.consumed && self.state == RState::Offered {
            return true;
        }
        self.consumed >= taken_at && port.load(Word::Produced).min(bound) > self.consumed
    }

    /// For a receive that has bytes and room for more: may another look find some? Where one source ends another may go on:
    /// TCP's rest, then the ring; the ring, then TCP again, once the writer has left it. `by_tcp`: it had bytes of TCP, too.
    #[inline]
    pub fn may_go_on<P: Port>(&self, port: &P, by_tcp: bool) -> bool {
        match self.state {
            // In `Plain`: behind the last byte that came again TCP may have more, and nobody else reads it before this call is done.
            RState::Rejoin | RState::Plain => true,
            // Nothing says before the record that the writer has left, and that may stand right behind TCP's rest: who has peeked
            // or asked how much there is was told of the bytes behind it.
            RState::Ring if self.travels && by_tcp => true,
            RState::Ring if self.writer_left(port) => true,
            _ => self.readable(port),
        }
    }

    /// Are the next bytes on TCP the application's? Then TCP's readability is the application's, too.
    pub fn wants_tcp(&self) -> bool {
        self.verdict == Verdict::None
            && match self.state {
                RState::Plain | RState::Offered => true,
                RState::Ring => self.consumed < self.taken_at,
                RState::Rejoin => self.tcp_at >= self.consumed,
                RState::End | RState::Held => false,
            }
    }

    /// The next byte comes by the ring, as far as this end knows: no end and no way back to TCP has been told of.
    pub fn awaits_ring<P: Port>(&self, port: &P) -> bool {
        self.state == RState::Ring
            // Where words travel the way back may be known to TCP first.
            && !self.travels
            && self.consumed >= self.taken_at
            && self.verdict == Verdict::None
            && !self.leaving()
            && !self.held
            && !self.final_seen(port)
            && !self.writer_left(port)
    }

    /// How many bytes `receive` could give now, TCP's rest and ring together: FIONREAD, SO_RCVLOWAT, MSG_WAITALL.
    pub fn available<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> usize {
        self.attend(port, tcp);
        let pending = if self.wants_tcp() { tcp.pending() as u64 } else { 0 };
        if self.state == RState::Offered {
            self.answered(port); // after `pending`: what is past N doesn't count
        }
        if matches!(self.state, RState::Ring | RState::Rejoin) {
            self.refresh(port);
        }
        let bytes = match self.state {
            RState::End | RState::Held => 0,
            RState::Plain | RState::Offered => pending,
            RState::Ring => {
                let rest = self.taken_at.saturating_sub(self.consumed);
                match pending.min(rest) {
                    some if some < rest => some, // the ring's come after those that are still on their way
                    _ => self.produced - self.consumed + self.behind_record(pending),
                }
            }
            RState::Rejoin => {
                let by_tcp = self.tcp_at.saturating_add(pending);
                self.produced.max(by_tcp).saturating_sub(self.consumed)
            }
        };
        bytes.min(isize::MAX as u64) as usize
    }
}

/// Looking at bytes.
impl Reader {
    /// A record, or its beginning, stands on TCP behind the application's bytes.
    pub fn hides_a_record(&self, tcp: &mut impl TcpReceive) -> bool {
        let rest = self.taken_at.saturating_sub(self.consumed);
        matches!(self.state, RState::Ring | RState::Held) && rest > 0 && tcp.pending() as u64 > rest
    }

    /// RING, and TCP's rest in front of a record is unread: what stands on TCP behind that record, which is N to E again and
    /// then the plain stream. There `produced` is E.
    fn behind_record(&self, pending: u64) -> u64 {
        let rest = self.taken_at.saturating_sub(self.consumed);
        if rest == 0 {
            return 0; // then `attend` takes the record
        }
        let again = self.produced - self.taken_at;
        pending.saturating_sub(rest).saturating_sub(Record::SIZE as u64).saturating_sub(again)
    }

    /// The bytes that `receive` would give, from `skip` on behind the first. May move the state, takes no byte.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    pub unsafe fn peek<P: Port>(
        &mut self,
        port: &P,
        tcp: &mut impl TcpReceive,
        dst: *mut u8,
        len: usize,
        skip: usize,
    ) -> Take {
        if len == 0 {
            return from(Source::Tcp, 0);
        }
        self.attend(port, tcp);
        let t = self.consumed.saturating_add(skip as u64);
        if matches!(self.state, RState::Plain | RState::Offered) {
            // SAFETY: by this function's contract.
            let answer = unsafe { tcp.peek(dst, len, skip) };
            let taken = self.state == RState::Offered && self.answered(port) && self.state != RState::Plain;
            if !taken {
                return self.peeked(answer);
            }
            self.attend(port, tcp); // taken meanwhile: what was copied may be the record's
        }
        if self.state == RState::Ring && t < self.taken_at {
            let rest = (self.taken_at - t).min(len as u64);
            // SAFETY: as above.
            let answer = unsafe { tcp.peek(dst, rest as usize, skip) };
            return self.peeked(answer);
        }
        if matches!(self.state, RState::Ring | RState::Rejoin) {
            // SAFETY: as above.
            let n = unsafe { self.peek_ring(port, dst, len, t) };
            if n > 0 {
                return from(Source::Companion, n);
            }
        }
        if self.wants_tcp() {
            let behind = if self.state == RState::Ring { Record::SIZE } else { 0 };
            // SAFETY: as above.
            let answer = unsafe { tcp.peek(dst, len, skip + behind) };
            return self.peeked(answer);
        }
        match self.state {
            RState::End => self.peeked_end(skip),
            _ if self.verdict != Verdict::None => {
                // What was peeked is to be received first.
                if skip == 0 && self.is_short(port) {
                    self.fail();
                }
                self.peeked_end(skip)
            }
            _ => Take::WouldBlock,
        }
    }

    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn peek_ring<P: Port>(&mut self, port: &P, dst: *mut u8, len: usize, mut t: u64) -> usize {
        self.refresh(port);
        let mut done = 0;
        while done < len && self.state != RState::End {
            // `next` may be newer than `produced`, which then ends before it.
            let following = t >= self.next.start && t < self.produced;
            let (geometry, edge) = if t < self.edge {
                (self.current, self.edge)
            } else if following && self.produced - self.next.start <= self.next.place.size() {
                (self.next, self.produced)
            } else {
                break;
            };
            let run = geometry.run(t, (edge - t).min((len - done) as u64));
            // SAFETY: an admitted geometry; `dst` by this function's contract.
            unsafe { port.copy_out(run.offset, dst.add(done), run.len as usize) };
            done += run.len as usize;
            t += run.len;
        }
        done
    }

    fn peeked(&mut self, answer: TcpTake) -> Take {
        match answer {
            TcpTake::Bytes(n) => from(Source::Tcp, n),
            TcpTake::WouldBlock => Take::WouldBlock,
            TcpTake::Fin => Take::Eof,
            TcpTake::Failed(errno) => Take::Failed(errno),
        }
    }

    /// The end is told only when nothing was peeked before it.
    fn peeked_end(&mut self, skip: usize) -> Take {
        match skip {
            0 => self.last_word(),
            _ => Take::WouldBlock,
        }
    }
}
