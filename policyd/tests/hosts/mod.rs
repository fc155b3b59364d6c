//! Two hosts: network namespaces joined by a wire, a policyd in each, and devices that a folder stands for.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod companions;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use tandem_policyd::control::client::Control;
use tandem_policyd::control::{Answer, Ask, Status};
use tandem_policyd::peers::{Keypair, PeerStatus, PeersStatus};

use crate::switch::{DAEMON, Switch};

/// Two cores, and others at work on them.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const PORT: u16 = 7470;

/// Two namespaces: 10.77.0.1 and fd00:77::1 in the first, 10.77.0.2 and fd00:77::2 in the second.
pub struct Wire {
    pub names: [String; 2],
}

impl Wire {
    /// `None`, and says so, where this user may not make namespaces.
    pub fn new(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = [1, 2].map(|end| format!("Ptandem{end}-{}-{number}", std::process::id()));
        let wire = Self { names };
        for name in &wire.names {
            let made = Command::new("ip").args(["netns", "add", name]).output();
            if !made.as_ref().is_ok_and(|output| output.status.success()) {
                println!("{test}: NOT RUN: no network namespace can be made here (needs root and iproute2): {made:?}");
                return None;
            }
        }
        wire.run(0, &format!("ip link add wire type veth peer name wire netns {}", wire.names[1]));
        for (end, number) in [(0, 1), (1, 2)] {
            wire.run(
                end,
                &format!(
                    "ip link set lo up; ip addr add 10.77.0.{number}/24 dev wire; \
                     ip addr add fd00:77::{number}/64 dev wire nodad; ip link set wire up"
                ),
            );
        }
        Some(wire)
    }

