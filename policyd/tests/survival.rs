//! What policyd and its clients survive: deaths, restarts, nonsense, silence.

mod switch;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switch::*;
use tandem_policyd::control::{self, Ask};
use tandem_protocol::board::Board;
use tandem_protocol::registry::{Identity, Provider, Registry, VERSION};
use tandem_protocol::{MAX_MESSAGE, Message, PROTOCOL_VERSION, Reason};

#[test]
fn killed_and_started_again_at_the_same_place() {
    let mut policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    let (old, _) = (one.companion(), other.companion());
    policyd.kill();
    assert!(one.receive().is_none(), "the switch sees that it is gone");
    assert!(policyd.socket.exists(), "a killed one leaves its socket behind");

    policyd.restart();
    let (again, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    assert_ne!(again.instance, one.instance);
    // Of the old policyd's companion nothing is known, and nothing is confused.
    again.send(&Message::Released(old.companion), &[]);
    let (client, server) = connection(&listener());
    again.meet(1, &client);
    other.meet(2, &server);
    let (mine, _) = (again.companion(), other.companion());
    again.send(&Message::Released(old.companion), &[]);
    again.assert_quiet();
    let (client, server) = connection(&listener());
    again.meet(1, &client);
    other.meet(2, &server);
    assert_ne!(again.companion().companion.conn, mine.companion.conn);
}

#[test]
fn a_live_one_is_never_displaced() {
    let policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    let second = daemon(&policyd.socket).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another policyd already serves") && said.contains("--socket"), "{said}");
    one.assert_quiet();
    drop(Switch::connect(&policyd.socket));
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let mut policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    kill(Pid::from_raw(policyd.child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(policyd.child.wait().unwrap().success());
    assert!(one.receive().is_none());
    let left: Vec<_> = std::fs::read_dir(policyd.socket.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the configuration alone: {left:?}");
}

#[test]
fn a_dead_client_is_forgotten() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    let first = (one.companion(), other.companion());
    let (lone, _far) = connection(&listener());
    other.meet(3, &lone);
    policyd.until("one is parked", |status| (status.clients, status.pairs, status.parked) == (2, 1, 1));
    drop(other);
    policyd.until("all of it is gone", |status| (status.clients, status.pairs, status.parked) == (1, 0, 0));

    let other = Switch::connect(&policyd.socket);
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    let mine = one.companion();
    assert_ne!(mine.companion.pair, first.0.companion.pair);
    assert_eq!(mine.fds.len(), 4, "another process, another pair");
}

#[test]
fn a_killed_process_is_forgotten_though_its_child_has_the_channel() {
    let policyd = Policyd::start(&[]);
    let script = "import os, socket, struct, sys, time, array, ctypes
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def mem(size, seals):
    fd = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.ftruncate(fd, size)
    return fd
r = mem(int(sys.argv[2]), 0); os.pwrite(r, struct.pack('<4sII', b'TNDR', int(sys.argv[4]), 65536), 0)
import fcntl
fcntl.fcntl(r, 1033, 7)
b = mem(int(sys.argv[3]), 0); fcntl.fcntl(b, 1033, 7 | 16)
e = os.eventfd(0)
m = struct.pack('<4sHH', b'TNDM', int(sys.argv[5]), 1) + b'f' * 16 + struct.pack('<I', 0)
s.sendmsg([m], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [r, b, e]))])
s.recv(256)
child = os.fork()
if child == 0: time.sleep(30); os._exit(0)
print(child, flush=True)
time.sleep(30)
";
    let mut python = Command::new("python3")
        .args(["-c", script])
        .arg(&policyd.socket)
        .args([Registry::BYTES, Board::BYTES].map(|bytes| bytes.to_string()))
        .args([VERSION.to_string(), PROTOCOL_VERSION.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    policyd.until("it came", |status| status.clients == 1);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(python.stdout.take().unwrap()), &mut line).unwrap();
    python.kill().unwrap();
    python.wait().unwrap();
    policyd.until("it is forgotten", |status| status.clients == 0);
    kill(Pid::from_raw(line.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn nonsense_costs_its_sender_alone() {
    let policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    let nonsense: &[&[u8]] = &[b"x", b"TNDM", &[0; 256], &[0xff; 256], &[7; 4_000]];
    for bytes in nonsense {
        let stranger = channel(&policyd.socket);
        send_raw(&stranger, bytes, &[]).unwrap();
        assert!(receive(&stranger).is_none(), "before Hello");
        let known = Switch::connect(&policyd.socket);
        send_raw(&known.channel, bytes, &[]).unwrap();
        assert!(known.receive().is_none(), "after Hello");
    }
    // True messages at the wrong time, or with the wrong descriptors.
    let wrong: &[(Message, usize)] = &[
        (Message::Welcome { policyd_version: 1, instance: 1 }, 0),
        (Message::Meet(claim(1, &connection(&listener()).0)), 1),
        (Message::Proof(claim(1, &connection(&listener()).0).slot), 0),
        (Message::Hello { family: [9; 16], mail: 0 }, 3),
    ];
    for (message, count) in wrong {
        let known = Switch::connect(&policyd.socket);
        known.send(message, &vec![known.channel.as_raw_fd(); *count]);
        assert!(known.receive().is_none(), "{message:?}");
    }
    let many = Switch::connect(&policyd.socket);
    let mut packet = [0; MAX_MESSAGE];
    let length = Message::NoProof(claim(1, &connection(&listener()).0).slot).encode(&mut packet);
    send_raw(&many.channel, &packet[..length], &[many.channel.as_raw_fd(); 50]).unwrap();
    assert!(many.receive().is_none());
    one.assert_quiet();
}

#[test]
fn a_hello_with_the_wrong_descriptors_is_refused() {
    let policyd = Policyd::start(&[]);
    let family = Family::new();
    let (registry, board) = (family.registry_file.as_raw_fd(), family.board_file.as_raw_fd());
    let wake = nix::sys::eventfd::EventFd::new().unwrap();
    let wake = wake.as_raw_fd();
    let loose = memory(Board::BYTES, nix::libc::F_SEAL_GROW);
    let small = memory(4_096, Board::SEALS);
    let pipe = nix::unistd::pipe().unwrap();
    let wrong: &[&[i32]] = &[
        &[],
        &[registry, board],
        &[registry, loose.as_raw_fd(), wake],
        &[registry, small.as_raw_fd(), wake],
        &[registry, board, pipe.1.as_raw_fd()],
        &[board, board, wake],
    ];
    for fds in wrong {
        let stranger = channel(&policyd.socket);
        let mut packet = [0; MAX_MESSAGE];
        let length = Message::Hello { family: family.id, mail: 0 }.encode(&mut packet);
        send_raw(&stranger, &packet[..length], fds).unwrap();
        assert_eq!(receive(&stranger).unwrap().0, Message::RefuseHello { reason: Reason::PolicydRefused }, "{fds:?}");
    }
    // Another protocol version is told so.
    let stranger = channel(&policyd.socket);
    let mut packet = [0; MAX_MESSAGE];
    let length = Message::Hello { family: family.id, mail: 0 }.encode(&mut packet);
    packet[4] = 99;
    send_raw(&stranger, &packet[..length], &[registry, board, wake]).unwrap();
    assert_eq!(receive(&stranger).unwrap().0, Message::RefuseHello { reason: Reason::PolicydRefused });
}

#[test]
fn a_client_that_reads_nothing_is_dropped_and_the_others_served() {
    let policyd = Policyd::start(&[]);
    let (one, deaf) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let mut packet = [0; MAX_MESSAGE];
    let mut meet = claim(1, &connection(&listener()).0);
    meet.netns_cookie = 0;
    let length = Message::Meet(meet).encode(&mut packet);
    let sent = (0..1_000_000).take_while(|_| send_raw(&deaf.channel, &packet[..length], &[]).is_ok()).count();
    assert!(sent < 1_000_000, "it is dropped in the end");
    policyd.until("it is gone", |status| status.clients == 1);
    one.assert_quiet();
}

#[test]
fn totals_outlive_connection_process_and_family() {
    let policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    let (mut client, mut server) = connection(&listener());
    let meet = claim(3, &client);
    let pid = std::process::id();
    let identity = Identity { pid, addresses: meet.addresses, cookie: meet.cookie, connected: true };
    one.registry().publish(3, &identity, Reason::FewCalls);
    one.registry().publish(70, &Identity { addresses: meet.addresses.mirrored(), ..identity }, Reason::FewCalls);
    one.registry().row(70).set_provider(Provider::Local, Reason::None);
    one.registry().row(70).tx_companion.store(500, Ordering::Relaxed);
    client.write_all(&[1; 1_234]).unwrap();
    server.read_exact(&mut [0; 1_234]).unwrap();

    let rows = policyd.ss();
    assert_eq!(rows.len(), 2);
    let row = |provider: &str| rows.iter().find(|row| row.provider == provider).unwrap();
    assert_eq!((row("tcp").tx_tcp, row("tcp").reason.as_deref()), (0, Some("few-calls")));
    assert_eq!((row("local").tx_companion, row("local").reason.as_deref()), (500, None));
    assert_eq!(row("tcp").local, client.local_addr().unwrap().to_string());
    assert_eq!(row("tcp").program, std::fs::read_to_string("/proc/self/comm").unwrap().trim());
    // No longer counted by the switch: the kernel's numbers.
    one.registry().row(3).settle(Reason::PeerAbsent);
    let settled = policyd.ss().into_iter().find(|row| row.provider == "tcp").unwrap();
    assert_eq!((settled.tx_tcp, settled.rx_tcp, settled.reason.as_deref()), (1_234, 0, Some("peer-absent")));

    // A connection that is announced by its descriptor alone.
    let (other, _peer) = connection(&listener());
    one.registry().announce(71, (pid, other.as_raw_fd()), true, Reason::FewCalls);
    let local = other.local_addr().unwrap().to_string();
    let announced = policyd.ss().into_iter().find(|row| row.local == local).expect("found by its descriptor");
    assert_eq!(announced.remote, other.peer_addr().unwrap().to_string());
    assert_eq!((announced.reason.as_deref(), announced.pid), (Some("few-calls"), pid));
    drop(other);
    assert_eq!(policyd.ss().iter().filter(|row| row.local == "?").count(), 1, "nobody can say any more");
    one.registry().retire(71);

    let child = Switch::of_family(&policyd.socket, one.family());
    assert_eq!(policyd.ss().len(), 2, "a family's rows are listed once");
    one.registry().retire(70);
    let check = |when: &str| {
        let status = policyd.status();
        let numbers = (status.connections, status.carried, status.tx_companion);
        assert_eq!(numbers, (3, 1, 500), "{when}");
        assert_eq!(status.reasons.get("peer-absent"), Some(&1), "{when}");
    };
    check("one row, one retired");
    drop(child);
    one.registry().header.totals.fail_backs.fetch_add(2, Ordering::Relaxed);
    let family = one.family();
    drop(one);
    policyd.until("it is gone", |status| status.clients == 0);
    check("all gone");
    assert!(policyd.ss().is_empty());
    assert_eq!(policyd.status().fail_backs, 2);
    let _again = Switch::of_family(&policyd.socket, family);
    check("come back");
}

#[test]
fn control_answers_nonsense_with_an_error_and_goes_on() {
    let policyd = Policyd::start(&[]);
    let mut stream = UnixStream::connect(control::path(&policyd.socket)).unwrap();
    let mut lines = std::io::BufReader::new(stream.try_clone().unwrap());
    let mut ask = |line: &str| {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::BufRead::read_line(&mut lines, &mut answer).unwrap();
        answer
    };
    assert!(ask("what?\n").contains(r#""error""#));
    assert!(ask("{\"version\":2,\"request\":\"ss\"}\n").contains("version 2 is not spoken"));
    assert!(ask("{\"version\":1,\"request\":\"fly\"}\n").contains("fly"));
    assert!(ask("{\"version\":1,\"request\":\"ss\",\"more\":1}\n").contains("more"));
    assert_eq!(ask("{\"version\":1,\"request\":\"ss\"}\n"), "{\"version\":1,\"ss\":[]}\n");
    assert!(ask(&"x".repeat(5_000)).contains("4096"));
}

#[test]
fn on_demand_it_stays_while_needed_and_then_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("own/policyd.sock");
    assert!(daemon(&socket).args(["--background", "--linger", "1"]).status().unwrap().success());
    // It listens as soon as the command has returned.
    ask(&socket, Ask::Status);
    let one = Switch::connect(&socket);
    std::thread::sleep(Duration::from_millis(1_500));
    one.assert_quiet();
    drop(one);
    let gone = Instant::now();
    eventually("it leaves", || !socket.exists());
    assert!(gone.elapsed() >= Duration::from_millis(900));
    eventually("its log alone is left", || std::fs::read_dir(socket.parent().unwrap()).unwrap().count() == 1);
}

#[test]
fn an_idle_policyd_costs_nothing() {
    let policyd = Policyd::start(&[]);
    let switches: Vec<Switch> = (0..50).map(|_| Switch::connect(&policyd.socket)).collect();
    let listener = listener();
    let mut held = Vec::new();
    for (slot, ends) in (0..).zip(switches.chunks(2)) {
        let (client, server) = connection(&listener);
        ends[0].meet(slot, &client);
        ends[1].meet(slot, &server);
        held.push((ends[0].companion(), ends[1].companion(), client, server));
    }
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", policyd.child.id())).unwrap();
        stat.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(ticks(), before, "it ran");
}
