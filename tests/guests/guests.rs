//! Two guests, inside `scripts/vm guests`: this runs on both at once. In the last test, by hand, the second one goes off.

use std::fs;
use std::time::Duration;

use tandem_tests::host::{self, Host, Peer};
use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Policyd, Proof, Running, Scratch, programs};

use crate::perftest;
use crate::redis;
use crate::verbs::{LONG, new_key};

#[test]
#[ignore = "runs inside scripts/vm guests"]
fn rdma_crosses_the_wire() {
    let (host, peer) = host::guest();
    let scratch = Scratch::new();
    let before = host.counter("sent_pkts");
    let bandwidth = perftest::bandwidth("ib_write_bw", &host, 100);
    if peer.server {
        let mut server = bandwidth.spawn(&scratch);
        perftest::await_listening(&mut server);
        peer.tell("serving");
        server.wait(Duration::from_secs(60)).succeeded();
    } else {
        peer.await_told("serving", Duration::from_secs(60));
        bandwidth.arg(&peer.address).run(&scratch, Duration::from_secs(60)).succeeded();
    }
    let packets = host.counter("sent_pkts") - before;
    // The server answers a message, not a packet.
    let least = if peer.server { 50 } else { 100 * 16 };
    assert!(packets >= least, "{packets} packets sent, at least {least} were to be");
    peer.both_passed("rdma_crosses_the_wire", Duration::from_secs(60));
    let mut proof = Proof::new("rdma_crosses_the_wire");
    proof.fact(format!("ib_write_bw between two guests, 100 times 64 KiB: {packets} packets sent by {}", host.device));
    proof.print();
}

const MOMENT: Duration = Duration::from_millis(200);

/// This guest's policyd, linked to the other one's.
#[track_caller]
fn linked(host: &Host, peer: &Peer, folder: &Scratch) -> Policyd {
    let key = new_key(folder);
    peer.give("key", &key);
    let other = peer.given("key", LONG);
    let config = format!(
        "park_seconds = 120\n[peers]\nlisten = \"{own}:7470\"\nkey = \"{}\"\nkeepalive_seconds = 5\n[[peer]]\nname = \"other\"\n\
         public_key = \"{other}\"\nendpoint = \"{address}:7470\"\naddresses = [\"{address}\"]\n",
        folder.file("peer.key").display(),
        own = host.address,
        address = peer.address,
    );
    let policyd = Policyd::start_with(None, &config).expect("a policyd");
    assert!(within(LONG, MOMENT, || policyd.is_linked()), "the policyds are not linked");
    policyd
}

/// `patience.c`: natively or under Tandem.
fn patience(policyd: Option<&Policyd>, words: &[&str], scratch: &Scratch) -> Running {
    let launch = Launch::new(words[0], programs::program("patience")).args(words);
    let launch = if policyd.is_some() { launch.preload(policyd).env("TANDEM_ATTACH", "connect") } else { launch };
    launch.spawn(scratch)
}

/// What is told, and after how many milliseconds.
#[track_caller]
fn told(client: &mut Running) -> (String, u64) {
    let text = client.wait(LONG).text();
    let line = text.lines().find(|line| line.contains(" after ")).unwrap_or_else(|| panic!("nothing is told: {text}"));
    let (what, time) = line.rsplit_once(" after ").expect("a time");
    (what.to_owned(), time.trim_end_matches(" ms").parse().expect("milliseconds"))
}

