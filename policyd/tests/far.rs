//! Two switches on two hosts meet by their policyds, over real TCP connections between the hosts.

mod hosts;
mod switch;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use hosts::companions::*;
use hosts::*;
use switch::*;
use tandem_policyd::control::{Answer, Ask};
use tandem_protocol::message::{Blob, WordKind};
use tandem_protocol::{Message, Reason};

#[test]
fn both_ends_meet_and_all_that_they_say_arrives() {
    let Some(wire) = Wire::new("meeting") else { return };
    let hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let connection = wire.connection();
    let ends = Ends::met([&one, &other], 7, &connection);
    let longest = Blob::new(&[0xa5; Blob::BYTES]).unwrap();
    ends.says(0, |far| Message::FarEndpoint { far, blob: longest });
    ends.says(1, |far| Message::FarEndpoint { far, blob: blob("qpn 17") });
    ends.says(1, Message::FarConfirmed);
    ends.says(0, Message::FarConfirmed);
    for (end, kind) in [(0, WordKind::Ask), (1, WordKind::AnswerTaken), (0, WordKind::Void), (1, WordKind::Leave)] {
        ends.says(end, |far| Message::FarWord { far, word: word(kind, 0, 3) });
    }
    assert_eq!((hosts[0].peer("b").companions, hosts[1].peer("a").companions), (1, 1));
    // An endpoint is said once: a second one goes nowhere.
    one.send(&Message::FarEndpoint { far: ends.far[0], blob: blob("again") }, &[]);
    one.send(&Message::FarConfirmed(ends.far[0]), &[]);
    ends.release(0);
    all_gone(&hosts);
    // What is said of it now is said of nothing, and no fault.
    other.send(&Message::FarWord { far: ends.far[1], word: word(WordKind::Ask, 1, 4) }, &[]);
    other.send(&Message::FarReleased(ends.far[1]), &[]);
    other.assert_quiet();
    // The same connection may have another one.
    let again = Ends::met([&one, &other], 8, &connection);
    assert_ne!(again.far[0].id, ends.far[0].id);
    other.send(&Message::FarUnable(again.far[1]), &[]);
    assert_eq!(one.next(), Message::FarGone { far: again.far[0], reason: Reason::PeerUnable });
    all_gone(&hosts);
}

#[test]
fn ipv6_and_mapped_ends_meet() {
    let Some(wire) = Wire::new("v6") else { return };
    let hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    Ends::met([&one, &other], 1, &wire.connection_to("[fd00:77::2]:0"));
    let listener = wire.at(1, || std::net::TcpListener::bind("[::]:0").unwrap());
    let to = address(1, listener.local_addr().unwrap().port());
    let client = wire.at(0, || TcpStream::connect(to).unwrap());
    let server = listener.accept().unwrap().0;
    assert!(server.local_addr().unwrap().is_ipv6());
    Ends::met([&one, &other], 2, &(client, server));
}

#[test]
fn who_comes_alone_is_parked_told_and_forgotten() {
    let Some(wire) = Wire::new("parked") else { return };
    let hosts = linked_with(&wire, "park_seconds = 2\n");
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    // Two different connections: as behind a NAT, their addresses don't mirror.
    let (first, second) = (wire.connection(), wire.connection());
    one.meet(1, &first.0);
    other.meet(1, &second.1);
    within("the second one's waits at the first host too", || hosts[0].status().far_parked == 1);
    assert_eq!((one.refused(), other.refused()), ((1, Reason::PeerAbsent), (1, Reason::PeerAbsent)));
    all_gone(&hosts);
    // Whose other end was refused a moment ago need not wait.
    let asked = Instant::now();
    other.meet(2, &first.1);
    assert_eq!(other.refused(), (2, Reason::PeerAbsent));
    assert!(asked.elapsed() < Duration::from_millis(1_800), "{:?}", asked.elapsed());
    // A claim that is withdrawn (its slot has another connection) is withdrawn there.
    let third = wire.connection();
    other.meet(3, &third.1);
    other.assert_quiet();
    within("it waits there", || hosts[0].status().far_parked == 1);
    drop(other);
    within("and goes with its process", || hosts[0].status().far_parked == 0);
}

