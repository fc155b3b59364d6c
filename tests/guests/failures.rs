//! All that can break between two hosts, while unmodified programs exchange bytes by queue pairs, each connection in its own way: busy or
//! idle, its reader asleep or its writer. Inside `scripts/vm namespaces --once`.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tandem_tests::patience::within;
use tandem_tests::policyd::Row;
use tandem_tests::{End, Proof};

use crate::load::{Load, lines};
use crate::verbs::{Between, LONG};

/// What `outlast.c` does on its connections.
const KINDS: &str = "pb,oe,db,ib,Ie,wb,pn";
/// The same for processes, each with one connection.
const FEWER: &str = "dp,ib,In,wb,xb,cb";

#[track_caller]
fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Names for commands: `{wire1}`, `{wire2}`, `{tcp1}`, `{host1}`, `{dev1}`, `{ip1}` and so on.
fn said(command: &str, between: &Between) -> String {
    let wire = std::env::var("TANDEM_VM_WIRE").expect("the wire's ends");
    let mut text = command.to_owned();
    for (at, end) in wire.split(' ').enumerate() {
        let (number, host) = (at + 1, &between.hosts[at]);
        let name = host.namespace.as_ref().expect("a namespace").name();
        for (word, value) in [
            ("wire", end),
            ("tcp", &end.replace("wire", "tcp")),
            ("host", name),
            ("dev", &host.device),
            ("ip", &host.address),
        ] {
            text = text.replace(&format!("{{{word}{number}}}"), value);
        }
    }
    text
}

/// Both devices serve their addresses again, and the policyds know.
#[track_caller]
fn await_healed(between: &Between) {
    for host in &between.hosts {
        let port = format!("/sys/class/infiniband/{}/ports/1", host.device);
        let active = || fs::read_to_string(format!("{port}/state")).is_ok_and(|state| state.contains("ACTIVE"));
        assert!(within(LONG, Duration::from_millis(50), active), "{} is not active", host.device);
    }
    between.await_linked();
}

struct Fault {
    name: &'static str,
    breaks: &'static str,
    mends: &'static str,
    /// Whether connections go back to TCP for it.
    goes_back: bool,
}

const FAULTS: [Fault; 10] = [
    Fault {
        name: "interface down, the client's",
        breaks: "ip link set {wire1} down",
        mends: "ip link set {wire1} up",
        goes_back: true,
    },
    Fault {
        name: "interface down, the server's",
        breaks: "ip link set {wire2} down",
        mends: "ip link set {wire2} up",
        goes_back: true,
    },
    Fault {
        name: "address gone, the client's",
        breaks: "ip addr del {ip1}/24 dev {wire1}",
        mends: "ip addr add {ip1}/24 dev {wire1}",
        goes_back: true,
    },
    Fault {
        name: "address gone, the server's",
        breaks: "ip addr del {ip2}/24 dev {wire2}",
        mends: "ip addr add {ip2}/24 dev {wire2}",
        goes_back: true,
    },
    Fault {
        name: "RDMA's packets lost on both ways, silently",
        breaks: "tc qdisc add dev {wire1} root netem loss 100% && tc qdisc add dev {wire2} root netem loss 100%",
        mends: "tc qdisc del dev {wire1} root && tc qdisc del dev {wire2} root",
        goes_back: true,
    },
    Fault {
        name: "RDMA's packets lost from the server on, silently",
        breaks: "tc qdisc add dev {wire2} root netem loss 100%",
        mends: "tc qdisc del dev {wire2} root",
        goes_back: true,
    },
    Fault {
        name: "one RDMA packet in a hundred lost, and some late",
        breaks: "tc qdisc add dev {wire1} root netem loss 1% && tc qdisc add dev {wire2} root netem loss 1% delay 1ms",
        mends: "tc qdisc del dev {wire1} root && tc qdisc del dev {wire2} root",
        goes_back: false,
    },
    Fault {
        name: "the server's device gone",
        breaks: "rdma link del {dev2}",
        mends: "rdma link add {dev2} type rxe netdev {wire2}",
        goes_back: true,
    },
    Fault {
        name: "TCP's packets lost, silently",
        breaks: "ip netns exec {host1} tc qdisc add dev {tcp1} root netem loss 100%",
        mends: "ip netns exec {host1} tc qdisc del dev {tcp1} root",
        goes_back: false,
    },
    Fault {
        name: "TCP's interface down, the server's",
        breaks: "ip netns exec {host2} ip link set {tcp2} down",
        mends: "ip netns exec {host2} ip link set {tcp2} up",
        goes_back: false,
    },
];

