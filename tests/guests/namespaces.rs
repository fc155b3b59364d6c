//! Two hosts in one guest, inside `scripts/vm namespaces --once`.

use std::time::Duration;

use tandem_tests::host::{self, Host};
use tandem_tests::patience::within;
use tandem_tests::policyd::Row;
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Policyd, Proof, Running, Scratch};

use crate::{perftest, redis};

#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn rdma_goes_by_its_own_wire() {
    let hosts = host::namespaces();
    let scratch = Scratch::new();
    let sent = || hosts.each_ref().map(|host| host.counter("sent_pkts"));
    let before = sent();
    let mut server = perftest::bandwidth("server", &hosts[1], 200).spawn(&scratch);
    perftest::await_listening(&mut server);
    let client = perftest::bandwidth("client", &hosts[0], 200).arg(&hosts[1].address);
    client.run(&scratch, Duration::from_secs(30)).succeeded();
    server.wait(Duration::from_secs(30)).succeeded();
    let packets = [sent()[0] - before[0], sent()[1] - before[1]];
    assert!(packets[0] >= 200 * 16 && packets[1] > 0, "{packets:?} packets sent");
    let mut proof = Proof::new("rdma_goes_by_its_own_wire");
    proof.fact(format!("ib_write_bw from host to host, 200 times 64 KiB: {packets:?} packets sent by the two devices"));
    proof.print();
}

/// Both ends under Tandem, each with its host's policyd, which does not know the other one: TCP, and said so.
#[test]
#[ignore = "runs inside scripts/vm namespaces"]
fn between_hosts_that_do_not_know_each_other_it_is_tcp() {
    let hosts = host::namespaces();
    let mut proof = Proof::new("between_hosts_that_do_not_know_each_other_it_is_tcp");
    let native = load_between(&hosts, [None, None]);
    let policyds = hosts.each_ref().map(|host| Policyd::start_in(host.namespace.as_ref()).expect("a policyd"));
    let preloaded = load_between(&hosts, policyds.each_ref().map(Some));
    assert_eq!(native, preloaded, "not as natively (left)");

    let (mut server, port, scratch) = serve(&hosts[1], Some(&policyds[1]));
    let endless = redis::benchmark(&hosts[1].address, port, &["-c", "4", "-n", "100000000", "-t", "set"]);
    let mut client = endless.preload(Some(&policyds[0])).in_namespace(hosts[0].namespace.as_ref()).spawn(&scratch);
    let mut rows: Vec<Row> = Vec::new();
    let explained = within(Duration::from_secs(20), Duration::from_millis(100), || {
        rows = policyds.iter().flat_map(|policyd| policyd.rows()).filter(|row| row.tx_tcp > 0).collect();
        rows.len() >= 8 && rows.iter().all(|row| row.reason.as_deref() == Some("not-local"))
    });
    assert!(explained, "reasons in tandem ss: {rows:#?}\nclient: {}", client.wait(Duration::ZERO));
    for policyd in &policyds {
        assert!(policyd.status().nothing_carried(), "carried? {}", policyd.status().whole);
    }
    assert!(!client.ended() && !server.ended(), "the load and the server still run");
    let connections = native.lines().count();
    proof.fact(format!(
        "{connections} connections of a checked load as natively; {} rows on both hosts: not-local",
        rows.len()
    ));
    proof.print();
}

/// What the checked load says.
fn load_between(hosts: &[Host; 2], policyds: [Option<&Policyd>; 2]) -> String {
    let (_server, port, scratch) = serve(&hosts[1], policyds[1]);
    let load = redis::checked_load(&hosts[1].address, port, 16).preload(policyds[0]);
    load.in_namespace(hosts[0].namespace.as_ref()).run(&scratch, Duration::from_secs(60)).succeeded().text()
}

/// A redis-server on that host that answers.
fn serve(host: &Host, policyd: Option<&Policyd>) -> (Running, u16, Scratch) {
    let scratch = Scratch::new();
    let port = 7000;
    let launch = redis::server(&host.address, port).current_dir(scratch.path()).preload(policyd);
    let mut server = launch.in_namespace(host.namespace.as_ref()).spawn(&scratch);
    let answers = within(Duration::from_secs(20), Duration::from_millis(50), || {
        let ping = Launch::new("redis-cli", system_program("redis-cli")).args([
            "-h",
            &host.address,
            "-p",
            &port.to_string(),
            "ping",
        ]);
        let answer = ping.in_namespace(host.namespace.as_ref()).run(&scratch, Duration::from_secs(10));
        answer.text().starts_with("PONG") || server.ended()
    });
    assert!(answers && !server.ended(), "redis-server does not answer:\n{}", server.wait(Duration::ZERO));
    (server, port, scratch)
}