/// The ends of a connection that is made while a policyd is being restarted.
#[test]
fn who_asks_before_the_link_is_up_is_matched_when_it_is() {
    let Some(wire) = Wire::new("late link") else { return };
    let mut hosts = ordered(&wire);
    hosts[0].lists("b", &hosts[1], &["10.77.0.2"]);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1"]);
    for (host, settings) in hosts.iter_mut().zip(["", "listen"]) {
        host.settings = format!("park_seconds = 60\n{}", host.settings);
        assert!(settings.is_empty() || host.settings.contains(settings));
    }
    wire.run(0, "iptables -V >/dev/null 2>&1 || true; ip route add blackhole 10.77.0.2/32 table 77; ip rule add dport 7470 table 77 priority 10");
    wire.run(1, "ip route add blackhole 10.77.0.1/32 table 77; ip rule add dport 7470 table 77 priority 10");
    hosts.iter_mut().for_each(Host::start);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let (client, server) = wire.connection();
    one.meet(1, &client);
    other.meet(1, &server);
    one.assert_quiet();
    other.assert_quiet();
    assert!(!hosts[0].peer("b").up);
    wire.run(0, "ip rule del priority 10");
    Ends::introduced([&one, &other], 1);
}

#[test]
fn a_lost_link_is_told_and_companions_outlive_it_but_not_a_policyd() {
    let Some(wire) = Wire::new("resume") else { return };
    let mut hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let connections: Vec<_> = (0..3).map(|_| wire.connection()).collect();
    let ends: Vec<_> = (0..3).map(|slot| Ends::met([&one, &other], slot, &connections[slot as usize])).collect();
    ends[0].says(0, |far| Message::FarEndpoint { far, blob: blob("one") });
    let links = |up: bool| {
        assert_eq!(one.next(), Message::PeerLink { host: ends[0].far[0].host, up });
        assert_eq!(other.next(), Message::PeerLink { host: ends[0].far[1].host, up });
    };
    wire.run(0, "ip link set wire down");
    links(false);
    // Said while nobody can hear it, and let go while nobody can hear it.
    one.send(&Message::FarConfirmed(ends[0].far[0]), &[]);
    for epoch in 0..100 {
        one.send(&Message::FarWord { far: ends[0].far[0], word: word(WordKind::Ask, 0, epoch) }, &[]);
    }
    one.send(&Message::FarReleased(ends[1].far[0]), &[]);
    one.assert_quiet();
    wire.run(0, "ip link set wire up; ip addr replace fd00:77::1/64 dev wire nodad");
    links(true);
    // What was said last, once, and what is gone. (Both dial, so there may be one more link in between.)
    let far = ends[0].far[1];
    let mut awaited = vec![
        Message::FarConfirmed(far),
        Message::FarWord { far, word: word(WordKind::Ask, 0, 99) },
        Message::FarGone { far: ends[1].far[1], reason: Reason::PeerGone },
    ];
    while !awaited.is_empty() {
        let heard = other.next();
        if !matches!(heard, Message::PeerLink { .. }) {
            let place = awaited.iter().position(|message| *message == heard);
            awaited.remove(place.unwrap_or_else(|| panic!("{heard:?}, awaited {awaited:?}")));
        }
    }
    until_linked(&hosts);
    [&one, &other].into_iter().for_each(Switch::settle);
    ends[2].says(1, |far| Message::FarEndpoint { far, blob: blob("still there") });
    ends[2].release(1);
    // Another policyd knows nothing of it.
    hosts[1].kill();
    assert_eq!(one.next(), Message::PeerLink { host: ends[0].far[0].host, up: false });
    hosts[1].start();
    assert_eq!(one.next(), Message::FarGone { far: ends[0].far[0], reason: Reason::PeerGone });
    until_linked(&hosts);
    all_gone(&hosts);
}

