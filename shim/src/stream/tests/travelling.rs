//! Directions whose words travel: each end has an image of its own, what is stored arrives in order and later, and the way may die at any
//! moment, with whatever is still on it. One step at a time, in random order; every byte once, in order, or ECONNRESET where that is due.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::stream::faults::{self, Fault};
use crate::stream::{Port, Pumped, RState, WState, Word, Writer, WriterEvent, stamped};

const BYTES: u64 = 24;
const ROUNDS: u64 = 4_000;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What arrives at once: words, and ring bytes with where they stand.
struct Put {
    words: Vec<(Word, u64)>,
    bytes: Vec<(u64, u8)>,
    /// The word of the sender's image that says so.
    report: Option<(Word, u64)>,
}

/// A word by the policyds, to the writer's end or the reader's.
enum Said {
    Ask(u64),
    Answer(u64),
    Void(u64),
    Leave(u64),
}

#[derive(Default)]
struct Reached {
    asked_taken: u32,
    asked_void: u32,
    voided: u32,
    failed_back: u32,
    ended_in_ring: u32,
    resets: u32,
    unanswered: u32,
}

struct World {
    random: Random,
    writers: Shared,
    readers: Shared,
    kernel: Kernel,
    there: VecDeque<Put>,
    back: VecDeque<Put>,
    policyds: VecDeque<Said>,
    /// There is no policyd: nothing is said by them, and each end learns only by itself that the way is dead.
    alone: bool,
    dead: bool,
    writer: Writer,
    reader: Reader,
    accepted: u64,
    delivered: u64,
    /// What of the writer's image has been put.
    at: u64,
    produced: u64,
    end: u64,
    /// And of the reader's.
    want: u64,
    consumed: u64,
    closed: bool,
    killed: bool,
    asks: bool,
    ended: Option<Take>,
}