/// Whether this one is asked for, where only one is.
fn wanted(name: &str) -> bool {
    !std::env::var("TANDEM_TESTS_FAULT").is_ok_and(|only| !name.contains(&only))
}

/// Connections of all kinds at work, by queue pairs: in threads or, each time but one, in processes of their own.
#[track_caller]
fn load(between: &Between, port: u16) -> Load {
    let (mode, kinds) = if port % 20 == 0 { ("threads", KINDS) } else { ("processes", FEWER) };
    let load = Load::start(between, port, mode, kinds);
    load.await_carried(between);
    load.idle();
    eprintln!("port {port}: carried");
    load
}

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn what_breaks_is_outlasted() {
    let between = Between::start();
    let mut proof = Proof::new("what_breaks_is_outlasted");
    for (at, fault) in FAULTS.iter().enumerate().filter(|(_, fault)| wanted(fault.name)) {
        let name = fault.name;
        let load = load(&between, 7100 + 10 * at as u16);
        let (before, sent) = (between.fail_backs(), between.sent());
        let started = Instant::now();
        run(&said(fault.breaks, &between));
        if fault.goes_back {
            let back = within(LONG, Duration::from_millis(50), || between.fail_backs() > before);
            assert!(back, "{name}: nothing fails back: {:#?}", load.rows(&between));
        }
        let noticed = started.elapsed();
        load.close();
        sleep(Duration::from_millis(2500));
        let rows = load.rows(&between);
        let back = rows.iter().filter(|row| row.reason.is_some()).count();
        if !fault.goes_back {
            let packets = [0, 1].map(|host| between.sent()[host] - sent[host]);
            assert!(packets.iter().all(|&packets| packets > 50), "{name}: {packets:?} packets");
            run(&said(fault.mends, &between));
        }
        let bytes = load.finish(name);
        if fault.goes_back {
            run(&said(fault.mends, &between));
        }
        await_healed(&between);
        let fact = format!(
            "{name}: {bytes} bytes right on {} connections; first fail-back after {noticed:.1?}, {back} of {} ends with a \
             reason 2.5 s later; {} fail-backs",
            rows.len() / 2,
            rows.len(),
            between.fail_backs() - before,
        );
        eprintln!("{fact}");
        proof.fact(fact);
    }
    proof.fact(between.witness());
    proof.print();
}

/// A policyd that dies, or does not answer, while and before all queue pairs break: the switches go back to TCP by themselves.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn without_policyd_too() {
    let mut between = Between::start();
    let mut proof = Proof::new("without_policyd_too");
    for (at, (name, gone, stopped)) in [
        ("the client's policyd killed", vec![0], None),
        ("the server's policyd killed", vec![1], None),
        ("both policyds killed", vec![0, 1], None),
        ("the server's policyd stopped", vec![], Some(1)),
    ]
    .into_iter()
    .enumerate()
    .filter(|(_, (name, ..))| wanted(name))
    {
        let load = load(&between, 7300 + 10 * at as u16);
        let sent = between.sent();
        for &host in &gone {
            between.policyds[host].kill();
        }
        if let Some(host) = stopped {
            between.policyds[host].stop();
        }
        sleep(Duration::from_secs(2));
        let packets = [0, 1].map(|host| between.sent()[host] - sent[host]);
        assert!(packets.iter().all(|&packets| packets > 50), "{name}: not carried any more? {packets:?} packets");
        run(&said("ip link set {wire1} down", &between));
        load.close();
        sleep(Duration::from_millis(2500));
        let bytes = load.finish(name);
        run(&said("ip link set {wire1} up", &between));
        for &host in &gone {
            let namespace = between.hosts[host].namespace.as_ref();
            between.policyds[host].start_again_in(namespace);
        }
        if let Some(host) = stopped {
            between.policyds[host].resume();
        }
        await_healed(&between);
        let fact = format!("{name}: {packets:?} packets without it; then the wire is cut: {bytes} bytes right");
        eprintln!("{fact}");
        proof.fact(fact);
    }
    load(&between, 7360).finish("afterwards");
    proof.fact("afterwards new connections are carried");
    proof.print();
}

