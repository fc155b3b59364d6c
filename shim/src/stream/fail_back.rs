//! The way back to TCP: what a writer owes, and how it is sent.

use super::faults::{Fault, planted};
use super::record::Record;
use super::tcp::{TcpPut, TcpSend};
use super::words::{FOR_GOOD, Port, Word, at, stamp};
use super::writer::{Pumped, WState, Writer, WriterEvent, answered};

impl Writer {
    #[cold]
    pub(super) fn begin_fail_back<P: Port>(&mut self, port: &P, hold: bool, for_good: bool) -> WriterEvent {
        self.look(port);
        if self.state != WState::Ring {
            return WriterEvent::None;
        }
        self.owe(if hold { 0 } else { Record::SIZE as u64 });
        if planted(Fault::FromWithoutMax) {
            self.from = port.load(Word::Consumed);
        }
        if !hold {
            port.store(Word::Left, if for_good { FOR_GOOD } else { self.epoch });
        }
        WriterEvent::FailBackBegan
    }

    /// A record of this size, or none, and all that is not known to be consumed.
    pub(super) fn owe(&mut self, head: u64) {
        self.from = self.consumed; // which is max(consumed, N)
        self.to = self.written;
        self.head = head;
        self.sent = 0;
        self.state = WState::FailBack;
    }

    /// The reader has stopped while we were leaving, or had left.
    #[cold]
    pub(super) fn answer_hold<P: Port>(&mut self, port: &P) {
        if answered(port.load(Word::AtKind), self.epoch) {
            return;
        }
        let all_sent = self.sent == self.head + (self.to - self.from);
        if self.state == WState::FailBack && self.sent == 0 && !self.travels {
            self.spare_the_record(port);
        } else if self.state == WState::FailBack || all_sent {
            port.store(Word::AtKind, stamp(self.epoch, at::PROMISED));
        }
    }

    pub(super) fn spare_the_record<P: Port>(&mut self, port: &P) {
        let consumed = port.load(Word::Consumed);
        if consumed > self.written {
            self.state = WState::Broken;
        } else {
            self.consumed = self.consumed.max(consumed);
            self.from = self.consumed;
        }
        self.head = 0;
    }

    /// Sends what is owed, as much as the kernel takes.
    pub fn pump<P: Port>(&mut self, port: &P, tcp: &mut impl TcpSend) -> Pumped {
        if self.state == WState::FailBack && self.head == 0 && self.sent == 0 {
            port.store(Word::AtKind, stamp(self.epoch, at::RETURNED)); // before the first byte
        }
        while self.state == WState::FailBack {
            let owed = self.owed_bytes();
            if owed == 0 {
                self.state = WState::Tcp;
                self.skew = self.skew.wrapping_add(self.head).wrapping_add(self.taken_at).wrapping_sub(self.from);
                break;
            }
            let record = Record { epoch: self.epoch, from: self.from, to: self.to }.encode();
            let (src, len) = match (self.sent as usize, self.sent.checked_sub(self.head)) {
                (sent, None) => (record.as_ptr().wrapping_add(sent), Record::SIZE - sent),
                (_, Some(passed)) => self.unread(port, self.from + passed, owed),
            };
            // SAFETY: the rest of the record, or a run of the ring below `written`.
            match unsafe { tcp.send(src, len) } {
                TcpPut::Bytes(n) => self.sent += n.min(len) as u64,
                TcpPut::WouldBlock => return Pumped::Again,
                TcpPut::Failed(errno) => return Pumped::Failed(errno),
            }
        }
        Pumped::Done
    }

    /// Ring bytes from `t` on.
    pub(super) fn unread<P: Port>(&self, port: &P, t: u64, len: u64) -> (*const u8, usize) {
        let (geometry, len) = if t >= self.current.start {
            (&self.current, len)
        } else {
            (&self.previous, len.min(self.current.start - t))
        };
        let run = geometry.run(t, len);
        (port.pointer(run.offset), run.len as usize)
    }

    pub(super) fn owed_bytes(&self) -> u64 {
        match self.state {
            WState::FailBack => self.head + (self.to - self.from) - self.sent,
            _ => 0,
        }
    }
}
