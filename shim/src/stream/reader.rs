//! The reading end of one direction: states, and the way from PLAIN through OFFERED and RING to REJOIN and back.

use super::faults::{Fault, planted};
use super::geometry::{self, Geometry, NO_NEXT};
use super::record::{Collector, Record};
use super::tcp::{TcpReceive, TcpTake};
use super::words::{FOR_GOOD, Port, Word, at, stamp, want};

/// What is freed at once in a long read, so that the writer can go on.
const STRIDE: u64 = if cfg!(test) { 3 } else { 64 << 10 };

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum RState {
    /// The kernel has it all; may be read without the switch.
    #[default]
    Plain = 0,
    /// An epoch was offered: TCP, but every byte under the lock.
    Offered = 1,
    /// Taken: TCP up to N, then the ring.
    Ring = 2,
    /// The record has come: the ring's bytes come again on TCP, up to E.
    Rejoin = 3,
    /// EOF or error, for good.
    End = 4,
    /// As `Ring`, but nothing is read any more: who reads next has no switch.
    Held = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Tcp,
    Companion,
}

/// Outcome of a receive or a peek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Bytes {
        n: usize,
        from: Source,
    },
    WouldBlock,
    Eof,
    /// The peer or its words are not in order: ECONNRESET.
    Reset,
    /// The anchor's errno, once; then `Eof`.
    Failed(i32),
}

/// Why a reader is at its end, or will be when the ring is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Verdict {
    #[default]
    None = 0,
    /// The kernel's FIN was seen.
    Fin = 1,
    /// The anchor said `errno`, not yet told.
    Failed = 2,
    /// Nonsense in the words or on TCP.
    Broken = 3,
}

/// Plain data for memory that forked processes share; all zero is `Plain`, epoch 0.
/// Every method under the direction's lock.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Reader {
    pub(super) state: RState,
    pub(super) verdict: Verdict,
    errno: i32,
    leaving: bool,
    pub(super) held: bool,
    /// Words travel: the kernel's FIN may come without what the writer had stored before.
    pub(super) travels: bool,
    /// The last epoch offered.
    pub(super) epoch: u64,
    /// Bytes of the stream delivered.
    pub(super) consumed: u64,
    /// N.
    pub(super) taken_at: u64,
    /// E in `Rejoin`, else no bound.
    pub(super) to: u64,
    /// t: the next byte on TCP in `Rejoin`.
    pub(super) tcp_at: u64,
    /// `produced` as last seen, N at least.
    pub(super) produced: u64,
    /// Bytes below it can be taken from `current` without another look.
    pub(super) edge: u64,
    number: u64,
    pub(super) current: Geometry,
    pub(super) next: Geometry,
    record: Collector,
    /// What the kernel's count of received bytes is ahead of the stream's.
    skew: u64,
}

/// The ring.
impl Reader {
    /// Copies and frees what the ring has, `len` at most; 0 when it is empty, or not to be used now.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    #[inline]
    pub(super) unsafe fn take_ring<P: Port>(&mut self, port: &P, dst: *mut u8, len: usize) -> usize {
        let mut done = 0;
        while done < len {
            if self.consumed >= self.edge && !self.refresh(port) {
                break;
            }
            let wish = (len - done) as u64;
            let run = self.current.run(self.consumed, wish.min(self.edge - self.consumed).min(STRIDE));
            // SAFETY: `current` was admitted and the run lies within; `dst` by this function's contract.
            unsafe { port.copy_out(run.offset, dst.add(done), run.len as usize) };
            self.consumed += run.len;
            port.store(Word::Consumed, self.consumed);
            done += run.len as usize;
        }
        done
    }

    /// Looks how far the ring goes: are there bytes? `produced` is loaded before the geometry, which is therefore
    /// not older than any byte that is seen.
    #[inline]
    pub(super) fn refresh<P: Port>(&mut self, port: &P) -> bool {
        let first = self.consumed.max(self.taken_at);
        if planted(Fault::GeometryFirst) {
            self.adopt(port, first);
        }
        let produced = port.load(Word::Produced).max(self.taken_at).min(self.to);
        let moved = port.load(Word::Geometries) != self.number || first >= self.next.start;
        if moved && !planted(Fault::GeometryFirst) && !self.adopt(port, first) || produced < self.produced {
            self.fail();
            return false;
        }
        let edge = produced.min(self.next.start);
        if edge.saturating_sub(first) > self.current.place.size() {
            self.fail();
            return false;
        }
        self.produced = produced;
        self.edge = edge;
        edge > first
    }

