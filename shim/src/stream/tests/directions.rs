//! Whole directions under shuttle: a writing thread, two threads that read under one lock, a kernel that takes three bytes;
//! they switch over, fail back, leave, grow, sleep, close, hand over and are killed at random. Every byte once, in order, and
//! nobody is left asleep (shuttle reports that as a deadlock).

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::{Config, FailurePersistence, Runner, thread};

use super::reading::{ReadSide, read};
use super::world::{Kill, Side, View, WRITER, World};
use super::*;
use crate::stream::faults::{self, Fault};
use crate::stream::sleepers::whom;
use crate::stream::{Port, Pumped, WState, Word, Writer, WriterEvent};

/// Bytes of a stream.
pub(super) const BYTES: u64 = 30;
pub(super) const EPOCHS: u64 = 3;

pub(super) fn chance(percent: u32) -> bool {
    thread_rng().gen_range(0..100) < percent
}

fn a_direction(kill: Kill, hand_over: bool) {
    let world = Arc::new(World::new(kill, thread_rng().gen_range(0..90), hand_over));
    let writer = {
        let world = world.clone();
        thread::spawn(move || writer(&world))
    };
    let reader = Arc::new(shuttle::sync::Mutex::new(ReadSide::default()));
    let readers: Vec<_> = [1, 2]
        .map(|id| {
            let (world, reader) = (world.clone(), reader.clone());
            thread::spawn(move || read(&world, &reader, id))
        })
        .into_iter()
        .collect();
    let accepted = writer.join().unwrap();
    readers.into_iter().for_each(|thread| thread.join().unwrap());
    let reader = reader.lock().unwrap();
    match kill {
        Kill::Nobody => assert!(reader.ended && reader.delivered == BYTES),
        // What a killed writer owed to a reader without a switch has gone with it.
        Kill::Writer => assert!(reader.ended && (reader.delivered >= accepted || reader.bypass)),
        Kill::Reader => {}
    }
}

// ---- the writing end ----

struct Writing<'a> {
    world: &'a World,
    port: View<'a>,
    writer: Writer,
    accepted: u64,
    /// It takes no offer any more.
    for_good: bool,
    places: Vec<Place>,
}

/// Returns how many bytes were accepted.
fn writer(world: &World) -> u64 {
    let (port, places) = (world.view(Side::Writer), vec![big(0), big(1)]);
    let mut end = Writing { world, port, writer: Writer::default(), accepted: 0, for_good: false, places };
    while end.accepted < BYTES && end.step(true) {}
    let half = chance(50);
    while !world.dead(Side::Writer) && end.writer.state() != WState::End && !end.finished(half) {}
    world.close();
    end.accepted
}

