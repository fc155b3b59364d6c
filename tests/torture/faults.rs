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

/// kill -9 of the client in the middle of everything, again and again: the server sees ends that are early at most, and
/// never a wrong byte or a wait that does not end.
#[test]
fn peer_killed_again_and_again() {
    let mut torture = Torture::new("peer_killed_again_and_again", 8).extra("--peer-may-die");
    let (mut server, port) = torture.server();
    let (connections, mut first, mut kills) = (torture.connections, 0u64, 0u64);
    let deadline = Instant::now() + crate::LIMIT;
    // Each client takes the connections from where the one before it may have come to.
    while first < connections && Instant::now() < deadline {
        torture.connections = (connections - first).min(connections / 20);
        let from = first.to_string();
        let mut client = torture.start("client", &["client", &port, "--first", &from, "--without-stop"]);
        let end = Instant::now() + Duration::from_millis(150 + 50 * (kills % 8));
        while !client.ended() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        if !client.ended() {
            client.signal(libc::SIGKILL);
            kills += 1;
        }
        client.wait(Duration::from_secs(2));
        first += torture.connections;
    }
    torture.connections = 0;
    let last = torture.start("client", &["client", &port]).wait(Duration::from_secs(10));
    torture.right("client", &last);
    torture.right("server", &server.wait(Duration::from_secs(60)));
    torture.connections = connections;
    torture.witness(connections / 10, 0);
    println!("the client was killed {kills} times");
    assert!(kills > 5 || native_only(), "only {kills} kills");
}

macro_rules! refused_resources {
    ($($name:ident => $fault:literal;)*) => {$(
        /// The resource is refused to both processes: plain TCP, or (for what is needed only later) still right.
        #[test]
        fn $name() {
            let mut torture = Torture::new(stringify!($name), 1).debug(concat!("fault=", $fault));
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
