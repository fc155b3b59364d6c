//! The random differential tester. Its seed is printed, and the same unless `TANDEM_CALLS_SEED=S` is another; `TANDEM_CALLS=N` makes about
//! so many calls in each way (by default what takes half a minute at most), `TANDEM_CALLS_FILE` runs the cases in a file instead.

use std::env;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;
use tandem_tests::{Proof, Way};

use crate::between;
use crate::generate;
use crate::named;
use crate::runner::{Held, Manner, Ran, Transcript};
use crate::schedule::{Case, parse};
use crate::shrink::shrink;

const BATCH: u64 = 400;
/// So often a case that deviated once is run again.
const AGAIN: usize = 40;

pub fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

pub fn seed() -> u64 {
    number("TANDEM_CALLS_SEED").unwrap_or(1)
}

pub fn failing_back(held: Held, calls: u32, seed: u64) -> Manner {
    let debug = Some(format!("failback={calls},seed={seed}"));
    Manner { debug, ..Manner::of(Way::BothFailingBack(calls), held, "w") }
}

pub struct Tester {
    test: &'static str,
    seed: u64,
    manner: Manner,
    calls: usize,
    carried: u32,
    uncarried: u32,
    fail_backs: u64,
    by_companion: u64,
    deviations: Vec<String>,
    flawed: Vec<String>,
    once: Vec<String>,
}

impl Tester {
    pub fn new(test: &'static str, seed: u64, manner: Manner) -> Self {
        println!("{test}: seed {seed}; again: TANDEM_CALLS_SEED={seed}");
        Self {
            test,
            seed,
            manner,
            calls: 0,
            carried: 0,
            uncarried: 0,
            fail_backs: 0,
            by_companion: 0,
            deviations: Vec::new(),
            flawed: Vec::new(),
            once: Vec::new(),
        }
    }

    pub fn run(mut self) {
        let (calls, time) = share();
        let began = Instant::now();
        let mut from = 0;
        while (self.calls as u64) < calls && began.elapsed() < time && self.deviations.len() < 3 {
            let moves = matches!(self.manner.way, Way::BothFailingBack(_)) || self.manner.warm != "w";
            let cases: Vec<Case> = (from..from + BATCH).map(|index| generate::case(self.seed, index, moves)).collect();
            self.batch(&cases);
            from += BATCH;
        }
        self.end();
    }

    fn batch(&mut self, cases: &[Case]) {
        let (native, here) = thread::scope(|scope| {
            let native = scope.spawn(|| self.manner.native().run(cases));
            let here = self.manner.run(cases);
            (native.join().expect("the native run"), here)
        });
        self.count(&here);
        for (case, (left, right)) in cases.iter().zip(native.transcripts.iter().zip(&here.transcripts)) {
            if left != right && self.deviations.len() < 3 {
                self.deviation(case, left, right);
            }
        }
    }

    fn count(&mut self, ran: &Ran) {
        self.calls += ran.calls;
        self.carried += ran.carried;
        self.uncarried += ran.uncarried;
        if let Some(status) = &ran.status {
            self.fail_backs += status.fail_backs;
            self.by_companion += status.tx_companion;
        }
    }

    fn deviation(&mut self, case: &Case, left: &Transcript, right: &Transcript) {
        // What comes natively too, now and then, is no deviation: the generator should not have asked.
        let natively = self.manner.native().run(&vec![case.clone(); 12]);
        if natively.transcripts.contains(right) || natively.transcripts.iter().any(|other| other != left) {
            self.flawed.push(format!("{}\n{}", case.name, different(left, right)));
            return;
        }
        let text = match shrink(case, &self.manner) {
            Some(small) => format!("{}\n{}", small.case, compared(&small.native, &small.here)),
            // What a busy machine did to a case once is printed, and no more.
            None if self.is_as_natively(case, left) => {
                self.once.push(format!("{}\n{}", case.name, different(left, right)));
                return;
            }
            None => format!("{case}{}", different(left, right)),
        };
        println!("{}: DEVIATION, {}: {text}", self.test, self.manner.name());
        self.deviations.push(text);
    }

    fn is_as_natively(&self, case: &Case, native: &Transcript) -> bool {
        let again = self.manner.run(&vec![case.clone(); AGAIN]);
        again.transcripts.iter().all(|here| here == native)
    }