/// With TCP cut too, the program is told what TCP tells, when TCP would.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn without_tcp_it_is_tcps_error() {
    const BUSY: &str = "pb,pe,ob,oe,dp,de";
    let between = Between::start();
    let mut proof = Proof::new("without_tcp_it_is_tcps_error");
    run(&said("for n in {host1} {host2}; do ip netns exec $n sysctl -qw net.ipv4.tcp_retries2=4; done", &between));
    let told = [false, true].map(|tandem| {
        let start = if tandem { Load::start } else { Load::native };
        let mut load = start(&between, 7400 + u16::from(tandem), "threads", BUSY);
        if tandem {
            load.await_carried(&between);
        } else {
            sleep(Duration::from_secs(2));
        }
        let cut = "ip netns exec {host1} tc qdisc add dev {tcp1} root netem loss 100% && \
                   tc qdisc add dev {wire1} root netem loss 100% && tc qdisc add dev {wire2} root netem loss 100%";
        run(&said(cut, &between));
        let started = Instant::now();
        let outcome = load.ends[0].wait(LONG);
        let elapsed = started.elapsed();
        assert_eq!(outcome.end, End::Exit(1), "{outcome}");
        let mend = "ip netns exec {host1} tc qdisc del dev {tcp1} root && tc qdisc del dev {wire1} root && \
                    tc qdisc del dev {wire2} root";
        run(&said(mend, &between));
        drop(load);
        await_healed(&between);
        let told: Vec<_> = lines(&outcome.text()).into_iter().map(|line| (line.0, line.3)).collect();
        assert_eq!(told.len(), 6, "{outcome}");
        (told, elapsed)
    });
    let fact = format!(
        "natively {:?} after {:.1?}; under Tandem {:?} after {:.1?}",
        told[0].0, told[0].1, told[1].0, told[1].1
    );
    eprintln!("{fact}");
    let errno = |line: &(String, String)| (line.0.clone(), line.1.rsplit(": ").next().map(str::to_owned));
    assert_eq!(
        told[0].0.iter().map(errno).collect::<Vec<_>>(),
        told[1].0.iter().map(errno).collect::<Vec<_>>(),
        "{fact}"
    );
    assert!(told[1].1 < told[0].1 * 2 + Duration::from_secs(10), "{fact}");
    proof.fact(fact);
    proof.print();
}

/// The wire comes and goes all the time, while connections are made: at whatever moment of a switch-over that is, no byte is lost.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_wire_that_comes_and_goes() {
    let between = Between::start();
    let mut proof = Proof::new("a_wire_that_comes_and_goes");
    let (mut bytes, before) = (0, between.fail_backs());
    for round in 0..6u16 {
        let (mode, kinds) = if round % 2 == 0 { ("threads", KINDS) } else { ("processes", FEWER) };
        let load = Load::start(&between, 7500 + round, mode, kinds);
        for time in 0..2 {
            // One connection after the other gets its companion: at whichever of them it is.
            let some = (usize::from(round) * 3 + time * 5) % (2 * load.count());
            within(Duration::from_secs(2), Duration::from_millis(20), || {
                load.rows(&between).iter().filter(|row| row.provider == "verbs").count() > some
            });
            run(&said("ip link set {wire2} down", &between));
            sleep(Duration::from_millis(150 + 170 * (u64::from(round) % 5)));
            run(&said("ip link set {wire2} up", &between));
        }
        load.idle();
        bytes += load.finish("a wire that comes and goes");
        eprintln!("round {round}: {} fail-backs", between.fail_backs() - before);
    }
    await_healed(&between);
    load(&between, 7590).finish("afterwards");
    assert!(between.fail_backs() > before, "nothing was carried when the wire went: {}", between.witness());
    let fact = format!(
        "12 times down and up while 36 connections were made: {bytes} bytes right; {} fail-backs; then new ones are carried",
        between.fail_backs() - before
    );
    eprintln!("{fact}");
    proof.fact(fact);
    proof.print();
}

/// A peer that is stopped reads nothing and posts no receive: that kills no queue pair.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_stopped_peer_is_waited_for() {
    let between = Between::start();
    let mut proof = Proof::new("a_stopped_peer_is_waited_for");
    // Of all kinds but those in which nobody reads in the end: their writers go back to TCP for that.
    let load = Load::start(&between, 7600, "threads", "pb,oe,db,ib,Ie");
    load.await_carried(&between);
    load.idle();
    load.ends[1].signal(libc::SIGSTOP);
    sleep(Duration::from_secs(4));
    load.ends[1].signal(libc::SIGCONT);
    // Who had no room for too long comes back; with a dead queue pair nobody does.
    let whole = 2 * load.count();
    let alive = |row: &&Row| row.provider == "verbs" && row.reason.is_none();
    let all = within(LONG, Duration::from_millis(100), || load.rows(&between).iter().filter(alive).count() == whole);
    assert!(all, "{:#?}", load.rows(&between));
    let bytes = load.finish("a stopped peer");
    proof.fact(format!("stopped for 4 s: {bytes} bytes right, no queue pair died"));
    proof.print();
}

