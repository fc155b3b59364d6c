//! Several sleepers on one direction under shuttle: threads that read, that only wait (as poll does), that are interrupted or
//! leave for good, and an epoll set that watches throughout. The writer goes on only when all is read, at times, so that a
//! byte which nobody was woken for is a deadlock; and how often sleepers tell each other is bounded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32 as Plain32, Ordering::Relaxed};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::{Config, FailurePersistence, Runner, thread};

use super::Place;
use crate::stream::faults::{self, Fault};
use crate::stream::news::{self, Bits};
use crate::stream::sleepers::{Sleepers, called};
use crate::stream::{Port, WORDS, Word};

/// Stores of a round, and bytes of one at most.
const PUTS: u64 = 8;
const MOST: u64 = 3;
/// Wake ids: the set's, then the threads'.
const SET: u32 = 0;
const SLEEPERS: usize = 4;

fn chance(percent: u32) -> bool {
    thread_rng().gen_range(0..100) < percent
}

#[derive(Default)]
struct Side {
    sleepers: Sleepers,
    consumed: u64,
    ended: bool,
}

struct Scene {
    words: Vec<AtomicU64>,
    news: [Bits; 1],
    side: Mutex<Side>,
    drained: Condvar,
    counters: [AtomicU32; SLEEPERS],
    woken: [Plain32; SLEEPERS],
    signals: Mutex<[bool; SLEEPERS]>,
    signalled: Condvar,
    puts: Plain32,
    told: Plain32,
}

impl Port for Scene {
    fn load(&self, word: Word) -> u64 {
        self.words[word as usize].load(SeqCst)
    }
    fn store(&self, word: Word, value: u64) {
        self.words[word as usize].store(value, SeqCst);
    }
    fn fence(&self) {}
    fn admits(&self, _: Place) -> bool {
        false
    }
    fn pointer(&self, _: u64) -> *mut u8 {
        std::ptr::null_mut()
    }
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            news: Default::default(),
            side: Mutex::new(Side::default()),
            drained: Condvar::new(),
            counters: Default::default(),
            woken: Default::default(),
            signals: Mutex::default(),
            signalled: Condvar::new(),
            puts: Plain32::new(0),
            told: Plain32::new(0),
        };
        let mut side = scene.side.lock().unwrap();
        side.sleepers.watch(Some(SET));
        side.sleepers.name(&scene, Word::RSleep);
        drop(side);
        scene
    }

    /// Others may run here: the bits are the machine's own atomics, which shuttle does not see.
    fn gap(&self) {
        self.words[WORDS - 1].load(SeqCst);
    }

    fn spawn(self: &Arc<Self>, run: impl FnOnce(&Scene) + Send + 'static) -> thread::JoinHandle<()> {
        let scene = self.clone();
        thread::spawn(move || run(&scene))
    }

    // ---- the other end ----

    fn write(&self, puts: u64) {
        let mut produced = 0;
        for _ in 0..puts {
            produced += thread_rng().gen_range(1..=MOST);
            self.puts.fetch_add(1, Relaxed);
            self.store(Word::Produced, produced);
            self.wake();
            if chance(60) {
                self.wait_for(produced);
            }
        }
        self.wait_for(produced);
        self.side.lock().unwrap().ended = true;
        self.signals.lock().unwrap().fill(true);
        self.signalled.notify_all();
    }

    fn wait_for(&self, consumed: u64) {
        let mut side = self.side.lock().unwrap();
        while side.consumed < consumed {
            side = self.drained.wait(side).unwrap();
        }
    }

    fn wake(&self) {
        let tell = || {
            self.gap();
            let fresh = news::tell(&self.news, 0);
            self.gap();
            fresh
        };
        let Some(id) = called(self, Word::RSleep, tell) else { return };
        let counter = self.counters[id as usize].load(SeqCst);
        if counter % 2 == 1 && self.woken[id as usize].swap(counter, Relaxed) != counter {
            self.gap();
            self.signal(id);
        }
    }

    // ---- this end ----

    fn signal(&self, id: u32) {
        self.signals.lock().unwrap()[id as usize] = true;
        self.signalled.notify_all();
    }

    fn rouse(&self, id: u32) {
        if self.counters[id as usize].load(SeqCst) % 2 == 1 {
            self.signal(id);
        }
    }

    fn step(&self, id: u32) {
        self.counters[id as usize].fetch_add(1, SeqCst);
    }

    fn sleep(&self, id: u32) {
        let mut signals = self.signals.lock().unwrap();
        while !std::mem::take(&mut signals[id as usize]) {
            signals = self.signalled.wait(signals).unwrap();
        }
    }

    fn ended(&self) -> bool {
        self.side.lock().unwrap().ended
    }

    /// A receive. False: nothing was there.
    fn read(&self) -> bool {
        let mut side = self.side.lock().unwrap();
        let there = self.load(Word::Produced) - side.consumed;
        if there == 0 {
            return false;
        }
        side.consumed += thread_rng().gen_range(1..=there);
        self.drained.notify_all();
        // Whoever leaves bytes behind passes them on.
        if let Some(id) = side.sleepers.named()
            && self.load(Word::Produced) > side.consumed
        {
            self.rouse(id);
        }
        true
    }

    /// A wait of a thread's. False: interrupted, if it `may` be.
    fn wait(&self, id: u32, may: bool) -> bool {
        let mut side = self.side.lock().unwrap();
        let added = side.sleepers.add(id);
        side.sleepers.name(self, Word::RSleep);
        drop(side);
        self.step(id);
        let side = self.side.lock().unwrap();
        let ready = side.ended || self.load(Word::Produced) > side.consumed;
        drop(side);
        let interrupted = !ready && may;
        if !ready && !interrupted {
            self.sleep(id);
        }
        self.step(id);
        self.leave(id, added);
        !interrupted
    }

    fn leave(&self, id: u32, added: bool) {
        let mut side = self.side.lock().unwrap();
        side.sleepers.leave(self, (Word::RSleep, Word::Produced), id, added, |other| {
            self.told.fetch_add(1, Relaxed);
            self.rouse(other);
        });
        // A put moves the direction once, and all but one are told of it.
        let (told, puts) = (self.told.load(Relaxed), self.puts.load(Relaxed));
        assert!(told <= puts * (SLEEPERS as u32 - 1), "told {told} times of {puts} puts");
    }

    fn thread(&self, id: u32) {
        while !self.ended() {
            if chance(70) {
                self.read();
            } else if chance(10) {
                return;
            }
            if !self.wait(id, chance(30)) && chance(40) {
                return;
            }
        }
    }

    /// The set looks only when there is news, and again for as long as there are bytes: level-triggered.
    fn set(&self) {
        let mut due = false;
        while !self.ended() {
            self.gap();
            due |= news::take(&self.news, 0, 1) != 0;
            self.gap();
            if due {
                due = self.load(Word::Produced) > self.side.lock().unwrap().consumed;
                if due && chance(60) {
                    self.read();
                }
                continue;
            }
            self.step(SET);
            if news::peek(&self.news, 0) == 0 {
                self.sleep(SET);
            }
            self.step(SET);
        }
    }
}

