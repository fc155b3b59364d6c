//! One rule a test, both ends called in turn.

use super::*;
use crate::stream::faults::{self, Fault};
use crate::stream::record::{Collector, Record};
use crate::stream::{Port, Pumped, RState, WState, Word, Writer, WriterEvent};

pub struct Pair {
    pub shared: Shared,
    pub kernel: Kernel,
    pub writer: Writer,
    pub reader: Reader,
    written: u64,
}

impl Pair {
    pub fn new() -> Pair {
        let (writer, reader) = (Writer::default(), Reader::default());
        Pair { shared: Shared::new(), kernel: Kernel::new(1 << 16), writer, reader, written: 0 }
    }

    /// Offered and taken after `before` bytes on TCP, none of them received yet.
    pub fn switched(before: usize) -> Pair {
        let mut pair = Pair::new();
        assert!(pair.reader.offer(&pair.shared.port(), 0));
        pair.write_tcp(before);
        assert_eq!(pair.consider(|_| {}), WriterEvent::Took { offset: before as u64 });
        pair
    }

    pub fn consider(&mut self, change: impl FnOnce(&mut WriterFacts)) -> WriterEvent {
        let mut facts = willing(self.written);
        change(&mut facts);
        let sent = self.kernel.sent;
        self.writer.consider(&self.shared.port(), &facts, |count| count == sent)
    }

    pub fn write_tcp(&mut self, len: usize) {
        if len == 0 {
            return;
        }
        assert_eq!(self.kernel.put(&tokens(self.written, len)), TcpPut::Bytes(len));
        self.written += len as u64;
    }

    pub fn write(&mut self, len: usize) -> usize {
        let bytes = tokens(self.written, len);
        // SAFETY: a vector of that length.
        let n = unsafe { self.writer.write(&self.shared.port(), bytes.as_ptr(), len) };
        self.written += n as u64;
        n
    }

    pub fn receive(&mut self, len: usize) -> Take {
        let from = self.reader.consumed();
        let (take, bytes) = receive(&mut self.reader, &self.shared.port(), &mut self.kernel, len);
        assert_eq!(bytes, tokens(from, bytes.len()));
        take
    }

    /// None: nothing came, and TCP was not asked.
    pub fn receive_lightly(&mut self, len: usize) -> Option<Take> {
        let mut bytes = vec![0; len];
        let (port, received) = (self.shared.port(), self.kernel.received);
        // SAFETY: a vector of that length.
        let take = unsafe { self.reader.receive_lightly(&port, &mut self.kernel, bytes.as_mut_ptr(), len) };
        assert!(take.is_some() || self.kernel.received == received);
        take
    }

    pub fn peek(&mut self, len: usize, skip: usize) -> Take {
        let from = self.reader.consumed() + skip as u64;
        let (take, bytes) = peek(&mut self.reader, &self.shared.port(), &mut self.kernel, len, skip);
        assert_eq!(bytes, tokens(from, bytes.len()));
        take
    }

    pub fn available(&mut self) -> usize {
        self.reader.available(&self.shared.port(), &mut self.kernel)
    }

    pub fn pump(&mut self) -> Pumped {
        self.writer.pump(&self.shared.port(), &mut self.kernel)
    }

    pub fn fail_back(&mut self) {
        assert_eq!(self.consider(|facts| facts.fail_back = true), WriterEvent::FailBackBegan);
    }
}

#[test]
fn all_zero_is_the_initial_state() {
    // SAFETY: plain data; that this is valid is what is tested.
    let (writer, reader): (Writer, Reader) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    assert_eq!((writer.state(), reader.state()), (WState::Tcp, RState::Plain));
    assert!(!std::mem::needs_drop::<Writer>() && !std::mem::needs_drop::<Reader>());
}

#[test]
fn tcp_up_to_n_then_the_ring() {
    let mut pair = Pair::switched(3);
    assert_eq!(pair.write(4), 4);
    assert_eq!(pair.receive(100), tcp(3));
    assert_eq!(pair.receive(100), companion(4));
    assert_eq!(pair.receive(100), Take::WouldBlock);
    assert_eq!(pair.reader.state(), RState::Ring);
}