#[test]
fn the_death_of_either_process_is_told_and_leaves_nothing() {
    let Some(wire) = Wire::new("death") else { return };
    let hosts = linked(&wire);
    for dies in [0, 1] {
        let switches = [hosts[0].switch(), hosts[1].switch()];
        // More than a queue holds, to one that does not read meanwhile.
        let connections: Vec<_> = (0..600).map(|_| wire.connection()).collect();
        let mut ends = Vec::new();
        for (slot, connection) in (0..).zip(&connections) {
            ends.push(Ends::met([&switches[0], &switches[1]], slot, connection).far[1 - dies]);
        }
        let [zero, one] = switches;
        let (dead, alive) = if dies == 0 { (zero, one) } else { (one, zero) };
        drop(dead);
        within("the dead one's are let go", || hosts[dies].is_empty());
        std::thread::sleep(Duration::from_millis(300));
        let mut told: Vec<_> = (0..600)
            .map(|_| match alive.next() {
                Message::FarGone { far, reason: Reason::PeerGone } => far,
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort_unstable();
        ends.sort_unstable();
        assert!(told == ends, "each is told once");
        all_gone(&hosts);
    }
}

#[test]
fn devices_that_vanish_are_told_to_whom_it_concerns() {
    let Some(wire) = Wire::new("devices") else { return };
    let hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let connection = wire.connection();
    let ends = Ends::met([&one, &other], 1, &connection);
    hosts[1].serve(&["fd00:77::2"]);
    wire.run(1, "ip link add other0 type veth peer name other1");
    assert_eq!(other.next(), Message::FarTrouble { far: ends.far[1], reason: Reason::NoDevice });
    assert_eq!(one.next(), Message::FarTrouble { far: ends.far[0], reason: Reason::PeerNoDevice });
    // Its name is still known: what must be settled can be.
    ends.says(0, |far| Message::FarWord { far, word: word(WordKind::Ask, 0, 1) });
    // An address that goes is no more served than one without a device.
    hosts[1].serve(&["10.77.0.2", "fd00:77::2"]);
    wire.run(1, "ip addr del fd00:77::2/64 dev wire");
    within("the other host knows", || hosts[0].peer("b").served == ["10.77.0.2".parse::<std::net::IpAddr>().unwrap()]);
}

/// Its network interface may be another namespace's, whose notices do not come here.
#[test]
fn a_device_that_serves_again_is_seen_though_nobody_tells() {
    let Some(wire) = Wire::new("untold") else { return };
    let hosts = linked(&wire);
    hosts[1].serve(&[]);
    wire.run(1, "ip link add other0 type veth peer name other1");
    within("the other host knows that nothing is served", || hosts[0].peer("b").served.is_empty());
    std::thread::sleep(Duration::from_secs(4)); // nothing is looked at any more for what the interface was told
    hosts[1].serve(&["10.77.0.2"]);
    within("it is seen", || hosts[0].peer("b").served == ["10.77.0.2".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_thousand_short_connections_leave_nothing() {
    let Some(wire) = Wire::new("a thousand") else { return };
    let hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let descriptors = |host: &Host| std::fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    let round = |slot: u32| {
        let connection = wire.connection();
        let ends = Ends::met([&one, &other], slot % 64, &connection);
        ends.says(0, |far| Message::FarEndpoint { far, blob: blob("one") });
        ends.says(1, |far| Message::FarEndpoint { far, blob: blob("other") });
        if slot.is_multiple_of(2) { ends.release(0) } else { ends.release(1) }
    };
    (0..50).for_each(round);
    all_gone(&hosts);
    let before = [0, 1].map(|end: usize| (descriptors(&hosts[end]), hosts[end].resident_kb()));
    let started = Instant::now();
    (50..1_050).for_each(round);
    println!("1,000 companions met, told and let go in {:?}", started.elapsed());
    all_gone(&hosts);
    for (host, (fds, resident)) in hosts.iter().zip(before) {
        within("no descriptor is left", || descriptors(host) <= fds);
        let grown = host.resident_kb().saturating_sub(resident);
        assert!(grown < 1_024, "policyd has grown by {grown} KiB");
    }
}

#[test]
fn the_table_says_which_way_there_is() {
    use memmap2::{MmapOptions, MmapRaw};
    use tandem_protocol::san::{San, Way};
    let Some(wire) = Wire::new("table") else { return };
    let mut hosts = linked(&wire);
    let switch = hosts[0].switch();
    let map: MmapRaw = match switch.receive() {
        Some((Message::San, fds)) => {
            assert!(MmapOptions::new().len(San::BYTES).map_raw(&fds[0]).is_err(), "only policyd writes it");
            MmapOptions::new().len(San::BYTES).map_raw_read_only(&fds[0]).unwrap()
        }
        other => panic!("no table: {other:?}"),
    };
    // SAFETY: a mapping of a San's size, page-aligned, of atomics alone, as old as the test.
    let san = unsafe { &*map.as_ptr().cast::<San>() };
    assert!(san.is_sound());
    let way = |local: &str, remote: &str| san.way(local.parse().unwrap(), remote.parse().unwrap());
    let host = hosts[0].peer("b").host;
    assert_eq!(way("10.77.0.1", "10.77.0.2"), Way::Served { host });
    assert_eq!(way("fd00:77::1", "fd00:77::2"), Way::Served { host });
    assert_eq!(way("10.77.0.1", "10.77.0.3"), Way::NotAPeer);
    assert_eq!(way("127.0.0.1", "10.77.0.2"), Way::NoDevice);
    hosts[0].serve(&["fd00:77::1"]);
    wire.run(0, "ip link add other0 type veth peer name other1");
    within("the device has gone", || way("10.77.0.1", "10.77.0.2") == Way::NoDevice);
    hosts[1].kill();
    within("the peer has gone", || way("fd00:77::1", "fd00:77::2") == Way::PeerUnreachable);
    // A configuration without peers: nobody is one.
    std::fs::remove_file(hosts[0].folder.path().join("peers.d/b.toml")).unwrap();
    assert!(matches!(hosts[0].ask(Ask::Reload), Answer::Reloaded(true)));
    within("nobody is a peer", || way("fd00:77::1", "fd00:77::2") == Way::NotAPeer);
}
