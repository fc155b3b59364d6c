//! A peer that writes anything into any word, and sends anything on TCP, at any time: no panic, no byte outside of the
//! regions, no way back from Reset.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::stream::record::{Collector, Record};
use crate::stream::{Port, RState, WState, Word, Writer};

/// Sees that only admitted memory is reached.
struct Guarded<'a>(LocalPort<'a>);

fn within(offset: u64, len: u64) -> bool {
    let inside = |first: u64, size: u64| offset >= first && offset + len <= first + size;
    inside(SMALL.offset(), SMALL.size()) || (0..BIG.count).any(|i| inside(big(i).offset(), BIG.size))
}

impl Port for Guarded<'_> {
    fn load(&self, word: Word) -> u64 {
        self.0.load(word)
    }
    fn store(&self, word: Word, value: u64) {
        self.0.store(word, value);
    }
    fn fence(&self) {}
    fn admits(&self, place: Place) -> bool {
        self.0.admits(place)
    }
    fn pointer(&self, offset: u64) -> *mut u8 {
        assert!(within(offset, 1));
        self.0.pointer(offset)
    }
    unsafe fn copy_out(&self, offset: u64, dst: *mut u8, len: usize) {
        assert!(within(offset, len as u64));
        // SAFETY: by the contract.
        unsafe { self.0.copy_out(offset, dst, len) }
    }
    unsafe fn copy_in(&self, offset: u64, src: *const u8, len: usize) {
        assert!(within(offset, len as u64));
        // SAFETY: by the contract.
        unsafe { self.0.copy_in(offset, src, len) }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Lie(Word, u64),
    Stamp { taken: bool, epoch: u64, at: u64 },
    Junk(Vec<u8>),
    Record(Record),
    Fin,
    Error,
    Offer(u64),
    Leave,
    Receive(usize),
    Peek(usize, usize),
    Look,
    Consider { fail_back: bool, gone: bool, silent: bool, small: bool },
    Write(usize),
    Grow(u64),
    Pump,
    Retired,
    Finish,
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..12,
        2 => 0u64..300,
        1 => any::<u64>(),
        1 => (0u64..64).prop_map(|bit| u64::MAX - (1 << bit)),
        1 => Just(u64::MAX),
        1 => Just(SMALL.word()),
        1 => (0u64..3).prop_map(|i| Place::new(64 + 64 * i, 64).word()),
        1 => (0u64..64).prop_map(|shift| 64 | shift),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let word = (0..Word::ALL.len()).prop_map(|i| Word::ALL[i]);
    prop_oneof![
        6 => (word, value()).prop_map(|(word, value)| Act::Lie(word, value)),
        3 => (any::<bool>(), 1u64..4, value()).prop_map(|(taken, epoch, at)| Act::Stamp { taken, epoch, at }),
        1 => vec(any::<u8>(), 0..80).prop_map(Act::Junk),
        3 => (1u64..4, value(), value()).prop_map(|(epoch, from, to)| Act::Record(Record { epoch, from, to })),
        1 => Just(Act::Fin),
        1 => Just(Act::Error),
        3 => value().prop_map(Act::Offer),
        1 => Just(Act::Leave),
        8 => (0usize..90).prop_map(Act::Receive),
        3 => (0usize..90, 0usize..90).prop_map(|(len, skip)| Act::Peek(len, skip)),
        3 => Just(Act::Look),
        6 => (0u8..8, any::<bool>()).prop_map(|(bits, small)| Act::Consider {
            fail_back: bits == 1,
            gone: bits == 2,
            silent: bits == 3,
            small,
        }),
        8 => (0usize..90).prop_map(Act::Write),
        2 => (0u64..3).prop_map(Act::Grow),
        2 => Just(Act::Pump),
        1 => Just(Act::Retired),
        1 => Just(Act::Finish),
    ]
}