    fn end(self) {
        let Self { test, seed, carried, uncarried, .. } = &self;
        assert!(
            self.deviations.is_empty(),
            "{test}, seed {seed}, {}: deviates from kernel TCP:\n{}",
            self.manner.name(),
            self.deviations.join("\n")
        );
        for case in &self.flawed {
            println!("{test}: natively not always the same: {case}");
        }
        assert!(self.flawed.len() * 500 <= self.calls, "{test}: too many cases without one native answer");
        for case in &self.once {
            println!("{test}: once in {AGAIN} runs: {case}");
        }
        assert!(self.once.len() <= 1 + self.calls / 100_000, "{test}: deviations that do not come again");
        if !native_only() {
            assert!(*carried > 0 && self.by_companion > 0, "{test}: nothing was carried");
            assert!(uncarried * 5 <= *carried, "{test}: {uncarried} of {} were not carried", carried + uncarried);
            let forced = matches!(self.manner.way, Way::BothFailingBack(_));
            assert!(!forced || self.fail_backs > 0, "{test}: no fail-back");
        }
        let mut proof = Proof::new(test);
        proof.fact(format!(
            "{}: {} calls as natively, seed {seed}; {carried} connections carried, {} bytes by companion, {} fail-backs",
            self.manner.name(),
            self.calls,
            self.by_companion,
            self.fail_backs
        ));
        proof.print();
    }
}

/// How many calls a way makes, and in what time.
fn share() -> (u64, Duration) {
    number("TANDEM_CALLS").map_or((50_000, Duration::from_secs(20)), |calls| (calls, Duration::MAX))
}

#[test]
fn random_calls_on_ends_held_together() {
    let manner = Manner::of(Way::Both, Held::Together, "w");
    Tester::new("random_calls_on_ends_held_together", seed(), manner).run();
}

#[test]
fn random_calls_on_ends_held_apart() {
    let manner = Manner::of(Way::Both, Held::Apart, "w");
    Tester::new("random_calls_on_ends_held_apart", seed(), manner).run();
}

#[test]
fn random_calls_while_the_switch_over_is_due() {
    let manner = Manner::of(Way::Both, Held::Together, "1");
    let seed = seed();
    let mut tester = Tester::new("random_calls_while_the_switch_over_is_due", seed, manner);
    // Nothing waits until they are carried; most are, in the midst of their case.
    tester.carried = 1;
    tester.run();
}

#[test]
fn random_calls_with_forced_fail_backs() {
    let seed = seed();
    let manner = failing_back(Held::Together, 7, seed);
    Tester::new("random_calls_with_forced_fail_backs", seed, manner).run();
}

#[test]
fn random_calls_with_forced_fail_backs_held_apart() {
    let seed = seed();
    let manner = failing_back(Held::Apart, 5, seed);
    Tester::new("random_calls_with_forced_fail_backs_held_apart", seed, manner).run();
}

/// By hand: the cases in the file that `TANDEM_CALLS_FILE` names, every way (`TANDEM_CALLS_WAYS` picks), with what they say.
/// `TANDEM_CALLS_TIMES=N`: each so many times, and only what deviates is shown.
#[test]
fn replay_of_a_file() {
    let Some(path) = env::var_os("TANDEM_CALLS_FILE") else { return };
    let times = number("TANDEM_CALLS_TIMES").unwrap_or(1) as usize;
    let cases = parse(&fs::read_to_string(path).expect("TANDEM_CALLS_FILE"));
    let cases: Vec<Case> = cases.into_iter().flat_map(|case| std::iter::repeat_n(case, times)).collect();
    let mut manners = named::manners();
    manners.retain(|manner| !native_only() && manner.way.both());
    if env::var_os("TANDEM_VM_MODE").is_some() {
        manners = between::manners();
    }
    for manner in manners {
        let native = manner.native().run(&cases);
        let here = manner.run(&cases);
        println!("\n#### {}: {} of {} carried", manner.name(), here.carried, cases.len());
        let mut deviating = 0;
        for (case, (left, right)) in cases.iter().zip(native.transcripts.iter().zip(&here.transcripts)) {
            let word = if left == right { "as natively" } else { "DEVIATES" };
            deviating += usize::from(left != right);
            if left != right || times == 1 {
                println!("== {}: {word}\n{}", case.name, compared(left, right));
            }
        }
        println!("#### {deviating} of {} deviate", cases.len());
    }
}

/// Line by line; where they differ both.
pub fn compared(native: &[String], here: &[String]) -> String {
    let mut text = String::new();
    for at in 0..native.len().max(here.len()) {
        match (native.get(at), here.get(at)) {
            (Some(left), Some(right)) if left == right => text += &format!("      {left}\n"),
            (left, right) => {
                let show = |line: Option<&String>| line.map_or("(nothing)", String::as_str).to_owned();
                text += &format!("  TCP {}\n  NOW {}\n", show(left), show(right));
            }
        }
    }
    text
}

/// The lines that differ, and a few before them.
fn different(native: &[String], here: &[String]) -> String {
    let first = native.iter().zip(here).take_while(|(left, right)| left == right).count();
    let from = first.saturating_sub(4);
    compared(&native[from..native.len().min(first + 6)], &here[from..here.len().min(first + 6)])
}