impl World {
    fn new(seed: u64, alone: bool) -> World {
        let mut reader = Reader::default();
        reader.words_travel();
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            writers: Shared::new(),
            readers: Shared::new(),
            kernel: Kernel::new(40),
            there: VecDeque::new(),
            back: VecDeque::new(),
            policyds: VecDeque::new(),
            alone,
            dead: false,
            writer: Writer::default(),
            reader,
            accepted: 0,
            delivered: 0,
            at: 0,
            produced: 0,
            end: 0,
            want: 0,
            consumed: 0,
            closed: false,
            killed: false,
            asks: false,
            ended: None,
        }
    }

    fn push_writers(&mut self) {
        let port = self.writers.port();
        let news = [(Word::AtKind, self.at), (Word::Produced, self.produced), (Word::End, self.end)];
        if self.dead {
            if news.into_iter().any(|(word, put)| port.load(word) != put) {
                port.store(Word::Dead, 1); // that put is not answered
            }
            return;
        }
        let kind = port.load(Word::AtKind);
        let geometry = port.load(Word::Geometries);
        let places: Vec<_> = [Word::Start0, Word::Place0, Word::Start1, Word::Place1]
            .map(|word| (word, port.load(word)))
            .into_iter()
            .chain([(Word::Geometries, geometry)])
            .collect();
        if kind != self.at {
            let mut words = places.clone();
            words.extend([(Word::AtOffset, port.load(Word::AtOffset)), (Word::AtKind, kind)]);
            let report = stamped::is_taken(kind).then(|| (Word::Landed, stamped::epoch(kind)));
            if stamped::is_taken(kind) {
                self.produced = port.load(Word::AtOffset);
            }
            self.there.push_back(Put { words, bytes: Vec::new(), report });
            self.at = kind;
        }
        let produced = port.load(Word::Produced);
        if stamped::is_taken(self.at) && produced > self.produced {
            let number = port.load(Word::Geometries);
            let entry = |number: u64| {
                let odd = !number.is_multiple_of(2);
                let (start, place) = if odd { (Word::Start1, Word::Place1) } else { (Word::Start0, Word::Place0) };
                (port.load(start), Place::from_word(port.load(place)))
            };
            let standing = |t: u64| {
                let (start, place) = if t >= entry(number).0 { entry(number) } else { entry(number - 1) };
                place.offset() + (t - start) % place.size()
            };
            let bytes = (self.produced..produced)
                // SAFETY: bytes of the ring that were committed.
                .map(|t| (standing(t), unsafe { port.pointer(standing(t)).read() }))
                .collect();
            let words = places.into_iter().chain([(Word::Produced, produced)]).collect();
            self.there.push_back(Put { words, bytes, report: None });
            self.produced = produced;
        }
        let end = port.load(Word::End);
        if end != self.end {
            self.there.push_back(Put {
                words: vec![(Word::End, end)],
                bytes: Vec::new(),
                report: Some((Word::EndLanded, end)),
            });
            self.end = end;
        }
    }

    fn push_readers(&mut self) {
        let port = self.readers.port();
        let (want, consumed) = (port.load(Word::Want), port.load(Word::Consumed));
        if want == self.want && consumed <= self.consumed {
            return;
        }
        if self.dead {
            self.reader_learns();
        } else {
            let words = vec![(Word::Consumed, consumed), (Word::Want, want)];
            self.back.push_back(Put { words, bytes: Vec::new(), report: None });
            (self.want, self.consumed) = (want, consumed);
        }
    }

    /// The oldest put on its way arrives. That it did is not always told: the way may die in between.
    fn deliver(&mut self, there: bool) {
        let Some(put) = (if there { self.there.pop_front() } else { self.back.pop_front() }) else { return };
        let (from, to) = if there { (&self.writers, &self.readers) } else { (&self.readers, &self.writers) };
        for (place, byte) in put.bytes {
            // SAFETY: within the ring memory.
            unsafe { to.port().pointer(place).write(byte) };
        }
        put.words.into_iter().for_each(|(word, value)| to.port().store(word, value));
        if let Some((word, value)) = put.report
            && !self.random.chance(10)
        {
            from.port().store(word, value);
        } else if put.report.is_some() {
            self.die();
        }
    }

    fn die(&mut self) {
        self.dead = true;
        self.there.clear();
        self.back.clear();
        if !self.alone || self.random.chance(50) {
            self.writers.port().store(Word::Dead, 1);
        }
        if !self.alone || self.random.chance(50) {
            self.reader_learns();
        }
    }

    fn reader_learns(&mut self) {
        let port = self.readers.port();
        if port.load(Word::Dead) != 0 {
            return;
        }
        port.store(Word::Dead, 1);
        if !self.killed && matches!(self.reader.state(), RState::Offered | RState::Ring) {
            self.reader.leave(&port);
            self.policyds.push_back(Said::Leave(self.reader.epoch()));
        }
    }

    fn by_policyds(&mut self, reached: &mut Reached) {
        let Some(said) = self.policyds.pop_front().filter(|_| !self.alone) else { return };
        let (writers, readers) = (self.writers.port(), self.readers.port());
        match said {
            Said::Ask(epoch) => {
                if let Some(taken) = self.reader.was_taken(&readers, epoch) {
                    *(if taken { &mut reached.asked_taken } else { &mut reached.asked_void }) += 1;
                    self.policyds.push_back(Said::Answer(stamped::answer(epoch, taken)));
                }
            }
            Said::Answer(answer) => writers.store(Word::Answer, answer),
            Said::Void(epoch) => readers.store(Word::Voided, epoch),
            Said::Leave(epoch) => {
                if let Some(want) = stamped::leave(writers.load(Word::Want), epoch) {
                    writers.store(Word::Want, want);
                }
            }
        }
    }

    /// One call of the writing application.
    fn write(&mut self, reached: &mut Reached) {
        let port = self.writers.port();
        let sent = self.kernel.sent;
        let dead = port.load(Word::Dead) != 0;
        let facts = WriterFacts {
            offset: self.accepted,
            may_take: self.random.chance(80),
            place: SMALL,
            travels: true,
            fail_back: dead || self.random.chance(2),
            ..WriterFacts::default()
        };
        let event = self.writer.consider(&port, &facts, |count| count == sent);
        match event {
            WriterEvent::Ask { epoch } if !self.asks => {
                self.asks = true;
                self.policyds.push_back(Said::Ask(epoch));
            }
            WriterEvent::Voided if dead => {
                reached.voided += 1;
                self.policyds.push_back(Said::Void(self.writer.epoch()));
            }
            WriterEvent::FailBackBegan => reached.failed_back += 1,
            _ => {}
        }
        match self.writer.state() {
            WState::FailBack => {
                self.writer.pump(&port, &mut self.kernel);
            }
            WState::Tcp if self.accepted < BYTES => {
                let bytes = tokens(self.accepted, 1);
                if let TcpPut::Bytes(n) = self.kernel.put(&bytes) {
                    self.accepted += n as u64;
                }
            }
            WState::Ring if self.accepted < BYTES => {
                let bytes = tokens(self.accepted, (1 + self.random.below(3)).min(BYTES - self.accepted) as usize);
                // SAFETY: a vector of that length.
                self.accepted += unsafe { self.writer.write(&port, bytes.as_ptr(), bytes.len()) } as u64;
            }
            WState::Broken => panic!("nobody lies here"),
            _ => {}
        }
        self.push_writers();
        if self.accepted == BYTES && !self.closed {
            self.close(reached);
        }
    }

    /// As `switch::far::finish`: the kernel's FIN when W has landed.
    fn close(&mut self, reached: &mut Reached) {
        let port = self.writers.port();
        let last = self.writer.written() + 1;
        match self.writer.state() {
            WState::Ring if port.load(Word::EndLanded) != last => {
                port.store(Word::End, last);
                return self.push_writers();
            }
            WState::Ring => reached.ended_in_ring += 1,
            WState::FailBack if self.writer.pump(&port, &mut self.kernel) == Pumped::Done => {}
            WState::Tcp => {}
            _ => return,
        }
        self.closed = true;
        self.kernel.fin = true;
    }

    fn read(&mut self) {
        let (port, len) = (self.readers.port(), 1 + self.random.below(6) as usize);
        let dead = port.load(Word::Dead) != 0;
        if self.reader.state() == RState::Plain && self.reader.epoch() < 3 && !dead && self.random.chance(50) {
            self.reader.offer(&port, self.delivered);
        }
        let (take, bytes) = receive(&mut self.reader, &port, &mut self.kernel, len);
        assert_eq!(bytes, tokens(self.delivered, bytes.len()), "at {}", self.delivered);
        self.delivered += bytes.len() as u64;
        if matches!(take, Take::Eof | Take::Reset | Take::Failed(_)) {
            self.ended = Some(take);
        }
        self.push_readers();
    }

    fn step(&mut self, dies: u64, kill: u64, reached: &mut Reached) {
        match self.random.below(12) {
            0..=3 if !self.killed && !self.closed => self.write(reached),
            4..=6 => self.read(),
            7..=8 => self.deliver(true),
            9 => self.deliver(false),
            10 => self.by_policyds(reached),
            _ if !self.dead && self.random.below(1_000) < dies => self.die(),
            _ if !self.killed && !self.closed && self.random.below(1_000) < kill => {
                // The process is gone with its queue pair; what had not left it never will.
                self.killed = true;
                self.there.truncate(self.random.below(3) as usize);
                self.kernel.fin = true;
                self.dead = true;
            }
            _ => {}
        }
    }
}

