//! Idle costs nothing: no thread spinning, no timer.

use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::process::{cpu_ms, cpu_ns};
use tandem_tests::programs::program;
use tandem_tests::{End, Launch, Page, Policyd, Proof, Scratch};

const SECONDS: u64 = 5;

/// 100 connections, 5 s of silence. getrusage counts whole 10 ms ticks or microseconds, by kernel: either way no
/// more than the waiting call itself costs, which looks at a hundred connections.
fn silence(test: &str, waits: &str) {
    let scratch = Scratch::new();
    let page = Page::create(scratch.path());
    let policyd = Policyd::start();
    let launch = |role: &str| {
        let launch =
            Launch::new(role, program("idle")).arg(role).arg(scratch.path()).args(["w", &SECONDS.to_string(), waits]);
        launch.preload(policyd.as_ref()).spawn(&scratch)
    };
    let mut ends = [launch("server"), launch("client")];
    if let Some(policyd) = &policyd {
        assert!(policyd.wait_carried(200, Duration::from_secs(15)), "not carried: {:#?}", policyd.rows().first());
    }
    page.let_go(1);
    let wait = |slot: usize, seconds: u64| {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while page.told(slot) < 2 {
            assert!(Instant::now() < deadline, "{test}: slot {slot} not told");
            thread::sleep(Duration::from_millis(20));
        }
    };
    wait(1, 15);
    // Meets are over; what policyd still does for them (forgetting, say) it does on an event, not on a timer.
    thread::sleep(Duration::from_millis(300));
    let daemon = policyd.as_ref().map(|policyd| policyd.process().pid());
    let before = daemon.map(|pid| (cpu_ms(pid), cpu_ns(pid)));
    thread::sleep(Duration::from_secs(SECONDS) - Duration::from_millis(800));
    let after = daemon.map(|pid| (cpu_ms(pid), cpu_ns(pid)));
    wait(2, 15);
    let (server_us, client_us) = (page.word(1), page.word(0));
    for end in &mut ends {
        let outcome = end.wait(Duration::from_secs(10));
        assert_eq!(outcome.end, End::Exit(0), "{test}:\n{outcome}");
        assert!(outcome.stderr.is_empty(), "{test}:\n{outcome}");
    }
    assert!(
        server_us < 2500 && client_us < 2500,
        "{test}: {server_us} us and {client_us} us of CPU in {SECONDS} s of silence"
    );
    let mut proof = Proof::new(test);
    proof.fact(format!("100 idle connections, {SECONDS} s: server {server_us} us, client {client_us} us of CPU"));
    if let (Some(before), Some(after)) = (before, after) {
        let (milliseconds, nanoseconds) = (after.0 - before.0, after.1 - before.1);
        assert!(
            milliseconds == 0 && nanoseconds < 1_000_000,
            "{test}: policyd used {nanoseconds} ns of CPU in silence"
        );
        proof.fact(format!("policyd {nanoseconds} ns of CPU meanwhile"));
    }
    proof.print();
}

#[test]
fn idle_in_epoll_wait() {
    silence("idle_in_epoll_wait", "epoll");
}

#[test]
fn idle_in_poll() {
    silence("idle_in_poll", "poll");
}

#[test]
fn idle_in_a_hundred_blocked_receives() {
    silence("idle_in_a_hundred_blocked_receives", "recv");
}
