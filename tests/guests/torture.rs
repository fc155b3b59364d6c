//! The torture program (`tests/torture/program`) with its ends on two hosts, by queue pairs: every byte right, as within one host, with
//! directions that fail back again and again. Inside `scripts/vm namespaces --once`.

use std::fs;
use std::time::Duration;

use tandem_tests::patience::within;
use tandem_tests::ways::seed;
use tandem_tests::{End, Launch, Outcome, Proof, Running};

use crate::verbs::{Between, LONG};

struct Torture<'a> {
    between: &'a Between,
    name: &'static str,
    connections: u64,
    /// `TANDEM_DEBUG`, without the seed.
    debug: Option<&'static str>,
    words: &'static [&'static str],
}

impl Torture<'_> {
    fn start(&self, at: usize, role: &str, place: &str) -> Running {
        let name = format!("{}-{role}", self.name);
        let launch = Launch::new(&name, env!("CARGO_BIN_EXE_tandem-torture"));
        let numbers = [seed().to_string(), self.connections.to_string()];
        let launch = launch
            .args([role, place, "--address", &self.between.hosts[1].address, "--patience", "240"])
            .args(["--seed", &numbers[0], "--connections", &numbers[1], "--parallel", "8"])
            .args(self.words);
        let debug = self.debug.map(|switches| format!("{switches},seed={}", seed()));
        let launch = self.between.on(at, launch).debug(debug.as_deref());
        // Most of its connections are shorter than a companion takes to make: those with fail-backs ask at once.
        if self.debug.is_some() { launch.env("TANDEM_ATTACH", "connect") } else { launch }.spawn(&self.between.scratch)
    }

    /// What it proved.
    #[track_caller]
    fn run(&self, least_fail_backs: u64) -> String {
        let (before, fail_backs, sent) = (self.carried(), self.between.fail_backs(), self.between.sent());
        let path = self.between.scratch.file(&format!("{}-port", self.name));
        let mut server = self.start(1, "server", path.to_str().expect("a plain path"));
        let listens = within(LONG, Duration::from_millis(50), || path.exists() || server.ended());
        assert!(listens && path.exists(), "{}: no server:\n{}", self.name, server.wait(Duration::ZERO));
        let mut client = self.start(0, "client", &fs::read_to_string(&path).expect("the port"));
        self.right("client", &client.wait(LONG));
        self.right("server", &server.wait(LONG));
        let (after, sent_after) = (self.carried(), self.between.sent());
        let [carried, bytes] = [after[0] - before[0], after[1] - before[1]];
        let fail_backs = self.between.fail_backs() - fail_backs;
        let packets = [0, 1].map(|at| sent_after[at] - sent[at]);
        // Many of its connections are shorter than a companion takes to make.
        let least = self.connections / 8;
        assert!(carried >= least && bytes > least * 100, "{}: {carried} ends carried, {bytes} bytes", self.name);
        let seen = !self.between.has_devices() || packets.iter().all(|&packets| packets > least);
        assert!(seen, "{}: {packets:?} packets by the devices", self.name);
        assert!(fail_backs >= least_fail_backs, "{}: {fail_backs} fail-backs", self.name);
        format!(
            "{}: {} connections byte-exact, seed {}: {carried} ends carried, {bytes} bytes by companion, {fail_backs} fail-backs, \
             packets {packets:?}",
            self.name,
            self.connections,
            seed()
        )
    }

    fn carried(&self) -> [u64; 2] {
        let statuses = self.between.policyds.each_ref().map(|policyd| policyd.status());
        [statuses.iter().map(|status| status.carried).sum(), statuses.iter().map(|status| status.tx_companion).sum()]
    }

    /// Exit 0, its one line, and not a byte besides.
    #[track_caller]
    fn right(&self, end: &str, outcome: &Outcome) {
        let text = outcome.text();
        let one_line = text.starts_with("seed ") && text.lines().count() == 1;
        let fine = outcome.end == End::Exit(0) && one_line && outcome.stderr.is_empty();
        assert!(fine, "{}, {end}, seed {}:\n{outcome}", self.name, seed());
    }
}

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn torture_between_hosts() {
    let between = Between::start();
    let mut proof = Proof::new("torture_between_hosts");
    let torture = |name, connections, debug, words| Torture { between: &between, name, connections, debug, words };
    proof.fact(torture("plain", 120, None, &[]).run(0));
    proof.fact(torture("failing back", 100, Some("failback=12"), &[]).run(20));
    proof.fact(torture("failing back at every other call", 60, Some("failback=3"), &[]).run(20));
    proof.fact(torture("long streams", 24, Some("failback=400"), &["--large"]).run(1));
    proof.print();
}