    #[track_caller]
    pub fn run(&self, end: usize, line: &str) -> String {
        let output = Command::new("ip").args(["netns", "exec", &self.names[end], "sh", "-ec", line]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "at {end}: {line}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// In a thread of its own there: sockets made in it belong to that host.
    pub fn at<T: Send>(&self, end: usize, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(Path::new("/run/netns").join(&self.names[end])).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// A connection from the first host to the second.
    pub fn connection(&self) -> (TcpStream, TcpStream) {
        self.connection_to("10.77.0.2:0")
    }

    pub fn connection_to(&self, address: &str) -> (TcpStream, TcpStream) {
        let listener = self.at(1, || TcpListener::bind(address).unwrap());
        let to = listener.local_addr().unwrap();
        let client = self.at(0, || TcpStream::connect(to).unwrap());
        (client, listener.accept().unwrap().0)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

pub struct Host {
    pub child: Option<Child>,
    pub end: usize,
    pub folder: tempfile::TempDir,
    pub key: Keypair,
    namespace: String,
    pub settings: String,
    pub arguments: Vec<String>,
}

impl Host {
    /// With a key, and a device that serves its addresses; its policyd is not started yet.
    pub fn new(wire: &Wire, end: usize) -> Self {
        Self::keyed(wire, end, Keypair::create)
    }

    pub fn keyed(wire: &Wire, end: usize, make: impl Fn(&Path) -> anyhow::Result<Keypair>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("peers.d")).unwrap();
        let key = make(&folder.path().join("peer.key")).unwrap();
        let settings = format!("[peers]\nlisten = \"{}\"\nkeepalive_seconds = 1\n", address(end, PORT));
        let host =
            Self { child: None, end, folder, key, namespace: wire.names[end].clone(), settings, arguments: Vec::new() };
        host.serve(&[&format!("10.77.0.{}", end + 1), &format!("fd00:77::{}", end + 1)]);
        host
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("policyd.sock")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("policyd.toml")
    }

    fn sysfs(&self) -> PathBuf {
        self.folder.path().join("sys")
    }

    /// Lists the other host, with these addresses.
    pub fn lists(&self, name: &str, other: &Host, addresses: &[&str]) {
        self.lists_key(name, &other.key.public.to_string(), Some(address(other.end, PORT)), addresses);
    }

    pub fn lists_key(&self, name: &str, key: &str, endpoint: Option<SocketAddr>, addresses: &[&str]) {
        let endpoint = endpoint.map(|endpoint| format!("endpoint = \"{endpoint}\"\n")).unwrap_or_default();
        let entry =
            format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n{endpoint}addresses = {addresses:?}\n");
        fs::write(self.folder.path().join(format!("peers.d/{name}.toml")), entry).unwrap();
    }

    /// From now on a device serves these addresses, and no others.
    pub fn serve(&self, addresses: &[&str]) {
        let port = self.sysfs().join("class/infiniband/rxe0/ports/1");
        let _ = fs::remove_dir_all(self.sysfs());
        fs::create_dir_all(port.join("gids")).unwrap();
        fs::create_dir_all(port.join("gid_attrs/types")).unwrap();
        fs::write(port.join("state"), "4: ACTIVE\n").unwrap();
        fs::write(port.join("link_layer"), "Ethernet\n").unwrap();
        for (index, address) in addresses.iter().enumerate() {
            let gid = match address.parse().unwrap() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            fs::write(port.join(format!("gids/{index}")), format!("{gid}\n")).unwrap();
            fs::write(port.join(format!("gid_attrs/types/{index}")), "RoCE v2\n").unwrap();
        }
    }

    pub fn start(&mut self) {
        fs::write(self.config(), &self.settings).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, DAEMON, "--socket"]).arg(self.socket());
        command.arg("--config").arg(self.config()).arg("--sysfs").arg(self.sysfs()).args(&self.arguments);
        if std::env::var_os("POLICYD_TEST_LOG").is_some() {
            command.args(["--log", "debug"]);
        }
        self.child = Some(command.stdin(Stdio::null()).spawn().unwrap());
        let socket = self.socket();
        within("policyd serves", || {
            assert_eq!(self.child.as_mut().unwrap().try_wait().unwrap(), None, "it has ended");
            Control::connect(&socket, PATIENCE).is_ok()
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// As by kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn reload(&self) {
        assert!(matches!(self.ask(Ask::Reload), Answer::Reloaded(true)));
    }

    pub fn ask(&self, ask: Ask) -> Answer {
        Control::connect(&self.socket(), PATIENCE).unwrap().ask(ask).unwrap()
    }

    pub fn status(&self) -> Status {
        let Answer::Status(status) = self.ask(Ask::Status) else { panic!("no status") };
        status
    }

    pub fn peers(&self) -> PeersStatus {
        let Answer::Peers(peers) = self.ask(Ask::Peers) else { panic!("no peers") };
        peers
    }

    pub fn peer(&self, name: &str) -> PeerStatus {
        self.peers().peers.into_iter().find(|peer| peer.name == name).expect("it is listed")
    }

    pub fn switch(&self) -> Switch {
        Switch::connect(&self.socket()).patient()
    }

    /// Companions with others and parked meets of others, as counted here, and whether anything at all is left.
    pub fn is_empty(&self) -> bool {
        let status = self.status();
        status.far == 0 && status.far_parked == 0 && status.parked == 0
    }

    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn address(end: usize, port: u16) -> SocketAddr {
    format!("10.77.0.{}:{port}", end + 1).parse().unwrap()
}

/// Two hosts that list each other, both dialling, linked; the first has role 0.
pub fn linked(wire: &Wire) -> [Host; 2] {
    linked_with(wire, "")
}

/// With these settings before the others.
pub fn linked_with(wire: &Wire, settings: &str) -> [Host; 2] {
    let mut hosts = ordered(wire);
    hosts.iter_mut().for_each(|host| host.settings.insert_str(0, settings));
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1", "fd00:77::1"]);
    hosts.iter_mut().for_each(Host::start);
    until_linked(&hosts);
    hosts
}

/// Keys so that the first host's is the smaller.
pub fn ordered(wire: &Wire) -> [Host; 2] {
    loop {
        let hosts = [Host::new(wire, 0), Host::new(wire, 1)];
        if hosts[0].key.public < hosts[1].key.public {
            return hosts;
        }
    }
}

#[track_caller]
pub fn until_linked(hosts: &[Host; 2]) {
    within("they are linked, and know what is served", || {
        let up = |host: &Host, name| {
            let peer = host.peer(name);
            peer.up && peer.served.len() == 2
        };
        up(&hosts[0], "b") && up(&hosts[1], "a")
    });
}

#[track_caller]
pub fn within(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