    #[cold]
    fn adopt<P: Port>(&mut self, port: &P, first: u64) -> bool {
        let Some(view) = geometry::view(port, first) else {
            return false;
        };
        self.number = view.number;
        self.current = view.current;
        self.next = view.next;
        true
    }

    /// Nonsense: the words are not looked at again.
    #[cold]
    pub(super) fn fail(&mut self) {
        self.state = RState::End;
        self.verdict = Verdict::Broken;
        self.edge = 0;
    }
}

/// Offer, take, leave.
impl Reader {
    /// What the ends store arrives later than it is stored, or never. Said once, before the first offer.
    pub fn words_travel(&mut self) {
        self.travels = true;
    }

    /// PLAIN to OFFERED, the next epoch. Nobody is in a kernel read or poll of this socket; `consumed` is the caller's
    /// count of stream bytes delivered. The caller then fences, and wakes a writer that waits for offers.
    pub fn offer<P: Port>(&mut self, port: &P, consumed: u64) -> bool {
        if self.state != RState::Plain || self.verdict != Verdict::None || port.load(Word::Left) == FOR_GOOD {
            return false;
        }
        self.epoch += 1;
        self.consumed = consumed;
        self.leaving = false;
        self.state = RState::Offered;
        port.store(Word::Consumed, consumed);
        port.store(Word::Want, stamp(self.epoch, want::READY));
        true
    }

    /// A hint: bytes behind the ring's are on TCP, or will be.
    #[inline]
    pub(super) fn writer_left<P: Port>(&self, port: &P) -> bool {
        let left = port.load(Word::Left);
        left == self.epoch || left == FOR_GOOD
    }

    /// Asks to be read without the switch again; until `Plain` go on reading through here. The caller fences and wakes.
    pub fn leave<P: Port>(&mut self, port: &P) {
        if matches!(self.state, RState::Offered | RState::Ring | RState::Rejoin) && !self.leaving && !self.held {
            self.leaving = true;
            if planted(Fault::Withdrawn) && self.state == RState::Offered {
                self.settle_plain();
            }
            port.store(Word::Want, stamp(self.epoch, want::LEAVE));
        }
    }

    /// As `leave`, for a reader to come that has no switch: nothing is received until `Plain`, and then the kernel has all
    /// that was not. True when that is said now; the caller fences and wakes.
    pub fn hold<P: Port>(&mut self, port: &P) -> bool {
        if self.held || !matches!(self.state, RState::Offered | RState::Ring | RState::Rejoin) {
            return false;
        }
        if self.state == RState::Ring && !planted(Fault::HoldReads) {
            self.state = RState::Held;
        }
        self.leaving = true;
        self.held = true;
        port.store(Word::Want, stamp(self.epoch, want::HOLD));
        true
    }

    /// OFFERED: what the writer says of our epoch. True when that was an answer.
    pub(super) fn answered<P: Port>(&mut self, port: &P) -> bool {
        let kind = port.load(Word::AtKind);
        let voided = self.travels && port.load(Word::Voided) == self.epoch;
        if kind == stamp(self.epoch, at::VOID) || voided {
            self.settle_plain();
            return true;
        }
        let answered = kind == stamp(self.epoch, at::RETURNED) || kind == stamp(self.epoch, at::PROMISED);
        if kind != stamp(self.epoch, at::TAKEN) && !(self.held && answered) {
            return false;
        }
        let taken_at = port.load(Word::AtOffset);
        if taken_at < self.consumed {
            self.fail();
            return true;
        }
        self.taken_at = taken_at;
        self.to = u64::MAX;
        self.produced = taken_at;
        self.edge = 0;
        self.number = 0;
        self.current = Geometry::default();
        self.next = NO_NEXT;
        self.record = Collector::default();
        self.state = if self.held { RState::Held } else { RState::Ring };
        true
    }

