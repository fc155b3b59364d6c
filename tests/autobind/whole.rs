//! The whole of it: unmodified programs under `tandem run`, with the real policyd, which makes its own rules.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::{artifacts, native_only};
use tandem_tests::process::system_program;
use tandem_tests::programs::program;
use tandem_tests::{Launch, Policyd, Proof, Running, Scratch};

use crate::lines;
use crate::network::Network;
use crate::peers::{self, DNS, HTTP};

/// nobody
const USER: u32 = 65_534;

struct Host {
    network: Network,
    policyd: Policyd,
    scratch: Scratch,
}

impl Host {
    fn new(test: &str) -> Option<Self> {
        Self::with(test, "", |_| ())
    }

    /// With this configuration of policyd, and after this has been done to the network.
    fn with(test: &str, config: &str, change: impl FnOnce(&Network)) -> Option<Self> {
        if native_only() {
            println!("{test}: NOTHING PROVED (native mode)");
            return None;
        }
        let network = Network::new(test)?;
        // policyd makes its own.
        network.host.must("ip rule del from 10.71.0.1; ip -6 rule del from fd71::1");
        for namespace in [&network.one, &network.two, &network.host, &network.router] {
            peers::serve(namespace);
        }
        change(&network);
        let policyd = Policyd::start_with(Some(&network.host), config)?;
        Some(Self { network, policyd, scratch: Scratch::new() })
    }

    /// `tandem run --interface NAME -- PROGRAM`.
    fn run(&self, interface: &str, program: impl Into<PathBuf>) -> Launch {
        self.run_by(["--interface", interface], program)
    }

    fn run_by(&self, choice: [&str; 2], program: impl Into<PathBuf>) -> Launch {
        let launch =
            Launch::new("run", &artifacts().command).debug(Some(crate::PATIENT)).in_namespace(Some(&self.network.host));
        let launch = launch.arg("run").arg("--policyd").arg(self.policyd.socket());
        launch.args(choice).arg("--").arg(program.into())
    }

    fn native(&self, program: impl Into<PathBuf>) -> Launch {
        Launch::new("native", program.into()).in_namespace(Some(&self.network.host))
    }

    #[track_caller]
    fn says(&self, launch: Launch, text: &str) {
        let outcome = launch.run(&self.scratch, Duration::from_secs(20));
        assert_eq!(lines(&outcome), text, "{outcome}");
    }

    /// A program that makes a connection every few milliseconds and says when it is seen otherwise than before.
    fn watch(&self, interface: &str) -> Running {
        let python = "import socket, time, sys\nlast = ''\nwhile True:\n  s = socket.socket(); s.settimeout(0.03)\n  try:\n    s.connect(('10.79.1.1', 5000)); seen = s.recv(99).decode()\n  except OSError as e: seen = repr(e)\n  s.close()\n  if seen != last: print('%.6f' % time.monotonic(), seen, flush=True)\n  last = seen; time.sleep(0.002)";
        self.run(interface, system_program("python3")).args(["-c", python]).spawn(&self.scratch)
    }
}

fn monotonic() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// When the program was first seen so, after that moment.
#[track_caller]
fn seen_since(running: &Running, since: f64, what: &str) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = running.stdout();
        let found = text.lines().rev().find_map(|line| {
            let (time, seen) = line.split_once(' ')?;
            let time: f64 = time.parse().ok()?;
            (seen == what && time >= since).then_some(time)
        });
        if let Some(time) = found {
            return time;
        }
        assert!(Instant::now() < deadline, "never seen as {what}:\n{text}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn tandem_run_interface() {
    const TEST: &str = "tandem_run_interface";
    let Some(host) = Host::new(TEST) else { return };
    let mut proof = Proof::new(TEST);
    for (interface, four, six) in [("eth0", "10.70.0.1", "fd70::1"), ("eth1", "10.71.0.1", "fd71::1")] {
        host.network.packets();
        let curl = |url: &str| host.run(interface, system_program("curl")).args(["-sS", "--max-time", "5", url]);
        host.says(curl(&format!("http://10.79.1.1:{HTTP}/")), four);
        host.says(curl(&format!("http://[fd79:2::1]:{HTTP}/")), six);
        let dig = |to: &str| {
            let launch = host.run(interface, system_program("dig")).args(["+short", "+tries=1", to, "-p"]);
            launch.arg(DNS.to_string()).args(["TXT", "who.test"])
        };
        host.says(dig("@10.79.2.1"), &format!("\"{four}\""));
        host.says(dig("@fd79:1::1"), &format!("\"{six}\""));
        let actions = "tcp6 connect:10.79.1.1/5000 ask udp6 to:10.79.1.1/5001 udp4 to:127.0.0.1/5001 to:10.79.1.1/5001 tcp4 connect:127.0.0.1/5000 ask tcp4 connect:10.70.0.254/5000 ask tcp4 connect:10.71.0.254/5000 ask fork exec tcp4 connect:10.79.2.1/5000 ask";
        let seen = format!(
            "peer sees {four}; peer sees {four}; peer sees 127.0.0.1; peer sees {four}; peer sees 127.0.0.1; peer sees 10.70.0.1; peer sees 10.71.0.1; peer sees {four}"
        );
        host.says(host.run(interface, program("autobind")).args(actions.split_whitespace()), &seen);
        let packets = host.network.packets();
        let (here, there) = if interface == "eth1" { (packets.1, packets.0) } else { packets };
        assert!(here > 0 && there == 0, "{interface}: {packets:?}");
        proof.fact(format!(
            "--interface {interface}: curl, dig and sockets of all kinds, {here} packets by it, none by the other"
        ));
    }
    proof.print();
}

