//! What AutoBind costs: a call by libc against the bare system call, in turns in one process, at the median.

use std::collections::BTreeMap;

use tandem_tests::process::{system_program, which};
use tandem_tests::programs::program;
use tandem_tests::{Launch, Outcome};

use crate::peers::{TCP, UDP};
use crate::{Field, field};

/// The middle one of a few rounds' medians, by their ratio: native and here.
fn medians(field: &Field, preload: bool, what: &str, host: &str) -> (f64, f64) {
    const ROUNDS: usize = 5;
    let port = if what == "tcp" { TCP } else { UDP };
    let launch = || if preload { field.tandem(program("connects")) } else { field.native(program("connects")) };
    let run =
        |launch: Launch| -> Outcome { field.finish(launch.args([what, host, &port.to_string(), "400"])).succeeded() };
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
    for (what, host, most) in [
        ("tcp", "10.79.1.1", 1.10),
        ("tcp", "fd79:1::1", 1.10),
        // UDP's connect sends nothing: one more system call is much beside the look-up of a route. A message carries more.
        ("udp", "10.79.1.1", 2.0),
        ("sendto", "10.79.1.1", 1.25),
    ] {
        for (how, assigned, preload) in
            [("by libc alone", false, false), ("no assignment", false, true), ("assigned", true, true)]
        {
            field.stand_in.assign(assigned.then(|| field.uplink("eth1")).as_ref());
            let (native, here) = medians(&field, preload, what, host);
            let fact = format!("{what} to {host}, {how}: {native} ns natively, {here} ns here: {:.3}", here / native);
            let most = if assigned { most } else { 1.10 };
            if here > most * native {
                failures.push(format!("{fact}, at most {most}"));
            }
            field.proof.fact(fact);
        }
    }
    field.stand_in.stop();
    for what in ["tcp", "udp", "sendto"] {
        let (native, here) = medians(&field, true, what, "10.79.1.1");
        let fact = format!("{what}, no policyd: {native} ns natively, {here} ns here: {:.3}", here / native);
        if here > 1.10 * native {
            failures.push(fact.clone());
        }
        field.proof.fact(fact);
    }
    field.proof.print();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// System calls by name of that many connects by libc and as many bare ones.
fn system_calls(field: &Field, preload: bool, what: &str, count: u32) -> BTreeMap<String, i64> {
    let out = field.scratch.file("strace.out");
    let mut launch = field.native(system_program("strace")).args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&out);
    // strace itself is not preloaded.
    for (name, value) in field.stand_in.environment().into_iter().filter(|_| preload) {
        launch = launch.arg("-E").arg(format!("{name}={}", value.display()));
    }
    launch = launch.arg("-E").arg(format!("TANDEM_DEBUG={}", crate::PATIENT));
    let port = if what == "tcp" { TCP } else { UDP };
    let launch = launch.arg(program("connects")).args([what, "10.79.1.1", &port.to_string(), &count.to_string()]);
    field.finish(launch).succeeded();
    let text = std::fs::read_to_string(&out).expect("strace's file");
    let calls = text.lines().filter_map(|line| {
        let (count, name) = line.trim().split_once(' ')?;
        Some((name.trim().to_owned(), count.parse().ok()?))
    });
    calls.filter(|(name, _)| name != "total").collect()
}

/// Once the assignment is there a socket costs what binds it, and nothing that asks anybody.
#[test]
fn no_round_trip() {
    let mut field = field!(no_round_trip);
    if which("strace").is_none() {
        return println!("no_round_trip: NOT RUN: strace is not installed");
    }
    field.assign("eth1");
    const MORE: i64 = 200;
    for (what, expected) in [
        ("tcp", vec![("bind", MORE), ("setsockopt", MORE)]),
        ("udp", vec![("setsockopt", MORE)]),
        // A message that carries its interface is sent by sendmsg.
        ("sendto", vec![("sendmsg", MORE), ("sendto", -MORE)]),
    ] {
        let growth = |preload: bool| {
            let once = system_calls(&field, preload, what, 200);
            let mut growth = system_calls(&field, preload, what, 200 + MORE as u32);
            for (name, count) in once {
                *growth.entry(name).or_default() -= count;
            }
            growth
        };
        let (native, mut more) = (growth(false), growth(true));
        for (name, count) in native {
            *more.entry(name).or_default() -= count;
        }
        // Each close of a tracked socket asks whether this is a vfork child; a look at the channel every tenth of a second.
        let looks = more.remove("recvfrom").unwrap_or(0).abs();
        more.remove("getpid");
        // What policyd happens to say in one run and not in the other is no cost of a socket.
        more.retain(|_, count| count.abs() > MORE / 20);
        let expected: BTreeMap<String, i64> =
            expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(more, expected, "{what}: calls that {MORE} more sockets make beyond the native ones (left)");
        assert!(looks < 20, "{what}: {looks} looks at policyd's channel");
        field
            .proof
            .fact(format!("{what}: {MORE} more make {more:?} beyond what they make natively; no message to policyd"));
    }
    assert_eq!(field.stand_in.asked(), 6, "one question a process");
    field.proof.print();
}