    /// HELD: has the writer answered? What it sends then is the application's, so TCP is only looked at: what stands there
    /// before the answer is a record that was on its way. True when there was news.
    pub(super) fn held_news<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> bool {
        if self.returned(port) {
            return true;
        }
        if self.consumed < self.taken_at {
            // A record stands behind TCP's rest: only the switch can read that.
            let late = self.promised(port);
            if late {
                self.answer_is_not_to_come();
            }
            return late;
        }
        let mut byte = 0;
        // SAFETY: one byte.
        let answer = unsafe { tcp.peek(&raw mut byte, 1, 0) };
        if self.returned(port) {
            return true;
        }
        match answer {
            TcpTake::Bytes(_) => self.collect(tcp),
            other => {
                let news = self.no_bytes(other);
                if news {
                    self.answer_is_not_to_come();
                }
                news
            }
        }
    }

    /// The writer asks, by the policyds, whether this epoch is taken, for it cannot know: its own way is dead, and ours is closed, so
    /// that nothing can arrive any more. `None`: that is not the epoch we are at.
    pub fn was_taken<P: Port>(&mut self, port: &P, epoch: u64) -> Option<bool> {
        if epoch != self.epoch {
            return None;
        }
        if self.state == RState::Offered && !self.answered(port) {
            self.settle_plain();
        }
        Some(self.state != RState::Plain)
    }

    /// RING at the kernel's FIN, and all that arrived is delivered: is that not all there was?
    pub(super) fn is_short<P: Port>(&self, port: &P) -> bool {
        self.travels
            && self.verdict == Verdict::Fin
            && matches!(self.state, RState::Ring | RState::Held)
            && port.load(Word::End) != self.consumed.wrapping_add(1)
            && !planted(Fault::EndUnseen)
    }

    fn promised<P: Port>(&self, port: &P) -> bool {
        port.load(Word::AtKind) == stamp(self.epoch, at::PROMISED)
    }

    /// The writer has ended, or its record is on its way: what the ring has can still be read by the switch.
    pub(super) fn answer_is_not_to_come(&mut self) {
        self.held = false;
        if self.state == RState::Held {
            self.state = RState::Ring;
        }
    }

    /// The writer goes on by TCP from where we have stopped.
    fn returned<P: Port>(&mut self, port: &P) -> bool {
        let returned = port.load(Word::AtKind) == stamp(self.epoch, at::RETURNED);
        if returned {
            let next = self.consumed.max(self.taken_at);
            self.skew = self.skew.wrapping_add(self.taken_at).wrapping_sub(next);
            self.settle_plain();
        }
        returned
    }

    /// For a reader to come that has no switch, after the peer's FIN: PLAIN if all that is missing is on TCP. False: it never
    /// will be.
    pub fn let_go_at_fin<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> bool {
        let whole = match self.state {
            RState::Ring | RState::Held => {
                let last = self.consumed.max(self.taken_at);
                let ended = !self.travels || port.load(Word::End) == last.wrapping_add(1);
                ended && port.load(Word::Produced).max(self.taken_at) <= last
            }
            RState::Rejoin if self.verdict != Verdict::None => port.load(Word::Produced).min(self.to) <= self.consumed,
            RState::Rejoin if self.tcp_at == self.consumed => self.rest_is_there(tcp),
            RState::Offered => !self.answered(port),
            RState::End => self.verdict != Verdict::Broken,
            _ => return true,
        };
        if whole {
            self.settle_plain();
        } else {
            self.answer_is_not_to_come();
        }
        whole
    }

