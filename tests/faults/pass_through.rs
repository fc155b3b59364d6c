//! What a program pays whose descriptors are none of Tandem's business: instructions by callgrind, system calls by strace.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::process::which;
use tandem_tests::programs::program;
use tandem_tests::{End, Launch, Policyd, Proof, Scratch};

/// 64-byte echoes without Tandem, for as long as the test lasts.
fn native_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

struct Case {
    kind: &'static str,
    place: String,
}

fn cases(scratch: &Scratch) -> [Case; 4] {
    let file = scratch.write("data", b"").display().to_string();
    [
        Case { kind: "pipe", place: "-".into() },
        Case { kind: "file", place: file },
        Case { kind: "udp", place: "-".into() },
        Case { kind: "tcp", place: native_echo().to_string() },
    ]
}

/// Instructions of `pairs` write/read pairs, start-up included.
fn instructions(case: &Case, pairs: u64, policyd: Option<&Policyd>, scratch: &Scratch) -> u64 {
    let out = scratch.file("callgrind.out");
    let launch = Launch::new("callgrind", which("valgrind").expect("valgrind is installed"))
        .args(["--tool=callgrind", "--trace-children=no", "-q"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program("passthrough"))
        .args([case.kind, &pairs.to_string(), &case.place]);
    let outcome = launch.preload(policyd).run(scratch, Duration::from_secs(300));
    assert_eq!(outcome.end, End::Exit(0), "{}:\n{outcome}", case.kind);
    let text = std::fs::read_to_string(&out).expect("callgrind's file");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    total.and_then(|text| text.split(' ').next()?.parse().ok()).expect("a total in callgrind's file")
}

/// Instructions of a connection between two ends, one of them without Tandem: a few hundred a call, for the 100 ms that its peer has
/// to show itself, so the more the faster the machine is.
const ONCE: f64 = 10_000_000.0;

/// At most 2 % more instructions a pair, start-up left out, and besides no more than [`ONCE`] for all that a connection pays until its
/// peer is known to be absent, which is over within the first tenth of the pairs. Natively each pair costs the same.
#[test]
fn pass_through_instructions() {
    const TEST: &str = "pass_through_instructions";
    const PAIRS: u64 = 400_000;
    if which("valgrind").is_none() {
        return println!("{TEST}: NOT RUN: valgrind is not installed");
    }
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    let mut failures = Vec::new();
    for case in cases(&scratch) {
        let cost = |pairs: u64, policyd: Option<&Policyd>| {
            instructions(&case, pairs, policyd, &scratch) - instructions(&case, 0, policyd, &scratch)
        };
        let few = PAIRS / 10;
        let native = cost(few, None);
        let (first, all) = if native_only() {
            (native, 10 * native)
        } else {
            (cost(few, policyd.as_ref()), cost(PAIRS, policyd.as_ref()))
        };
        let later = (all - first) as f64 / (PAIRS - few) as f64;
        let percent = (later / (native as f64 / few as f64) - 1.0) * 100.0;
        let once = all as f64 - later * PAIRS as f64;
        let text = format!(
            "{}: {} instructions a pair natively, {later:.2} preloaded: {percent:+.2} %, and {once:.0} once ({PAIRS} pairs)",
            case.kind,
            native / few
        );
        if percent > 2.0 || once > ONCE {
            failures.push(text.clone());
        }
        proof.fact(text);
    }
    if let Some(policyd) = &policyd {
        let status = policyd.status();
        assert!(status.carried == 0 && status.tx_companion == 0, "carried? {}", status.whole);
    }
    assert!(failures.is_empty(), "more than 2 % more, or than {ONCE} once: {failures:#?}");
    proof.print();
}

/// A connection for one question and one answer asks nobody for its other end, nor the kernel who it is: natively twelve
/// calls for both ends, and the same ones preloaded.
#[test]
fn a_brief_connection_costs_no_system_call() {
    const TEST: &str = "a_brief_connection_costs_no_system_call";
    const COUNT: u64 = 200;
    if which("strace").is_none() {
        return println!("{TEST}: NOT RUN: strace is not installed");
    }
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    let case = Case { kind: "brief", place: "-".into() };
    let (native, preloaded) = (growth(&case, COUNT, None, &scratch), growth(&case, COUNT, policyd.as_ref(), &scratch));
    assert_eq!(native, preloaded, "the calls of {COUNT} connections, natively (left) and preloaded");
    // The switch's memory for its sockets.
    let first = system_calls(&case, 1, policyd.as_ref(), &scratch);
    assert!(native_only() || first.contains_key("memfd_create"), "the library was not loaded: {first:?}");
    proof.fact(format!("{COUNT} connections make {native:?} both ways"));
    proof.print();
}

/// In user space it costs both ends together some 2,300 instructions more: a call that nothing carries goes the shortest way. (What it
/// takes is the cache lines of code and data that they are spread over, all cold behind a system call. Instructions are the measure of those
/// that is always the same.)
#[test]
fn a_brief_connection_costs_few_instructions() {
    const TEST: &str = "a_brief_connection_costs_few_instructions";
    const COUNT: u64 = 1_000;
    const MOST: f64 = 2_700.0;
    if which("valgrind").is_none() {
        return println!("{TEST}: NOT RUN: valgrind is not installed");
    }
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    let case = Case { kind: "brief", place: "-".into() };
    let each = |policyd: Option<&Policyd>| {
        let [once, twice] = [COUNT, 2 * COUNT].map(|count| instructions(&case, count, policyd, &scratch));
        (twice - once) as f64 / COUNT as f64
    };
    let (native, preloaded) = (each(None), each(policyd.as_ref()));
    let more = preloaded - native;
    proof.fact(format!("a connection takes {native:.0} instructions natively, {preloaded:.0} preloaded: {more:+.0}"));
    proof.print();
    assert!(more <= MOST, "{more:.0} instructions more");
    assert!(native_only() || more > 100.0, "the library was not loaded");
}

/// A receive from an empty ring neither asks TCP nor for time limits: the kernel is there for the sleep (strace makes most of
/// them sleep, or nearly), and once a clock tick for the peer's sake.
#[test]
fn a_carried_message_needs_the_kernel_to_sleep_alone() {
    const TEST: &str = "a_carried_message_needs_the_kernel_to_sleep_alone";
    const COUNT: u64 = 2_000;
    if which("strace").is_none() {
        return println!("{TEST}: NOT RUN: strace is not installed");
    }
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    let calls = growth(&Case { kind: "talk", place: "-".into() }, COUNT, policyd.as_ref(), &scratch);
    let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<i64>();
    if let Some(policyd) = &policyd {
        let status = policyd.status();
        assert!(status.tx_companion > 2 * COUNT * 64, "carried? {}", status.whole);
        // Two messages an exchange: each natively a write and a read.
        let asked = of(&["recvfrom", "getsockopt", "sendto"]);
        assert!(asked < COUNT as i64 / 4, "{asked} times TCP was asked for something: {calls:?}");
    }
    proof.fact(format!("{COUNT} exchanges of a carried connection make {calls:?}"));
    proof.print();
}

/// What twice as many `pairs` make more, by name.
fn growth(case: &Case, pairs: u64, policyd: Option<&Policyd>, scratch: &Scratch) -> BTreeMap<String, i64> {
    let (once, twice) = (system_calls(case, pairs, policyd, scratch), system_calls(case, 2 * pairs, policyd, scratch));
    let mut growth: BTreeMap<String, i64> = twice;
    for (name, count) in once {
        *growth.entry(name).or_default() -= count;
    }
    // What the C library and a meet do may come a little earlier or later.
    growth.retain(|_, count| count.abs() > 3);
    growth
}

/// Calls by name, as `strace -c` counts them.
fn system_calls(case: &Case, pairs: u64, policyd: Option<&Policyd>, scratch: &Scratch) -> BTreeMap<String, i64> {
    let out = scratch.file("strace.out");
    let mut launch = Launch::new("strace", which("strace").expect("strace is installed"))
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&out);
    // strace itself is not preloaded.
    for (name, value) in policyd.into_iter().flat_map(Policyd::preload_environment) {
        launch = launch.arg("-E").arg(format!("{name}={}", Path::new(&value).display()));
    }
    let launch = launch.arg(program("passthrough")).args([case.kind, &pairs.to_string(), &case.place]);
    let outcome = launch.run(scratch, Duration::from_secs(120));
    assert_eq!(outcome.end, End::Exit(0), "{}:\n{outcome}", case.kind);
    let text = std::fs::read_to_string(&out).expect("strace's file");
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [count, name] = words[..]
            && let Ok(count) = count.parse::<i64>()
            && name != "total"
        {
            calls.insert(name.to_owned(), count);
        }
    }
    assert!(!calls.is_empty(), "nothing understood in {text}");
    calls
}