/// The kernel's own command waits for everybody who has the device open: for processes that sleep, and for those that make no call of
/// sockets at all.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn a_device_that_is_deleted_is_let_go_of() {
    let between = Between::start();
    let mut proof = Proof::new("a_device_that_is_deleted_is_let_go_of");
    // On each host one process waits for bytes in each way; at the other end its peer sleeps elsewhere.
    let load = Load::start(&between, 7650, "processes", "ib,Ib,ie,Ie");
    load.await_carried(&between);
    load.idle();
    let before = between.fail_backs();
    let started = Instant::now();
    let mut deletion = Command::new("rdma").args(["link", "del", &between.hosts[1].device]).spawn().expect("rdma");
    let gone = within(LONG, Duration::from_millis(20), || deletion.try_wait().is_ok_and(|status| status.is_some()));
    let took = started.elapsed();
    assert!(gone, "rdma link del still waits: {:#?}", load.rows(&between));
    let bytes = load.finish("a device that is deleted");
    let back = between.fail_backs() - before;
    assert!(back > 0, "{}", between.witness());
    run(&said("rdma link add {dev2} type rxe netdev {wire2}", &between));
    await_healed(&between);
    self::load(&between, 7651).finish("with the device back");
    proof.fact(format!(
        "rdma link del returns after {took:.1?} while 8 processes sleep or compute: {bytes} bytes right, {back} fail-backs; with the \
         device back new connections are carried"
    ));
    proof.print();
}

/// What a process does beside its connections: starts programs, changes its rights or namespaces, forks; it works as ever, and so do
/// they.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn processes_that_change() {
    let between = Between::start();
    let mut proof = Proof::new("processes_that_change");
    let load = Load::start(&between, 7700, "processes", "ub,ue,sb,se,eb,ee,kb,ke");
    load.await_carried(&between);
    load.idle();
    sleep(Duration::from_secs(4));
    let rows = load.rows(&between);
    eprintln!("{rows:#?}");
    let sent = between.sent();
    sleep(Duration::from_secs(1));
    let packets = [0, 1].map(|host| between.sent()[host] - sent[host]);
    assert!(packets.iter().all(|&packets| packets > 10), "who may go on by its queue pair does not: {packets:?}");
    let bytes = load.finish("processes that change");
    proof.fact(format!(
        "unshare, seteuid, posix_spawn, fork and exec, fork: {bytes} bytes right, {packets:?} packets after"
    ));
    proof.print();
}

/// One thread of many polls for all: none sleeps on while its bytes are there.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn no_thread_sleeps_on() {
    const THREADS: &str = "pb,pb,pb,pb,pp,pp,pe,pe,db,db,ob,ob";
    let between = Between::start();
    let mut proof = Proof::new("no_thread_sleeps_on");
    let load = Load::start(&between, 7800, "threads", THREADS);
    load.await_carried(&between);
    sleep(Duration::from_secs(5));
    let bytes = load.finish("many threads");
    proof.fact(format!(
        "12 connections of one process pair, 14 threads each: {bytes} bytes right; {}",
        between.witness()
    ));
    proof.print();
}

/// Closed with all buffers full, the way dead, and nobody reads for longer than a close may last: TCP would bring it all.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn what_is_closed_full_arrives() {
    let between = Between::start();
    let mut proof = Proof::new("what_is_closed_full_arrives");
    let load = Load::start(&between, 7900, "processes", "cb,ce,cp");
    load.await_carried(&between);
    load.idle();
    run(&said("ip link set {wire1} down", &between));
    sleep(Duration::from_secs(1));
    load.close();
    sleep(Duration::from_secs(8));
    let bytes = load.finish("closed full");
    run(&said("ip link set {wire1} up", &between));
    await_healed(&between);
    assert!(between.fail_backs() > 0, "{}", between.witness());
    proof.fact(format!("3 connections, read from 8 s after they were closed: {bytes} bytes right"));
    proof.print();
}