#[test]
fn an_offer_is_taken_only_when_the_kernel_agrees_and_nothing_forbids() {
    let mut pair = Pair::new();
    pair.write_tcp(2);
    assert!(pair.reader.offer(&pair.shared.port(), 0));
    assert!(!pair.reader.offer(&pair.shared.port(), 0));
    assert_eq!(pair.consider(|f| f.may_take = false), WriterEvent::None);
    assert_eq!(pair.consider(|f| f.reader_gone = true), WriterEvent::None);
    assert_eq!(pair.consider(|f| f.place = Place::NONE), WriterEvent::None);
    assert_eq!(pair.consider(|f| f.place = Place::new(128, 128)), WriterEvent::None);
    assert_eq!(pair.consider(|f| f.offset = 1), WriterEvent::None); // not what the kernel has sent
    assert_eq!(pair.consider(|_| {}), WriterEvent::Took { offset: 2 });
}

#[test]
fn a_full_ring_takes_no_more_and_is_no_error() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(9), 4);
    assert_eq!(pair.write(1), 0);
    assert_eq!(pair.writer.state(), WState::Ring);
    assert_eq!(pair.receive(1), companion(1));
    assert_eq!(pair.write(9), 1);
    assert_eq!(pair.writer.unconsumed(&pair.shared.port()), 4);
}

#[test]
fn a_limit_holds_below_the_size() {
    let mut pair = Pair::switched(0);
    pair.writer.set_limit(3);
    assert_eq!(pair.writer.room(&pair.shared.port()), 3);
    assert_eq!(pair.write(9), 3);
    assert!(!pair.writer.want_growth(&pair.shared.port(), 9));
}

#[test]
fn grows_while_old_bytes_are_unread_and_shrinks_again() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(4), 4);
    assert!(pair.writer.want_growth(&pair.shared.port(), 1));
    assert!(pair.writer.grow(&pair.shared.port(), big(1)));
    assert_eq!(pair.write(100), 64);
    assert_eq!(pair.writer.retired(&pair.shared.port()), None);
    assert!(!pair.writer.want_growth(&pair.shared.port(), 1)); // the reader is still in the old one
    assert_eq!(pair.available(), 68);
    assert_eq!(pair.peek(100, 0), companion(68));
    assert_eq!(pair.peek(100, 5), companion(63));
    assert_eq!(pair.receive(66), companion(66));
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(SMALL));
    assert!(pair.writer.grow(&pair.shared.port(), SMALL));
    assert_eq!(pair.write(100), 4);
    assert_eq!(pair.receive(100), companion(6));
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(big(1)));
    assert_eq!(pair.writer.retired(&pair.shared.port()), None);
}

/// What is unread goes along: the writer may grow again at once, wherever the reader stands.
#[test]
fn moves_with_what_is_unread_and_grows_at_once() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(3), 3);
    assert_eq!(pair.receive(2), companion(2));
    assert_eq!(pair.write(3), 3); // over the seam of four bytes
    assert!(!pair.writer.move_to(&pair.shared.port(), SMALL));
    assert!(pair.writer.move_to(&pair.shared.port(), big(1)));
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(SMALL));
    assert_eq!(pair.write(100), 60);
    assert_eq!(pair.peek(100, 1), companion(63));
    assert!(pair.writer.grow(&pair.shared.port(), big(0)));
    assert_eq!(pair.write(10), 10);
    assert_eq!(pair.receive(1), companion(1));
    assert_eq!(pair.writer.unconsumed(&pair.shared.port()), 73);
    assert_eq!(pair.receive(100), companion(73));
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(big(1)));
    assert_eq!(pair.writer.retired(&pair.shared.port()), None);
}

#[test]
fn places_that_nobody_collects_stop_the_moving() {
    let mut pair = Pair::switched(0);
    for place in [big(0), big(1)] {
        assert_eq!((pair.write(1), pair.receive(1)), (1, companion(1)));
        assert!(pair.writer.grow(&pair.shared.port(), place));
    }
    assert_eq!((pair.write(1), pair.receive(1)), (1, companion(1)));
    assert!(pair.writer.grow(&pair.shared.port(), SMALL)); // it was free again
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(big(1)));
    assert_eq!(pair.writer.retired(&pair.shared.port()), Some(big(0)));
    assert_eq!(pair.writer.retired(&pair.shared.port()), None);
}

