//! Routing rules as people have them: VPNs that take the default route by a mark, in pieces, by user or before everybody
//! else; two uplinks that are told apart by source address alone. What an assignment then means, and what the kernel does.

mod network;
mod switch;

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use network::*;
use switch::*;
use tandem_protocol::assignment::{Decision, Name, Why};

const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const LEFT_ALONE: Decision = Decision::LeaveAlone(Why::NotRouted);

fn way(interface: &str, source: &str) -> Option<(String, IpAddr)> {
    Some((interface.to_owned(), source.parse().unwrap()))
}

/// The interface that the kernel chooses for who has that source address, or none yet.
fn chosen(net: &Net, to: &str, more: &str) -> String {
    let text = net.near(&format!("ip route get {to} {more}"));
    text.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or_default().to_owned()
}

const LINKS: [&str; 3] = ["eth0", "eth1", "wg0"];

/// The interfaces by which the first packet of a TCP connection to there leaves: counted on its way out.
fn leaves_by(net: &Net, from: &str, device: Option<&str>, to: &str) -> Vec<&'static str> {
    use nix::sys::socket::*;
    net.near(
        "nft add table inet count; nft delete table inet count; nft add table inet count; \
              nft 'add chain inet count out { type filter hook output priority 0; }'",
    );
    for link in LINKS {
        net.near(&format!(
            "nft add counter inet count {link}; nft add rule inet count out oifname {link} tcp dport 9 counter name {link}"
        ));
    }
    let [from, to] = [(from, 0), (to, 9)]
        .map(|(ip, port)| SockaddrStorage::from(std::net::SocketAddr::new(ip.parse().unwrap(), port)));
    let family = from.family().unwrap();
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let tcp = socket(family, SockType::Stream, flags, None).unwrap();
    if let Some(device) = device {
        setsockopt(&tcp, sockopt::BindToDevice, &device.into()).unwrap();
    }
    bind(tcp.as_raw_fd(), &from).unwrap();
    assert_eq!(connect(tcp.as_raw_fd(), &to), Err(nix::Error::EINPROGRESS));
    let counted = |link: &&str| !net.near(&format!("nft list counter inet count {link}")).contains("packets 0 ");
    LINKS.into_iter().filter(counted).collect()
}

/// An interface that has no default route in the main table: a VPN's.
fn tunnel(net: &Net) {
    net.near(&format!("ip link add wg0 type veth peer name wg0 netns {}", net.far));
    net.far("ip link set wg0 up");
    net.near("ip link set wg0 up; ip addr add 10.3.0.1/24 dev wg0; ip addr add fd00:3::1/64 dev wg0 nodad");
}

/// As `wg-quick up wg0` does it for AllowedIPs = 0.0.0.0/0, ::/0.
fn wg_quick(net: &Net) {
    tunnel(net);
    for v in ["-4", "-6"] {
        net.near(&format!(
            "ip {v} route add default dev wg0 table 51820; ip {v} rule add not fwmark 51820 table 51820; \
             ip {v} rule add table main suppress_prefixlength 0"
        ));
    }
}

/// Those who are assigned an interface leave by it, and the host's other packets go as before.
fn both_ways(net: &Net, manager: &Manager, by_source: [bool; 2]) {
    let tunnelled = Assigned::by_interface(&manager.socket, "wg0");
    let direct = Assigned::by_interface(&manager.socket, "eth0");
    for (to, inside, outside) in [(FAR[0], "10.3.0.1", "10.1.0.1"), (FAR[1], "fd00:3::1", "fd00:1::1")] {
        assert_eq!(tunnelled.way(to), way("wg0", inside), "{to}");
        assert_eq!(direct.way(to), way("eth0", outside), "{to}");
        assert_eq!(chosen(net, to, ""), "wg0", "{to}: who has no assignment goes by the VPN as before");
        for (process, source, name, by_source) in
            [(&tunnelled, inside, "wg0", by_source[0]), (&direct, outside, "eth0", by_source[1])]
        {
            assert_eq!(process.binding(to).unwrap().by_source, by_source, "{name} {to}");
            // What the switch then does.
            let device = (!by_source).then_some(name);
            assert_eq!(leaves_by(net, source, device, to), [name], "{to}");
        }
    }
    // What the other has a route of its own to.
    assert_eq!(tunnelled.decide("10.1.0.254"), LEFT_ALONE);
    assert_eq!(direct.decide("10.3.0.2"), LEFT_ALONE);
}

