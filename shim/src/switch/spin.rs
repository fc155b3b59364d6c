//! What a wait tries before it sleeps: it looks at what the other end will store, and lets others run meanwhile.
//!
//! A sleep and a wake cost 3 µs on one core and 40 from one to another; a store is seen in a tenth of one. So a waiter looks
//! for as long as the other end takes to wake up and answer, if that has paid of late, and offers its core (sched_yield(2))
//! between looks. Where each end has a core of its own the offer is declined in a fraction of a microsecond. Where they share
//! one, it is what lets the other end go on, without a sleep, a wake or its system calls. Nobody who wants the core waits for
//! a spinner.
//!
//! Of a program with many threads as many spin as there are cores, the last that began. One that finds nothing itself, but
//! whose core others took, has kept it awake for them: that is not held against it.
//!
//! Who offers its core to a program that computes gets it back a time slice later, when a sleeper that was woken would have
//! had it at once: then nothing is tried for a while.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::{quota, real, sys};

/// Whose stores are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Another process's of this host: a look is a load.
    Host,
    /// Another host's, perhaps: a look asks the provider, and they come by wire.
    Wire,
}

impl Reach {
    pub fn of(far: bool) -> Reach {
        if far { Reach::Wire } else { Reach::Host }
    }

    /// So much of this thread's own time: two wakes from core to core, and what is done between them. Were it less, two ends that
    /// had both fallen asleep would never again find each other awake. By wire an interrupt and a look at the device come to each wake.
    const fn own_ns(self) -> u64 {
        match self {
            Reach::Host => 100_000,
            Reach::Wire => 400_000,
        }
    }

    /// And so much in all, others' time included: a time limit of the call is looked at afterwards.
    const fn all_ns(self) -> u64 {
        10 * self.own_ns()
    }
}

/// Looks before the first offer, and between two.
const FIRST_LOOKS: u32 = 64;
const LOOKS: u32 = 16;
/// Pauses of `linger`.
const LINGER: u32 = 24;
/// An offer that took longer was taken.
const TAKEN_NS: u64 = 1_000;
/// Whoever took it so long was computing, unless as much came meanwhile as only a busy peer sends.
const LONG_NS: u64 = 500_000;
const BUSY_BYTES_A_MICROSECOND: u64 = 8;
/// Nothing is tried then for so many times as long.
const CROWDED_TIMES: u64 = 20;

/// How well it did of late: above zero it is tried, below now and then.
static CREDIT: AtomicI32 = AtomicI32::new(8);
static SKIPPED: AtomicU32 = AtomicU32::new(0);
const MOST_CREDIT: i32 = 16;
const RETRY_AFTER: u32 = 64;
/// The other end was seen to run on this core: it is offered first, and looked afterwards.
static SHARED: AtomicBool = AtomicBool::new(false);
/// How many threads have begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// CLOCK_MONOTONIC, ns.
static CROWDED_UNTIL: AtomicU64 = AtomicU64::new(0);

/// Whether to try at all this time.
pub fn inclined() -> bool {
    let worth =
        CREDIT.load(Ordering::Relaxed) > 0 || SKIPPED.fetch_add(1, Ordering::Relaxed).is_multiple_of(RETRY_AFTER);
    worth && !crowded() && quota::leaves_two_cores()
}

fn crowded() -> bool {
    let until = CROWDED_UNTIL.load(Ordering::Relaxed);
    until != 0 && sys::tick_ns() < until
}

