//! iperf3: one stream, four, and the reverse direction.

use tandem_tests::apps::{each_way, listens};
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Way};

fn run(test: &str, streams: u64, arguments: &[&str]) {
    const BYTES: u64 = 256 << 20;
    each_way(test, &Way::FOUR, |field| {
        let port = field.port.to_string();
        // No look at the port before: iperf3 takes every connection for a client.
        let launch =
            Launch::new("iperf3-server", system_program("iperf3")).args(["-s", "-B", "127.0.0.1", "-p", &port, "-J"]);
        let server = field.server(launch).spawn(&field.scratch);
        field.wait_for("the server", 10, || listens(field.port));

        let size = BYTES.to_string();
        let launch = Launch::new("iperf3", system_program("iperf3"));
        let launch = launch.args(["-c", "127.0.0.1", "-p", &port, "-J", "-n", &size]).args(arguments);
        let outcome = field.ask(launch, 60);
        assert_eq!(outcome.end, End::Exit(0), "{:?}:\n{outcome}", field.way);
        let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("iperf3 -J writes JSON");
        let bytes = |name: &str| report["end"][name]["bytes"].as_u64().unwrap_or(0);
        let mut seen = vec![
            format!("error {:?}", report.get("error")),
            format!("streams {:?} {}", report["end"]["streams"].as_array().map(Vec::len), streams),
            format!("enough sent {}", bytes("sum_sent") >= BYTES),
            // The client ends with what it has sent; megabytes a stream may still be on their way then.
            format!("enough received {}", bytes("sum_received") >= BYTES / 2),
            format!("stderr {}", String::from_utf8_lossy(&outcome.stderr)),
        ];
        if let Some(policyd) = field.policyd.as_ref().filter(|_| field.way.both()) {
            let status = policyd.status();
            assert!(status.tx_companion > BYTES / 2, "most bytes should go by companion: {}", status.whole);
        }
        seen.push(field.stop(server, libc::SIGTERM));
        seen
    });
}

#[test]
fn iperf3_one_stream() {
    run("iperf3_one_stream", 1, &[]);
}

#[test]
fn iperf3_four_streams() {
    run("iperf3_four_streams", 4, &["-P", "4"]);
}

#[test]
fn iperf3_reverse() {
    run("iperf3_reverse", 1, &["-R"]);
}

#[test]
fn iperf3_four_streams_reverse() {
    run("iperf3_four_streams_reverse", 4, &["-P", "4", "-R"]);
}

/// Small blocks: many more calls a byte.
#[test]
fn iperf3_small_blocks() {
    run("iperf3_small_blocks", 1, &["-l", "1400"]);
}
