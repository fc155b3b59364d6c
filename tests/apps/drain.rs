//! `tandem drain` of a server under load, and of connections whose both ends sleep: all of them go back to TCP, and no byte is
//! lost or doubled.

use std::time::Duration;

use serde_json::Value;
use tandem_tests::apps::{Field, free_port};
use tandem_tests::artifacts::native_only;
use tandem_tests::policyd::Row;
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Policyd, Proof, Running, Scratch, Way};

use crate::{python, whole};

fn server(field: &Field) -> Running {
    let port = field.port.to_string();
    let launch = Launch::new("redis-server", system_program("redis-server")).current_dir(field.scratch.path());
    field.serve(launch.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]))
}

fn field(way: Way) -> Field {
    let policyd = if way.both() { Policyd::start() } else { None };
    Field { way, port: free_port(), scratch: Scratch::new(), policyd }
}

fn digest(field: &Field) -> Vec<String> {
    let port = field.port.to_string();
    let launch = Launch::new("redis-cli", system_program("redis-cli")).args(["-p", &port, "debug", "digest"]);
    whole("digest", &field.ask(launch, 20))
}

fn load(field: &Field) -> Launch {
    field.client(python("load", "redis_load.py").args([&field.port.to_string(), "11", "120"]))
}

/// One subject's report: how many were carried, and how many went back.
#[track_caller]
fn drain(policyd: &Policyd, subject: &str) -> (u64, u64) {
    let reports = policyd.ask(&["drain", "--json", "--wait", "30", subject]).unwrap_or_else(|error| panic!("{error}"));
    let number = |name: &str| reports[0][name].as_u64().unwrap_or_else(|| panic!("no {name}: {reports}"));
    assert_eq!(reports[0]["left"], Value::Array(Vec::new()), "{reports}");
    (number("carried"), number("drained") + number("closed"))
}

fn is_drained(row: &Row) -> bool {
    row.provider == "tcp" && row.reason.as_deref() == Some("drained")
}

#[test]
fn redis_drained_under_load() {
    let native = {
        let field = field(Way::Neither);
        let _server = server(&field);
        let mut seen = whole("load", &load(&field).run(&field.scratch, Duration::from_secs(120)).succeeded());
        seen.extend(digest(&field));
        seen
    };
    if native_only() {
        return;
    }
    let mut proof = Proof::new("redis_drained_under_load");
    let field = field(Way::Both);
    let policyd = field.policyd.as_ref().expect("not native");
    let server = server(&field);
    let pid = server.pid().to_string();
    let mut under_load = load(&field).spawn(&field.scratch);
    assert!(policyd.wait_carried(8, Duration::from_secs(30)), "not carried: {:#?}", policyd.rows());
    let (carried, back) = drain(policyd, &pid);
    assert!(carried > 0 && carried == back, "{carried} carried, {back} back");
    let rows = policyd.rows();
    assert!(rows.iter().all(is_drained), "{rows:#?}");
    let by_companion = policyd.status().tx_companion;
    assert!(!under_load.ended(), "the load was over before");
    let mut seen = whole("load", &under_load.wait(Duration::from_secs(120)).succeeded());
    seen.extend(digest(&field));
    assert_eq!(native, seen, "not as natively (left)");
    let later = policyd.status();
    assert_eq!(later.tx_companion, by_companion, "more went by companion after the drain");
    assert!(later.fail_backs >= carried, "{}", later.whole);
    proof.fact(format!("{carried} ends carried {by_companion} bytes, then none; {} fail-backs", later.fail_backs));

    // What comes later stays on TCP, until that is taken back.
    let redis = |expected: fn(&Row) -> bool| {
        let go = field.scratch.file("go");
        let launch = python("sleepers", "sleepers.py").args([&field.port.to_string(), "poll", "3"]).arg(&go);
        let client = field.client(launch).spawn(&field.scratch);
        field.wait_for("connections as expected", 20, || {
            let rows = policyd.rows();
            rows.iter().filter(|row| row.pid == server.pid() && expected(row)).count() == 3
        });
        field.scratch.write("go", "");
        let end = { client }.wait(Duration::from_secs(20)).succeeded();
        std::fs::remove_file(go).expect("the file is there");
        end
    };
    redis(is_drained);
    assert_eq!(policyd.status().tx_companion, by_companion, "drained, and carried");
    policyd.ask(&["drain", "--json", "--undo", &pid]).unwrap_or_else(|error| panic!("{error}"));
    redis(Row::carried);
    proof.fact("later connections stayed on TCP until --undo, and were carried after it".to_owned());
    proof.print();
}

#[test]
fn sleepers_are_drained() {
    if native_only() {
        return;
    }
    const COUNT: usize = 30;
    let mut proof = Proof::new("sleepers_are_drained");
    for manner in ["recv", "poll", "epoll"] {
        for by_address in [false, true] {
            let field = field(Way::Both);
            let policyd = field.policyd.as_ref().expect("not native");
            let server = server(&field);
            let launch = python("sleepers", "sleepers.py").args([&field.port.to_string(), manner, &COUNT.to_string()]);
            let mut client = field.client(launch.arg(field.scratch.file("go"))).spawn(&field.scratch);
            assert!(policyd.wait_carried(2 * COUNT, Duration::from_secs(30)), "not carried: {:#?}", policyd.rows());
            // Until nobody is awake any more.
            std::thread::sleep(Duration::from_millis(300));
            let subject = if by_address { format!("127.0.0.1:{}", field.port) } else { client.pid().to_string() };
            let expected = if by_address { 2 * COUNT } else { COUNT } as u64;
            assert_eq!(drain(policyd, &subject), (expected, expected), "{manner}");
            // The other ends, too. (One whose reader was back in the kernel before it was told says `failed-back`.)
            field.wait_for("both ends on TCP", 20, || {
                policyd.rows().iter().filter(|row| row.provider == "tcp").count() == 2 * COUNT
            });
            let by_companion = policyd.status().tx_companion;
            field.scratch.write("go", "");
            let outcome = client.wait(Duration::from_secs(30)).succeeded();
            assert_eq!(outcome.text(), format!("{manner} {COUNT} True\n"), "{outcome}");
            assert!(by_companion > 0 && policyd.status().tx_companion == by_companion, "{manner}");
            assert_eq!(field.stop(server, libc::SIGTERM), "server ended Exit(0)");
            proof.fact(format!("{manner}, by {subject}: {} ends asleep, back on TCP", 2 * COUNT));
        }
    }
    proof.print();
}
