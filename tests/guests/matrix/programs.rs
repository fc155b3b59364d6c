//! Loads and servers that one program is enough for.

use std::fs;
use std::time::Duration;

use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::programs::python;
use tandem_tests::{End, Launch};

use super::{Expected, Program, Stage, whole};
use crate::redis;
use crate::verbs::LONG;

const MIB: u64 = 1 << 20;

pub fn all() -> Vec<Program> {
    let carried =
        |name, attach, least, body| Program { name, attach, expected: Expected::Carried(least), alone: true, body };
    vec![
        carried("redis", "data", [MIB, MIB], redis),
        Program { alone: false, ..carried("redis", "connect", [MIB, MIB], redis) },
        // Not the first: the first to load the provider in a guest waits for it for some seconds.
        carried("iperf3", "data", [MIB, 0], |stage| iperf3(stage, &[])),
        Program { alone: false, ..carried("iperf3 -R", "data", [0, MIB], |stage| iperf3(stage, &["-R"])) },
        carried("memcached", "connect", [MIB, MIB], memcached),
        carried("python asyncio", "connect", [MIB, MIB], asyncio),
        carried("python http.server", "connect", [0, MIB], http_server),
        carried("socat fork", "connect", [MIB, 0], socat),
    ]
}

/// By time: a companion takes the longer to make, the slower the guest.
fn iperf3(stage: &Stage, words: &[&str]) -> Vec<String> {
    let port = stage.port.to_string();
    let launch = Launch::new("iperf3-server", system_program("iperf3"));
    let server = stage.serve(launch.args(["-s", "-B", stage.address(), "-p", &port, "-J"]));
    let launch = Launch::new("iperf3", system_program("iperf3"));
    let client = launch.args(["-c", stage.address(), "-p", &port, "-J", "-t", "7"]).args(words);
    let outcome = stage.ask(client);
    assert_eq!(outcome.end, End::Exit(0), "{:?}:\n{outcome}", stage.way);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("iperf3 -J writes JSON");
    let bytes = |name: &str| report["end"][name]["bytes"].as_u64().unwrap_or(0);
    vec![
        format!("error {:?}", report.get("error")),
        format!("streams {:?}", report["end"]["streams"].as_array().map(Vec::len)),
        format!("enough sent {}", bytes("sum_sent") >= MIB),
        format!("enough received {}", bytes("sum_received") >= MIB),
        format!("stderr {}", String::from_utf8_lossy(&outcome.stderr)),
        stage.stop(server, libc::SIGTERM),
    ]
}

fn redis(stage: &Stage) -> Vec<String> {
    let server = stage.serve(redis::server(stage.address(), stage.port).current_dir(stage.scratch.path()));
    let load = |words: &[&str]| stage.ask(redis::benchmark(stage.address(), stage.port, words)).succeeded();
    let mut seen = redis::tests_of(&load(&["-c", "1", "-n", "300", "-t", "set,get,incr"]));
    seen.extend(redis::tests_of(&load(&["-c", "8", "-P", "4", "-n", "8000", "-d", "500", "-t", "set,get"])));
    seen.extend(whole("load", &stage.ask(redis::checked_load(stage.address(), stage.port, 12)).succeeded()));
    let cli = Launch::new("redis-cli", system_program("redis-cli"));
    let cli = cli.args(["-h", stage.address(), "-p", &stage.port.to_string(), "debug", "digest"]);
    seen.extend(whole("redis-cli", &stage.ask(cli)));
    seen.push(stage.stop(server, libc::SIGTERM));
    seen
}

fn memcached(stage: &Stage) -> Vec<String> {
    let port = stage.port.to_string();
    let launch = Launch::new("memcached", system_program("memcached"));
    let words = ["-l", stage.address(), "-p", &port, "-U", "0", "-u", "root", "-t", "2", "-m", "256", "-I", "4m"];
    let server = stage.serve(launch.args(words));
    let load = python("load", "memcached_load.py").args([&port, "5", "12", stage.address()]);
    let mut seen = whole("load", &stage.ask(load).succeeded());
    seen.push(stage.stop(server, libc::SIGTERM));
    seen
}

fn asyncio(stage: &Stage) -> Vec<String> {
    let port = stage.port.to_string();
    let server = stage.serve(python("server", "asyncio_echo.py").args(["server", &port, stage.address()]));
    let client = python("client", "asyncio_echo.py").args(["client", &port, stage.address(), "4", "3"]);
    let mut seen = whole("client", &stage.ask(client).succeeded());
    seen.push(stage.stop(server, libc::SIGTERM));
    seen
}

fn http_server(stage: &Stage) -> Vec<String> {
    let www = stage.scratch.file("www");
    fs::create_dir(&www).expect("directory");
    for (name, size) in [("1B", 1), ("1MiB", MIB), ("8MiB", 8 * MIB)] {
        let content: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        fs::write(www.join(name), content).expect("file to serve");
    }
    let port = stage.port.to_string();
    let launch = Launch::new("http.server", system_program("python3"));
    let launch = launch.args(["-m", "http.server", &port, "--bind", stage.address(), "--directory"]);
    let server = stage.serve(launch.arg(&www));
    let names = ["1B", "1MiB", "none", "8MiB", "1B", "8MiB", "8MiB", "1MiB"];
    let client = python("urllib", "fetch.py").arg(stage.place()).args(names);
    let mut seen = whole("urllib", &stage.ask(client).succeeded());
    seen.push(stage.stop(server, libc::SIGINT));
    seen
}

/// A forked child a connection writes what comes behind what has come; without an emulated device it is all the faster.
fn socat(stage: &Stage) -> Vec<String> {
    let largest = if stage.between.has_devices() { 64 * MIB } else { 128 * MIB };
    let content: Vec<u8> = (0..largest).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8).collect();
    let got = stage.scratch.file("got");
    let launch = Launch::new("socat-server", system_program("socat"));
    let listen = format!("TCP-LISTEN:{},bind={},fork,reuseaddr", stage.port, stage.address());
    let file = format!("OPEN:{},creat,append", got.display());
    let server = stage.serve(launch.args(["-u", "-b", "65536", &listen, &file]));
    let (mut seen, mut sent) = (Vec::new(), 0);
    for (number, content) in [&content[..], &content[..1], &content[..MIB as usize]].into_iter().enumerate() {
        let path = stage.scratch.write("sent", content);
        let name = format!("socat-{number}");
        let launch = Launch::new(&name, system_program("socat"));
        let words =
            ["-u", "-b", "65536", &format!("OPEN:{},rdonly", path.display()), &format!("TCP:{}", stage.place())];
        seen.extend(whole(&name, &stage.ask(launch.args(words))));
        let size = || fs::metadata(&got).map_or(0, |file| file.len() as usize);
        within(LONG, Duration::from_millis(50), || size() >= sent + content.len());
        let written = fs::read(&got).unwrap_or_default();
        seen.push(format!("{} bytes, the same: {}", written.len(), written.get(sent..) == Some(content)));
        sent += content.len();
    }
    seen.push(stage.stop(server, libc::SIGTERM));
    seen
}
