//! Unmodified programs between two hosts of one guest, each end under Tandem or not: what each prints and how it ends must be as natively,
//! and where both ends are under Tandem their bytes must go by queue pairs. Inside `scripts/vm namespaces --once`.
//!
//! - `programs`, `services`: what each program is asked to do
//! - `table`: what came of it, program by program

mod programs;
mod services;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;
use tandem_tests::patience::within;
use tandem_tests::policyd::Status;
use tandem_tests::{Launch, Outcome, Policyd, Running, Scratch, Way};

use crate::verbs::{Between, LONG};
use table::{Cell, Table};

/// What a program's connections are to do where both ends are under Tandem.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// So many bytes by queue pairs, from each host at least.
    Carried([u64; 2]),
    /// On TCP, for one of these reasons; an end that has none of the connections is not asked.
    OnTcp(&'static [&'static str]),
}

struct Program {
    name: &'static str,
    /// `TANDEM_ATTACH`.
    attach: &'static str,
    expected: Expected,
    /// Also with one end under Tandem.
    alone: bool,
    body: fn(&Stage) -> Vec<String>,
}

/// One program, one way: server on the second host, clients on the first.
struct Stage<'a> {
    between: &'a Between,
    way: Way,
    attach: &'static str,
    port: u16,
    scratch: Scratch,
}

impl Stage<'_> {
    /// Where the server is.
    fn address(&self) -> &str {
        &self.between.hosts[1].address
    }

    fn place(&self) -> String {
        format!("{}:{}", self.address(), self.port)
    }

    /// Under Tandem if this way says so, on the second host.
    fn server(&self, launch: Launch) -> Launch {
        self.end(1, self.way.server(), launch)
    }

    /// Under Tandem if this way says so, on the first host.
    fn client(&self, launch: Launch) -> Launch {
        self.end(0, self.way.client(), launch)
    }

    fn end(&self, at: usize, preloaded: bool, launch: Launch) -> Launch {
        let launch = launch.in_namespace(self.between.hosts[at].namespace.as_ref());
        if preloaded {
            launch.preload(Some(&self.between.policyds[at])).env("TANDEM_ATTACH", self.attach)
        } else {
            launch
        }
    }

    /// Starts the server and waits until it listens.
    #[track_caller]
    fn serve(&self, launch: Launch) -> Running {
        let mut server = self.server(launch).spawn(&self.scratch);
        let listens = format!(":{:04X} 00000000:0000 0A", self.port);
        let table = format!("/proc/{}/net/tcp", server.pid());
        let listening = within(LONG, Duration::from_millis(50), || {
            fs::read_to_string(&table).is_ok_and(|text| text.contains(&listens)) || server.ended()
        });
        assert!(listening && !server.ended(), "{:?}: no server:\n{}", self.way, server.wait(Duration::ZERO));
        server
    }

    /// Runs a client to its end.
    fn ask(&self, launch: Launch) -> Outcome {
        self.client(launch).run(&self.scratch, LONG)
    }

    /// Asks the server to end, as an administrator does; how it did.
    fn stop(&self, mut server: Running, signal: i32) -> String {
        server.signal(signal);
        let outcome = server.wait(Duration::from_secs(20));
        format!("server ended {:?}", outcome.end)
    }
}

/// The whole outcome as observations.
fn whole(what: &str, outcome: &Outcome) -> Vec<String> {
    vec![
        format!("{what}: {:?}", outcome.end),
        format!("{what}: stdout {}", outcome.text()),
        format!("{what}: stderr {}", String::from_utf8_lossy(&outcome.stderr)),
    ]
}