#[test]
fn an_empty_ring_starts_over_at_the_front() {
    let mut pair = Pair::switched(0);
    assert!(pair.writer.grow(&pair.shared.port(), big(0)));
    let front = pair.writer.reserve(&pair.shared.port(), 1).unwrap().ptr;
    for _ in 0..20 {
        assert_eq!((pair.write(3), pair.receive(9)), (3, companion(3)));
    }
    let at = pair.writer.reserve(&pair.shared.port(), 1).unwrap().ptr;
    assert!((at as usize) - (front as usize) < 9);
    assert_eq!((pair.write(2), pair.receive(1)), (2, companion(1)));
    assert!(!pair.writer.rewind_if_empty(&pair.shared.port()));
}

#[test]
fn fails_back_with_what_was_not_read_and_switches_again() {
    let mut pair = Pair::switched(2);
    for round in 1..5 {
        assert_eq!(pair.write(4), 4);
        if round % 2 == 0 {
            assert!(matches!(pair.receive(3), Take::Bytes { .. }));
        }
        pair.fail_back();
        assert!(pair.writer.owed() && pair.write(1) == 0 && !pair.writer.finish(&pair.shared.port()));
        assert_eq!(pair.pump(), Pumped::Done);
        assert_eq!(pair.writer.state(), WState::Tcp);
        pair.write_tcp(5);
        assert_eq!(pair.writer.kernel_offset(pair.written), pair.kernel.sent);
        while matches!(pair.receive(3), Take::Bytes { .. }) {}
        assert_eq!((pair.reader.state(), pair.reader.consumed()), (RState::Plain, pair.written));
        assert_eq!(pair.reader.kernel_offset(pair.written), pair.kernel.received);
        assert!(pair.reader.offer(&pair.shared.port(), pair.written));
        assert!(matches!(pair.consider(|_| {}), WriterEvent::Took { .. }));
    }
}

#[test]
fn a_record_in_pieces_after_bytes_from_the_ring() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(4), 4);
    assert_eq!(pair.receive(1), companion(1));
    pair.kernel.room = 1;
    pair.fail_back();
    while pair.pump() == Pumped::Again {
        assert!(!pair.reader.readable(&pair.shared.port()) || pair.reader.consumed() < 4);
        let port = pair.shared.port();
        let attended = pair.reader.attend(&port, &mut pair.kernel);
        if pair.kernel.queue.is_empty() {
            assert_eq!(attended, crate::stream::Attended::News);
        } else {
            assert!(pair.reader.wants_tcp());
            assert!(matches!(pair.receive(1), Take::Bytes { .. }));
        }
    }
    while matches!(pair.receive(1), Take::Bytes { .. }) {}
    assert_eq!((pair.reader.state(), pair.reader.consumed()), (RState::Plain, 4));
}

#[test]
fn bytes_taken_with_the_record_in_one_receive_move_down() {
    taken_during_a_receive();
}

/// It needs the writer to do all that while the reader stands still: rare among random rounds.
#[test]
#[should_panic = "assertion"]
fn finds_no_recheck_of_at() {
    faults::with(Fault::NoRecheck, taken_during_a_receive);
}