/// A user without any right, with a policyd of its own that may make no rules: by device and address.
#[test]
fn without_root() {
    const TEST: &str = "without_root";
    let Some(host) = Host::new(TEST) else { return };
    let mut proof = Proof::new(TEST);
    // Where the user may go, whatever the build's own folder is.
    let folder = host.scratch.file("user");
    fs::create_dir(&folder).expect("a folder");
    let bin = Scratch::new();
    for path in [bin.path(), host.scratch.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
    std::os::unix::fs::chown(&folder, Some(USER), Some(USER)).expect("chown");
    let here = |path: &Path| {
        let to = bin.file(&path.file_name().expect("a name").to_string_lossy());
        fs::copy(path, &to).expect("a copy");
        to
    };
    let [daemon, command, library, sockets] =
        [&artifacts().daemon, &artifacts().command, &artifacts().library, &program("autobind")].map(|path| here(path));
    let socket = folder.join("policyd.sock");
    let as_user = |name: &str| {
        let launch = Launch::new(name, system_program("setpriv")).in_namespace(Some(&host.network.host));
        let user = USER.to_string();
        launch.args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--",
        ])
    };
    let mut policyd = as_user("policyd").arg(&daemon).arg("--socket").arg(&socket).spawn(&host.scratch);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(!policyd.ended() && Instant::now() < deadline, "policyd: {}", policyd.wait(Duration::ZERO));
        thread::sleep(Duration::from_millis(5));
    }
    let run = |interface: &str, program: &Path| {
        let launch = as_user("run").arg(&command).arg("run").arg("--policyd").arg(&socket);
        let launch = launch.env("TANDEM_LIBRARY", &library).debug(Some(crate::PATIENT));
        launch.args(["--interface", interface, "--"]).arg(program)
    };
    let actions = "tcp4 connect:10.79.1.1/5000 ask options tcp6 connect:fd79:1::1/5000 ask udp4 to:10.79.1.1/5001 to:127.0.0.1/5001 udp6 connect:fd79:2::1/5001 ask tcp4 connect:10.70.0.1/5000 ask tcp4 connect:10.70.0.254/5000 ask";
    for (interface, four, six) in [("eth0", "10.70.0.1", "fd70::1"), ("eth1", "10.71.0.1", "fd71::1")] {
        let curl = run(interface, &system_program("curl")).args(["-sS", "--max-time", "5"]);
        host.says(curl.arg(format!("http://10.79.1.1:{HTTP}/")), four);
        let seen = format!(
            "peer sees {four}; device '' of 0 bytes, index 0, noport 0, unicast 0 0; peer sees {six}; peer sees {four}; peer sees 127.0.0.1; peer sees {six}; peer sees 10.70.0.1; peer sees 10.70.0.1"
        );
        host.says(run(interface, &sockets).args(actions.split_whitespace()), &seen);
        proof.fact(format!("uid {USER} without capabilities, --interface {interface}: curl and sockets of all kinds by it, own addresses as natively"));
    }
    proof.print();
}