fn a_round() {
    let scene = Arc::new(Scene::new());
    let threads: Vec<_> = (1..SLEEPERS as u32).map(|id| scene.spawn(move |scene| scene.thread(id))).collect();
    let set = scene.spawn(Scene::set);
    scene.write(PUTS);
    set.join().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// One put, and a thread before the set that leaves without reading.
fn a_moment() {
    let scene = Arc::new(Scene::new());
    let thread = scene.spawn(|scene| {
        scene.wait(1, true);
    });
    let set = scene.spawn(Scene::set);
    scene.write(1);
    set.join().unwrap();
    thread.join().unwrap();
}

fn run(scheduler: impl Scheduler + 'static, test: fn()) {
    let mut config = Config::new();
    if faults::any() {
        config.failure_persistence = FailurePersistence::None;
    }
    config.stack_size = 1 << 18;
    Runner::new(scheduler, config).run(test);
}

#[test]
fn nobody_sleeps_while_there_are_bytes() {
    run(RandomScheduler::new(super::directions::rounds(1_000)), a_round);
}

#[test]
fn nobody_sleeps_with_few_preemptions() {
    run(PctScheduler::new(4, super::directions::rounds(500)), a_round);
}

#[test]
fn a_set_is_told_by_whoever_leaves_before_it() {
    run(RandomScheduler::new(super::directions::rounds(5_000)), a_moment);
}

/// With the fault in place some round must fail.
fn found(fault: Fault, test: fn()) {
    faults::with(fault, || {
        let rounds = || run(PctScheduler::new_from_seed(7, 4, 20_000), test);
        assert!(catch_unwind(AssertUnwindSafe(rounds)).is_err(), "{fault:?} goes unnoticed");
    });
}

#[test]
fn finds_others_untold() {
    found(Fault::OthersUntold, a_round);
}

#[test]
fn finds_telling_forgotten() {
    found(Fault::ToldForgotten, a_round);
}

#[test]
fn finds_a_stale_name() {
    found(Fault::StaleName, a_round);
}

#[test]
fn finds_a_name_from_before_the_news() {
    found(Fault::NameNotReread, a_moment);
}
