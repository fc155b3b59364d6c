//! Waiting for what other processes do.

use std::thread;
use std::time::{Duration, Instant};

/// Every limit, longer where everything is slower: in a guest whose processors may be emulated.
pub fn stretched(limit: Duration) -> Duration {
    if crate::host::inside() { limit * 6 } else { limit }
}

/// Looks until it is done or the limit has passed; whether it was done.
pub fn within(limit: Duration, pause: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + stretched(limit);
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(pause);
    }
    true
}
