//! redis-server with redis-benchmark, redis-cli and a pipelined load whose every reply is checked.

use tandem_tests::apps::{Field, each_way};
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Running, Way};

use crate::{end_and_stderr, python, whole};

fn server(field: &Field) -> Running {
    let port = field.port.to_string();
    let launch = Launch::new("redis-server", system_program("redis-server")).current_dir(field.scratch.path());
    field.serve(launch.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]))
}

/// A fresh server each way, asked to end when `body` has seen enough.
fn with_redis(test: &str, ways: &[Way], body: impl Fn(&Field) -> Vec<String>) {
    each_way(test, ways, |field| {
        let server = server(field);
        let mut seen = body(field);
        seen.push(field.stop(server, libc::SIGTERM));
        seen
    });
}

/// Replies by count: redis-benchmark ends with an error where one reply is an error or cannot be parsed.
fn benchmark(field: &Field, what: &str, arguments: &[&str]) -> Vec<String> {
    let port = field.port.to_string();
    let launch = Launch::new(what, system_program("redis-benchmark")).args(["-p", &port, "--csv"]).args(arguments);
    let outcome = field.ask(launch, 90);
    let mut seen = end_and_stderr(what, &outcome);
    // The first column is the test's name; the others are rates.
    seen.extend(outcome.text().lines().map(|line| line.split(',').next().unwrap_or_default().to_owned()));
    seen
}

fn command(field: &Field, arguments: &[&str]) -> Vec<String> {
    let port = field.port.to_string();
    let launch = Launch::new("redis-cli", system_program("redis-cli")).args(["-p", &port]).args(arguments);
    whole("redis-cli", &field.ask(launch, 20))
}

#[test]
fn redis_benchmark_one_client() {
    with_redis("redis_benchmark_one_client", &Way::FOUR, |field| {
        let mut seen =
            benchmark(field, "c1", &["-c", "1", "-n", "4000", "-t", "ping,set,get,incr,lpush,lrange_100,mset"]);
        seen.extend(command(field, &["get", "counter:__rand_int__"]));
        seen
    });
}

#[test]
fn redis_benchmark_fifty_clients() {
    with_redis("redis_benchmark_fifty_clients", &Way::FOUR, |field| {
        let mut seen = benchmark(field, "c50", &["-c", "50", "-n", "30000", "-t", "set,get,incr,lpush,rpop"]);
        seen.extend(benchmark(field, "c50d", &["-c", "50", "-n", "4000", "-d", "20000", "-t", "set,get"]));
        seen.extend(command(field, &["dbsize"]));
        seen
    });
}

#[test]
fn redis_benchmark_pipelined() {
    with_redis("redis_benchmark_pipelined", &Way::FOUR, |field| {
        let mut seen = benchmark(field, "p16", &["-c", "50", "-P", "16", "-n", "160000", "-t", "set,get,incr"]);
        seen.extend(benchmark(field, "p16c1", &["-c", "1", "-P", "16", "-n", "32000", "-t", "set,get"]));
        seen.extend(benchmark(field, "threads", &["-c", "20", "--threads", "2", "-n", "20000", "-t", "set,get"]));
        seen
    });
}

/// Values of 1 B to 4 MiB, pipelined, on several connections; every reply checked by content.
#[test]
fn redis_every_reply_right() {
    with_redis("redis_every_reply_right", &Way::four_and_failing_back(50), |field| {
        let port = field.port.to_string();
        let outcome = field.ask(python("load", "redis_load.py").args([&port, "7", "90"]), 120);
        let mut seen = whole("load", &outcome.succeeded());
        seen.extend(command(field, &["dbsize"]));
        seen.extend(command(field, &["debug", "digest"]));
        seen
    });
}

/// A snapshot forks while connections are open and written to.
#[test]
fn redis_goes_on_over_a_snapshot() {
    with_redis("redis_goes_on_over_a_snapshot", &Way::FOUR, |field| {
        let port = field.port.to_string();
        let mut load = field.client(python("load", "redis_load.py").args([&port, "8", "40"])).spawn(&field.scratch);
        let mut snapshots = 0;
        while !load.ended() && snapshots < 5 {
            let answer = command(field, &["bgsave"]);
            snapshots += usize::from(answer[0].contains("Exit(0)"));
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let mut seen = whole("load", &load.wait(std::time::Duration::from_secs(90)).succeeded());
        field.wait_for("the snapshot's end", 20, || {
            command(field, &["info", "persistence"])[1].contains("rdb_bgsave_in_progress:0")
        });
        seen.extend(command(field, &["debug", "digest"]));
        seen
    });
}