impl Writing<'_> {
    /// As `switch::send::finish`: what is unread is sent by TCP, too, as much as the kernel takes.
    fn finished(&mut self, half: bool) -> bool {
        let unread = !half && self.writer.unconsumed(&self.port) > 0;
        let facts = WriterFacts { fail_back: unread, ..WriterFacts::default() };
        self.writer.consider(&self.port, &facts, |_| false);
        match self.writer.pump(&self.port, &mut self.world.anchor(Side::Writer)) {
            Pumped::Again if half || self.writer.owes_returned(&self.port) => return !self.sleep(),
            Pumped::Again | Pumped::Failed(_) => self.writer.abandon(),
            Pumped::Done => assert!(self.writer.finish(&self.port)),
        }
        true
    }

    /// One call of the application's. False: killed, or the connection is at its end.
    fn step(&mut self, writes: bool) -> bool {
        if writes && chance(8) && self.at_once() {
            return !self.world.dead(Side::Writer);
        }
        let (sent, gone) = self.world.writers_view();
        let fail_back = writes && chance(4);
        self.for_good |= writes && chance(1);
        let fail_back = fail_back || self.for_good;
        let facts = WriterFacts {
            fail_back,
            for_good: self.for_good,
            may_take: chance(60) && !self.for_good,
            reader_gone: gone,
            ..willing(self.accepted)
        };
        match self.writer.consider(&self.port, &facts, |count| count == sent) {
            WriterEvent::None => {}
            WriterEvent::Proposed | WriterEvent::Ask { .. } => panic!("words do not travel here"),
            WriterEvent::FailBackBegan => reached(Corner::FailedBack),
            WriterEvent::Took { .. } => {
                reached(Corner::Took);
                self.wake();
            }
            WriterEvent::Voided => {
                reached(Corner::Voided);
                self.wake();
            }
        }
        assert_ne!(self.writer.state(), WState::Broken);
        let moved = match self.writer.state() {
            WState::Tcp => self.by_tcp(),
            WState::Ring => self.by_ring(),
            WState::FailBack => match self.writer.pump(&self.port, &mut self.world.anchor(Side::Writer)) {
                Pumped::Done => Some(true),
                Pumped::Again => Some(false),
                Pumped::Failed(_) => None,
            },
            WState::End | WState::Broken | WState::Proposed => None,
        };
        match moved {
            None => false,
            Some(true) => !self.world.dead(Side::Writer),
            Some(false) => self.sleep(),
        }
    }

    fn at_once(&mut self) -> bool {
        let len = thread_rng().gen_range(1..=(BYTES - self.accepted).min(4)) as usize;
        let bytes = tokens(self.accepted, len);
        // SAFETY: a vector of that length.
        let written = unsafe { self.writer.write_at_once(&self.port, bytes.as_ptr(), len) };
        if written {
            self.accept(len);
            self.wake();
        }
        written
    }

    fn by_tcp(&mut self) -> Option<bool> {
        let len = thread_rng().gen_range(1..=(BYTES - self.accepted).min(3)) as usize;
        let bytes = tokens(self.accepted, len);
        // SAFETY: a vector of that length.
        match unsafe { self.world.anchor(Side::Writer).send(bytes.as_ptr(), len) } {
            TcpPut::Bytes(n) => {
                self.accept(n);
                Some(true)
            }
            TcpPut::WouldBlock => Some(false),
            TcpPut::Failed(_) => None,
        }
    }

    fn by_ring(&mut self) -> Option<bool> {
        let len = thread_rng().gen_range(1..=(BYTES - self.accepted).min(7)) as usize;
        let bytes = tokens(self.accepted, len);
        // SAFETY: a vector of that length.
        let n = unsafe { self.writer.write(&self.port, bytes.as_ptr(), len) };
        self.accept(n);
        if n > 0 {
            self.wake();
        }
        if chance(40) && (self.writer.want_growth(&self.port, len - n) || chance(10)) {
            self.move_ring();
        }
        Some(n > 0)
    }

    /// Into another region; what was left is overwritten at once, as another connection would.
    fn move_ring(&mut self) {
        while let Some(place) = self.writer.retired(&self.port) {
            reached(Corner::Retired);
            self.world.poison(place);
            if place != SMALL {
                self.places.push(place);
            }
        }
        let Some(place) = self.places.pop() else { return };
        if !self.writer.grow(&self.port, place) {
            self.places.push(place);
        }
    }

    fn accept(&mut self, n: usize) {
        if !self.world.dead(Side::Writer) {
            self.accepted += n as u64;
        }
    }

    fn wake(&self) {
        if let Some(wake) = whom(&self.port, Word::RSleep, self.world) {
            self.world.wake(wake.id, wake.counter);
        }
    }

    /// Sleeps on {TCP, own wake}, unless a look after the fence finds a reason not to.
    fn sleep(&mut self) -> bool {
        self.port.store(Word::WSleep, u64::from(WRITER) + 1);
        self.world.lie_down(WRITER);
        self.port.fence();
        let want = self.port.load(Word::Want);
        let asked = epoch_of(want) > self.writer.epoch()
            || want == stamp(self.writer.epoch(), want::LEAVE)
            || self.writer.asked(&self.port);
        let ring = self.writer.state() == WState::Ring;
        reached(if ring { Corner::SleptFull } else { Corner::SleptTcp });
        if !(ring && (asked || self.writer.room(&self.port) > 0)) {
            self.world.sleep(WRITER, |wire| match ring {
                true => wire.reader_gone,
                false => wire.kernel.queue.len() < wire.kernel.room || wire.kernel.broken.is_some(),
            });
        }
        self.world.rise(WRITER);
        self.port.fence();
        self.port.store(Word::WSleep, 0);
        !self.world.dead(Side::Writer)
    }
}

