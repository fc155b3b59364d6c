//! Eight processes that make and tear down connections at random for as long as wanted: two servers that live, six clients that come and go,
//! now and then killed; policyd killed and started again. Every byte is right, and nothing is left behind where something lives on.
//!
//! `TANDEM_SOAK_SECONDS=600 cargo test --release -p tandem-tests --test torture soak -- --nocapture`: ten minutes; else twelve seconds.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;
use tandem_tests::patience::within;
use tandem_tests::ways::seed;
use tandem_tests::{Launch, Policyd, Proof, Running};

use crate::{Torture, program};

const CLIENTS: usize = 6;
/// How long policyd lives.
const POLICYD: Duration = Duration::from_millis(2500);

/// What a process has.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    descriptors: usize,
    mappings: usize,
    memfds: usize,
    resident_kb: u64,
    /// Of it: shared memory, which is ours alone.
    shared_kb: u64,
}

impl Has {
    fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process that runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
        let kb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs").count(),
            mappings: maps.lines().count(),
            memfds: maps.lines().filter(|line| line.contains("memfd:")).count(),
            resident_kb: kb("VmRSS:"),
            shared_kb: kb("RssShmem:"),
        }
    }
}

impl Has {
    fn least(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.min(other.descriptors),
            mappings: self.mappings.min(other.mappings),
            memfds: self.memfds.min(other.memfds),
            resident_kb: self.resident_kb.min(other.resident_kb),
            shared_kb: self.shared_kb.min(other.shared_kb),
        }
    }
}

/// A client and when it is to be killed, if it is.
struct Client {
    running: Running,
    killed_at: Option<Instant>,
}

struct Soak {
    torture: Torture,
    ports: [String; 2],
    dice: u64,
    started: u64,
    killed: u64,
    next: u64,
}

impl Soak {
    fn roll(&mut self, below: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % below
    }

    fn client(&mut self) -> Client {
        let (count, parallel) = (1 + self.roll(30), 1 + self.roll(8));
        let first = self.next;
        self.next += count;
        self.started += 1;
        let port = self.ports[self.roll(2) as usize].clone();
        let numbers = [self.torture.seed, first, count, parallel].map(|number| number.to_string());
        let running = Launch::new(&format!("client{}", self.started), program())
            .args(["client", &port, "--without-stop", "--seed", &numbers[0], "--first", &numbers[1]])
            .args(["--connections", &numbers[2], "--parallel", &numbers[3]])
            .preload(self.torture.policyd.as_ref())
            .spawn(&self.torture.scratch);
        let killed_at = (self.roll(3) == 0).then(|| Instant::now() + Duration::from_millis(20 + self.roll(800)));
        Client { running, killed_at }
    }

