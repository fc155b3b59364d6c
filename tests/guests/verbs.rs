//! Two hosts of one guest, each with its policyd, and unmodified programs whose bytes go by queue pairs. Inside `scripts/vm
//! namespaces --once`.

use std::fs;
use std::process::Command;
use std::time::Duration;

pub use tandem_tests::between::{Between, LONG, new_key};
use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Outcome, Proof, Running, Scratch, programs};

use crate::redis;

/// Server and client of `between.c`, and what both said; `meanwhile` runs once the client's bytes go by queue pairs.
#[track_caller]
fn exchange(
    between: &Between,
    port: u16,
    how: &str,
    count: u64,
    bytes: u64,
    meanwhile: impl FnOnce(&mut [Running; 2]),
) -> [Outcome; 2] {
    let words = |role: &str| {
        let address = &between.hosts[1].address;
        let launch = Launch::new(role, programs::program("between"));
        launch.args([role, address, &port.to_string(), how, &count.to_string(), &bytes.to_string()])
    };
    let mut server = between.on(1, words("server")).spawn(&between.scratch);
    let listens = || fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap_or_default();
    let listening = within(LONG, Duration::from_millis(100), || listens().contains(&format!(":{port:04X} 00000000")));
    assert!(listening, "the server does not listen:\n{}", server.wait(Duration::ZERO));
    let client = between.on(0, words("client")).spawn(&between.scratch);
    let mut ends = [client, server];
    let carried = within(LONG, Duration::from_millis(300), || {
        let rows = between.rows();
        rows.iter().any(|row| row.provider == "verbs" && row.tx_companion > 0) || ends[0].ended()
    });
    assert!(carried && !ends[0].ended(), "not carried: {:#?}", between.policyds.each_ref().map(|p| p.status().whole));
    meanwhile(&mut ends);
    ends.each_mut().map(|end| end.wait(LONG))
}

#[track_caller]
fn both_right(ends: &[Outcome; 2], bytes: u64, answered: bool) {
    let back = if answered { bytes } else { 0 };
    assert_eq!(ends[0].text(), format!("{bytes} out, {back} in\n"), "{} {}", ends[0], ends[1]);
    assert_eq!(ends[1].text(), format!("listens\n{bytes} in, then 0\n"), "{} {}", ends[0], ends[1]);
    assert!(ends.iter().all(|end| end.end == End::Exit(0)), "{} {}", ends[0], ends[1]);
}

/// Both ways and one way, by blocking calls, poll, and select without blocking; and a forked child goes on by TCP.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn bytes_go_by_queue_pairs() {
    let between = Between::start();
    let mut proof = Proof::new("bytes_go_by_queue_pairs");
    for (at, (how, count, bytes)) in
        [("p", 12_000, 64), ("o", 24_000, 8_192), ("e", 12_000, 100), ("s", 12_000, 100), ("f", 20_000, 64)]
            .into_iter()
            .enumerate()
    {
        let before = between.sent();
        let ends = exchange(&between, 7001 + at as u16, how, count, bytes, |_| {});
        both_right(&ends, count * bytes, how != "o");
        let after = between.sent();
        let packets = [after[0] - before[0], after[1] - before[1]];
        assert!(packets.iter().all(|&packets| packets > 20), "{how}: {packets:?} packets");
        proof.fact(format!(
            "{how}: {count} messages of {bytes} bytes, every byte right; {packets:?} packets by the devices"
        ));
    }
    proof.fact(between.witness());
    proof.print();
}

/// The wire of the queue pairs is cut in the midst of a stream: TCP carries on, and not a byte is lost or doubled.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_cut_wire_is_not_noticed() {
    let between = Between::start();
    let mut proof = Proof::new("a_cut_wire_is_not_noticed");
    let wire = std::env::var("TANDEM_VM_WIRE").expect("the wire's ends");
    let ends: Vec<&str> = wire.split(' ').collect();
    let link = |end: &str, state: &str| {
        assert!(Command::new("ip").args(["link", "set", end, state]).status().expect("ip").success());
    };
    for (at, how, count, bytes) in [(0, "o", 40_000, 4_096), (1, "p", 20_000, 64)] {
        let outcome = exchange(&between, 7011 + at as u16, how, count, bytes, |_| link(ends[at], "down"));
        link(ends[at], "up");
        both_right(&outcome, count * bytes, how != "o");
        proof.fact(format!("{how}: {count} messages of {bytes} bytes, every byte right, with {} down", ends[at]));
        let up = || fs::read_to_string(format!("/sys/class/infiniband/{}/ports/1/state", between.hosts[at].device));
        assert!(within(LONG, Duration::from_millis(100), || up().is_ok_and(|state| state.contains("ACTIVE"))));
    }
    assert!(between.fail_backs() > 0, "{}", between.witness());
    proof.fact(format!("{} fail-backs; {}", between.fail_backs(), between.witness()));
    proof.print();
}

/// Whoever is killed in the midst of a stream: its peer is told as by TCP, and never a wrong byte.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_killed_peer_is_told_of() {
    let between = Between::start();
    let mut proof = Proof::new("a_killed_peer_is_told_of");
    for (victim, port) in [(0usize, 7021), (1, 7022)] {
        let ends = exchange(&between, port, "o", 10_000_000, 8_192, |ends| ends[victim].signal(libc::SIGKILL));
        let (text, other) = (ends[1 - victim].text(), &ends[1 - victim]);
        let told = ["Connection reset by peer", "Broken pipe", "end of the stream"];
        assert!(other.end != End::Exit(3) && told.iter().any(|told| text.contains(told)), "{other}");
        proof.fact(format!("{} killed; the other one: {}", ["writer", "reader"][victim], text.replace('\n', " ")));
    }
    proof.print();
}

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn redis_is_carried_by_queue_pairs() {
    let between = Between::start();
    let mut proof = Proof::new("redis_is_carried_by_queue_pairs");
    let before = between.sent();
    let address = &between.hosts[1].address;
    let folder = Scratch::new();
    let mut server = between.on(1, redis::server(address, 7000).current_dir(folder.path())).spawn(&between.scratch);
    let answers = within(LONG, Duration::from_millis(200), || {
        let ping = Launch::new("redis-cli", system_program("redis-cli")).args(["-h", address, "-p", "7000", "ping"]);
        let ping = ping.in_namespace(between.hosts[0].namespace.as_ref());
        ping.run(&between.scratch, Duration::from_secs(20)).text().starts_with("PONG") || server.ended()
    });
    assert!(answers && !server.ended(), "redis-server does not answer:\n{}", server.wait(Duration::ZERO));
    let endless = redis::benchmark(address, 7000, &["-c", "8", "-n", "100000000", "-P", "2", "-t", "set"]);
    let mut client = between.on(0, endless).spawn(&between.scratch);
    let carried = || between.rows().iter().filter(|row| row.provider == "verbs" && row.carried()).count();
    assert!(within(LONG, Duration::from_millis(300), || carried() >= 16), "{:#?}", between.rows());
    drop(client.wait(Duration::ZERO));
    let load = between.on(0, redis::checked_load(address, 7000, 16)).run(&between.scratch, LONG).succeeded();
    assert!(!server.ended(), "{}", server.wait(Duration::ZERO));
    let after = between.sent();
    proof.fact(format!(
        "8 connections of redis-benchmark by verbs at both ends; a checked load: {}",
        load.text().lines().count()
    ));
    proof.fact(format!(
        "{:?} packets by the devices; {}",
        [after[0] - before[0], after[1] - before[1]],
        between.witness()
    ));
    proof.print();
}
