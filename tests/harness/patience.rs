//! Waiting for what other processes do.

use std::thread;
use std::time::{Duration, Instant};

/// Looks until it is done or the limit has passed; whether it was done.
pub fn within(limit: Duration, pause: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(pause);
    }
    true
}
