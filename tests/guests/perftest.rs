//! perftest's ib_write_bw: a queue pair made by hand, without the connection manager, as Tandem is to do it.

use std::fs;
use std::time::Duration;

use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::{Host, Launch, Running};

/// 4 s before a packet is sent again. With perftest's own 67 ms a busy, emulated host is taken for a lossy wire, and rxe in
/// Linux 6.1 answers a part of a message that comes twice by ending the queue pair ("Failed status 9").
const TIMEOUT: &str = "20";
const PORT: u16 = 18515;

/// 64 KiB a message; the client's address of the server is still to come.
pub fn bandwidth(name: &str, host: &Host, messages: u64) -> Launch {
    let launch = Launch::new(name, system_program("ib_write_bw")).in_namespace(host.namespace.as_ref());
    launch.args(["-F", "-u", TIMEOUT, "-d", &host.device, "-x", "1", "-s", "65536", "-n", &messages.to_string()])
}

/// Until the server takes a client.
#[track_caller]
pub fn await_listening(server: &mut Running) {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", server.pid()));
    let port = format!(":{PORT:04X} ");
    let listens = |table: &String| {
        let text = fs::read_to_string(table).unwrap_or_default();
        // Local address, remote address, state.
        text.lines().any(|line| line.contains(&port) && line.split_whitespace().nth(3) == Some("0A"))
    };
    let ready =
        within(Duration::from_secs(20), Duration::from_millis(50), || tables.iter().any(listens) || server.ended());
    assert!(ready && !server.ended(), "ib_write_bw does not listen:\n{}", server.wait(Duration::ZERO));
}
