//! What AutoBind costs: a call by libc against the bare system call, in turns in one process, at the median.

use std::collections::BTreeMap;

use tandem_tests::process::{system_program, which};
use tandem_tests::programs::program;
use tandem_tests::{Launch, Outcome};

use crate::peers::{TCP, UDP};
use crate::{Field, field};

/// The middle one of a few rounds' medians, by their ratio: native and here. `by`: natively the program chooses this interface.
fn medians(field: &Field, preload: bool, what: &str, host: &str, by: Option<u32>) -> (f64, f64) {
    const ROUNDS: usize = 5;
    let port = if what == "tcp" { TCP } else { UDP };
    let launch = || if preload { field.tandem(program("connects")) } else { field.native(program("connects")) };
    let by = by.map(|index| index.to_string());
    let run = |launch: Launch| -> Outcome {
        field.finish(launch.args([what, host, &port.to_string(), "400"]).args(by.iter())).succeeded()
    };
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let text = run(launch()).text();
            let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
            (numbers.next().expect("native"), numbers.next().expect("here"))
        })
        .collect();
    rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    rounds[ROUNDS / 2]
}

#[test]
fn connect_and_autobind() {
    let mut field = field!(connect_and_autobind);
    let mut failures = Vec::new();
    let eth1 = field.uplink("eth1");
    for (what, host, most) in [
        ("tcp", "10.79.1.1", 1.10),
        ("tcp", "fd79:1::1", 1.10),
        // UDP's connect sends nothing: one more system call is much beside the look-up of a route. A message carries more.
        ("udp", "10.79.1.1", 2.0),
        ("sendto", "10.79.1.1", 1.25),
    ] {
        let mut ways = vec![
            ("by libc alone", false, false, None, 1.10),
            ("no assignment", false, true, None, 1.10),
            ("assigned", true, true, None, most),
        ];
        if what == "udp" {
            // A program that chooses the interface itself makes the same two system calls, without the way through libc.
            ways.push(("assigned, natively by IP_UNICAST_IF", true, true, Some(eth1.index), 1.20));
        }
        for (how, assigned, preload, by, most) in ways {
            field.stand_in.assign(assigned.then_some(&eth1));
            let (native, here) = medians(&field, preload, what, host, by);
            let fact = format!("{what} to {host}, {how}: {native} ns natively, {here} ns here: {:.3}", here / native);
            if here > most * native {
                failures.push(format!("{fact}, at most {most}"));
            }
            field.proof.fact(fact);
        }
    }
    field.stand_in.stop();
    for what in ["tcp", "udp", "sendto"] {
        let (native, here) = medians(&field, true, what, "10.79.1.1", None);
        let fact = format!("{what}, no policyd: {native} ns natively, {here} ns here: {:.3}", here / native);
        if here > 1.10 * native {
            failures.push(fact.clone());
        }
        field.proof.fact(fact);
    }
    field.proof.print();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// System calls by name that so many calls by libc, and as many bare ones, come to.
fn system_calls(field: &Field, preload: bool, what: &str, count: u32) -> BTreeMap<String, i64> {
    let out = field.scratch.file("strace.out");
    let mut launch = field.native(system_program("strace")).args(["-f", "-o"]).arg(&out);
    // strace itself is not preloaded.
    for (name, value) in field.stand_in.environment().into_iter().filter(|_| preload) {
        launch = launch.arg("-E").arg(format!("{name}={}", value.display()));
    }
    launch = launch.arg("-E").arg(format!("TANDEM_DEBUG={}", crate::PATIENT));
    let port = if what == "tcp" { TCP } else { UDP };
    let launch = launch.arg(program("connects")).args([what, "10.79.1.1", &port.to_string(), &count.to_string()]);
    field.finish(launch).succeeded();
    let text = std::fs::read_to_string(&out).expect("strace's file");
    // What comes before and after is the program's start, in which it waits for its assignment, and its end.
    let lines = text.lines().skip_while(|line| !line.contains("getppid(")).skip(1);
    let mut calls = BTreeMap::new();
    for line in lines.take_while(|line| !line.contains("getppid(")) {
        let name = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split('(').next();
        *calls.entry(name.unwrap_or_default().to_owned()).or_default() += 1;
    }
    calls
}

/// Once the assignment is there a socket costs what binds it, and nothing that asks anybody.
#[test]
fn no_round_trip() {
    let mut field = field!(no_round_trip);
    if which("strace").is_none() {
        return println!("no_round_trip: NOT RUN: strace is not installed");
    }
    field.assign("eth1");
    const SOCKETS: i64 = 200;
    for (what, expected) in [
        ("tcp", vec![("bind", SOCKETS), ("setsockopt", SOCKETS)]),
        ("udp", vec![("setsockopt", SOCKETS)]),
        // A message that carries its interface is sent by sendmsg.
        ("sendto", vec![("sendmsg", SOCKETS), ("sendto", -SOCKETS)]),
    ] {
        let mut more = system_calls(&field, true, what, SOCKETS as u32);
        for (name, count) in system_calls(&field, false, what, SOCKETS as u32) {
            *more.entry(name).or_default() -= count;
        }
        // Each close of a tracked socket asks whether this is a vfork child; a look at the channel every tenth of a second.
        let looks = more.remove("recvfrom").unwrap_or(0);
        more.remove("getpid");
        more.retain(|_, count| *count != 0);
        let expected: BTreeMap<String, i64> =
            expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(more, expected, "{what}: calls that {SOCKETS} sockets make beyond the native ones (left)");
        assert!(looks < 20, "{what}: {looks} looks at policyd's channel");
        field.proof.fact(format!(
            "{what}: {SOCKETS} make {more:?} beyond what they make natively, {looks} looks at the channel; no message to policyd"
        ));
    }
    assert_eq!(field.stand_in.asked(), 3, "one question a process");
    field.proof.print();
}
