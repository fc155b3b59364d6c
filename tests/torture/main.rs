//! The torture program under the preload: as a pair, within one process, with forced fail-backs, and with a fault injected at
//! every step. Rules: every byte right, no failure that TCP would not give, nothing on stdout or stderr.

mod faults;
mod soak;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;
use tandem_tests::policyd::Status;
use tandem_tests::ways::seed;
use tandem_tests::{End, Launch, Outcome, Policyd, Proof, Running, Scratch};

const LIMIT: Duration = Duration::from_secs(150);

/// How many connections in all, shared out among the tests of this file (and `faults`).
const CONNECTIONS: u64 = 10_000;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_tandem-torture").into()
}

struct Torture {
    test: &'static str,
    scratch: Scratch,
    policyd: Option<Policyd>,
    debug: Option<String>,
    seed: u64,
    connections: u64,
    extra: Vec<&'static str>,
}

impl Torture {
    /// A share of the connections, in percent.
    fn new(test: &'static str, share: u64) -> Self {
        let name: u64 = test.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let torture = Self {
            test,
            scratch: Scratch::new(),
            policyd: Policyd::start(),
            debug: None,
            seed: (seed() ^ name) & 0xffff_ffff,
            connections: CONNECTIONS * share / 100,
            extra: Vec::new(),
        };
        println!("{test}: seed {}", torture.seed);
        torture
    }

    fn debug(mut self, switches: &str) -> Self {
        self.debug = Some(format!("{switches},seed={}", self.seed));
        self
    }

    fn extra(mut self, option: &'static str) -> Self {
        self.extra.push(option);
        self
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Running {
        let numbers = [self.seed.to_string(), self.connections.to_string()];
        Launch::new(name, program())
            .args(arguments)
            .args(["--seed", &numbers[0], "--connections", &numbers[1]])
            .args(&self.extra)
            .preload(self.policyd.as_ref())
            .debug(self.debug.as_deref().filter(|_| self.policyd.is_some()))
            .spawn(&self.scratch)
    }

    fn server(&self) -> (Running, String) {
        self.server_called("server")
    }

    fn server_called(&self, name: &str) -> (Running, String) {
        let path = self.scratch.file(&format!("{name}.port"));
        let server = self.start(name, &["server", path.to_str().expect("a plain path")]);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(port) = fs::read_to_string(&path) {
                return (server, port);
            }
            assert!(Instant::now() < deadline, "{}: no server", self.test);
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Both ends to their ends; `meanwhile` is called over and over until then.
    #[track_caller]
    fn pair(&mut self, mut meanwhile: impl FnMut(&mut Policyd)) {
        let (mut server, port) = self.server();
        let mut client = self.start("client", &["client", &port]);
        let deadline = Instant::now() + LIMIT;
        while !(client.ended() && server.ended()) && Instant::now() < deadline {
            if let Some(policyd) = &mut self.policyd {
                meanwhile(policyd);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.right("client", &client.wait(Duration::ZERO));
        self.right("server", &server.wait(Duration::from_secs(2)));
    }

    #[track_caller]
    fn alone(&self) {
        let outcome = self.start("alone", &["alone"]).wait(LIMIT);
        self.right("alone", &outcome);
    }

    /// Exit 0, its one line, and not a byte besides.
    #[track_caller]
    fn right(&self, end: &str, outcome: &Outcome) {
        let text = outcome.text();
        let one_line = text.starts_with(&format!("seed {}:", self.seed)) && text.lines().count() == 1;
        let fine = outcome.end == End::Exit(0) && one_line && outcome.stderr.is_empty();
        assert!(fine, "{}, {end}, seed {}:\n{outcome}{}", self.test, self.seed, self.again());
        print!("{}, {end}: {text}", self.test);
    }

    fn again(&self) -> String {
        let debug = self.debug.as_ref().map_or(String::new(), |debug| format!("TANDEM_DEBUG={debug} "));
        let extra = self.extra.join(" ");
        format!(
            "    again: {debug}LD_PRELOAD=... tandem-torture ... --seed {} --connections {} {extra}",
            self.seed, self.connections
        )
    }

    /// What the registry says; asserted unless native.
    #[track_caller]
    fn witness(&self, least_carried: u64, least_fail_backs: u64) {
        let mut proof = Proof::new(self.test);
        let status = self.policyd.as_ref().map_or_else(Status::default, Policyd::status);
        if !native_only() {
            assert!(
                status.carried >= least_carried && status.tx_companion >= least_carried,
                "{}: too few carried: {}",
                self.test,
                status.whole
            );
            assert!(status.fail_backs >= least_fail_backs, "{}: too few fail-backs: {}", self.test, status.whole);
        }
        proof.fact(format!(
            "{} connections byte-exact, seed {}: {} of {} ends carried, {} bytes sent by companion, {} fail-backs",
            self.connections, self.seed, status.carried, status.connections, status.tx_companion, status.fail_backs
        ));
        proof.print();
    }
}

#[test]
fn torture_of_a_pair() {
    let mut torture = Torture::new("torture_of_a_pair", 30);
    torture.pair(|_| ());
    torture.witness(torture.connections / 4, 0);
}

#[test]
fn torture_within_one_process() {
    let torture = Torture::new("torture_within_one_process", 12);
    torture.alone();
    torture.witness(torture.connections / 4, 0);
}

#[test]
fn torture_with_forced_fail_back() {
    let mut torture = Torture::new("torture_with_forced_fail_back", 20).debug("failback=12");
    torture.pair(|_| ());
    torture.witness(torture.connections / 4, torture.connections / 4);
}

#[test]
fn torture_with_frequent_fail_back_within_one_process() {
    let torture = Torture::new("torture_with_frequent_fail_back_within_one_process", 8).debug("failback=3");
    torture.alone();
    torture.witness(torture.connections / 4, torture.connections / 4);
}

/// The rings cannot grow: full rings, waits for room, wrap-around.
#[test]
fn torture_with_small_rings() {
    let mut torture = Torture::new("torture_with_small_rings", 6).debug("ring=4096,failback=100");
    torture.pair(|_| ());
    torture.witness(torture.connections / 4, 1);
}

/// Long streams: rings that grow, many megabytes each way.
#[test]
fn torture_of_long_streams() {
    let mut torture = Torture::new("torture_of_long_streams", 1).extra("--large").debug("failback=400");
    torture.connections = 24;
    torture.pair(|_| ());
    torture.witness(torture.connections / 4, 1);
}