/// True as soon as `ready` is; false when it did not help. `backlog`: bytes that have come, asked when `ready` is.
pub fn spin(reach: Reach, ready: impl Fn() -> bool, backlog: impl Fn() -> u64) -> bool {
    let mut looks = if SHARED.load(Ordering::Relaxed) { 1 } else { FIRST_LOOKS };
    let (mut own, mut shared, mut away) = (0, false, 0);
    let (mut first, mut began, mut number) = (0, 0, 0);
    loop {
        for _ in 0..looks {
            if ready() {
                if looks != FIRST_LOOKS {
                    note(shared, away, &backlog);
                }
                credit(2);
                return true;
            }
            // A look at a device takes its time by itself.
            if reach == Reach::Host {
                std::hint::spin_loop();
            }
        }
        looks = LOOKS;
        let offered = sys::now_ns();
        if first == 0 {
            (first, began) = (offered, offered);
            number = BEGUN.fetch_add(1, Ordering::Relaxed);
        }
        own += offered - began;
        let later = BEGUN.load(Ordering::Relaxed).wrapping_sub(number);
        if own >= reach.own_ns() || offered - first >= reach.all_ns() || later > processors() {
            note(shared, away, &|| 0);
            if !shared {
                credit(-1);
            }
            return false;
        }
        // SAFETY: has no arguments.
        unsafe { real::raw!(libc::SYS_sched_yield) };
        began = sys::now_ns();
        let took = began - offered;
        own += took.min(TAKEN_NS);
        shared |= took > TAKEN_NS;
        away = away.max(took);
    }
}

/// About a microsecond, where the other end goes on meanwhile: time for it to put twenty messages more.
#[inline]
pub fn linger() {
    if !SHARED.load(Ordering::Relaxed) && processors() > 1 {
        (0..LINGER).for_each(|_| std::hint::spin_loop());
    }
}

/// What has been learned of the other end, and of those who took the core for `away` ns.
#[cold]
fn note(shared: bool, away: u64, backlog: &impl Fn() -> u64) {
    if SHARED.load(Ordering::Relaxed) != shared {
        SHARED.store(shared, Ordering::Relaxed);
    }
    if away >= LONG_NS && backlog() < away / 1_000 * BUSY_BYTES_A_MICROSECOND {
        CROWDED_UNTIL.store(sys::tick_ns() + CROWDED_TIMES * away, Ordering::Relaxed);
    }
}

/// Processors this process may run on, asked once.
fn processors() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let known = COUNT.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: an all-zero set is valid, and has the stated size.
    let count = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 { 1 } else { libc::CPU_COUNT(&set) }
    };
    COUNT.store(count.max(1) as u32, Ordering::Relaxed);
    count.max(1) as u32
}

fn credit(by: i32) {
    let credit = CREDIT.load(Ordering::Relaxed);
    let then = if by > 0 { (credit + by).clamp(1, MOST_CREDIT) } else { (credit + by).max(-1) };
    if then != credit {
        CREDIT.store(then, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    fn pin_to_one_core() {
        // SAFETY: an all-zero set is valid, and has the stated size; this thread's own affinity.
        unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&all), &mut all), 0);
            let first = (0..libc::CPU_SETSIZE as usize).find(|&core| libc::CPU_ISSET(core, &all)).unwrap();
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(first, &mut one);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &one), 0);
        }
    }

    #[test]
    fn two_ends_on_one_core_go_on_without_a_sleep() {
        const ROUNDS: u64 = 2_000;
        let turn = AtomicU64::new(0);
        // Each waits for its turn, which the other can give only by running on the same core.
        let found = |mine: u64| {
            pin_to_one_core();
            let mut found = 0;
            for round in 0..ROUNDS {
                let my_turn = || turn.load(Ordering::Acquire) >= 2 * round + mine;
                found += u64::from(spin(Reach::Host, my_turn, || u64::MAX));
                while !my_turn() {
                    std::thread::sleep(Duration::from_micros(1));
                }
                turn.fetch_add(1, Ordering::AcqRel);
            }
            found
        };
        let [first, second] = std::thread::scope(|scope| {
            [0, 1].map(|mine| scope.spawn(move || found(mine))).map(|thread| thread.join().unwrap())
        });
        assert!(first + second > ROUNDS, "{first} and {second} of {ROUNDS} turns came while their end spun");
    }

    #[test]
    fn what_does_not_come_is_given_up_after_a_bounded_number_of_looks() {
        let looks = Cell::new(0u64);
        let before = Instant::now();
        let found = spin(
            Reach::Host,
            || {
                looks.set(looks.get() + 1);
                false
            },
            || 0,
        );
        assert!(!found);
        // One before the first offer, where the other test has found that the ends share a core.
        assert!(looks.get() > 1);
        // A yield alone is a tenth of a microsecond at least.
        assert!(looks.get() < 100_000, "{} looks in {:?}", looks.get(), before.elapsed());
    }
}