#[test]
fn wg_quick_and_who_goes_past_it() {
    let Some(net) = Net::new("wg-quick") else { return };
    wg_quick(&net);
    let manager = Manager::start(&net, "[[network]]\nname = 'vpn'\ninterfaces = ['wg0']\nwhen_gone = 'enetdown'\n");
    both_ways(&net, &manager, [true, true]);
    // Down it must not leak, for that is what the policy says.
    let strict = Assigned::by_network(&manager.socket, "vpn");
    assert_eq!(strict.way(FAR[0]), way("wg0", "10.3.0.1"));
    net.near("ip link set wg0 down");
    for to in FAR {
        eventually("nothing gets out", || strict.decide(to) == Decision::NetDown);
        assert_ne!(chosen(&net, to, ""), "wg0", "natively it goes by another interface now");
    }
    assert_eq!(strict.decide("10.1.0.254"), LEFT_ALONE);
}

#[test]
fn wg_quick_without_rules_of_our_own() {
    let Some(net) = Net::new("wg-quick, by device") else { return };
    wg_quick(&net);
    let manager = Manager::start(&net, "[autobind]\nrules = false\n");
    both_ways(&net, &manager, [false, false]);
}

/// OpenVPN's redirect-gateway def1.
#[test]
fn a_default_route_in_pieces_is_one() {
    let Some(net) = Net::new("pieces") else { return };
    tunnel(&net);
    net.near("ip route add 0.0.0.0/1 dev wg0; ip route add 128.0.0.0/1 dev wg0");
    net.near("for net in ::/3 2000::/4 3000::/4; do ip -6 route add $net dev wg0; done");
    let manager = Manager::start(&net, "");
    both_ways(&net, &manager, [true, true]);
    let direct = Assigned::by_interface(&manager.socket, "eth0");
    assert_eq!((direct.way("1.2.3.4"), direct.way("203.0.113.9")), (way("eth0", "10.1.0.1"), way("eth0", "10.1.0.1")));
}

/// As Tailscale has it for an exit node: its rule comes before policyd's.
#[test]
fn a_rule_before_ours_is_reckoned_with() {
    let Some(net) = Net::new("a rule before") else { return };
    tunnel(&net);
    for v in ["-4", "-6"] {
        net.near(&format!("ip {v} route add default dev wg0 table 52; ip {v} rule add priority 5270 table 52"));
    }
    let manager = Manager::start(&net, "");
    both_ways(&net, &manager, [true, false]);
    let other = Assigned::by_interface(&manager.socket, "eth0");
    eventually("by device", || other.binding(FAR[0]).is_some_and(|binding| !binding.by_source));
    // Destinations are published one table after the other; what is explained is the last of them.
    eventually("explained so", || manager.explain(std::process::id()).by.as_deref() == Some("device"));
    let explanation = manager.explain(std::process::id());
    assert!(
        explanation.notes.iter().any(|note| note.contains("a rule that comes before policyd's")),
        "{explanation:?}"
    );
    // When it has gone an address is enough again.
    net.near("ip rule del priority 5270; ip -6 rule del priority 5270");
    eventually("by rules", || other.binding(FAR[0]).is_some_and(|binding| binding.by_source));
}

/// As VPN clients do it for single users.
#[test]
fn rules_by_user_are_each_users_own() {
    let Some(net) = Net::new("rules by user") else { return };
    tunnel(&net);
    let own = nix::unistd::getuid().as_raw();
    net.near(&format!("ip route add default dev wg0 table 100; ip rule add uidrange {own}-{own} table 100"));
    let manager = Manager::start(&net, "");
    let process = Assigned::by_interface(&manager.socket, "wg0");
    assert_eq!(process.way(FAR[0]), way("wg0", "10.3.0.1"), "this user has a default route by it");
    // Another user has none.
    net.near(&format!("ip rule del uidrange {own}-{own} table 100; ip rule add uidrange 4711-4711 table 100"));
    eventually("this user has none any more", || process.decide(FAR[0]) == LEFT_ALONE);
    assert_eq!(process.way("10.3.0.9"), way("wg0", "10.3.0.1"), "but what is on-link");
    // Before ours, the user's rule would take what has eth0's address, too.
    net.near(&format!("ip rule add priority 99 uidrange {own}-{own} table 100"));
    let direct = Assigned::by_interface(&manager.socket, "eth0");
    eventually("by device", || direct.binding(FAR[0]).is_some_and(|binding| !binding.by_source));
}

