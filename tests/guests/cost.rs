//! What companions on queue pairs cost and leave behind. Inside `scripts/vm one`, where two policyds stand for two hosts and one
//! device talks to itself.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tandem_tests::host::{self, Host};
use tandem_tests::patience::within;
use tandem_tests::{End, Launch, Policyd, Proof, Running, Scratch, programs};

use crate::verbs::new_key;

/// A guest on a busy host is slow.
const LONG: Duration = Duration::from_secs(240);
const MOMENT: Duration = Duration::from_millis(300);
const PORTS: [u16; 2] = [7470, 7471];

/// One host, and two policyds that take each other for another one.
struct Alone {
    host: Host,
    policyds: [Policyd; 2],
    scratch: Scratch,
    /// The policyds' keys.
    _folders: [Scratch; 2],
}

impl Alone {
    #[track_caller]
    fn start() -> Self {
        let host = host::one();
        let folders = [0, 1].map(|_| Scratch::new());
        let keys = folders.each_ref().map(new_key);
        let policyds = [0, 1].map(|at: usize| {
            let (address, own, other) = (&host.address, PORTS[at], PORTS[1 - at]);
            let config = format!(
                "[peers]\nlisten = \"{address}:{own}\"\nkey = \"{}\"\n[[peer]]\nname = \"beside\"\npublic_key = \"{}\"\n\
                 endpoint = \"{address}:{other}\"\naddresses = [\"{address}\"]\nsame_host = true\n",
                folders[at].file("peer.key").display(),
                keys[1 - at],
            );
            Policyd::start_with(None, &config).expect("a policyd")
        });
        let alone = Self { host, policyds, scratch: Scratch::new(), _folders: folders };
        let linked = within(LONG, MOMENT, || alone.policyds.iter().all(Policyd::is_linked));
        assert!(linked, "the policyds are not linked");
        alone
    }

    /// `crowd.c`: the server is the second policyd's.
    fn crowd(&self, role: &str, port: u16, rest: &[&str]) -> Running {
        let policyd = &self.policyds[usize::from(role == "serve")];
        let launch = Launch::new(role, programs::program("crowd"));
        let launch = launch.args([role, &self.host.address, &port.to_string()]).args(rest);
        launch.preload(Some(policyd)).spawn(&self.scratch)
    }

    #[track_caller]
    fn serve(&self, port: u16) -> Running {
        let server = self.crowd("serve", port, &[]);
        let listens = || fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap_or_default();
        let wanted = format!(":{port:04X} 00000000");
        assert!(within(LONG, MOMENT, || listens().contains(&wanted)), "the server does not listen");
        server
    }

    /// Ends that have been carried so far. Cheap to ask for, and asked seldom: what a policyd is busy with is to be tested.
    fn carried(&self) -> u64 {
        let carried = |policyd: &Policyd| policyd.ask(&["status", "--json"]).ok()?["carried"].as_u64();
        self.policyds.iter().filter_map(carried).sum()
    }

    /// Companions and waiting ends that either policyd still knows, if both answer.
    fn known(&self) -> Option<u64> {
        let known = |policyd: &Policyd| {
            let status = policyd.ask(&["status", "--json"]).ok()?;
            Some(status["far"].as_u64()? + status["far_parked"].as_u64()?)
        };
        self.policyds.iter().map(known).sum()
    }
}

/// What the kernel keeps for a process: queue pairs, memory regions, completion queues, descriptors.
#[derive(Clone, Copy, Debug)]
struct Kept {
    pairs: usize,
    regions: usize,
    queues: usize,
    descriptors: usize,
}