    /// Until then; all clients have ended when it returns.
    fn run(&mut self, until: Instant) {
        let mut clients: Vec<Client> = Vec::new();
        let mut restart = Instant::now() + POLICYD;
        while Instant::now() < until || !clients.is_empty() {
            while clients.len() < CLIENTS && Instant::now() < until {
                let client = self.client();
                clients.push(client);
            }
            let mut left = Vec::new();
            for mut client in clients {
                if client.running.ended() {
                    let outcome = client.running.wait(Duration::ZERO);
                    if client.killed_at.is_none() {
                        self.torture.right("client", &outcome);
                    }
                } else if client.killed_at.is_some_and(|at| Instant::now() > at) {
                    client.running.signal(libc::SIGKILL);
                    client.running.wait(Duration::from_secs(5));
                    self.killed += 1;
                } else {
                    left.push(client);
                }
            }
            clients = left;
            if Instant::now() > restart && Instant::now() < until {
                restart = Instant::now() + POLICYD;
                self.restart_policyd();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn restart_policyd(&mut self) {
        let pause = Duration::from_millis(self.roll(100));
        if let Some(policyd) = &mut self.torture.policyd {
            policyd.kill();
            thread::sleep(pause);
            policyd.start_again();
        }
    }
}

#[test]
fn soak() {
    const TEST: &str = "soak";
    let seconds = std::env::var("TANDEM_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    // Ends that were killed are early, never wrong.
    let mut torture = Torture::new(TEST, 1).extra("--peer-may-die");
    torture.connections = 0;
    let (mut first, one) = torture.server_called("server1");
    let (mut second, two) = torture.server_called("server2");
    let servers = [first.pid(), second.pid()];
    let (dice, port) = (seed() | 1, [one, two]);
    let mut soak = Soak { torture, ports: port, dice, started: 0, killed: 0, next: 0 };
    let end = Instant::now() + Duration::from_secs(seconds);

    let mut proof = Proof::new(TEST);
    let mut seen: Vec<[Has; 2]> = Vec::new();
    let mut carried = 0;
    // A quarter to get going, then quarters that must not grow.
    for quarter in 1..=4u32 {
        soak.run(end - Duration::from_secs(seconds) * (4 - quarter) / 4);
        // What a gone peer leaves goes when the next one comes, some time after.
        thread::sleep(Duration::from_millis(300));
        for _ in 0..2 {
            let mut last: Vec<Client> = (0..4).map(|_| soak.client()).collect();
            last.iter_mut().for_each(|client| drop(client.running.wait(Duration::from_secs(60))));
            thread::sleep(Duration::from_millis(300));
        }
        seen.push(servers.map(Has::of));
        carried = soak.torture.policyd.as_ref().map_or(0, |policyd| policyd.status().carried).max(carried);
    }
    idle(&soak.torture.policyd);
    let policyd = soak.torture.policyd.as_ref().map(|policyd| Has::of(policyd.process().pid()));
    for port in soak.ports.clone() {
        let stop = soak.torture.start("client", &["client", &port]).wait(Duration::from_secs(10));
        soak.torture.right("client", &stop);
    }
    for server in [&mut first, &mut second] {
        soak.torture.right("server", &server.wait(Duration::from_secs(60)));
    }
    proof.fact(format!(
        "{seconds} s, seed {}: {} clients, {} killed, {} connections begun; the servers after each quarter: {seen:?}; policyd: {policyd:?}; last carried: {carried}",
        soak.torture.seed, soak.started, soak.killed, soak.next
    ));
    proof.print();
    assert!(soak.started > 20 && soak.killed > 0 && (carried > 0 || native_only()), "too little happened");
    for (server, before) in seen[0].into_iter().enumerate() {
        // What the last few clients had may still be there; what is lost for good is there at both ends of the last quarter. Mappings (of peers that
        // were there at one time, and of threads' heaps) are kept for the next ones: a slow first quarter has had few.
        let after = seen[2][server].least(seen[3][server]);
        let grown = |what: fn(&Has) -> usize, by: usize| what(&after) > what(&before) + by;
        assert!(
            !grown(|has| has.descriptors, 48) && !grown(|has| has.memfds, 12) && !grown(|has| has.mappings, 160),
            "server {server}: {before:?}, then {after:?}"
        );
        // The rest is the program's own, natively as much: stacks and heaps of its threads.
        let by = 60_000 + soak.next * 2;
        assert!(after.resident_kb < before.resident_kb + by, "server {server}: {before:?}, then {after:?}");
        assert!(after.shared_kb < before.shared_kb + 20_000, "server {server}: {before:?}, then {after:?}");
    }
}

/// Two programs are left, and nothing that the others had.
fn idle(policyd: &Option<Policyd>) {
    let Some(policyd) = policyd else { return };
    let number = |name: &str| policyd.status().whole.get(name).and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX);
    let none = || number("clients") <= 2 && number("pairs") == 0 && number("parked") == 0;
    assert!(within(Duration::from_secs(20), Duration::from_millis(100), none), "{}", policyd.status().whole);
}
