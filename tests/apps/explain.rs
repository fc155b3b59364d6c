//! `tandem explain ADDRESS:PORT` of a connection that is carried, of one whose other end is plain, and of one that nobody knows.

use std::process::{Command, Output};

use tandem_tests::apps::{Field, free_port};
use tandem_tests::artifacts::{artifacts, native_only};
use tandem_tests::process::{Scratch, system_program};
use tandem_tests::{Launch, Policyd, Proof, Way};

/// Pings until it is killed.
const CLIENT: &str = "import socket, sys, time
sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
while True:
    sock.sendall(b'PING\\r\\n')
    assert sock.recv(100)
    time.sleep(0.01)";

fn explain(policyd: &Policyd, address: &str) -> (Output, String) {
    let mut command = Command::new(&artifacts().command);
    command.args(["explain", address]).env("TANDEM_POLICYD", policyd.socket()).env_remove("LD_PRELOAD");
    let output = command.output().expect("tandem runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn tandem_explain_of_a_connection() {
    if native_only() {
        return;
    }
    let mut proof = Proof::new("tandem_explain_of_a_connection");
    for (way, expected) in [
        (Way::Both, ["carried by   companion (local)", "remedy       none is needed"]),
        (
            Way::ServerOnly,
            ["carried by   TCP (peer-absent)", "remedy       start the other end's program by tandem run"],
        ),
    ] {
        let field = Field { way, port: free_port(), scratch: Scratch::new(), policyd: Policyd::start() };
        let policyd = field.policyd.as_ref().expect("not native");
        let port = field.port.to_string();
        let launch = Launch::new("redis-server", system_program("redis-server"));
        let _server = field.serve(launch.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]));
        let launch = Launch::new("client", system_program("python3")).args(["-c", CLIENT, &port]);
        let _client = field.client(launch).spawn(&field.scratch);
        let address = format!("127.0.0.1:{port}");
        let mut seen = String::new();
        field.wait_for(&format!("{expected:?}"), 20, || {
            seen = explain(policyd, &address).1;
            expected.iter().all(|line| seen.contains(line))
        });
        assert!(seen.contains("/redis-server"), "{seen}");
        let (nobody, _) = explain(policyd, "127.0.0.1:1");
        let words = String::from_utf8_lossy(&nobody.stderr);
        assert!(
            nobody.status.code() == Some(1) && words.contains("no switch knows a connection with 127.0.0.1:1"),
            "{words}"
        );
        proof.fact(format!("{way:?}: {}", expected[0]));
    }
    proof.print();
}