/// What is made on this host, before there is a guest.
pub fn prepare() {
    if !native_only() {
        services::prepare_database();
    }
}

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn programs_between_hosts() {
    let between = Between::start();
    between.policyds.iter().for_each(Policyd::open_to_users);
    // What a plain end costs minutes in a guest to show, the stand-in shows as well: there is no companion then.
    let plain = !between.has_devices() || std::env::var_os("TANDEM_TESTS_PLAIN").is_some();
    let mut table = Table::new("programs_between_hosts");
    let mut port = 7100;
    let all = programs::all().into_iter().chain(services::all());
    for program in all.filter(|program| wanted(program, between.has_devices())) {
        let mut native = Vec::new();
        let alone = [Way::ServerOnly, Way::ClientOnly].into_iter().filter(|_| program.alone && plain);
        for way in [Way::Neither, Way::Both].into_iter().chain(alone) {
            port += 1;
            let stage = Stage { between: &between, way, attach: program.attach, port, scratch: Scratch::new() };
            let (seen, cell) = one_way(&program, &stage);
            if way == Way::Neither {
                native = seen;
            } else {
                table.enter(&program, way, cell, &native, &seen);
            }
        }
    }
    table.print(&between.witness());
}

/// In guests, where each takes half a minute, these and once each; all of them by the stand-in.
const IN_GUESTS: &str = "redis,memcached,http.server,socat,nginx,PostgreSQL,sshd";

/// By hand: `TANDEM_TESTS_PROGRAMS=redis,iperf3` runs these alone, in all their forms, `TANDEM_TESTS_PLAIN=1` in guests too with one end under
/// Tandem.
fn wanted(program: &Program, devices: bool) -> bool {
    let named = |names: &str| names.split(',').any(|wanted| program.name.contains(wanted));
    match std::env::var("TANDEM_TESTS_PROGRAMS") {
        Ok(names) => named(&names),
        Err(_) => !devices || named(IN_GUESTS) && program.alone,
    }
}

fn one_way(program: &Program, stage: &Stage) -> (Vec<String>, Cell) {
    let policyds = &stage.between.policyds;
    let (sent, before) = (stage.between.sent(), policyds.each_ref().map(Policyd::status));
    let started = Instant::now();
    let over = AtomicBool::new(false);
    let (seen, rows) = thread::scope(|scope| {
        // What the registries say while the program runs.
        let watcher = scope.spawn(|| watch(policyds, &over));
        let seen = (program.body)(stage);
        over.store(true, Ordering::Release);
        (seen, watcher.join().expect("the watcher"))
    });
    let after = policyds.each_ref().map(Policyd::status);
    let packets = stage.between.sent();
    let cell = Cell {
        took: started.elapsed(),
        packets: stage.between.has_devices().then(|| [packets[0] - sent[0], packets[1] - sent[1]]),
        bytes: [0, 1].map(|at| after[at].tx_companion - before[at].tx_companion),
        carried: [0, 1].map(|at| after[at].carried - before[at].carried),
        connections: [0, 1].map(|at| after[at].connections - before[at].connections),
        fail_backs: [0, 1].map(|at| after[at].fail_backs - before[at].fail_backs).iter().sum(),
        reasons: [0, 1].map(|at| more(&before[at], &after[at])),
        rows,
    };
    (seen, cell)
}

/// The rows by `verbs` with bytes, as many as were seen at one time, on each host.
fn watch(policyds: &[Policyd; 2], over: &AtomicBool) -> [usize; 2] {
    let mut most = [0; 2];
    while !over.load(Ordering::Acquire) {
        for (policyd, most) in policyds.iter().zip(&mut most) {
            let rows = policyd.rows();
            let by_verbs = rows.iter().filter(|row| row.provider == "verbs" && row.tx_companion + row.rx_companion > 0);
            *most = by_verbs.count().max(*most);
        }
        thread::sleep(Duration::from_millis(250));
    }
    most
}

/// Reasons why connections stayed on TCP, that were counted meanwhile.
fn more(before: &Status, after: &Status) -> BTreeMap<String, u64> {
    let counts = |status: &Status| {
        let reasons =
            status.whole.get("reasons").or_else(|| status.whole.get("totals").and_then(|all| all.get("reasons")));
        let reasons = reasons.and_then(|reasons| reasons.as_object()).cloned().unwrap_or_default();
        reasons.into_iter().map(|(name, count)| (name, count.as_u64().unwrap_or(0))).collect::<BTreeMap<_, _>>()
    };
    let earlier = counts(before);
    let news = counts(after).into_iter().map(|(name, count)| {
        let known = earlier.get(&name).copied().unwrap_or(0);
        (name, count.saturating_sub(known))
    });
    news.filter(|(_, count)| *count > 0).collect()
}