/// Both ends of redis under Tandem, in two kernels; then the server's guest goes off as when the power fails, while connections carry: the
/// survivor's are told what native ones there are told at that moment, and its policyd keeps nothing.
#[test]
#[ignore = "runs inside scripts/vm guests"]
fn redis_is_carried_and_then_the_peer_goes_off() {
    let (host, peer) = host::guest();
    let (scratch, folder) = (Scratch::new(), Scratch::new());
    let policyd = linked(&host, &peer, &folder);
    if peer.server {
        let _redis =
            redis::server(&host.address, 7000).current_dir(folder.path()).preload(Some(&policyd)).spawn(&scratch);
        let servers = [(Some(&policyd), "7100"), (None, "7101")]
            .map(|(policyd, port)| patience(policyd, &["server", &host.address, port], &scratch));
        let listen = || servers.iter().all(|server| server.stdout().contains("listens"));
        assert!(within(LONG, MOMENT, listen), "the servers do not listen");
        peer.tell("serving");
        peer.await_told("go-off", LONG * 3);
        peer.tell("off.2");
        fs::write("/proc/sysrq-trigger", "b").expect("sysrq");
        unreachable!("the power is off");
    }
    peer.await_told("serving", LONG);
    let before = host.counter("sent_pkts");
    let answers = within(LONG, MOMENT, || {
        let ping =
            Launch::new("redis-cli", system_program("redis-cli")).args(["-h", &peer.address, "-p", "7000", "ping"]);
        ping.run(&scratch, Duration::from_secs(20)).text().starts_with("PONG")
    });
    assert!(answers, "redis-server does not answer");
    let endless = redis::benchmark(&peer.address, 7000, &["-c", "4", "-n", "100000000", "-t", "set"]);
    let mut client = endless.preload(Some(&policyd)).spawn(&scratch);
    let by_verbs = |port: &str| {
        let rows = policyd.rows();
        rows.iter().filter(|row| row.provider == "verbs" && row.remote.ends_with(port) && row.tx_companion > 0).count()
    };
    assert!(within(LONG, MOMENT, || by_verbs(":7000") >= 4), "{:#?}", policyd.rows());
    drop(client.wait(Duration::ZERO));
    let load = redis::checked_load(&peer.address, 7000, 4).preload(Some(&policyd)).run(&scratch, LONG).succeeded();
    let packets = host.counter("sent_pkts") - before;
    assert!(packets > 200, "{packets} packets by the device");
    let mut proof = Proof::new("redis_is_carried_and_then_the_peer_goes_off");
    proof.fact(format!(
        "redis between two guests, 4 connections of redis-benchmark by verbs, {} checked lines of a load; {packets} packets by {}; {}",
        load.text().lines().count(),
        host.device,
        policyd.status().witness()
    ));

    // Some seconds, not a quarter of an hour.
    fs::write("/proc/sys/net/ipv4/tcp_retries2", "3").expect("a guest's own setting");
    let go = scratch.file("go");
    let kinds = [("request", "4000"), ("request", "0"), ("keepalive", "0")];
    let mut clients: Vec<_> = kinds
        .iter()
        .map(|(kind, most)| {
            [(None, "7101"), (Some(&policyd), "7100")].map(|(policyd, port)| {
                let words = ["client", &peer.address, port, most, kind, go.to_str().expect("a path"), "4"];
                patience(policyd, &words, &scratch)
            })
        })
        .collect();
    let talk = || clients.iter().flatten().all(|client| client.stdout().contains("ready"));
    assert!(within(LONG, MOMENT, talk), "not all talk");
    assert!(within(LONG, MOMENT, || by_verbs(":7100") == kinds.len()), "{:#?}", policyd.rows());
    scratch.write("go", "");
    std::thread::sleep(Duration::from_secs(1));
    peer.tell("go-off");
    for ((kind, most), pair) in kinds.iter().zip(&mut clients) {
        let [native, tandem] = pair.each_mut().map(told);
        assert_eq!(native.0, tandem.0, "{kind} {most}: {} and {} ms", native.1, tandem.1);
        // A queue pair finds out in half a second; an emulated guest's clock is its own. Retries are twice as far apart each time, from what the
        // kernel takes for the round trip: the last one may be one more.
        let times = if (*kind, *most) == ("request", "0") { 2 } else { 1 };
        let fine = tandem.1 <= 3_000 + native.1 * times && native.1 <= 3_000 + tandem.1 * times;
        assert!(fine, "{kind} {most}: {} ms natively, {} under Tandem", native.1, tandem.1);
        proof.fact(format!("the peer is off, {}: after {} ms natively, {} under Tandem", native.0, native.1, tandem.1));
    }
    let gone = within(LONG, MOMENT, || {
        let far = policyd.ask(&["status", "--json"]).ok().and_then(|status| status["far"].as_u64());
        far == Some(0) && !policyd.is_linked()
    });
    assert!(gone, "policyd keeps {:?}", policyd.ask(&["status", "--json"]));
    proof.fact("policyd knows of no companion any more, and of no link");
    proof.print();
}