/// The interface goes down and comes up; policyd dies: what a running program's next connection does.
#[test]
fn links_and_policyd_come_and_go() {
    const TEST: &str = "links_and_policyd_come_and_go";
    let Some(mut host) = Host::new(TEST) else { return };
    let mut proof = Proof::new(TEST);
    let running = host.watch("eth1");
    let (zero, one) = ("10.70.0.1", "10.71.0.1");
    seen_since(&running, 0.0, one);
    let since = |line: &str| {
        let before = monotonic();
        host.network.host.must(line);
        (before, monotonic())
    };
    let (down, done) = since("ip link set eth1 down");
    let lost = seen_since(&running, down, zero);
    let up = "ip link set eth1 up; ip -6 addr add fd71::1/64 dev eth1 nodad; ip route add default via 10.71.0.254 dev eth1 metric 200";
    let (_, up) = since(up);
    let back = seen_since(&running, done.max(lost), one);
    let (gone, _) = since("ip addr del 10.71.0.1/24 dev eth1");
    let unaddressed = seen_since(&running, gone, zero);
    // The last step of each line is what policyd hears of; a connection every few milliseconds tells when.
    let took = [
        ("link down", lost - done),
        ("link, address and route back", back - up),
        ("address removed", unaddressed - gone),
    ];
    for (what, seconds) in took {
        assert!(seconds < 0.25, "{what}: {seconds:.3} s until the next connection followed");
        proof.fact(format!(
            "{what}: the running program's connections followed within {:.0} ms",
            (seconds * 1e3).max(0.0)
        ));
    }
    host.network
        .host
        .must("ip addr add 10.71.0.1/24 dev eth1; ip route add default via 10.71.0.254 dev eth1 metric 200");
    seen_since(&running, gone, one);
    let killed = monotonic();
    host.policyd.kill();
    seen_since(&running, killed, zero);
    proof.fact("policyd killed: as natively");
    let errors: Vec<_> = running.stdout().lines().filter(|line| line.contains("Error")).map(str::to_owned).collect();
    proof.fact(format!("connections that failed meanwhile: {}", errors.len()));
    proof.print();
}

/// What every program does here: TCP and UDP, connected and not, v4, v6 and v4-mapped.
const ALL: &str = "tcp4 connect:10.79.1.1/5000 ask tcp6 connect:fd79:1::1/5000 ask tcp6 connect:10.79.1.1/5000 ask udp4 to:10.79.1.1/5001 udp6 to:fd79:2::1/5001 udp4 connect:10.79.2.1/5001 ask udp6 connect:fd79:1::1/5001 ask udp6 connect:10.79.1.1/5001 ask udp4 to:127.0.0.1/5001 tcp4 connect:127.0.0.1/5000 ask";

fn all_by(four: &str, six: &str) -> String {
    let own = "127.0.0.1";
    let seen = [four, six, four, four, six, four, six, four, own, own];
    seen.map(|address| format!("peer sees {address}")).join("; ")
}

/// A VPN as `wg-quick` sets it up takes everything; who is assigned an interface goes past it, or by it, or nowhere.
#[test]
fn past_a_vpn_and_by_it() {
    const TEST: &str = "past_a_vpn_and_by_it";
    // eth1 is the tunnel.
    let vpn = |network: &Network| {
        for (v, gateway) in [("-4", "10.71.0.254"), ("-6", "fd71::fe")] {
            network.host.must(&format!(
                "ip {v} route del default dev eth1; ip {v} route add default via {gateway} dev eth1 table 51820
                 ip {v} rule add not fwmark 51820 table 51820; ip {v} rule add table main suppress_prefixlength 0"
            ));
        }
    };
    let config = "[[network]]\nname = 'vpn'\ninterfaces = ['eth1']\nwhen_gone = 'enetdown'\n";
    let Some(host) = Host::with(TEST, config, vpn) else { return };
    let mut proof = Proof::new(TEST);
    let actions = || ALL.split_whitespace();
    let (by_0, by_1) = (all_by("10.70.0.1", "fd70::1"), all_by("10.71.0.1", "fd71::1"));
    host.says(host.native(program("autobind")).args(actions()), &by_1);
    host.network.packets();
    host.says(host.run("eth0", program("autobind")).args(actions()), &by_0);
    let past = host.network.packets();
    host.says(host.run_by(["--network", "vpn"], program("autobind")).args(actions()), &by_1);
    let by = host.network.packets();
    assert!(past.0 > 0 && past.1 == 0 && by.0 == 0 && by.1 > 0, "{past:?} {by:?}");
    proof.fact(format!(
        "natively by the VPN; assigned eth0 {} packets past it, assigned the VPN {} by it",
        past.0, by.1
    ));
    let gate = host.scratch.file("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; exec \"$@\"", gate.display());
    let waiting = host.run_by(["--network", "vpn"], "/bin/sh").args(["-c", &script, "sh"]).arg(program("autobind"));
    let mut waiting =
        waiting.args(["tcp4", "connect:10.79.1.1/5000", "udp4", "to:10.79.1.1/5001"]).spawn(&host.scratch);
    thread::sleep(Duration::from_millis(200));
    host.network.host.must("ip link set eth1 down");
    thread::sleep(Duration::from_millis(200));
    fs::write(&gate, "").expect("a file");
    let outcome = waiting.wait(Duration::from_secs(10));
    assert_eq!(lines(&outcome), "connect: ENETDOWN; sendto: ENETDOWN", "{outcome}");
    let leaked = host.network.packets();
    assert_eq!(leaked.0, 0, "{leaked:?}");
    proof.fact("the VPN down: ENETDOWN, and no packet by eth0");
    proof.print();
}