fn kept(process: &Running) -> Kept {
    let folder = format!("/proc/{}", process.pid());
    let names = |of: &str| fs::read_dir(format!("{folder}/{of}")).into_iter().flatten().flatten();
    // The kernel names the thread that asked for it.
    let threads: Vec<_> = names("task").map(|task| format!(" pid {} ", task.file_name().display())).collect();
    let count = |kind: &str| {
        let output = Command::new("rdma").args(["resource", "show", kind]).output().expect("rdma (iproute2)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| threads.iter().any(|thread| line.contains(thread))).count()
    };
    Kept { pairs: count("qp"), regions: count("mr"), queues: count("cq"), descriptors: names("fd").count() }
}

fn resident_kb(process: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

/// TANDEM_TESTS_CROWD: so many connections, where a thousand take an emulated processor too long.
fn crowd(most: usize) -> usize {
    std::env::var("TANDEM_TESTS_CROWD").map_or(most, |text| text.parse().expect("a number"))
}

/// One completion queue, few regions, and every byte right.
#[test]
#[ignore = "runs inside scripts/vm one"]
fn a_thousand_connections_between_two_processes() {
    let count = crowd(1_000);
    let alone = Alone::start();
    let server = alone.serve(7100);
    let before = resident_kb(&server);
    let mut client = alone.crowd("hold", 7100, &[&count.to_string()]);
    let all = within(LONG, Duration::from_secs(2), || alone.carried() >= 2 * count as u64 || client.ended());
    assert!(all && !client.ended(), "{} ends of {} are carried", alone.carried(), 2 * count);
    let (held, each_kb) = (kept(&server), (resident_kb(&server).saturating_sub(before)) as usize / count);
    assert_eq!(held.queues, 1, "{held:?}");
    assert!((count..count + 8).contains(&held.pairs), "{held:?}");
    // Two for eight connections, and some for control.
    assert!(held.regions <= count / 8 * 2 + 32, "{held:?}");
    let named = |row: &serde_json::Value| row["native"].as_str().is_some_and(|text| text.contains(" qp "));
    let all_named = within(LONG, MOMENT, || {
        let rows = alone.policyds[1].ask(&["ss", "--json"]).unwrap_or_default();
        rows.as_array().is_some_and(|rows| rows.iter().filter(|row| named(row)).count() == count)
    });
    assert!(all_named, "not every row names its queue pairs");
    client.signal(libc::SIGTERM);
    let outcome = client.wait(LONG);
    assert_eq!(
        (outcome.text(), outcome.end),
        (format!("connected\n{count} connections, every byte right\n"), End::Exit(0))
    );
    // Memory for eight connections is kept for the next ones, and a page for control.
    let little = || kept(&server).pairs <= 2 && kept(&server).regions <= 4 && alone.known() == Some(0);
    assert!(within(LONG, MOMENT, little), "{:?}, {:?} known to the policyds", kept(&server), alone.known());
    let mut proof = Proof::new("a_thousand_connections_between_two_processes");
    proof.fact(format!("{count} connections by verbs at both ends, every byte right; the server then: {held:?}"));
    proof.fact(format!("{each_kb} KiB of its memory each; once they are closed: {:?}", kept(&server)));
    proof.print();
}

/// Connections that are over before, while and after they get companions leave as much as those before them did.
#[test]
#[ignore = "runs inside scripts/vm one"]
fn a_thousand_short_connections_leave_nothing() {
    let alone = Alone::start();
    let server = alone.serve(7101);
    let mut left = Vec::new();
    for count in [51, crowd(1_000)] {
        let mut client = alone.crowd("short", 7101, &[&count.to_string(), "1500"]);
        let said = format!("{count} connections, every byte right\n");
        assert!(within(LONG, MOMENT, || client.stdout().contains(&said) || client.ended()), "{}", client.stdout());
        // Not even while the client lives.
        let gone =
            within(LONG, MOMENT, || kept(&server).pairs <= 1 && kept(&client).pairs <= 1 && alone.known() == Some(0));
        assert!(gone, "{:?} {:?}, {:?} known", kept(&server), kept(&client), alone.known());
        client.signal(libc::SIGTERM);
        assert_eq!(client.wait(LONG).end, End::Exit(0));
        left.push(kept(&server));
    }
    let carried: u64 = alone.policyds.iter().map(|policyd| policyd.status().carried).sum();
    assert!(carried > 0, "nothing was carried");
    let [few, many] = left[..] else { panic!("two rounds") };
    // How many were being closed at one time decides how much memory is kept for the next ones: not how many there were.
    let same = many.pairs <= 1 && many.regions <= few.regions + 8 && many.queues <= few.queues;
    assert!(same && many.descriptors <= few.descriptors + 4, "{few:?}, then {many:?}");
    let mut proof = Proof::new("a_thousand_short_connections_leave_nothing");
    proof.fact(format!(
        "{carried} ends were carried; the server keeps {few:?} after 51, {many:?} after {} more",
        crowd(1_000)
    ));
    proof.print();
}
