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
        let policyd = Policyd::start_in(Some(&network.host))?;
        Some(Self { network, policyd, scratch: Scratch::new() })
    }

    /// `tandem run --interface NAME -- PROGRAM`.
    fn run(&self, interface: &str, program: impl Into<PathBuf>) -> Launch {
        let launch =
            Launch::new("run", &artifacts().command).debug(Some(crate::PATIENT)).in_namespace(Some(&self.network.host));
        let launch = launch.arg("run").arg("--policyd").arg(self.policyd.socket());
        launch.args(["--interface", interface, "--"]).arg(program.into())
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