// ---- runs ----

/// What a run is worth: how often each of these was reached, summed over the rounds.
#[derive(Clone, Copy)]
pub(super) enum Corner {
    Took,
    Voided,
    FailedBack,
    Retired,
    SleptFull,
    SleptTcp,
    SleptEmpty,
    LastRing,
    Rejoined,
    LastPlain,
    HandedOver,
    NotHandedOver,
}

const CORNERS: usize = Corner::NotHandedOver as usize + 1;

thread_local! {
    static REACHED: RefCell<[u64; CORNERS]> = const { RefCell::new([0; CORNERS]) };
}

pub(super) fn reached(corner: Corner) {
    REACHED.with_borrow_mut(|reached| reached[corner as usize] += 1);
}

fn run(scheduler: impl Scheduler + 'static, kill: Kill, hand_over: bool) {
    let mut config = Config::new();
    if faults::any() {
        config.failure_persistence = FailurePersistence::None;
    }
    config.stack_size = 1 << 18;
    Runner::new(scheduler, config).run(move || a_direction(kill, hand_over));
}

/// TANDEM_ROUNDS=N for longer runs.
pub fn rounds(usual: usize) -> usize {
    std::env::var("TANDEM_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn orderly() {
    run(RandomScheduler::new(rounds(500)), Kill::Nobody, false);
    run(RandomScheduler::new(rounds(2_000)), Kill::Nobody, true);
    let reached = REACHED.with_borrow(|reached| *reached);
    println!("reached {reached:?}");
    assert!(reached.iter().all(|&times| times > 3), "{reached:?}");
}

#[test]
fn orderly_with_few_preemptions() {
    run(PctScheduler::new(4, rounds(200)), Kill::Nobody, false);
}

#[test]
fn writer_killed() {
    run(RandomScheduler::new(rounds(500)), Kill::Writer, false);
    run(RandomScheduler::new(rounds(500)), Kill::Writer, true);
}

#[test]
fn reader_killed() {
    run(RandomScheduler::new(rounds(500)), Kill::Reader, false);
    run(RandomScheduler::new(rounds(500)), Kill::Reader, true);
}

/// With the fault in place some round must fail.
fn found(fault: Fault) {
    faults::with(fault, || {
        let hand_over = fault == Fault::HoldReads;
        let rounds = |seed| run(RandomScheduler::new_from_seed(seed, 5_000), Kill::Nobody, hand_over);
        let notices = |seed| catch_unwind(AssertUnwindSafe(|| rounds(seed))).is_err();
        assert!((7..12).any(notices), "{fault:?} goes unnoticed");
    });
}

#[test]
fn finds_produced_before_the_bytes() {
    found(Fault::ProducedFirst);
}

#[test]
fn finds_r_below_n() {
    found(Fault::FromWithoutMax);
}

#[test]
fn finds_no_look_after_fin() {
    found(Fault::FinWithoutLook);
}

#[test]
fn finds_a_withdrawn_offer() {
    found(Fault::Withdrawn);
}

#[test]
fn finds_the_stamp_before_n() {
    found(Fault::StampFirst);
}

#[test]
fn finds_the_geometry_before_produced() {
    found(Fault::GeometryFirst);
}

#[test]
fn finds_growth_ahead_of_the_reader() {
    found(Fault::GrowthUnasked);
}

#[test]
fn finds_a_reader_that_has_stopped_and_reads_on() {
    found(Fault::HoldReads);
}
