//! What a call on a descriptor that is not ours costs: some instructions, and no system call.

use std::process::Command;

use crate::support::{library, program};

/// Bounds, load, compare, load, jump.
const INSTRUCTIONS: f64 = 9.0;
const PAIRS: u64 = 100_000;

#[test]
fn instructions_a_call() {
    let program = program("loop", &["-O2"]);
    for kind in ["pipe", "file"] {
        let a_call = |preload: &str| {
            let of = |pairs: u64| collected(program.to_str().unwrap(), kind, pairs, preload);
            (of(PAIRS) - of(0)) as f64 / (2 * PAIRS) as f64
        };
        let (native, preloaded) = (a_call(""), a_call(library().to_str().unwrap()));
        println!("{kind}: {native:.1} instructions a call natively, {preloaded:.1} preloaded");
        assert!(native > 5.0, "the loop was not counted");
        assert!(preloaded - native <= INSTRUCTIONS + 0.1, "{kind}: {native} natively, {preloaded} preloaded");
    }
}

fn collected(program: &str, kind: &str, pairs: u64, preload: &str) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, kind, &pairs.to_string()]);
    let output = command.env("LD_PRELOAD", preload).output().expect("valgrind is needed: scripts/setup installs it");
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected : ")).unwrap_or_else(|| panic!("{text}"));
    count.1.trim().parse().unwrap()
}

#[test]
fn no_system_call_more() {
    let program = program("loop", &["-O2"]);
    for kind in ["pipe", "file"] {
        let a_run = |preload: &str| {
            let of = |pairs: u64| system_calls(program.to_str().unwrap(), kind, pairs, preload);
            of(1_000) - of(0)
        };
        let (native, preloaded) = (a_run(""), a_run(library().to_str().unwrap()));
        assert_eq!((native, preloaded), (2_000, 2_000), "{kind}");
    }
}

fn system_calls(program: &str, kind: &str, pairs: u64, preload: &str) -> usize {
    let traced = format!("LD_PRELOAD={preload}");
    let output = Command::new("strace")
        .args(["-f", "-E", &traced, program, kind, &pairs.to_string()])
        .output()
        .expect("strace is needed: scripts/setup installs it");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains(") = ")).count()
}