/// Not one system call more, except what start-up needs and, once a connection, its meet: twice the pairs, and the difference
/// must be the program's own calls.
#[test]
fn pass_through_system_calls() {
    const TEST: &str = "pass_through_system_calls";
    const PAIRS: u64 = 10_000;
    if which("strace").is_none() {
        return println!("{TEST}: NOT RUN: strace is not installed");
    }
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    for case in cases(&scratch) {
        let growth = |policyd: Option<&Policyd>| growth(&case, PAIRS, policyd, &scratch);
        let (native, preloaded) = (growth(None), growth(policyd.as_ref()));
        assert_eq!(native, preloaded, "{}: the calls of {PAIRS} pairs, natively (left) and preloaded", case.kind);
        let start_up: i64 = system_calls(&case, 10, policyd.as_ref(), &scratch).values().sum::<i64>()
            - system_calls(&case, 10, None, &scratch).values().sum::<i64>();
        proof.fact(format!("{}: {PAIRS} pairs make {native:?} both ways; start-up {start_up} calls more", case.kind));
        assert!(start_up < 200 || native_only(), "{}: start-up makes {start_up} calls more", case.kind);
    }
    proof.print();
}

/// Memory of a forked child that it only reads or copies costs a page fault a page: a server that forks for each connection
/// pays them each time.
#[test]
fn a_forked_child_has_few_page_faults_more() {
    const TEST: &str = "a_forked_child_has_few_page_faults_more";
    /// Code, tables and memory of the switch's that a connection's whole life touches.
    const MOST: i64 = 65;
    let mut proof = Proof::new(TEST);
    let policyd = Policyd::start();
    let scratch = Scratch::new();
    let faults = |policyd: Option<&Policyd>| -> i64 {
        let launch = Launch::new("forks", program("forks")).arg("100").preload(policyd);
        let outcome = launch.run(&scratch, Duration::from_secs(120)).succeeded();
        let text = outcome.text();
        let number = text.split_whitespace().find_map(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("no number of page faults in {text}"))
    };
    let (native, preloaded) = (faults(None), faults(policyd.as_ref()));
    if let Some(policyd) = &policyd {
        let status = policyd.status();
        assert!(status.connections >= 100, "counted by nobody: {}", status.whole);
        proof.fact(format!("{} ends of connections counted", status.connections));
    }
    proof.fact(format!("a child has {native} page faults natively, {preloaded} preloaded"));
    proof.print();
    assert!(preloaded - native <= MOST, "{native} page faults a child natively, {preloaded} preloaded");
}
