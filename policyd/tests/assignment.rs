//! Which destinations are bound, by which interface and source address, and how that follows the network: with played
//! switches, in network namespaces.

mod network;
mod switch;

use std::time::{Duration, Instant};

use network::*;
use switch::*;
use tandem_policyd::connection::request::{Spec, State};
use tandem_policyd::control::{Ask, OfRequest};
use tandem_protocol::assignment::{Decision, Mode, PortBind, Why};

fn way(interface: &str, source: &str) -> Option<(String, std::net::IpAddr)> {
    Some((interface.to_owned(), source.parse().unwrap()))
}

#[test]
fn destinations_are_those_that_the_interface_has_the_best_route_to() {
    let Some(net) = Net::new("destinations") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::by_network(&manager.socket, "backup");
    // Default, on-link, a prefix; IPv6, and v4-mapped.
    for far in ["192.0.2.1", "10.2.0.254", "10.9.1.1", "::ffff:192.0.2.1"] {
        assert_eq!(process.way(far), way("eth1", "10.2.0.1"), "{far}");
    }
    for far in ["2001:db8::1", "fd00:2::fe"] {
        assert_eq!(process.way(far), way("eth1", "fd00:2::1"), "{far}");
    }
    // On-link of the other, and what the other has a more specific route to.
    for other in ["10.1.0.254", "10.9.9.9", "fd00:1::fe"] {
        assert_eq!(process.decide(other), Decision::LeaveAlone(Why::NotRouted), "{other}");
    }
    // The host's own, broadcast, multicast, link-local.
    for own in ["10.1.0.1", "10.2.0.1", "fd00:1::1", "10.2.0.255"] {
        assert_eq!(process.decide(own), Decision::LeaveAlone(Why::NotRouted), "{own}");
    }
    for local in ["127.0.0.1", "::1", "224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "169.254.1.1"] {
        assert_eq!(process.decide(local), Decision::LeaveAlone(Why::Local), "{local}");
    }
    let binding = process.binding("192.0.2.1").unwrap();
    assert!(binding.by_source && binding.mode == Mode::Auto && binding.port_bind == PortBind::Leave);
    println!("default, on-link and prefix by eth1; own, broadcast, multicast, link-local and the other's left alone");
}

#[test]
fn an_interface_without_a_default_route_serves_what_it_reaches() {
    let Some(net) = Net::new("no default") else { return };
    net.near("ip route del default via 10.2.0.254; ip -6 route del default via fd00:2::fe");
    let manager = Manager::start(&net, "");
    let process = Assigned::by_interface(&manager.socket, "eth1");
    assert_eq!(process.way("10.9.1.1"), way("eth1", "10.2.0.1"));
    assert_eq!(process.decide("192.0.2.1"), Decision::LeaveAlone(Why::NotRouted));
    assert_eq!(process.decide("2001:db8::1"), Decision::LeaveAlone(Why::NotRouted));
    // Blackholes and routes with a source of their own.
    net.near("ip route add blackhole 10.9.5.0/24; ip addr add 10.2.0.7/24 dev eth1; ip route add 10.8.0.0/16 via 10.2.0.254 src 10.2.0.7");
    eventually("the new routes are there", || process.way("10.8.0.1") == way("eth1", "10.2.0.7"));
    assert_eq!(process.decide("10.9.5.1"), Decision::LeaveAlone(Why::NotRouted));
}

#[test]
fn a_network_has_its_destinations_and_its_policy() {
    let Some(net) = Net::new("policy") else { return };
    let manager = Manager::start(
        &net,
        "[[network]]\nname = 'backup'\ninterfaces = ['none0', 'eth1']\ndestinations = ['10.9.1.0/24', '2001:db8::/32']\n\
         mode = 'device'\nport_bind = 'device'\n",
    );
    let process = Assigned::by_network(&manager.socket, "backup");
    let binding = process.binding("10.9.1.9").unwrap();
    assert!(binding.mode == Mode::Device && binding.port_bind == PortBind::Device);
    assert!(process.binding("2001:db8::7").is_some());
    assert_eq!(process.decide("10.9.2.1"), Decision::LeaveAlone(Why::NotRouted));
    assert_eq!(process.decide("192.0.2.1"), Decision::LeaveAlone(Why::NotRouted));
}

#[test]
fn a_request_reaches_a_running_process_within_50_ms_and_so_does_its_release() {
    let Some(net) = Net::new("a request") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::new(&manager.socket);
    assert_eq!(process.decide("192.0.2.1"), Decision::LeaveAlone(Why::NoAssignment));
    let mut times = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        let status = manager.open(backup()).unwrap();
        while process.binding("192.0.2.1").is_none() {
            assert!(start.elapsed() < PATIENCE, "no assignment");
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(start.elapsed());
        manager.until(status.id, State::Connected);
        manager.ask(Ask::Release(OfRequest { id: status.id })).unwrap();
        process.until_by(None);
    }
    times.sort();
    println!("the question included: median {:?}, slowest of 11 {:?}", times[5], times[10]);
    // A machine that has much else to do may delay most of them.
    assert!(times[2] < Duration::from_millis(50), "{times:?}");
}

