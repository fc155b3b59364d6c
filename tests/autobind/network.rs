//! A host with two uplinks, and two hosts far away that both reach, each in a network namespace.
//!
//! ```text
//!         eth0 10.70.0.1  fd70::1 ──┐        ┌── one  10.79.1.1  fd79:1::1
//!  host                             ├ router ┤
//!         eth1 10.71.0.1  fd71::1 ──┘        └── two  10.79.2.1  fd79:2::1
//! ```
//!
//! The default route is by eth0; eth1 has one too, of a higher metric, and the rules and table by which its source address alone
//! is enough. Packets to the far hosts are counted on each uplink.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use tandem_tests::namespace::Namespace;

pub struct Network {
    pub host: Namespace,
    pub router: Namespace,
    pub one: Namespace,
    pub two: Namespace,
}

impl Network {
    /// `None`, and said so, where this user may not make namespaces.
    pub fn new(test: &str) -> Option<Self> {
        let make = || Namespace::new(test);
        let network = Self { host: make()?, router: make()?, one: make()?, two: make()? };
        network.build();
        Some(network)
    }

    fn build(&self) {
        let links = [
            (&self.host, "eth0", "up0", "70.0"),
            (&self.host, "eth1", "up1", "71.0"),
            (&self.one, "eth0", "down1", "79.1"),
            (&self.two, "eth0", "down2", "79.2"),
        ];
        for namespace in [&self.host, &self.router, &self.one, &self.two] {
            // Duplicate addresses are not looked for: every address is there at once.
            namespace.must("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/dad_transmits");
        }
        self.router.must("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        for (namespace, device, far, net) in links {
            let v6 = format!("fd{}", net.replace(".0", "").replace('.', ":"));
            namespace.must(&format!("ip link add {device} type veth peer name {far} netns {}", self.router.name()));
            namespace.must(&format!(
                "ip addr add 10.{net}.1/24 dev {device}; ip -6 addr add {v6}::1/64 dev {device} nodad; ip link set {device} up
                 echo 0 > /proc/sys/net/ipv4/conf/{device}/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter"
            ));
            self.router.must(&format!(
                "ip addr add 10.{net}.254/24 dev {far}; ip -6 addr add {v6}::fe/64 dev {far} nodad; ip link set {far} up
                 echo 0 > /proc/sys/net/ipv4/conf/{far}/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter"
            ));
            let metric = if device == "eth0" { 100 } else { 200 };
            namespace.must(&format!(
                "ip route add default via 10.{net}.254 dev {device} metric {metric}
                 ip -6 route add default via {v6}::fe dev {device} metric {metric}"
            ));
        }
        self.host.must(
            "ip rule add from 10.71.0.1 table 101; ip route add default via 10.71.0.254 dev eth1 table 101
             ip -6 rule add from fd71::1 table 101; ip -6 route add default via fd71::fe dev eth1 table 101
             nft add table inet count; nft 'add chain inet count out { type filter hook output priority 0; }'",
        );
        for device in ["eth0", "eth1"] {
            self.host.must(&format!(
                "nft add counter inet count {device}
                 nft add rule inet count out oifname {device} ip daddr 10.79.0.0/16 counter name {device}
                 nft add rule inet count out oifname {device} ip6 daddr fd79::/16 counter name {device}"
            ));
        }
    }

    /// Packets to the far hosts that left by eth0 and by eth1 since last asked.
    pub fn packets(&self) -> (u64, u64) {
        let text = inside(&self.host, || {
            let output =
                std::process::Command::new("nft").args(["-j", "reset", "counters"]).output().expect("nft runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        let all: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("nft: {e}: {text}"));
        let entries = all["nftables"].as_array().cloned().unwrap_or_default();
        let of = |device: &str| {
            let counters = entries.iter().filter_map(|entry| entry.get("counter"));
            counters.filter(|c| c["name"] == device).filter_map(|c| c["packets"].as_u64()).sum()
        };
        (of("eth0"), of("eth1"))
    }
}

/// Runs something in a thread of its own in that namespace. Sockets made there stay there.
pub fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(namespace.name());
            work()
        });
        worker.join().expect("a thread in a namespace")
    })
}

pub fn enter(name: &str) {
    let file = File::open(Path::new("/run/netns").join(name)).expect("the namespace's file");
    // SAFETY: a plain system call; it concerns this thread alone.
    let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "entering {name}: {}", std::io::Error::last_os_error());
}
