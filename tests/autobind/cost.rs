//! What AutoBind costs: a call by libc against the bare system call, in turns in one process, at the median.

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
    field.proof.print();
    assert!(failures.is_empty(), "{failures:#?}");
}
