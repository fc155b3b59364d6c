//! A redis-server and loads for it, on whichever host.

use tandem_tests::process::system_program;
use tandem_tests::programs::python;
use tandem_tests::{Launch, Outcome};

pub fn server(address: &str, port: u16) -> Launch {
    let words = ["--protected-mode", "no", "--save", "", "--appendonly", "no"];
    Launch::new("redis-server", system_program("redis-server"))
        .args(["--port", &port.to_string(), "--bind", address])
        .args(words)
}

/// Values of 1 B to 4 MiB, pipelined; every reply is checked by its content.
pub fn checked_load(address: &str, port: u16, mebibytes: u32) -> Launch {
    python("redis_load", "redis_load.py").args([&port.to_string(), "11", &mebibytes.to_string(), address])
}

pub fn benchmark(address: &str, port: u16, words: &[&str]) -> Launch {
    let launch = Launch::new("redis-benchmark", system_program("redis-benchmark"));
    launch.args(["-h", address, "-p", &port.to_string(), "--csv"]).args(words)
}

/// What redis-benchmark has tested: the first column is the test's name, the others are rates.
pub fn tests_of(outcome: &Outcome) -> Vec<String> {
    outcome.text().lines().map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect()
}
