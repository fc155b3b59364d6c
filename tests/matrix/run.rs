//! One row in all ways.

use std::env;
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tandem_tests::apps::listens;
use tandem_tests::artifacts::{artifacts, native_only};
use tandem_tests::patience::within;
use tandem_tests::process::{End, Launch, Outcome, Running, Scratch};
use tandem_tests::{Policyd, Proof, Way, programs};

use crate::cell::cell;
use crate::row::{Both, PORTS, Row, Shell};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
const CLIENT_WITHIN: Duration = Duration::from_secs(120);
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// What a way let see, ports and paths made the same in all ways.
struct Seen {
    client: Outcome,
    servers: Vec<End>,
}

#[track_caller]
pub fn row(name: &str, row: &Row) {
    let name = name.to_lowercase().replace('_', "-");
    let scratch = Scratch::new();
    let once = launch("once", row.once, &scratch, &[0; 3]).run(&scratch, STARTS_WITHIN);
    assert_eq!(
        once.end,
        End::Exit(0),
        "{name}: preparing failed (scripts/setup test installs what is needed):\n{once}"
    );

    let (native, _) = way(&name, row, &scratch, Way::Neither);
    let mut line = format!("{name:<22}");
    let mut wrong = String::new();
    for other in [Way::Both, Way::ServerOnly, Way::ClientOnly] {
        let started = Instant::now();
        let (seen, policyd) = way(&name, row, &scratch, other);
        let differences = native.differences(&seen);
        let mut said = if differences.is_empty() { "ok".to_owned() } else { "DIFFERS".to_owned() };
        if !differences.is_empty() {
            let _ = write!(wrong, "{name}, {other:?}: not as natively:\n{differences}{}", logs(row, &scratch));
        }
        if let Some(status) = policyd.filter(|_| !native_only()).map(|policyd| policyd.status()) {
            let _ = write!(said, ", {}", cell(&status));
            match row.both {
                Both::Carried(least) if other.both() && status.tx_companion < least => {
                    let _ = writeln!(wrong, "{name}, {other:?}: too little was carried: {}", status.whole);
                }
                Both::Perhaps(why) if other.both() => {
                    let _ = write!(said, ": {why}");
                }
                Both::Tcp(why) if other.both() => {
                    let _ = write!(said, ": {why}");
                    if !row.among_servers && !row.among_clients && !status.nothing_carried() {
                        let _ = writeln!(wrong, "{name}: is carried now, the row is to say so: {}", status.whole);
                    }
                }
                _ => {}
            }
            let alone =
                (other == Way::ServerOnly && !row.among_servers) || (other == Way::ClientOnly && !row.among_clients);
            if alone && !status.nothing_carried() {
                let _ = writeln!(wrong, "{name}, {other:?}: with whom was it carried? {}", status.whole);
            }
        }
        let _ = write!(line, " | {other:?}: {said}, {:.1} s", started.elapsed().as_secs_f32());
    }
    let mut proof = Proof::new("matrix");
    proof.fact(line);
    proof.print();
    assert!(wrong.is_empty(), "{wrong}");
}

/// Servers up, the client to its end, servers down.
#[track_caller]
fn way(name: &str, row: &Row, scratch: &Scratch, way: Way) -> (Seen, Option<Policyd>) {
    let policyd = if way == Way::Neither { None } else { Policyd::start() };
    let ports = [(); 3].map(|()| port());
    let mut servers: Vec<Running> = Vec::new();
    for (at, (server, port)) in row.servers.iter().zip(ports).enumerate() {
        let launch = launch(&server_name(at), server, scratch, &ports).preload(way.for_server(&policyd));
        servers.push(launch.spawn(scratch));
        let running = servers.last_mut().expect("just pushed");
        let up = within(STARTS_WITHIN, Duration::from_millis(5), || running.ended() || listens(port));
        let ended = running.ended().then(|| running.wait(Duration::ZERO).to_string());
        assert!(up && ended.is_none(), "{name}, {way:?}: server {at} does not listen at {port}: {ended:?}");
    }
    let serves = || launch("serves", row.serves, scratch, &ports).run(scratch, STARTS_WITHIN).end == End::Exit(0);
    assert!(
        within(STARTS_WITHIN, Duration::from_millis(50), serves),
        "{name}, {way:?}: the servers do not serve:\n{}",
        logs(row, scratch)
    );
    let client = launch("client", row.client, scratch, &ports).preload(way.for_client(&policyd));
    // By hand: more of it.
    let client = client
        .run(scratch, if env::var_os("TANDEM_MATRIX_ROWS").is_some() { 8 * CLIENT_WITHIN } else { CLIENT_WITHIN });
    // The last started leans on those before it.
    let mut ends = Vec::new();
    while let Some(mut server) = servers.pop() {
        server.signal(row.stop);
        ends.push(server.wait(STOPS_WITHIN).end);
    }
    (Seen { client: normal(client, scratch, &ports), servers: ends }, policyd)
}

