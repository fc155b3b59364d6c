//! Descriptor numbers, memory, mappings, and a host that drops its own segments: ours are neither seen nor lost, and nothing
//! fails that would have worked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bytes_and_order::rows;
use tandem_tests::artifacts::native_only;
use tandem_tests::namespace::Namespace;
use tandem_tests::patience::within;
use tandem_tests::programs::program;
use tandem_tests::{Carried, Launch, Page, Pair, Policyd, Proof, Scratch};

rows! {
    emfile_exactly_where_natively => |pair| {
        pair("descriptors").argument("limit").passes("0,w").carried(Carried::Perhaps)
    };
    close_range_of_everything => |pair| pair("descriptors").argument("close_range").passes("0,w,w");
    close_loop_of_everything => |pair| pair("descriptors").argument("close_loop").passes("0,w,w");
    counting_open_descriptors => |pair| pair("descriptors").argument("count").passes("0,w,w");
    /// Near vm.max_map_count the program's own malloc is the next to fail.
    near_the_limit_of_mappings => |pair| {
        pair("near_limits").argument("maps").argument("40").passes("w").carried(Carried::Perhaps)
    };
    /// What is left of its address space (RLIMIT_AS) is the program's.
    near_the_limit_of_address_space => |pair| {
        pair("near_limits").argument("space").argument("100").passes("w").carried(Carried::Perhaps)
    };
}

/// A memory cgroup (v1 or v2) of our own; removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            let cgroup = Self(folder);
            fs::write(cgroup.0.join(limit), bytes.to_string()).ok()?;
            Some(cgroup)
        })
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moving a process into the cgroup");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Past the limit the touch of a ring's page is SIGKILL, not an errno.
#[test]
fn near_the_memory_limit_of_a_cgroup() {
    const TEST: &str = "near_the_memory_limit_of_a_cgroup";
    let Some(cgroup) = Cgroup::new(TEST, 6 << 20) else {
        return println!("{TEST}: NOT RUN: no memory cgroup can be made here (needs root)");
    };
    let confine = |page: &Page, _: Option<&mut Policyd>| {
        cgroup.take_in(page.pid(0));
        cgroup.take_in(page.pid(1));
    };
    let pair = Pair::new(TEST, "near_limits").argument("memory").passes("w,w,w,w,w,w");
    pair.carried(Carried::Perhaps).tamper(&confine).when_both_tell().run();
}

fn where_segments_are_dropped(test: &str, rules: &str) {
    let Some(namespace) = Namespace::new(test) else { return };
    if let Err(e) = namespace.shell(rules) {
        return println!("{test}: NOT RUN: {rules}: {e}");
    }
    Pair::new(test, "dropped").passes("w").inside(&namespace).failing_back(&[40]).limit(60).run();
}

/// TCP_INFO's sent bytes are off by megabytes for good there.
#[test]
fn the_own_queue_dropped_segments_before_the_switch_over() {
    let rules = "ip link set dev lo mtu 1500; tc qdisc add dev lo root tbf rate 1gbit burst 32kb limit 60kb";
    where_segments_are_dropped("the_own_queue_dropped_segments_before_the_switch_over", rules);
}

#[test]
fn the_own_filter_drops_segments_before_the_switch_over() {
    let rules = "nft add table ip t; nft 'add chain ip t o { type filter hook output priority 0; }'
        nft 'add rule ip t o oifname lo numgen random mod 100 < 1 drop'";
    where_segments_are_dropped("the_own_filter_drops_segments_before_the_switch_over", rules);
}

/// What the program says, and what memory there is when all connections are warm and silent, in KiB.
struct Held {
    text: String,
    /// The server's and the client's, each with all that it maps.
    resident: [u64; 2],
    /// Both ends' and policyd's: what several map counts once; and page tables.
    all: u64,
}

