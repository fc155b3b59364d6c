//! A redis-server and loads for it, on whichever host.

use tandem_tests::Launch;
use tandem_tests::process::system_program;

pub fn server(address: &str, port: u16) -> Launch {
    let words = ["--protected-mode", "no", "--save", "", "--appendonly", "no"];
    Launch::new("redis-server", system_program("redis-server"))
        .args(["--port", &port.to_string(), "--bind", address])
        .args(words)
}

/// Values of 1 B to 4 MiB, pipelined; every reply is checked by its content.
pub fn checked_load(address: &str, port: u16, mebibytes: u32) -> Launch {
    let script = tandem_tests::programs::sources().join("redis_load.py");
    let launch = Launch::new("redis_load", system_program("python3")).env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
    launch.args([&port.to_string(), "11", &mebibytes.to_string(), address])
}

pub fn benchmark(address: &str, port: u16, words: &[&str]) -> Launch {
    let launch = Launch::new("redis-benchmark", system_program("redis-benchmark"));
    launch.args(["-h", address, "-p", &port.to_string(), "--csv"]).args(words)
}