/// Two uplinks as most hosts have them: the second one's default route is for who has its address, and for nobody else.
#[test]
fn an_uplink_by_source_address_alone() {
    const TEST: &str = "an_uplink_by_source_address_alone";
    let change = |network: &Network| {
        for (v, gateway, address) in [("-4", "10.71.0.254", "10.71.0.1"), ("-6", "fd71::fe", "fd71::1")] {
            network.host.must(&format!(
                "ip {v} route del default dev eth1; ip {v} route replace default via {gateway} dev eth1 table 101
                 ip {v} rule add from {address} table 101"
            ));
        }
    };
    let Some(host) = Host::with(TEST, "", change) else { return };
    let mut proof = Proof::new(TEST);
    host.network.packets();
    host.says(host.run("eth1", program("autobind")).args(ALL.split_whitespace()), &all_by("10.71.0.1", "fd71::1"));
    let (eth0, eth1) = host.network.packets();
    assert!(eth0 == 0 && eth1 > 0, "{eth0} {eth1}");
    proof.fact(format!("eth1's default route in a table for its addresses: {eth1} packets by it, none by eth0"));
    proof.print();
}

/// Connections whose interface goes, where policy ends them (to a server that is slow to accept): whatever call the program sleeps in says ENETDOWN.
#[test]
fn existing_connections_fail_with_enetdown() {
    const TEST: &str = "existing_connections_fail_with_enetdown";
    let config = "[[network]]\nname = 'strict'\ninterfaces = ['eth1']\nexisting = 'failed'\n";
    let Some(host) = Host::with(TEST, config, |_| ()) else { return };
    let mut proof = Proof::new(TEST);
    let python = "import socket, select, threading, errno, time, sys
def connected():
  return socket.create_connection(('10.79.1.1', 8080))
said = {}
def say(name, call):
  try: said[name] = str(call())
  except OSError as e: said[name] = errno.errorcode[e.errno]
def polls(s):
  p = select.poll(); p.register(s, select.POLLIN); p.poll()
  return errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
def epolls(s):
  p = select.epoll(); p.register(s, select.EPOLLIN | select.EPOLLET); p.poll()
  return errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
def sends(s):
  while True: s.send(b'x'); time.sleep(0.02)
calls = {'recv': lambda s: s.recv(1), 'read': lambda s: __import__('os').read(s.fileno(), 1), 'recvmsg': lambda s: s.recvmsg(1), 'poll': polls, 'epoll': epolls, 'send': sends}
threads = [threading.Thread(target=say, args=(n, lambda c=c, s=connected(): c(s))) for n, c in calls.items()]
local = socket.create_connection(('127.0.0.1', 8080))
other = socket.socket(); other.bind(('10.70.0.1', 0)); other.connect(('10.79.1.1', 8080))
for t in threads: t.start()
time.sleep(0.3); print('ready', flush=True)
for t in threads: t.join()
for s in (local, other): s.setblocking(False); say('other', lambda: s.recv(1)); print(said.pop('other'))
print(*(n + ' ' + said[n] for n in calls), sep='; ', flush=True)";
    for (choice, expected) in [(["--network", "strict"], "ENETDOWN"), (["--interface", "eth1"], "")] {
        let launch = host.run_by(choice, system_program("python3")).args(["-c", python]);
        let mut running = launch.spawn(&host.scratch);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !running.stdout().contains("ready") {
            assert!(!running.ended() && Instant::now() < deadline, "{}", running.wait(Duration::ZERO));
            thread::sleep(Duration::from_millis(5));
        }
        host.network.host.must("ip link set eth1 down");
        if expected.is_empty() {
            thread::sleep(Duration::from_millis(500));
            assert!(!running.ended(), "kept is the default: {}", running.stdout());
            proof.fact("kept: the program sleeps on");
            continue;
        }
        let outcome = running.wait(Duration::from_secs(20)).succeeded();
        let calls = ["recv", "read", "recvmsg", "poll", "epoll", "send"].map(|call| format!("{call} {expected}"));
        assert_eq!(lines(&outcome), format!("ready; EAGAIN; EAGAIN; {}", calls.join("; ")), "{outcome}");
        proof.fact(format!("failed: {}; a socket of the program's own choice and a local one go on", calls.join(", ")));
        let up = "ip link set eth1 up; ip -6 addr add fd71::1/64 dev eth1 nodad; ip route add default via 10.71.0.254 dev eth1 metric 200";
        host.network.host.must(up);
        thread::sleep(Duration::from_millis(300));
    }
    proof.print();
}
