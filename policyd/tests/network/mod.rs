//! Two network namespaces: `near`, where policyd serves, with two uplinks, and `far`, which has their other ends.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use tandem_policyd::connection::request::{Spec, State, Status};
use tandem_policyd::control::client::Control;
use tandem_policyd::control::{Answer, Ask};
use tandem_protocol::Message;
use tandem_protocol::assignment::{Arena, Binding, Decision, InterfaceName, Name, NetworkName};

use crate::switch::*;

pub const PATIENCE: Duration = Duration::from_secs(3);

/// near: eth0 10.1.0.1/24, default by it; eth1 10.2.0.1/24, a default by it of a higher metric, 10.9.0.0/16 by it,
/// but 10.9.9.0/24 by eth0; the same for IPv6.
pub struct Net {
    pub near: String,
    pub far: String,
    /// It goes with this value.
    made: bool,
}

impl Net {
    /// In `near`: the test is run again there, as a process of its own, and has nothing more to do here (`None`). Nor has
    /// it, and says so, where this user may not make namespaces.
    pub fn new(test: &str) -> Option<Self> {
        if let [Ok(near), Ok(far)] = ["TEST_NEAR", "TEST_FAR"].map(std::env::var) {
            return Some(Self { near, far, made: false });
        }
        let net = Self::made(test)?;
        let thread = std::thread::current();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.near]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", thread.name().unwrap(), "--nocapture"]);
        let output = command.env("TEST_NEAR", &net.near).env("TEST_FAR", &net.far).output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{test}: in its namespace");
        None
    }

    fn made(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [near, far] = ["near", "far"].map(|end| format!("tandem-{end}-{}-{number}", std::process::id()));
        let net = Self { near, far, made: true };
        for name in [&net.near, &net.far] {
            let made = Command::new("ip").args(["netns", "add", name]).output();
            if !made.as_ref().is_ok_and(|output| output.status.success()) {
                println!("{test}: NOT RUN: no network namespace can be made here (needs root and iproute2): {made:?}");
                return None;
            }
        }
        net.near("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ip link set lo up");
        for (link, ours) in [("eth0", 1), ("eth1", 2)] {
            net.near(&format!("ip link add {link} type veth peer name {link} netns {}", net.far));
            net.far(&format!(
                "ip addr add 10.{ours}.0.254/24 dev {link}; ip addr add fd00:{ours}::fe/64 dev {link} nodad; ip link set {link} up"
            ));
            net.near(&format!(
                "ip addr add 10.{ours}.0.1/24 dev {link}; ip addr add fd00:{ours}::1/64 dev {link} nodad; ip link set {link} up"
            ));
        }
        net.near("ip route add default via 10.1.0.254; ip -6 route add default via fd00:1::fe");
        net.near("ip route add 10.9.9.0/24 via 10.1.0.254");
        net.routes_by_eth1();
        Some(net)
    }

    pub fn routes_by_eth1(&self) {
        self.near("ip -6 addr replace fd00:2::1/64 dev eth1 nodad; ip -6 route replace fd00:2::/64 dev eth1");
        self.near("ip route add default via 10.2.0.254 metric 500; ip -6 route add default via fd00:2::fe metric 2000");
        self.near("ip route add 10.9.0.0/16 via 10.2.0.254");
    }

    #[track_caller]
    pub fn near(&self, line: &str) -> String {
        shell(&self.near, line)
    }

    #[track_caller]
    pub fn far(&self, line: &str) -> String {
        shell(&self.far, line)
    }

    /// Our rules and routes in `near`, by the default numbers.
    pub fn ours(&self) -> String {
        self.near(
            "ip rule list | grep proto.84 || true; ip -6 rule list | grep proto.84 || true; \
             ip route show table all proto 84; ip -6 route show table all proto 84",
        )
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.near, &self.far].into_iter().filter(|_| self.made) {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

#[track_caller]
fn shell(namespace: &str, line: &str) -> String {
    let output = Command::new("ip").args(["netns", "exec", namespace, "sh", "-ec", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in {namespace}: {line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// policyd in the namespace.
pub struct Manager {
    pub child: Child,
    pub socket: PathBuf,
    pub folder: tempfile::TempDir,
    namespace: String,
}

pub const BACKUP: &str = "[[network]]\nname = 'backup'\ninterfaces = ['eth1']\n";

impl Manager {
    pub fn start(net: &Net, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let socket = folder.path().join("policyd.sock");
        let child = Command::new("true").spawn().unwrap();
        let mut manager = Self { child, socket, folder, namespace: net.near.clone() };
        manager.configure(config);
        manager.launch();
        manager
    }

    pub fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("policyd.toml")
    }

    pub fn launch(&mut self) {
        self.child.wait().unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, DAEMON, "--socket"]).arg(&self.socket);
        command.arg("--config").arg(self.config()).stdin(Stdio::null());
        if std::env::var_os("POLICYD_TEST_LOG").is_some() {
            command.args(["--log", "debug"]);
        }
        self.child = command.spawn().unwrap();
        eventually("policyd serves", || Control::connect(&self.socket, PATIENCE).is_ok());
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ask(&self, ask: Ask) -> Result<Answer, String> {
        Control::connect(&self.socket, PATIENCE).unwrap().ask(ask).map_err(|error| format!("{error:#}"))
    }

    pub fn open(&self, spec: Spec) -> Result<Status, String> {
        match self.ask(Ask::Open(spec))? {
            Answer::Opened(status) => Ok(status),
            other => panic!("not opened: {other:?}"),
        }
    }

    pub fn request(&self, id: u64) -> Option<Status> {
        self.requests().into_iter().find(|status| status.id == id)
    }

    pub fn requests(&self) -> Vec<Status> {
        match self.ask(Ask::Requests).unwrap() {
            Answer::Requests(all) => all,
            other => panic!("no requests: {other:?}"),
        }
    }

    #[track_caller]
    pub fn until(&self, id: u64, state: State) {
        eventually(&format!("request {id} is {}", state.text()), || self.request(id).is_some_and(|r| r.state == state));
    }

    pub fn explain(&self, pid: u32) -> tandem_policyd::connection::Explanation {
        match self.ask(Ask::Explain(tandem_policyd::control::OfProcess { pid })).unwrap() {
            Answer::Explanation(explanation) => explanation,
            other => panic!("not explained: {other:?}"),
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn backup() -> Spec {
    Spec { network: Some("backup".to_owned()), ..Spec::default() }
}

/// A played switch that has its cell.
pub struct Assigned {
    pub switch: Switch,
    pub cell: u32,
    map: MmapRaw,
}

impl Assigned {
    pub fn new(socket: &Path) -> Self {
        Self::of(socket, Name::NONE, Name::NONE)
    }

    pub fn by_interface(socket: &Path, name: &str) -> Self {
        Self::of(socket, Name::new(name.as_bytes()).unwrap(), Name::NONE)
    }

    pub fn by_network(socket: &Path, name: &str) -> Self {
        Self::of(socket, Name::NONE, Name::new(name.as_bytes()).unwrap())
    }

    fn of(socket: &Path, interface: InterfaceName, network: NetworkName) -> Self {
        Self::with(Switch::connect(socket), interface, network)
    }

    pub fn with(switch: Switch, interface: InterfaceName, network: NetworkName) -> Self {
        switch.send(&Message::Assign { interface, network }, &[]);
        let Some((Message::Assignment { cell }, fds)) = switch.receive() else { panic!("no assignment") };
        Self { map: mapped(&fds[0]), switch, cell }
    }

    pub fn arena(&self) -> &Arena {
        // SAFETY: a mapping of an Arena's size, page-aligned, of atomics alone, as old as `self`.
        unsafe { &*self.map.as_ptr().cast::<Arena>() }
    }

    pub fn decide(&self, to: &str) -> Decision {
        self.arena().look_up(self.cell, to.parse().unwrap())
    }

    pub fn binding(&self, to: &str) -> Option<Binding> {
        match self.decide(to) {
            Decision::Bind(binding) => Some(binding),
            _ => None,
        }
    }

    /// Interface and source address.
    pub fn way(&self, to: &str) -> Option<(String, IpAddr)> {
        self.binding(to).map(|binding| (binding.interface.to_string(), binding.source))
    }

    #[track_caller]
    pub fn until_by(&self, interface: Option<&str>) {
        eventually(&format!("sockets leave by {interface:?}"), || {
            self.way("192.0.2.1").map(|(name, _)| name).as_deref() == interface
        });
    }
}

fn mapped(file: &OwnedFd) -> MmapRaw {
    let seals = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
    assert_eq!(seals & Arena::SEALS, Arena::SEALS);
    assert!(file.as_raw_fd() >= 0);
    let map = MmapOptions::new().len(Arena::BYTES).map_raw_read_only(file).unwrap();
    // SAFETY: as in `Assigned::arena`.
    assert!(unsafe { &*map.as_ptr().cast::<Arena>() }.is_sound());
    map
}

/// A process that does nothing.
pub struct Sleeper(pub Child);

impl Sleeper {
    pub fn new() -> Self {
        Self(Command::new("sleep").arg("100").spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
