//! Clients that are many, slow or malicious: policyd's memory and descriptors stay bounded, others are served, and what is
//! wrong is said.

mod network;
mod switch;

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use network::*;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use switch::*;
use tandem_policyd::control::Ask;
use tandem_protocol::assignment::Name;
use tandem_protocol::{Message, Reason};

fn control(manager: &Manager) -> UnixStream {
    let stream = UnixStream::connect(tandem_policyd::control::path(&manager.socket)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn descriptors(manager: &Manager) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", manager.child.id())).unwrap().count()
}

fn resident_kb(manager: &Manager) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", manager.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
fn lines_that_are_no_questions_are_answered_with_what_is_wrong() {
    let Some(net) = Net::new("lines") else { return };
    let manager = Manager::start(&net, BACKUP);
    let deep = "[".repeat(4_000);
    let cases = [
        ("{}", "missing field `version`"),
        ("hello", "expected value"),
        (deep.as_str(), "invalid type"),
        (r#"{"version":1,"request":"sss"}"#, "unknown variant `sss`"),
        (r#"{"version":9,"request":"ss"}"#, "version 9 is not spoken here, 1 is"),
        (r#"{"version":1,"request":{"open":{}}}"#, "give a network, an interface or a destination"),
        (r#"{"version":1,"request":{"open":{"network":"a","interface":"b"}}}"#, "not both"),
        (r#"{"version":1,"request":{"open":{"network":"backup","pid":4294967295}}}"#, "no process 4294967295"),
        (r#"{"version":1,"request":{"open":{"network":"backup","pid":-1}}}"#, "invalid value"),
        (r#"{"version":1,"request":{"open":{"network":"backup","colour":1}}}"#, "unknown field `colour`"),
        (r#"{"version":1,"request":{"open":{"interface":"a b"}}}"#, "names no interface"),
        (
            r#"{"version":1,"request":{"release":{"id":18446744073709551615}}}"#,
            "there is no request 18446744073709551615",
        ),
        (r#"{"version":1,"request":{"explain":{"pid":0}}}"#, "there is no process 0"),
        (r#"{"version":1,"request":{"prepare":{"network":"x"}}}"#, "network x is not configured (backup)"),
    ];
    let mut stream = BufReader::new(control(&manager));
    for (line, expected) in cases {
        writeln!(stream.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        let shown = line.get(..60).unwrap_or(line);
        assert!(answer.contains("\"error\"") && answer.contains(expected), "{shown}: {answer}");
    }
}

#[test]
fn oversized_partial_and_slow_clients_do_no_harm() {
    let Some(net) = Net::new("slow clients") else { return };
    let manager = Manager::start(&net, BACKUP);
    let before = (descriptors(&manager), resident_kb(&manager));
    // A line without an end.
    let mut endless = control(&manager);
    let chunk = vec![b'x'; 65_536];
    while endless.write_all(&chunk).is_ok() {}
    let mut answer = String::new();
    drop(endless.read_to_string(&mut answer));
    // Half a line, and silence; half a line, and gone.
    let halves: Vec<UnixStream> = (0..30).map(|_| control(&manager)).collect();
    for mut half in &halves {
        half.write_all(b"{\"version\":1,").unwrap();
    }
    // A watcher that is told and doesn't read, one that asks while it watches.
    let mut asks = BufReader::new(control(&manager));
    writeln!(asks.get_mut(), "{{\"version\":1,\"request\":{{\"watch\":{{}}}}}}").unwrap();
    let mut line = String::new();
    asks.read_line(&mut line).unwrap();
    writeln!(asks.get_mut(), "{{\"version\":1,\"request\":\"ss\"}}").unwrap();
    line.clear();
    asks.read_line(&mut line).unwrap();
    assert!(line.contains("a connection that watches takes no other question"), "{line}");
    // Descriptors that nobody asked for.
    let gift = std::fs::File::open("/dev/null").unwrap();
    let fds = [gift.as_raw_fd(); 100];
    for half in &halves {
        let bytes = [IoSlice::new(b" ")];
        sendmsg::<()>(half.as_raw_fd(), &bytes, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None).unwrap();
    }
    let start = Instant::now();
    manager.ask(Ask::Status).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "others are served meanwhile");
    // Two of policyd's own for each connection, and none of theirs: 3,000 were sent.
    assert!(descriptors(&manager) < before.0 + 80, "no descriptor of theirs is kept");
    drop((halves, asks));
    eventually("and nothing is left of them", || descriptors(&manager) <= before.0 + 2);
    let grown = resident_kb(&manager).saturating_sub(before.1);
    assert!(grown < 4_096, "policyd has grown by {grown} KiB");
}

/// A TCP socket whose last close waits for a minute, for its other end reads nothing; and that end.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    let (mut near, far) = connection(&listener());
    near.set_nonblocking(true).unwrap();
    while near.write(&[1; 65_536]).is_ok() {}
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 60 };
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    (near, far)
}

#[test]
fn a_socket_that_lingers_holds_nobody_up() {
    let Some(net) = Net::new("lingering sockets") else { return };
    let manager = Manager::start(&net, BACKUP);
    let mut far_ends = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..12 {
        let (near, far) = lingering();
        far_ends.push(far);
        let mut control = control(&manager);
        let switch = Switch::connect(&manager.socket);
        // Its copy is to be the last.
        manager.signal(Signal::SIGSTOP);
        match round % 3 {
            // With a message that has none; as a proof that nobody asked for; where no descriptor is ever taken.
            0 => {
                let assign = Message::Assign { interface: Name::NONE, network: Name::NONE };
                switch.send(&assign, &[near.as_raw_fd()]);
            }
            1 => switch.send(&Message::Proof(claim(1, &near).slot), &[near.as_raw_fd()]),
            _ => {
                let fds = [near.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&fds)];
                let line = [IoSlice::new(b"{\"version\":1,\"request\":\"ss\"}\n")];
                sendmsg::<()>(control.as_raw_fd(), &line, &rights, MsgFlags::empty(), None).unwrap();
            }
        }
        drop(near);
        manager.signal(Signal::SIGCONT);
        let start = Instant::now();
        manager.ask(Ask::Status).unwrap();
        slowest = slowest.max(start.elapsed());
        if round % 3 == 2 {
            let mut answer = [0; 64];
            assert!(control.read(&mut answer).unwrap() > 0);
        }
    }
    println!("12 sockets that linger for a minute: others were answered within {slowest:?}");
}

#[test]
fn a_switch_asks_once_a_channel_and_without_descriptors() {
    let Some(net) = Net::new("assign twice") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::new(&manager.socket);
    let assign = Message::Assign { interface: Name::NONE, network: Name::NONE };
    for _ in 0..3 {
        process.switch.send(&assign, &[]);
        let answer = process.switch.receive().map(|(message, _)| message);
        assert_eq!(answer, Some(Message::Unassigned { reason: Reason::PolicydRefused }));
    }
    let gift = std::fs::File::open("/dev/null").unwrap();
    process.switch.send(&assign, &[gift.as_raw_fd()]);
    assert!(process.switch.receive().is_none(), "who sends descriptors that belong to nothing is dropped");
    // Nothing was lost for others.
    Assigned::by_network(&manager.socket, "backup").until_by(Some("eth1"));
}

#[test]
fn ten_thousand_processes_fit_in_64_mib() {
    let Some(net) = Net::new("ten thousand") else { return };
    let processes = most_processes();
    let own = nix::unistd::getuid();
    let rule = format!("{BACKUP}[[rule]]\nuser = {own}\nnetwork = 'backup'\n[quotas]\nclients = 20000\n");
    let manager = Manager::start(&net, &rule);
    let before = resident_kb(&manager);
    let first = Assigned::new(&manager.socket);
    // Each a program of its own, with a registry of its own.
    let switches: Vec<Light> = (2..processes).map(|number| Light::new(&manager, number)).collect();
    let last = Assigned::new(&manager.socket);
    assert!(first.binding("192.0.2.1").is_some() && last.binding("192.0.2.1").is_some());
    let start = Instant::now();
    net.near("ip route add 10.7.0.0/16 via 10.1.0.254");
    while last.binding("10.7.0.1").is_some() || first.binding("10.7.0.1").is_some() {
        assert!(start.elapsed() < PATIENCE, "the change does not come");
    }
    let resident = resident_kb(&manager);
    let each = (resident - before) as f64 / processes as f64;
    let all = before as f64 + each * 10_000.0;
    println!(
        "{processes} processes: {resident} KiB resident, {each:.2} KiB each, so 10,000: {all:.0} KiB; a change in {:?}",
        start.elapsed()
    );
    assert!(all < 65_536.0, "{all:.0} KiB");
    drop((switches, last));
}

/// A switch that has its assignment, and of which this process keeps no more than the channel.
struct Light(#[allow(dead_code, reason = "it is open")] std::os::fd::OwnedFd);

impl Light {
    fn new(manager: &Manager, number: usize) -> Self {
        let mut family = Family::new();
        family.id = [0xf; 16];
        family.id[..8].copy_from_slice(&number.to_le_bytes());
        let switch = Switch::of_family(&manager.socket, family);
        switch.send(&Message::Assign { interface: Name::NONE, network: Name::NONE }, &[]);
        let answer = switch.receive().map(|(message, _)| message);
        assert!(matches!(answer, Some(Message::Assignment { .. })), "{answer:?}");
        Self(switch.channel)
    }
}

const ENOUGH: u64 = 65_536;

/// 10,000, or as many as the limit of open files leaves: each costs policyd five and this process one.
fn most_processes() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, mut hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if setrlimit(Resource::RLIMIT_NOFILE, ENOUGH, ENOUGH).is_ok() {
        hard = ENOUGH;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard / 6).unwrap().min(10_000)
}