fn taken_during_a_receive() {
    let mut pair = Pair::new();
    assert!(pair.reader.offer(&pair.shared.port(), 0));
    pair.write_tcp(3);
    // The whole fail-back happens between the reader's two looks: `Late` lets the writer go first.
    struct Late<'a>(&'a mut Kernel, Box<dyn FnMut(&mut Kernel) + 'a>);
    impl TcpReceive for Late<'_> {
        unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake {
            (self.1)(self.0);
            // SAFETY: the contract is the same.
            unsafe { self.0.receive(dst, len) }
        }
        unsafe fn peek(&mut self, dst: *mut u8, len: usize, skip: usize) -> TcpTake {
            (self.1)(self.0);
            // SAFETY: the contract is the same.
            unsafe { self.0.peek(dst, len, skip) }
        }
        fn pending(&mut self) -> usize {
            (self.1)(self.0);
            self.0.pending()
        }
    }
    let port = pair.shared.port();
    let mut writer = pair.writer;
    let mut went = false;
    let writers = |kernel: &mut Kernel| {
        if std::mem::replace(&mut went, true) {
            return;
        }
        assert!(matches!(writer.consider(&port, &willing(3), |_| true), WriterEvent::Took { .. }));
        // SAFETY: a vector of that length.
        assert_eq!(unsafe { writer.write(&port, tokens(3, 4).as_ptr(), 4) }, 4);
        let facts = WriterFacts { fail_back: true, ..willing(0) };
        assert_eq!(writer.consider(&port, &facts, |_| true), WriterEvent::FailBackBegan);
        assert_eq!(writer.pump(&port, kernel), Pumped::Done);
        assert_eq!(kernel.put(&tokens(7, 3)), TcpPut::Bytes(3));
    };
    let mut late = Late(&mut pair.kernel, Box::new(writers));
    let (take, bytes) = receive(&mut pair.reader, &port, &mut late, 100);
    assert_eq!((take, bytes), (tcp(10), tokens(0, 10)));
    assert_eq!(pair.reader.state(), RState::Plain);
}

#[test]
fn fin_with_bytes_in_the_ring_is_eof_after_them() {
    let mut pair = Pair::switched(1);
    assert_eq!(pair.write(4), 4);
    assert!(pair.writer.finish(&pair.shared.port()));
    pair.kernel.fin = true;
    assert!(pair.reader.final_seen(&pair.shared.port()));
    assert_eq!(pair.receive(9), tcp(1));
    let port = pair.shared.port();
    assert_eq!(pair.reader.attend(&port, &mut pair.kernel), crate::stream::Attended::News);
    assert!(pair.reader.fin_seen() && pair.reader.readable(&pair.shared.port()));
    assert_eq!(pair.receive(3), companion(3));
    assert_eq!(pair.receive(3), companion(1));
    assert_eq!(pair.receive(3), Take::Eof);
    assert_eq!(pair.receive(3), Take::Eof);
    assert_eq!(pair.writer.state(), WState::End);
}

#[test]
fn a_killed_writer_loses_nothing_that_was_produced() {
    for (sent, offered_only) in [(0, false), (7, false), (33, false), (0, true)] {
        let mut pair = Pair::switched(0);
        if !offered_only {
            assert_eq!(pair.receive(1), Take::WouldBlock);
        }
        assert_eq!(pair.write(4), 4);
        if sent > 0 {
            pair.kernel.room = sent;
            pair.fail_back();
            assert_eq!(pair.pump(), Pumped::Again);
        }
        pair.kernel.fin = true;
        assert!(matches!(pair.receive(9), Take::Bytes { n: 4, .. }));
        assert_eq!(pair.receive(9), Take::Eof);
    }
}

#[test]
fn an_error_of_the_anchor_comes_after_the_ring_and_once() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(2), 2);
    pair.kernel.error = Some(104);
    let port = pair.shared.port();
    let _ = pair.reader.available(&port, &mut pair.kernel);
    pair.reader.attend(&port, &mut pair.kernel);
    assert_eq!(pair.receive(9), companion(2));
    assert_eq!(pair.receive(9), Take::Failed(104));
    assert_eq!(pair.receive(9), Take::Eof);
}

#[test]
fn a_take_that_its_holder_did_not_live_to_note_is_taken_again() {
    for leaves in [false, true] {
        let mut pair = Pair::new();
        pair.write_tcp(2);
        assert!(pair.reader.offer(&pair.shared.port(), 0));
        pair.shared.port().store(Word::AtOffset, 2);
        pair.shared.port().store(Word::AtKind, stamp(1, at::TAKEN));
        if leaves {
            pair.reader.leave(&pair.shared.port());
        }
        assert_eq!(pair.consider(|facts| facts.may_take = false), WriterEvent::Took { offset: 2 });
        assert_eq!(pair.write(2), 2);
        assert_eq!((pair.receive(9), pair.receive(9)), (tcp(2), companion(2)));
    }
    let mut pair = Pair::new();
    assert!(pair.reader.offer(&pair.shared.port(), 0));
    pair.shared.port().store(Word::AtKind, stamp(1, at::TAKEN));
    pair.write_tcp(1); // past N
    assert_eq!(pair.consider(|_| {}), WriterEvent::None);
    assert_eq!(pair.writer.state(), WState::Broken);
}