fn play(acts: Vec<Act>) {
    let shared = Shared::new();
    let port = Guarded(shared.port());
    let (mut writer, mut reader) = (Writer::default(), Reader::default());
    let (mut inward, mut outward) = (Kernel::new(1 << 16), Kernel::new(100));
    let mut sent = 0;
    for act in acts {
        let (reset, broken) = (reader.state() == RState::End, writer.state() == WState::Broken);
        match act {
            Act::Lie(word, value) => port.store(word, value),
            Act::Stamp { taken, epoch, at } => {
                port.store(Word::AtOffset, at);
                port.store(Word::AtKind, stamp(epoch, if taken { at::TAKEN } else { at::VOID }));
            }
            Act::Junk(bytes) => inward.queue.extend(bytes),
            Act::Record(record) => inward.queue.extend(record.encode()),
            Act::Fin => inward.fin = true,
            Act::Error => inward.error = Some(104),
            Act::Offer(consumed) => _ = reader.offer(&port, consumed >> 1),
            Act::Leave => reader.leave(&port),
            Act::Receive(len) => {
                assert!(take_at_once(&mut reader, &port, len).len() <= len);
                let take = receive(&mut reader, &port, &mut inward, len).0;
                assert!(!matches!(take, Take::Bytes { n, .. } if n > len));
            }
            Act::Peek(len, skip) => {
                let take = peek(&mut reader, &port, &mut inward, len, skip).0;
                assert!(!matches!(take, Take::Bytes { n, .. } if n > len));
            }
            Act::Look => {
                reader.attend(&port, &mut inward);
                reader.available(&port, &mut inward);
                let _ = (reader.readable(&port), reader.wants_tcp(), reader.final_seen(&port));
                let _ = (writer.unconsumed(&port), writer.want_growth(&port, 9));
            }
            Act::Consider { fail_back, gone, silent, small } => {
                let place = if small { SMALL } else { big(1) };
                let facts = WriterFacts { fail_back, reader_gone: gone, reader_silent: silent, place, ..willing(sent) };
                writer.consider(&port, &facts, |_| true);
            }
            Act::Write(len) => {
                // SAFETY: a vector of that length.
                let at_once = unsafe { writer.write_at_once(&port, vec![7; len].as_ptr(), len) };
                // SAFETY: the same.
                let n = if at_once { len } else { unsafe { writer.write(&port, vec![7; len].as_ptr(), len) } };
                assert!(n <= len);
                sent = sent.max(writer.written());
            }
            Act::Grow(index) => _ = writer.grow(&port, if index == 2 { SMALL } else { big(index) }),
            Act::Pump => {
                writer.pump(&port, &mut outward);
                outward.queue.clear();
            }
            Act::Retired => _ = writer.retired(&port),
            Act::Finish => _ = writer.finish(&port),
        }
        assert!(!reset || reader.state() == RState::End);
        assert!(!broken || writer.state() == WState::Broken);
    }
}

/// PROPTEST_CASES=N for longer runs.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 2 * usual.cases, failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_word_any_value_any_time(acts in vec(act(), 0..80)) {
        play(acts);
    }

    #[test]
    fn a_switched_direction_and_any_word(acts in vec(act(), 0..60)) {
        let mut all = vec![Act::Offer(0), Act::Consider { fail_back: false, gone: false, silent: false, small: false }];
        all.extend([Act::Write(9), Act::Receive(2)]);
        all.extend(acts);
        play(all);
    }

    #[test]
    fn a_record_in_any_pieces(
        epoch in any::<u64>(), from in any::<u64>(), to in any::<u64>(), flip in 0usize..64, cuts in vec(1usize..9, 32)
    ) {
        let record = Record { epoch, from, to };
        let mut bytes = record.encode();
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1;
        }
        let (mut collector, mut at, mut cuts) = (Collector::default(), 0, cuts.into_iter());
        loop {
            let n = cuts.next().unwrap_or(1).min(collector.missing());
            // SAFETY: not more than is missing.
            unsafe { collector.next().copy_from_nonoverlapping(bytes[at..].as_ptr(), n) };
            at += n;
            if let Some(result) = collector.added(n) {
                prop_assert_eq!(at, Record::SIZE);
                prop_assert_eq!(result, Record::decode(&bytes));
                prop_assert_eq!(result.is_none(), flip < 8);
                prop_assert_eq!(result == Some(record), flip >= 32);
                break;
            }
        }
    }
}
