//! Two hosts of one guest, each with its policyd, and unmodified programs whose bytes go by queue pairs. Inside `scripts/vm
//! namespaces --once`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tandem_tests::artifacts::artifacts;
use tandem_tests::host::{self, Host};
use tandem_tests::patience::within;
use tandem_tests::policyd::Row;
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Outcome, Policyd, Proof, Running, Scratch, programs};

use crate::redis;

/// A guest on a busy host is slow.
pub const LONG: Duration = Duration::from_secs(120);
const PORT: u16 = 7470;

/// The two hosts, and their policyds, which know each other.
pub struct Between {
    pub hosts: [Host; 2],
    pub policyds: [Policyd; 2],
    pub scratch: Scratch,
    /// The policyds' keys.
    _folders: [Scratch; 2],
}

impl Between {
    #[track_caller]
    pub fn start() -> Self {
        let plug_in = artifacts().library.with_file_name("libtandem_rdma.so");
        assert!(plug_in.exists(), "no {}: cargo build --release -p tandem-rdma", plug_in.display());
        let hosts = host::namespaces();
        let scratch = Scratch::new();
        let folders = [0, 1].map(|_| Scratch::new());
        let keys = folders.each_ref().map(new_key);
        let policyds = [0, 1].map(|at: usize| {
            let (own, other) = (&hosts[at].address, &hosts[1 - at].address);
            let config = format!(
                "park_seconds = 120\n[peers]\nlisten = \"{own}:{PORT}\"\nkey = \"{}\"\n[[peer]]\nname = \"other\"\npublic_key = \"{}\"\n\
                 endpoint = \"{other}:{PORT}\"\naddresses = [\"{other}\"]\n",
                folders[at].file("peer.key").display(),
                keys[1 - at],
            );
            let sysfs = hosts[at].stand_in.iter().map(|folder| format!("--sysfs={}", folder.display()));
            Policyd::start_by(hosts[at].namespace.as_ref(), &config, &sysfs.collect::<Vec<_>>()).expect("a policyd")
        });
        let between = Self { hosts, policyds, scratch, _folders: folders };
        between.await_linked();
        between
    }

    /// Until each policyd has a link to the other one, and knows that a device serves its address.
    #[track_caller]
    pub fn await_linked(&self) {
        let linked = within(LONG, Duration::from_millis(200), || self.policyds.iter().all(Policyd::is_linked));
        assert!(linked, "the policyds are not linked");
    }

    /// On the first host or the second, under Tandem.
    pub fn on(&self, at: usize, launch: Launch) -> Launch {
        launch.preload(Some(&self.policyds[at])).in_namespace(self.hosts[at].namespace.as_ref())
    }

    /// Server and client of `between.c`, and what both said; `meanwhile` runs once the client's bytes go by queue pairs.
    #[track_caller]
    fn exchange(
        &self,
        port: u16,
        how: &str,
        count: u64,
        bytes: u64,
        meanwhile: impl FnOnce(&mut [Running; 2]),
    ) -> [Outcome; 2] {
        let words = |role: &str| {
            let address = &self.hosts[1].address;
            let launch = Launch::new(role, programs::program("between"));
            launch.args([role, address, &port.to_string(), how, &count.to_string(), &bytes.to_string()])
        };
        let mut server = self.on(1, words("server")).spawn(&self.scratch);
        let listens = || fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap_or_default();
        let listening =
            within(LONG, Duration::from_millis(100), || listens().contains(&format!(":{port:04X} 00000000")));
        assert!(listening, "the server does not listen:\n{}", server.wait(Duration::ZERO));
        let client = self.on(0, words("client")).spawn(&self.scratch);
        let mut ends = [client, server];
        let carried = within(LONG, Duration::from_millis(300), || {
            let rows = self.rows();
            rows.iter().any(|row| row.provider == "verbs" && row.tx_companion > 0) || ends[0].ended()
        });
        assert!(carried && !ends[0].ended(), "not carried: {:#?}", self.policyds.each_ref().map(|p| p.status().whole));
        meanwhile(&mut ends);
        ends.each_mut().map(|end| end.wait(LONG))
    }

    pub fn rows(&self) -> Vec<Row> {
        self.policyds.iter().flat_map(Policyd::rows).collect()
    }

    /// Packets that the devices have sent.
    pub fn sent(&self) -> [u64; 2] {
        self.hosts.each_ref().map(|host| if host.stand_in.is_some() { 0 } else { host.counter("sent_pkts") })
    }

    /// Whether there are devices, whose packets bear witness.
    pub fn has_devices(&self) -> bool {
        self.hosts.iter().all(|host| host.stand_in.is_none())
    }

    pub fn fail_backs(&self) -> u64 {
        self.policyds.iter().map(|policyd| policyd.status().fail_backs).sum()
    }

    pub fn witness(&self) -> String {
        self.policyds.each_ref().map(|policyd| policyd.status().witness()).join("; ")
    }
}