#[test]
fn leave_before_the_take_is_answered_by_void() {
    let mut pair = Pair::new();
    let port = pair.shared.port();
    assert!(pair.reader.offer(&port, 0));
    pair.reader.leave(&port);
    assert!(pair.reader.leaving());
    assert_eq!(pair.reader.state(), RState::Offered);
    assert_eq!(pair.consider(|f| f.may_take = false), WriterEvent::Voided);
    pair.write_tcp(2);
    assert_eq!(pair.receive(9), tcp(2));
    assert_eq!((pair.reader.state(), pair.reader.leaving()), (RState::Plain, false));
    assert_eq!(pair.consider(|_| {}), WriterEvent::None);
}

#[test]
fn leave_after_the_take_fails_back() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(1), 1);
    let port = pair.shared.port();
    pair.reader.leave(&port);
    assert_eq!(pair.consider(|_| {}), WriterEvent::FailBackBegan);
    assert_eq!(pair.pump(), Pumped::Done);
    pair.write_tcp(1);
    assert_eq!(pair.receive(1), companion(1));
    assert_eq!(pair.receive(9), tcp(1));
    assert_eq!((pair.reader.state(), pair.reader.leaving()), (RState::Plain, false));
}

#[test]
fn a_gone_reader_makes_the_writer_fail_back_and_learn_it() {
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(4), 4);
    assert_eq!(pair.consider(|f| f.reader_gone = true), WriterEvent::FailBackBegan);
    pair.kernel.broken = Some(32);
    assert_eq!(pair.pump(), Pumped::Failed(32));
    pair.writer.abandon();
    assert_eq!(pair.writer.state(), WState::End);
}

#[test]
fn records_are_told_from_noise() {
    let record = Record { epoch: 7, from: 1 << 40, to: u64::MAX };
    let bytes = record.encode();
    assert_eq!(Record::decode(&bytes), Some(record));
    let mut collector = Collector::default();
    for (i, byte) in bytes.iter().enumerate() {
        assert_eq!(collector.missing(), 32 - i);
        // SAFETY: one byte is missing at least.
        unsafe { collector.next().write(*byte) };
        assert_eq!(collector.added(1), (i == 31).then_some(Some(record)));
    }
    for i in 0..8 {
        let mut noise = bytes;
        noise[i] ^= 1;
        assert_eq!(Record::decode(&noise), None);
    }
}

#[test]
fn lies_cost_the_connection_only() {
    let cases: &[(Word, u64)] = &[
        (Word::Produced, 5),
        (Word::Produced, u64::MAX),
        (Word::Geometries, 2),
        (Word::Geometries, 0),
        (Word::Start1, u64::MAX),
        (Word::Place1, u64::MAX),
        (Word::Place1, 192),
        (Word::Place1, Place::new(128, 128).word()),
    ];
    for (word, lie) in cases {
        let mut pair = Pair::switched(0);
        assert_eq!(pair.write(2), 2);
        pair.shared.port().store(*word, *lie);
        assert_eq!(pair.receive(9), Take::Reset, "{word:?} = {lie:#x}");
        assert_eq!(pair.reader.state(), RState::End);
    }
    let mut pair = Pair::switched(0);
    assert_eq!(pair.write(2), 2);
    pair.shared.port().store(Word::Consumed, 3);
    assert_eq!(pair.writer.room(&pair.shared.port()), 0);
    assert_eq!(pair.writer.state(), WState::Broken);

    let mut pair = Pair::switched(3);
    assert_eq!(pair.receive(1), tcp(1));
    let mut pair = Pair { reader: Reader::default(), ..pair };
    assert!(pair.reader.offer(&pair.shared.port(), 9)); // beyond what is N
    assert_eq!(pair.receive(1), Take::Reset);
}