fn rounds(dies: u64, kill: u64) -> Reached {
    all_rounds(dies, kill, false)
}

fn all_rounds(dies: u64, kill: u64, alone: bool) -> Reached {
    let mut reached = Reached::default();
    for seed in 0..ROUNDS {
        let mut world = World::new(seed + 1, alone);
        let mut steps = 0;
        while world.ended.is_none() {
            world.step(dies, kill, &mut reached);
            steps += 1;
            if alone && steps == 20_000 && world.writer.state() == WState::Proposed {
                // Nobody knows whether N has arrived: `switch::far` resets the connection in the end.
                world.ended = Some(Take::Failed(0));
                reached.unanswered += 1;
                continue;
            }
            assert!(steps < 20_000, "stuck: {:?} {:?} in round {seed}", world.writer.state(), world.reader.state());
        }
        match world.ended {
            Some(Take::Eof) if world.killed => {
                // Right only where nothing is missing.
                assert!(world.delivered == world.accepted, "a short end in round {seed}");
            }
            Some(Take::Eof) => assert_eq!(world.delivered, BYTES, "a short end in round {seed}"),
            Some(Take::Reset) if world.killed => reached.resets += 1,
            Some(Take::Failed(0)) if alone => {}
            other => panic!("{other:?} in round {seed}"),
        }
    }
    reached
}

#[test]
fn orderly() {
    let reached = rounds(0, 0);
    assert!(
        reached.ended_in_ring > 100 && reached.failed_back > 100,
        "{} {}",
        reached.ended_in_ring,
        reached.failed_back
    );
}

#[test]
fn the_way_dies() {
    let reached = rounds(60, 0);
    let each = [reached.asked_taken, reached.asked_void, reached.voided, reached.failed_back];
    assert!(each.iter().all(|&times| times > 10), "{each:?}");
}

/// All but who waits for an answer goes on, each end by what it learns by itself.
#[test]
fn the_way_dies_and_there_is_no_policyd() {
    let reached = all_rounds(60, 0, true);
    let each = [reached.unanswered, reached.failed_back, reached.ended_in_ring];
    assert!(each.iter().all(|&times| times > 10), "{each:?}");
}

#[test]
fn the_writer_is_killed() {
    let reached = rounds(0, 60);
    assert!(reached.resets > 100, "{}", reached.resets);
}

fn found(fault: Fault, dies: u64, kill: u64) {
    faults::with(fault, || {
        let failed = catch_unwind(AssertUnwindSafe(|| rounds(dies, kill)));
        assert!(failed.is_err(), "{fault:?} goes unnoticed");
    });
}

#[test]
fn finds_bytes_before_n_has_arrived() {
    found(Fault::NotAwaited, 60, 0);
}

#[test]
fn finds_a_guess_that_n_has_not_arrived() {
    found(Fault::GuessedVoid, 60, 0);
}

#[test]
fn finds_a_guess_that_n_has_arrived() {
    found(Fault::GuessedTaken, 60, 0);
}

#[test]
fn finds_the_kernels_fin_taken_for_the_end() {
    found(Fault::EndUnseen, 0, 60);
}
