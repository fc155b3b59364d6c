//! `TANDEM_DEBUG`: faults and forced fail-backs for the tests. Read once, at start-up; in
//! ordinary use every question here is one load of a zero.
//!
//! A comma list: `fault=memfd|mmap|wake|pair|epoll|channel`, `failback=N`, `seed=S`, `ring=BYTES`, `patience=MS`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Fault {
    Memfd = 1,
    Mmap = 2,
    Wake = 4,
    Pair = 8,
    Epoll = 16,
    Channel = 32,
}

static FAULTS: AtomicU32 = AtomicU32::new(0);
static FAIL_BACK: AtomicU32 = AtomicU32::new(0);
static RING: AtomicU64 = AtomicU64::new(0);
static PATIENCE_MS: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Start-up: unknown words are logged and ignored, for a debug switch must not make a program fail.
pub fn configure(text: &str) {
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value) {
            ("fault", "memfd") => add_fault(Fault::Memfd),
            ("fault", "mmap") => add_fault(Fault::Mmap),
            ("fault", "wake") => add_fault(Fault::Wake),
            ("fault", "pair") => add_fault(Fault::Pair),
            ("fault", "epoll") => add_fault(Fault::Epoll),
            ("fault", "channel") => add_fault(Fault::Channel),
            ("failback", n) => FAIL_BACK.store(n.parse().unwrap_or(0), Ordering::Relaxed),
            ("ring", n) => RING.store(n.parse().unwrap_or(0), Ordering::Relaxed),
            ("patience", n) => PATIENCE_MS.store(n.parse().unwrap_or(0), Ordering::Relaxed),
            ("seed", n) => {
                RANDOM.store(n.parse::<u64>().unwrap_or(1).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1, Ordering::Relaxed)
            }
            _ => crate::log::warn(format_args!("TANDEM_DEBUG: unknown word '{word}' ignored")),
        }
    }
}

fn add_fault(fault: Fault) {
    FAULTS.fetch_or(fault as u32, Ordering::Relaxed);
}

#[inline]
pub fn fault(fault: Fault) -> bool {
    FAULTS.load(Ordering::Relaxed) & fault as u32 != 0
}

/// Somebody asked for forced fail-backs.
#[inline]
pub fn disturbs() -> bool {
    FAIL_BACK.load(Ordering::Relaxed) != 0
}

/// True about once in the configured number of calls: a direction shall fail back or be left now.
#[inline]
pub fn wants_fail_back() -> bool {
    let one_in = FAIL_BACK.load(Ordering::Relaxed);
    one_in != 0 && random().is_multiple_of(u64::from(one_in))
}

/// The bound on bytes in flight that a test asked for; 0 when none did.
#[inline]
pub fn ring_limit() -> u64 {
    RING.load(Ordering::Relaxed)
}

/// How long a first socket waits for its assignment, where a test on a busy machine must not depend on it; 0 when none said so.
pub fn patience_ns() -> u64 {
    PATIENCE_MS.load(Ordering::Relaxed).saturating_mul(1_000_000)
}

/// splitmix64 over one shared counter: good enough to choose when to disturb.
fn random() -> u64 {
    let mut z = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
