//! One host with one device, inside `scripts/vm one`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tandem_tests::apps::each_way;
use tandem_tests::host;
use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Proof, Scratch, Way};

use crate::{perftest, redis, vm};

#[test]
#[ignore = "runs inside scripts/vm one"]
fn rxe_carries_packets() {
    let host = host::one();
    let mut proof = Proof::new("rxe_carries_packets");
    let scratch = Scratch::new();
    let mut exchange = |what: &str, least: u64, run: &dyn Fn()| {
        let before = host.counter("sent_pkts");
        run();
        let packets = host.counter("sent_pkts") - before;
        assert!(packets >= least, "{what}: {packets} packets sent, at least {least} were to be");
        proof.fact(format!("{what}: {packets} packets sent by {}", host.device));
    };
    exchange("rping, 5 times 8 KiB", 5 * 2 * 2, &|| {
        let rping = |name, role| {
            Launch::new(name, system_program("rping")).args([role, "-a", &host.address, "-C", "5", "-S", "8192"])
        };
        let mut server = rping("server", "-s").spawn(&scratch);
        await_rdma_listener();
        rping("client", "-c").run(&scratch, Duration::from_secs(30)).succeeded();
        server.wait(Duration::from_secs(30)).succeeded();
    });
    exchange("ib_write_bw, 200 times 64 KiB", 200 * 16, &|| {
        let mut server = perftest::bandwidth("server", &host, 200).spawn(&scratch);
        perftest::await_listening(&mut server);
        let client = perftest::bandwidth("client", &host, 200).arg(&host.address);
        client.run(&scratch, Duration::from_secs(30)).succeeded();
        server.wait(Duration::from_secs(30)).succeeded();
    });
    proof.print();
}

fn await_rdma_listener() {
    let listens = || {
        let output = Command::new("rdma").args(["resource", "show", "cm_id"]).output().expect("rdma (iproute2)");
        String::from_utf8_lossy(&output.stdout).contains("LISTEN")
    };
    assert!(within(Duration::from_secs(20), Duration::from_millis(100), listens), "rping does not listen");
}

/// Debian's own kernel is what most will run this on; the kernel that the other tests see may be much newer.
#[test]
#[ignore = "runs inside scripts/vm one"]
fn redis_is_carried_by_shared_memory() {
    host::one();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let test = format!("redis_is_carried_by_shared_memory (Linux {})", release.trim());
    each_way(&test, &Way::four_and_failing_back(50), |field| {
        let server = field.serve(redis::server("127.0.0.1", field.port).current_dir(field.scratch.path()));
        let load = |words: &[&str]| field.ask(redis::benchmark("127.0.0.1", field.port, words), 60).succeeded();
        let mut seen = redis::tests_of(&load(&["-c", "1", "-n", "500", "-t", "set,get,incr,lrange_100"]));
        seen.extend(redis::tests_of(&load(&["-c", "50", "-P", "4", "-n", "4000", "-t", "set,get"])));
        let checked = field.ask(redis::checked_load("127.0.0.1", field.port, 16), 60).succeeded();
        seen.extend([checked.text(), field.stop(server, libc::SIGTERM)]);
        seen
    });
}

/// A guest has rdma_rxe itself: to `scripts/vm` it is as good a host as any.
#[test]
#[ignore = "runs inside scripts/vm one"]
fn a_host_with_rxe_needs_no_guest() {
    let host = host::one();
    let before = devices();
    let scratch = Scratch::new();
    let line = "bandwidth() { timeout 200 ib_write_bw -F -u 20 -d $TANDEM_VM_DEVICE -x 1 -n 50 \"$@\" >&2; }
        bandwidth & until ss -ltn | grep -q :18515; do sleep 0.1; done
        bandwidth $TANDEM_VM_PEER && wait $! || exit 1
        cat /sys/class/infiniband/$TANDEM_VM_DEVICE/ports/1/hw_counters/sent_pkts; exit 9";
    let launch = vm::launch(&["one", "--", "bash", "-c", line], &scratch).env("TANDEM_VM_GUEST", "");
    let outcome = launch.run(&scratch, Duration::from_secs(60));
    assert_eq!(outcome.end, End::Exit(9), "{outcome}");
    let packets: u64 = outcome.text().trim().parse().unwrap_or_else(|e| panic!("{e}: {outcome}"));
    assert!(packets >= 50, "{outcome}");

    let line = "ip -br addr show | grep -c $TANDEM_VM_ADDRESS; timeout 20 busybox ping -c 1 $TANDEM_VM_PEER >/dev/null; exit $?";
    let outcome =
        vm::launch(&["namespaces", "--", "bash", "-c", line], &scratch).run(&scratch, Duration::from_secs(60));
    assert_eq!(outcome.end, End::Exit(0), "{outcome}");
    let text = outcome.text();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["host1: 1", "host2: 1"], "{outcome}");

    // Who is not root can make no device, but use what is there.
    let line = "id -u; echo $TANDEM_VM_DEVICE $TANDEM_VM_ADDRESS; ibv_devinfo -d $TANDEM_VM_DEVICE >/dev/null";
    let words = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let launch = Launch::new("nobody", system_program("setpriv")).args(words).arg(vm::script());
    let launch = launch.args(["one", "--", "sh", "-c", line]).env("TMPDIR", "/tmp");
    let outcome = launch.run(&scratch, Duration::from_secs(60)).succeeded();
    let nobody = outcome.text().lines().next().unwrap_or_default().to_owned();
    assert_eq!(outcome.text(), format!("{nobody}\n{} {}\n", host.device, host.address), "{outcome}");
    assert_ne!(nobody, "0", "{outcome}");

    assert_eq!(devices(), before, "devices are left, or gone");
    let mut proof = Proof::new("a_host_with_rxe_needs_no_guest");
    proof.fact(format!(
        "scripts/vm one in here made its own device ({packets} packets), and two namespaces; nothing is left"
    ));
    proof.print();
}

fn devices() -> Vec<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| format!("{folder}/{}", entry.file_name().display())).collect::<Vec<_>>()
    };
    let mut all = [names("/sys/class/infiniband"), names("/sys/class/net"), names("/run/netns")].concat();
    all.sort();
    all
}