fn held_open(policyd: Option<&Policyd>, limit: &str, count: usize, carried: bool) -> Held {
    let scratch = Scratch::new();
    let folder = scratch.path().to_str().expect("a plain path");
    let launch = |arguments: &[&str]| {
        Launch::new(arguments[0], program("eight_thousand")).args(arguments).preload(policyd).spawn(&scratch)
    };
    let exists =
        |name: &str| within(Duration::from_secs(90), Duration::from_millis(20), || scratch.file(name).exists());
    let server = launch(&["server", folder, "20000"]);
    assert!(exists("port"), "no server");
    let mut client = launch(&["client", folder, limit, &count.to_string()]);
    if let Some(policyd) = policyd.filter(|_| carried) {
        // Where the machine is busy some meet late, or give up waiting for the other end.
        policyd.wait_carried(2 * count * 9 / 10, Duration::from_secs(20));
        let ends = policyd.carried_ends();
        assert!(ends >= count, "{ends} of {} ends carried\n{}", 2 * count, policyd.status().whole);
    }
    scratch.write("carried", "");
    assert!(exists("warm"), "not warm: {}", client.wait(Duration::ZERO));
    std::thread::sleep(Duration::from_secs(1));
    let ends = [server.pid(), client.pid()];
    let processes = ends.into_iter().chain(policyd.map(|policyd| policyd.process().pid()));
    let all = processes.map(|pid| kilobytes(pid, "smaps_rollup", "Pss:") + kilobytes(pid, "status", "VmPTE:")).sum();
    let resident = ends.map(|pid| kilobytes(pid, "smaps_rollup", "Rss:"));
    scratch.write("go", "");
    Held { text: client.wait(Duration::from_secs(90)).succeeded().text(), resident, all }
}

fn kilobytes(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("/proc of a program that runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the line is there");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// A place in the tables that the family shares is another child's when the one that had it is gone: there are 256 for peers, and 1,024
/// for who sleeps.
#[test]
fn a_server_that_forks_for_each_connection_goes_on_being_carried() {
    const TEST: &str = "a_server_that_forks_for_each_connection_goes_on_being_carried";
    const COUNT: u64 = 1_100;
    let (scratch, policyd) = (Scratch::new(), Policyd::start());
    let launch = Launch::new("forks", program("forks")).args([&COUNT.to_string(), "60"]);
    launch.preload(policyd.as_ref()).run(&scratch, Duration::from_secs(120)).succeeded();
    let Some(policyd) = policyd else { return };
    let status = policyd.status();
    assert!(status.carried > COUNT * 2 * 9 / 10, "{}", status.whole);
    let mut proof = Proof::new(TEST);
    proof.fact(status.witness());
    proof.print();
}

/// At its limit a program gets as many connections as natively, and the same error. Where the hard limit is no higher, and may not be
/// raised (CAP_SYS_RESOURCE), so few descriptors are the program's alone, and nothing is carried.
#[test]
fn as_many_connections_as_natively() {
    let mut proof = Proof::new("as_many_connections_as_natively");
    for (limit, carried) in [("300soft", true), ("300", false)] {
        let native = held_open(None, limit, 100, false).text;
        if native_only() {
            return;
        }
        let policyd = Policyd::start();
        assert_eq!(held_open(policyd.as_ref(), limit, 100, carried).text, native, "{limit}");
        let witness = policyd.map_or(String::new(), |policyd| policyd.status().witness());
        proof.fact(format!("with {limit} descriptors, as natively: {}; {witness}", native.trim()));
    }
    proof.print();
}

/// Under RLIMIT_NOFILE of 20,000 and 8,100: no descriptor of ours is a connection's.
#[test]
fn eight_thousand_connections_between_two_processes() {
    const COUNT: usize = 8_000;
    /// Resident, an idle connection's, in KiB.
    const MOST: f64 = 8.0;
    let few = held_open(None, "8100", COUNT, false);
    if native_only() {
        return;
    }
    let policyd = Policyd::start_with(None, "[quotas]\ncompanions = 65536\n");
    let many = held_open(policyd.as_ref(), "8100", COUNT, true);
    let policyd = policyd.expect("not native");
    // All of it is the carried ones'.
    let carried = policyd.status().carried as f64 / 2.0;
    let each = |many: u64, few: u64| many.saturating_sub(few) as f64 / carried.min(COUNT as f64);
    let [server, client] = [0, 1].map(|end| each(many.resident[end], few.resident[end]));
    let all = each(many.all, few.all);
    let witness = policyd.status().witness();
    let mut proof = Proof::new("eight_thousand_connections_between_two_processes");
    proof.fact(format!(
        "KiB a connection: {server:.1} resident at the server, {client:.1} at the client; {all:.1} in all, page tables and policyd too; {witness}"
    ));
    proof.print();
    assert!(
        server <= MOST && client <= MOST && all <= 1.5 * MOST,
        "{server:.1}, {client:.1}, {all:.1} KiB a connection"
    );
}
