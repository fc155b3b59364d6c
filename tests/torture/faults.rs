//! The same with a fault at every step.

use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;

use crate::Torture;

/// `one in so many` calls of `meanwhile` (each 10 ms).
fn every(milliseconds: u64) -> impl FnMut() -> bool {
    let mut last = Instant::now();
    move || {
        let due = last.elapsed() >= Duration::from_millis(milliseconds);
        if due {
            last = Instant::now();
        }
        due
    }
}

#[test]
fn policyd_killed_and_restarted_again_and_again() {
    let mut torture = Torture::new("policyd_killed_and_restarted_again_and_again", 6).debug("failback=50");
    let (mut due, mut kills) = (every(150), 0);
    torture.pair(|policyd| {
        if due() {
            policyd.kill();
            thread::sleep(Duration::from_millis(40));
            policyd.start_again();
            kills += 1;
        }
    });
    // Registries of processes that lived through a restart are known to the last daemon.
    torture.witness(0, 0);
    println!("policyd was killed {kills} times");
    assert!(kills > 1 || native_only());
}

#[test]
fn policyd_killed_for_good() {
    let mut torture = Torture::new("policyd_killed_for_good", 3);
    let mut due = every(300);
    let mut dead = false;
    torture.pair(|policyd| {
        if due() && !dead {
            policyd.kill();
            dead = true;
        }
    });
}

#[test]
fn policyd_stopped_and_continued() {
    let mut torture = Torture::new("policyd_stopped_and_continued", 4);
    let (mut due, mut stopped) = (every(200), false);
    torture.pair(|policyd| {
        if due() {
            if stopped {
                policyd.resume()
            } else {
                policyd.stop()
            }
            stopped = !stopped;
        }
    });
    if let Some(policyd) = &torture.policyd {
        policyd.resume();
    }
    torture.witness(1, 0);
}

#[test]
fn policyd_stopped_from_the_start() {
    let mut torture = Torture::new("policyd_stopped_from_the_start", 2);
    if let Some(policyd) = &torture.policyd {
        policyd.stop();
    }
    torture.pair(|_| ());
}

#[test]
fn no_policyd_at_all() {
    let mut torture = Torture::new("no_policyd_at_all", 2);
    if let Some(policyd) = &mut torture.policyd {
        policyd.kill();
        std::fs::remove_file(policyd.socket()).expect("removing the dead socket");
    }
    torture.pair(|_| ());
}

macro_rules! refused_resources {
    ($($name:ident => $fault:literal;)*) => {$(
        /// The resource is refused to both processes: plain TCP, or (for what is needed only later) still right.
        #[test]
        fn $name() {
            let mut torture = Torture::new(stringify!($name), 1).debug(concat!("fault=", $fault));
            if $fault == "epoll" {
                torture = torture.with_epoll();
            }
            torture.connections = 100;
            torture.pair(|_| ());
            torture.witness(0, 0);
        }
    )*};
}

refused_resources! {
    memfd_refused => "memfd";
    mmap_refused => "mmap";
    wake_descriptor_refused => "wake";
    pair_memory_refused => "pair";
    outer_epoll_refused => "epoll";
    policyd_channel_refused => "channel";
}