/// By port, protocol or type of service: what a socket will have nobody knows when destinations are compiled.
#[test]
fn before_a_rule_by_port_or_protocol_sockets_are_bound_to_the_device() {
    let Some(net) = Net::new("rules by port") else { return };
    net.near("ip route add default via 10.1.0.254 table 88");
    let manager = Manager::start(&net, "");
    let process = Assigned::by_interface(&manager.socket, "eth1");
    let by_source = || process.binding(FAR[0]).is_some_and(|binding| binding.by_source);
    for selector in ["dport 9", "sport 1-65534", "ipproto tcp", "tos 0x10"] {
        eventually("by rules", by_source);
        net.near(&format!("ip rule add priority 99 {selector} table 88"));
        eventually("by device", || process.binding(FAR[0]).is_some_and(|binding| !binding.by_source));
        assert_eq!(process.way(FAR[0]), way("eth1", "10.2.0.1"), "{selector}");
        if selector != "tos 0x10" {
            assert_eq!(
                leaves_by(&net, "10.2.0.1", None, FAR[0]),
                ["eth0"],
                "{selector}: the address alone does not steer"
            );
        }
        assert_eq!(leaves_by(&net, "10.2.0.1", Some("eth1"), FAR[0]), ["eth1"], "{selector}");
        assert!(manager.explain(std::process::id()).notes.iter().any(|note| note.contains("before policyd's")));
        net.near("ip rule del priority 99");
    }
    eventually("by rules", by_source);
}

#[test]
fn rules_by_destination_hold_for_theirs() {
    let Some(net) = Net::new("rules by destination") else { return };
    net.near("ip route add default via 10.1.0.254 table 77; ip rule add to 198.51.100.0/24 table 77");
    net.near("ip rule add to 203.0.113.0/24 unreachable");
    let manager = Manager::start(&net, "[autobind]\nrules = false\n");
    let process = Assigned::by_interface(&manager.socket, "eth1");
    assert_eq!(process.way(FAR[0]), way("eth1", "10.2.0.1"));
    assert_eq!(process.decide("198.51.100.9"), LEFT_ALONE, "eth0's by a rule of the administrator's");
    assert_eq!(process.decide("203.0.113.9"), LEFT_ALONE, "nobody gets there");
    let [before, after] = ["203.0.112.255", "203.0.114.0"];
    assert_eq!((process.way(before), process.way(after)), (way("eth1", "10.2.0.1"), way("eth1", "10.2.0.1")));
}

/// Two uplinks as most hosts have them: the second one's default route is for who has its address, and for nobody else.
#[test]
fn an_uplink_by_source_address_alone() {
    let Some(net) = Net::new("by source") else { return };
    net.near("ip route del default via 10.2.0.254; ip -6 route del default via fd00:2::fe");
    net.near("ip route add default via 10.2.0.254 table 101; ip rule add from 10.2.0.1 table 101");
    net.near("ip -6 route add default via fd00:2::fe table 101; ip -6 rule add from fd00:2::1 table 101");
    for config in ["", "[autobind]\nrules = false\n"] {
        let manager = Manager::start(&net, config);
        let process = Assigned::by_interface(&manager.socket, "eth1");
        for (to, source) in [(FAR[0], "10.2.0.1"), (FAR[1], "fd00:2::1")] {
            assert_eq!(process.way(to), way("eth1", source), "{config}");
            assert!(process.binding(to).unwrap().needs_source, "a message by the interface alone has no way: {config}");
        }
    }
    // Where the main table has it, too, the interface is enough.
    net.near("ip route add default via 10.2.0.254 metric 500; ip -6 route add default via fd00:2::fe metric 2000");
    let manager = Manager::start(&net, "");
    let process = Assigned::with(Switch::connect(&manager.socket), Name::new(b"eth1").unwrap(), Name::NONE);
    assert!(!process.binding(FAR[0]).unwrap().needs_source);
}