#[test]
fn the_network_changes_and_the_assignment_follows() {
    let Some(net) = Net::new("changes") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::by_network(&manager.socket, "backup");
    let gone = |what: &str| {
        eventually(what, || process.decide("192.0.2.1") == Decision::LeaveAlone(Why::Gone));
    };
    process.until_by(Some("eth1"));
    net.near("ip link set eth1 down");
    gone("eth1 is down");
    net.near("ip link set eth1 up");
    net.routes_by_eth1();
    process.until_by(Some("eth1"));
    net.far("ip link set eth1 down");
    gone("no carrier");
    net.far("ip link set eth1 up");
    process.until_by(Some("eth1"));
    net.near(
        "ip addr add 10.2.0.9/24 dev eth1; ip addr del 10.2.0.1/24 dev eth1; ip -6 addr del fd00:2::1/64 dev eth1",
    );
    eventually("the first address is gone", || {
        process.way("10.2.0.254").is_none_or(|(_, ip)| ip.to_string() == "10.2.0.9")
    });
    net.near("ip link del eth1");
    eventually("eth1 is deleted", || {
        process.binding("10.2.0.254").is_none() && process.binding("fd00:2::fe").is_none()
    });
    eventually("our rules are gone with it", || net.ours().is_empty());
}

#[test]
fn when_the_interface_is_gone_policy_decides() {
    let Some(net) = Net::new("gone") else { return };
    let manager = Manager::start(&net, &format!("{BACKUP}when_gone = 'enetdown'\n"));
    let process = Assigned::by_network(&manager.socket, "backup");
    let start = Instant::now();
    net.near("ip link set eth1 down");
    eventually("connecting fails", || process.decide("192.0.2.1") == Decision::NetDown);
    println!("from `ip link set` to the table: {:?}, ip's own start included", start.elapsed());
    // What it never served is left alone.
    assert_eq!(process.decide("10.1.0.254"), Decision::LeaveAlone(Why::NotRouted));
    // A process that comes now is told the same.
    let late = Assigned::by_network(&manager.socket, "backup");
    assert_eq!(late.decide("192.0.2.1"), Decision::NetDown);
}

#[test]
fn a_required_request_that_waits_lets_nothing_out_by_another_way() {
    let Some(net) = Net::new("required") else { return };
    net.near("ip link set eth1 down");
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::new(&manager.socket);
    let status = manager.open(Spec { required: true, ..backup() }).unwrap();
    eventually("nothing gets out", || process.decide("192.0.2.1") == Decision::NetDown);
    assert_eq!(manager.request(status.id).unwrap().state, State::WaitingForResource);
    assert_eq!(process.decide("10.1.0.1"), Decision::LeaveAlone(Why::NotRouted));
    net.near("ip link set eth1 up");
    net.routes_by_eth1();
    process.until_by(Some("eth1"));
}

#[test]
fn the_next_interface_serves_when_the_first_is_gone() {
    let Some(net) = Net::new("fail-over") else { return };
    let manager = Manager::start(&net, "[[network]]\nname = 'backup'\ninterfaces = ['eth1', 'eth0']\n");
    let process = Assigned::by_network(&manager.socket, "backup");
    assert_eq!(process.way("192.0.2.1"), way("eth1", "10.2.0.1"));
    net.near("ip link set eth1 down");
    eventually("eth0 serves", || process.way("192.0.2.1") == way("eth0", "10.1.0.1"));
    net.near("ip link set eth1 up");
    net.routes_by_eth1();
    eventually("eth1 serves again", || process.way("192.0.2.1") == way("eth1", "10.2.0.1"));
}

#[test]
fn a_burst_of_changes_that_overruns_the_notices_is_read_again() {
    let Some(net) = Net::new("burst") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::by_network(&manager.socket, "backup");
    manager.signal(nix::sys::signal::Signal::SIGSTOP);
    // 40,000 notices do not fit in the socket's buffer.
    net.near(
        "for i in $(seq 0 19999); do echo route add 10.64.$((i / 250)).$((i % 250))/32 via 10.1.0.254; done > /tmp/$$.routes; \
         ip -batch /tmp/$$.routes; sed s/add/del/ /tmp/$$.routes | ip -batch -; rm /tmp/$$.routes",
    );
    net.near("ip route add 10.7.0.0/16 via 10.1.0.254");
    manager.signal(nix::sys::signal::Signal::SIGCONT);
    eventually("the last change is known", || process.decide("10.7.0.1") == Decision::LeaveAlone(Why::NotRouted));
    assert_eq!(process.way("192.0.2.1"), way("eth1", "10.2.0.1"));
}

#[test]
fn existing_connections_are_kept_or_ended_as_policy_says() {
    use std::io::Read;
    let Some(net) = Net::new("existing connections") else { return };
    for (existing, ended) in [("kept", false), ("failed", true)] {
        let manager = Manager::start(&net, &format!("{BACKUP}existing = '{existing}'\n"));
        let process = Assigned::by_network(&manager.socket, "backup");
        process.until_by(Some("eth1"));
        // This process has both ends of each: by the interface's address, and by another.
        let [by_eth1, by_eth0] = ["10.2.0.1:0", "10.1.0.1:0"].map(|at| {
            let listener = std::net::TcpListener::bind(at).unwrap();
            let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            near.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            (near, listener.accept().unwrap().0)
        });
        net.near("ip link set eth1 down");
        eventually("eth1 is gone", || process.binding("192.0.2.1").is_none());
        let error = (&by_eth1.0).read(&mut [0]).unwrap_err();
        // The end that is ended second has been reset by the first.
        let errors = [nix::libc::ECONNABORTED, nix::libc::ECONNRESET];
        let expected = if ended { &errors[..] } else { &[nix::libc::EAGAIN] };
        assert!(error.raw_os_error().is_some_and(|code| expected.contains(&code)), "{existing}: {error}");
        let other = (&by_eth0.0).read(&mut [0]).unwrap_err();
        assert_eq!(other.raw_os_error(), Some(nix::libc::EAGAIN), "{existing}: of another address: {other}");
        net.near("ip link set eth1 up");
        net.routes_by_eth1();
    }
}
