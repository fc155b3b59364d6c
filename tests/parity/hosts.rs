//! Connections between two hosts whose policyds know each other: as without Tandem, and `tandem ss` says what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tandem_tests::artifacts::{artifacts, native_only};
use tandem_tests::namespace::Namespace;
use tandem_tests::patience::within;
use tandem_tests::{Proof, Scratch};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A namespace, its policyd, and a folder that stands for its devices.
struct Host {
    namespace: Namespace,
    folder: Scratch,
    number: u8,
    _policyd: Ours,
}

impl Host {
    fn start(namespace: Namespace, number: u8) -> Self {
        let folder = Scratch::new();
        let listen = format!("[peers]\nlisten = \"10.78.0.{number}:7470\"\nkeepalive_seconds = 1\n");
        fs::write(folder.file("policyd.toml"), listen).expect("the configuration");
        let place = |name: &str| folder.file(name);
        let policyd = Command::new("ip")
            .args(["netns", "exec", namespace.name()])
            .arg(&artifacts().daemon)
            .arg("--socket")
            .arg(place("policyd.sock"))
            .arg("--config")
            .arg(place("policyd.toml"))
            .arg("--sysfs")
            .arg(place("sys"))
            .stdin(Stdio::null())
            .spawn()
            .expect("policyd starts");
        let host = Self { _policyd: Ours(policyd), number, folder, namespace };
        host.serve(true);
        assert!(within(PATIENCE, LOOK, || host.tandem(&["status"]).status.success()), "policyd does not answer");
        host
    }

    fn socket(&self) -> PathBuf {
        self.folder.file("policyd.sock")
    }

    fn tandem(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&artifacts().command);
        command.args(arguments).env("TANDEM_POLICYD", self.socket()).env_remove("TANDEM_CONFIG");
        command.output().expect("tandem runs")
    }

    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.tandem(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(arguments)).expect("JSON")
    }

    fn address(&self) -> String {
        format!("10.78.0.{}", self.number)
    }

    /// Whether a device serves its address; heard of at the next change of an interface.
    fn serve(&self, serves: bool) {
        let port: PathBuf = self.folder.file("sys/class/infiniband/rxe0/ports/1");
        let put = |file: &str, text: &str| {
            let path = port.join(file);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        put("state", if serves { "4: ACTIVE\n" } else { "1: DOWN\n" });
        put("link_layer", "Ethernet\n");
        put("gids/0", &format!("::ffff:{}\n", self.address()));
        put("gid_attrs/types/0", "RoCE v2\n");
    }

    /// A preloaded python program.
    fn python(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace.name(), "env"]);
        // Alone in a folder: no provider is beside it.
        let library = self.folder.file("libtandem.so");
        if !library.exists() {
            fs::copy(&artifacts().library, &library).expect("a copy of the library");
        }
        command.arg(format!("LD_PRELOAD={}", library.display()));
        command.arg(format!("TANDEM_POLICYD={}", self.socket().display()));
        command.args(["python3", "-c", script]).stdin(Stdio::null());
        command
    }
}

/// A process that ends with the test.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SERVER: &str = "
import socket, sys
listener = socket.create_server(('10.78.0.2', 7000))
print('ready', flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
";

/// Ten exchanges, each checked; then it holds the connection until it is told to end.
const CLIENT: &str = "
import socket, sys
connection = socket.create_connection(('10.78.0.2', 7000))
for n in range(10):
    sent = bytes((n + i) % 251 for i in range(5000))
    connection.sendall(sent)
    heard = b''
    while len(heard) < len(sent):
        heard += connection.recv(65536)
    assert heard == sent, n
print('exchanged', flush=True)
sys.stdin.read()
";

/// What `tandem ss` at the first host says of a new connection to the second.
fn reason(hosts: &[Host; 2], expected: &str) -> bool {
    let client = hosts[0].python(CLIENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut client = Ours(client.expect("python"));
    let mut line = String::new();
    let out = client.0.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    assert_eq!(line, "exchanged\n");
    let told = within(PATIENCE, LOOK, || {
        let rows = hosts[0].json(&["ss", "--json"]);
        rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["reason"] == expected && row["provider"] == "tcp"))
    });
    drop(client.0.stdin.take());
    assert!(client.0.wait().expect("it ends").success());
    told
}

#[test]
fn a_connection_to_a_peer_without_provider_stays_on_tcp_and_says_why() {
    const TEST: &str = "a_connection_to_a_peer_without_provider_stays_on_tcp_and_says_why";
    if native_only() {
        return;
    }
    let (Some(one), Some(other)) = (Namespace::new(TEST), Namespace::new(TEST)) else { return };
    one.must(&format!("ip link add wire type veth peer name wire netns {}", other.name()));
    one.must("ip addr add 10.78.0.1/24 dev wire; ip link set wire up");
    other.must("ip addr add 10.78.0.2/24 dev wire; ip link set wire up");
    let hosts = [Host::start(one, 1), Host::start(other, 2)];
    let keys = [0, 1].map(|end: usize| hosts[end].says(&["peer", "key"]));
    for (host, other, key) in [(&hosts[0], &hosts[1], &keys[1]), (&hosts[1], &hosts[0], &keys[0])] {
        let (address, endpoint) = (other.address(), format!("{}:7470", other.address()));
        host.says(&["peer", "add", "other", key, "--endpoint", &endpoint, "--address", &address]);
    }
    let served_there = |count: usize| {
        let peers = hosts[0].json(&["peer", "list", "--json"]);
        peers["peers"][0]["served"].as_array().map(Vec::len) == Some(count) && peers["peers"][0]["up"] == true
    };
    assert!(within(PATIENCE, LOOK, || served_there(1)), "{}", hosts[0].says(&["peer", "list"]));

    let mut server = Ours(hosts[1].python(SERVER).stdout(Stdio::piped()).spawn().expect("python"));
    let mut line = String::new();
    let out = server.0.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    assert!(reason(&hosts, "no-provider"), "{}", hosts[0].says(&["ss"]));
    hosts[1].serve(false);
    hosts[1].namespace.must("ip link add other0 type veth peer name other1");
    assert!(within(PATIENCE, LOOK, || served_there(0)), "{}", hosts[0].says(&["peer", "list"]));
    assert!(reason(&hosts, "peer-no-device"), "{}", hosts[0].says(&["ss"]));
    hosts[0].serve(false);
    hosts[0].namespace.must("ip link add other0 type veth peer name other1");
    let none_here = || hosts[0].json(&["peer", "list", "--json"])["served"].as_array().is_some_and(Vec::is_empty);
    assert!(within(PATIENCE, LOOK, none_here), "{}", hosts[0].says(&["peer", "list"]));
    assert!(reason(&hosts, "no-device"), "{}", hosts[0].says(&["ss"]));
    drop(server);
    let left = hosts[0].json(&["status", "--json"]);
    assert_eq!(
        (&left["far"], &left["far_parked"], &left["parked"]),
        (&Value::from(0), &Value::from(0), &Value::from(0))
    );
    let mut proof = Proof::new(TEST);
    proof.fact(format!("three connections between hosts, each byte right, each with its reason: {left}"));
    proof.print();
}