    /// REJOIN, and TCP's next byte is the application's next: whoever reads without the switch, for good, may begin. What the
    /// ring still has comes by TCP. Not before another epoch: that may be offered only from E on.
    pub fn let_go<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) {
        if self.state == RState::Rejoin
            && self.held
            && self.tcp_at == self.consumed
            && self.verdict == Verdict::None
            && (self.promised(port) || self.rest_is_there(tcp))
        {
            self.settle_plain();
        }
    }

    fn rest_is_there(&self, tcp: &mut impl TcpReceive) -> bool {
        self.tcp_at.saturating_add(tcp.pending() as u64) >= self.to
    }

    /// Whoever was to read next did not come in time, and the record is there: reading goes on.
    pub fn read_on(&mut self) {
        self.held &= self.state != RState::Rejoin;
    }

    fn settle_plain(&mut self) {
        self.state = RState::Plain;
        self.leaving = false;
        self.held = false;
    }

    /// RING to REJOIN when the record is in order.
    pub(super) fn rejoin(&mut self, record: Option<Record>) {
        let valid = record.filter(|r| {
            r.epoch == self.epoch && r.from >= self.taken_at && r.from <= self.consumed && r.to >= self.consumed
        });
        let Some(record) = valid else {
            self.fail();
            return;
        };
        self.tcp_at = record.from;
        self.to = record.to;
        self.edge = self.edge.min(record.to);
        self.skew = self.skew.wrapping_add(Record::SIZE as u64).wrapping_add(self.taken_at).wrapping_sub(record.from);
        self.state = RState::Rejoin;
    }

    /// `n` bytes at t have come on TCP, of which those from `consumed` on are delivered.
    pub(super) fn rejoined<P: Port>(&mut self, port: &P, n: u64) {
        self.tcp_at = self.tcp_at.saturating_add(n);
        self.consumed = self.consumed.max(self.tcp_at);
        if self.tcp_at >= self.to {
            port.store(Word::Consumed, self.consumed);
            self.settle_plain();
        }
    }

    /// Asks TCP for the rest of the record. True when there was news, of whatever kind.
    pub(super) fn collect(&mut self, tcp: &mut impl TcpReceive) -> bool {
        let missing = self.record.missing();
        // SAFETY: the collector has room for what is missing.
        match unsafe { tcp.receive(self.record.next(), missing) } {
            TcpTake::Bytes(n) => {
                if let Some(record) = self.record.added(n) {
                    self.rejoin(record);
                }
                true
            }
            other => self.no_bytes(other),
        }
    }

    /// Bytes of the record that came with others.
    pub(super) fn collected(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.record.missing());
        // SAFETY: not more than is missing.
        unsafe { self.record.next().copy_from_nonoverlapping(bytes.as_ptr(), n) };
        if let Some(record) = self.record.added(n) {
            self.rejoin(record);
        }
        n
    }

    /// TCP's other answers. True when that was news.
    pub(super) fn no_bytes(&mut self, answer: TcpTake) -> bool {
        match answer {
            TcpTake::Bytes(_) | TcpTake::WouldBlock => return false,
            _ if self.verdict == Verdict::Broken => {}
            TcpTake::Fin => self.verdict = Verdict::Fin,
            TcpTake::Failed(errno) => {
                self.verdict = Verdict::Failed;
                self.errno = errno;
            }
        }
        true
    }

    /// Nothing more can come: what the application is told.
    pub(super) fn last_word(&mut self) -> Take {
        self.state = RState::End;
        match self.verdict {
            Verdict::Broken => Take::Reset,
            Verdict::None | Verdict::Fin => Take::Eof,
            Verdict::Failed => {
                self.verdict = Verdict::Fin;
                Take::Failed(self.errno)
            }
        }
    }
}

/// What the caller may want to know.
impl Reader {
    #[inline]
    pub fn state(&self) -> RState {
        self.state
    }

    /// `leave` was called and is not yet granted.
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// Nothing is received until the writer has answered.
    pub fn held(&self) -> bool {
        self.held
    }

    /// Bytes of the stream delivered, of meaning since the last offer. In `Plain` the caller counts on from here,
    /// unless it goes on receiving through `receive`.
    #[inline]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The kernel's FIN has been seen by us.
    pub fn fin_seen(&self) -> bool {
        self.verdict == Verdict::Fin
    }

    /// W was published: the writer's end was orderly.
    pub fn final_seen<P: Port>(&self, port: &P) -> bool {
        port.load(Word::Final) != 0
    }

    /// How many bytes the kernel has delivered when `stream` bytes of the stream were: in `Plain` and `Offered` only.
    pub fn kernel_offset(&self, stream: u64) -> u64 {
        stream.wrapping_add(self.skew)
    }
}