/// Makes a key in a folder; the public one.
#[track_caller]
pub fn new_key(folder: &Scratch) -> String {
    folder.write("policyd.toml", "");
    let mut key = Command::new(&artifacts().command);
    let output = key.args(["peer", "key", "--config"]).arg(folder.file("policyd.toml")).output();
    let output = output.expect("tandem peer key");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn both_right(ends: &[Outcome; 2], bytes: u64, answered: bool) {
    let back = if answered { bytes } else { 0 };
    assert_eq!(ends[0].text(), format!("{bytes} out, {back} in\n"), "{} {}", ends[0], ends[1]);
    assert_eq!(ends[1].text(), format!("listens\n{bytes} in, then 0\n"), "{} {}", ends[0], ends[1]);
    assert!(ends.iter().all(|end| end.end == End::Exit(0)), "{} {}", ends[0], ends[1]);
}

/// Both ways and one way, by blocking calls, poll, and select without blocking; and a forked child goes on by TCP.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn bytes_go_by_queue_pairs() {
    let between = Between::start();
    let mut proof = Proof::new("bytes_go_by_queue_pairs");
    for (at, (how, count, bytes)) in
        [("p", 12_000, 64), ("o", 24_000, 8_192), ("e", 12_000, 100), ("s", 12_000, 100), ("f", 20_000, 64)]
            .into_iter()
            .enumerate()
    {
        let before = between.sent();
        let ends = between.exchange(7001 + at as u16, how, count, bytes, |_| {});
        both_right(&ends, count * bytes, how != "o");
        let after = between.sent();
        let packets = [after[0] - before[0], after[1] - before[1]];
        assert!(packets.iter().all(|&packets| packets > 20), "{how}: {packets:?} packets");
        proof.fact(format!(
            "{how}: {count} messages of {bytes} bytes, every byte right; {packets:?} packets by the devices"
        ));
    }
    proof.fact(between.witness());
    proof.print();
}

/// The wire of the queue pairs is cut in the midst of a stream: TCP carries on, and not a byte is lost or doubled.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_cut_wire_is_not_noticed() {
    let between = Between::start();
    let mut proof = Proof::new("a_cut_wire_is_not_noticed");
    let wire = std::env::var("TANDEM_VM_WIRE").expect("the wire's ends");
    let ends: Vec<&str> = wire.split(' ').collect();
    let link = |end: &str, state: &str| {
        assert!(Command::new("ip").args(["link", "set", end, state]).status().expect("ip").success());
    };
    for (at, how, count, bytes) in [(0, "o", 40_000, 4_096), (1, "p", 20_000, 64)] {
        let outcome = between.exchange(7011 + at as u16, how, count, bytes, |_| link(ends[at], "down"));
        link(ends[at], "up");
        both_right(&outcome, count * bytes, how != "o");
        proof.fact(format!("{how}: {count} messages of {bytes} bytes, every byte right, with {} down", ends[at]));
        let up = || fs::read_to_string(format!("/sys/class/infiniband/{}/ports/1/state", between.hosts[at].device));
        assert!(within(LONG, Duration::from_millis(100), || up().is_ok_and(|state| state.contains("ACTIVE"))));
    }
    assert!(between.fail_backs() > 0, "{}", between.witness());
    proof.fact(format!("{} fail-backs; {}", between.fail_backs(), between.witness()));
    proof.print();
}

/// Whoever is killed in the midst of a stream: its peer is told as by TCP, and never a wrong byte.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_killed_peer_is_told_of() {
    let between = Between::start();
    let mut proof = Proof::new("a_killed_peer_is_told_of");
    for (victim, port) in [(0usize, 7021), (1, 7022)] {
        let ends = between.exchange(port, "o", 10_000_000, 8_192, |ends| ends[victim].signal(libc::SIGKILL));
        let (text, other) = (ends[1 - victim].text(), &ends[1 - victim]);
        let told = ["Connection reset by peer", "Broken pipe", "end of the stream"];
        assert!(other.end != End::Exit(3) && told.iter().any(|told| text.contains(told)), "{other}");
        proof.fact(format!("{} killed; the other one: {}", ["writer", "reader"][victim], text.replace('\n', " ")));
    }
    proof.print();
}

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn redis_is_carried_by_queue_pairs() {
    let between = Between::start();
    let mut proof = Proof::new("redis_is_carried_by_queue_pairs");
    let before = between.sent();
    let address = &between.hosts[1].address;
    let folder = Scratch::new();
    let mut server = between.on(1, redis::server(address, 7000).current_dir(folder.path())).spawn(&between.scratch);
    let answers = within(LONG, Duration::from_millis(200), || {
        let ping = Launch::new("redis-cli", system_program("redis-cli")).args(["-h", address, "-p", "7000", "ping"]);
        let ping = ping.in_namespace(between.hosts[0].namespace.as_ref());
        ping.run(&between.scratch, Duration::from_secs(20)).text().starts_with("PONG") || server.ended()
    });
    assert!(answers && !server.ended(), "redis-server does not answer:\n{}", server.wait(Duration::ZERO));
    let endless = redis::benchmark(address, 7000, &["-c", "8", "-n", "100000000", "-P", "2", "-t", "set"]);
    let mut client = between.on(0, endless).spawn(&between.scratch);
    let carried = || between.rows().iter().filter(|row| row.provider == "verbs" && row.carried()).count();
    assert!(within(LONG, Duration::from_millis(300), || carried() >= 16), "{:#?}", between.rows());
    drop(client.wait(Duration::ZERO));
    let load = between.on(0, redis::checked_load(address, 7000, 16)).run(&between.scratch, LONG).succeeded();
    assert!(!server.ended(), "{}", server.wait(Duration::ZERO));
    let after = between.sent();
    proof.fact(format!(
        "8 connections of redis-benchmark by verbs at both ends; a checked load: {}",
        load.text().lines().count()
    ));
    proof.fact(format!(
        "{:?} packets by the devices; {}",
        [after[0] - before[0], after[1] - before[1]],
        between.witness()
    ));
    proof.print();
}