fn server_name(at: usize) -> String {
    format!("server{}", at + 1)
}

fn launch(name: &str, script: Shell, scratch: &Scratch, ports: &[u16; 3]) -> Launch {
    // SAFETY: a system call that reads no memory.
    let root = unsafe { libc::geteuid() } == 0;
    let mut launch = Launch::new(name, "/bin/sh").arg("-euc").arg(script).current_dir(scratch.path());
    for (variable, port) in PORTS.iter().zip(ports) {
        launch = launch.env(variable, port.to_string());
    }
    launch
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
        .env("HOME", scratch.path())
        .env("LC_ALL", "C.UTF-8")
        .env("SOURCES", programs::sources().parent().expect("a folder above"))
        .env("TOKIO", env!("CARGO_BIN_EXE_tandem-tokio"))
        .env("TANDEM", &artifacts().command)
        .env("UNPRIVILEGED", if root { "unshare --user --map-user=65534 --map-group=65534" } else { "" })
}

/// A free port below those that the kernel gives to clients.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 90 * 100) as u16;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

fn normal(outcome: Outcome, scratch: &Scratch, ports: &[u16; 3]) -> Outcome {
    let plain = |bytes: Vec<u8>| {
        let mut text = String::from_utf8_lossy(&bytes).replace(&*scratch.path().to_string_lossy(), "$DIRECTORY");
        for (variable, port) in PORTS.iter().zip(ports) {
            text = with_name(&text, &port.to_string(), &format!("${variable}"));
        }
        text.into_bytes()
    };
    Outcome { end: outcome.end, stdout: plain(outcome.stdout), stderr: plain(outcome.stderr) }
}

/// A number by its name, where it stands by itself: a digest may have the same digits.
fn with_name(text: &str, number: &str, name: &str) -> String {
    let mut parts = text.split(number);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let inside = named.ends_with(char::is_alphanumeric) || part.starts_with(char::is_alphanumeric);
        named.push_str(if inside { number } else { name });
        named.push_str(part);
    }
    named
}

#[test]
fn numbers_by_themselves_are_named() {
    assert_eq!(with_name("at :22586, 22586", "22586", "$PORT"), "at :$PORT, $PORT");
    assert_eq!(with_name("b52258617 22586a x22586", "22586", "$PORT"), "b52258617 22586a x22586");
}

impl Seen {
    fn differences(&self, other: &Self) -> String {
        let mut text = self.client.differences("client", &other.client);
        if self.servers != other.servers {
            let _ = writeln!(text, "    servers: natively {:?}, here {:?}", self.servers, other.servers);
        }
        text
    }
}

/// The last words of the servers.
fn logs(row: &Row, scratch: &Scratch) -> String {
    let mut text = String::new();
    for at in 0..row.servers.len() {
        for end in ["stdout", "stderr"] {
            let name = format!("{}.{end}", server_name(at));
            let all = fs::read(scratch.file(&name)).unwrap_or_default();
            let all = String::from_utf8_lossy(&all).into_owned();
            let lines: Vec<_> = all.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                let _ = writeln!(text, "    {name}: {line}");
            }
        }
    }
    text
}
