//! Switches on two hosts that must not meet, or may not: what is not true, not theirs, not to be had, or too much.

mod hosts;
mod switch;

use std::net::TcpStream;

use hosts::companions::*;
use hosts::*;
use switch::*;
use tandem_protocol::message::{FarRef, Meet, SlotRef};
use tandem_protocol::{Message, Reason};

/// Each policyd looks at its own end, whatever its switch says; what the other says is true stays parked.
#[test]
fn lies_cost_the_liar_alone_at_either_end() {
    let Some(wire) = Wire::new("lies") else { return };
    let hosts = linked(&wire);
    let switches = [hosts[0].switch(), hosts[1].switch()];
    for (liar, honest) in [(0, 1), (1, 0)] {
        let (client, server) = wire.connection();
        let (stranger, _far) = wire.connection();
        let streams = [&client, &server];
        let truth = claim(2, streams[liar]);
        let tell = |meet: Meet| switches[liar].send(&Message::Meet(meet), &[]);
        switches[honest].meet(1, streams[honest]);
        switches[honest].assert_quiet();
        let mut elsewhere = truth;
        elsewhere.addresses.remote.ip[..4].copy_from_slice(&[192, 0, 2, 1]);
        for (meet, reason) in [
            (Meet { cookie: truth.cookie + 1_000_000, ..truth }, Reason::CookieMismatch),
            (Meet { fd: 1_000_000, ..truth }, Reason::Closed),
            (Meet { netns_cookie: truth.netns_cookie + 1, ..truth }, Reason::NotLocal),
            (elsewhere, Reason::NotLocal),
        ] {
            tell(meet);
            assert_eq!(switches[liar].refused(), (2, reason));
        }
        if liar == 0 {
            let cookie = claim(2, &stranger).cookie;
            tell(Meet { fd: std::os::fd::AsRawFd::as_raw_fd(&stranger), cookie, ..truth });
            assert_eq!(switches[liar].refused(), (2, Reason::AddressMismatch));
        }
        tell(truth);
        assert_eq!(introduced(&switches[liar], 2).far.id, introduced(&switches[honest], 1).far.id);
    }
}

/// The kernel's own NAT between the ends: what each sees is true, and is not what the other sees.
#[test]
fn behind_a_nat_nobody_is_matched() {
    let Some(wire) = Wire::new("NAT") else { return };
    let nat = "nft add table ip t && nft 'add chain ip t p { type nat hook output priority -100; }' && \
               nft 'add rule ip t p tcp dport 7000 dnat to 10.77.0.2:7001' || echo none";
    if wire.run(0, nat).contains("none") {
        println!("NAT: NOT RUN: nftables with its NAT modules is needed");
        return;
    }
    let hosts = linked_with(&wire, "park_seconds = 2\n");
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let listener = wire.at(1, || std::net::TcpListener::bind("10.77.0.2:7001").unwrap());
    let client = wire.at(0, || TcpStream::connect("10.77.0.2:7000").unwrap());
    let server = listener.accept().unwrap().0;
    one.meet(1, &client);
    other.meet(1, &server);
    within("the second end waits at the first host too", || hosts[0].status().far_parked == 1);
    assert_eq!((one.refused(), other.refused()), ((1, Reason::PeerAbsent), (1, Reason::PeerAbsent)));
    all_gone(&hosts);
}

/// Neither is a companion tried where there can't be one, and `tandem ss` says which of the reasons it is.
#[test]
fn without_devices_at_both_ends_and_a_provider_it_is_refused_at_once() {
    let Some(wire) = Wire::new("reasons") else { return };
    let mut hosts = linked(&wire);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let (client, server) = wire.connection();
    one.send(&Message::Meet(Meet { verbs: false, ..claim(1, &client) }), &[]);
    assert_eq!(one.refused(), (1, Reason::NoProvider));
    hosts[1].serve(&[]);
    // As when a device goes: the kernel would say so; here a change of an interface does.
    wire.run(1, "ip link add other0 type veth peer name other1");
    within("the other host knows", || hosts[0].peer("b").served.is_empty());
    one.meet(2, &client);
    assert_eq!(one.refused(), (2, Reason::PeerNoDevice));
    other.meet(2, &server);
    assert_eq!(other.refused(), (2, Reason::NoDevice));
    hosts[1].serve(&["10.77.0.2", "fd00:77::2"]);
    wire.run(1, "ip link del other0");
    within("the other host knows", || hosts[0].peer("b").served.len() == 2);
    Ends::met([&one, &other], 3, &(client, server));
    // Without a link: who has a provider waits for it, who has none is told at once.
    hosts[1].kill();
    within("the link is down", || !hosts[0].peer("b").up);
    let (client, _server) = wire.connection();
    one.send(&Message::Meet(Meet { verbs: false, ..claim(4, &client) }), &[]);
    loop {
        match one.next() {
            Message::Refused { slot, reason } => break assert_eq!((slot.slot, reason), (4, Reason::PeerUnreachable)),
            Message::PeerLink { up: false, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn quotas_of_a_peer_and_of_a_user_hold() {
    let Some(wire) = Wire::new("quotas") else { return };
    let mut hosts = ordered(&wire);
    hosts[0].settings.push_str("companions = 2\nparked = 3\n");
    hosts[1].settings.push_str("[quotas]\ncompanions = 1\n");
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1", "fd00:77::1"]);
    hosts.iter_mut().for_each(Host::start);
    until_linked(&hosts);
    let (one, other) = (hosts[0].switch(), hosts[1].switch());
    let connections: Vec<_> = (0..5).map(|_| wire.connection()).collect();
    // One more than may wait at the first host: its oldest goes.
    for (slot, connection) in (0..4).zip(&connections) {
        other.meet(slot, &connection.1);
    }
    assert_eq!(other.refused(), (0, Reason::Quota));
    assert_eq!(hosts[0].status().far_parked, 3);
    // The second host's user may have one companion.
    one.meet(1, &connections[1].0);
    let first = Ends::introduced([&one, &other], 1);
    one.meet(2, &connections[2].0);
    assert_eq!(other.refused(), (2, Reason::Quota));
    assert_eq!(one.refused(), (2, Reason::Closed));
    first.release(0);
    one.meet(3, &connections[3].0);
    Ends::introduced([&one, &other], 3);
}

/// Where policyd may not look at a process it asks for the socket, also for a peer.
#[test]
fn a_process_of_another_family_has_no_say() {
    let Some(wire) = Wire::new("other family") else { return };
    let hosts = linked(&wire);
    let (one, other, stranger) = (hosts[0].switch(), hosts[1].switch(), hosts[0].switch());
    let child = Switch::of_family(&hosts[0].socket(), one.family()).patient();
    let connection = wire.connection();
    let ends = Ends::met([&one, &other], 1, &connection);
    let far = ends.far[0];
    stranger.send(&Message::FarReleased(far), &[]);
    stranger.send(&Message::FarEndpoint { far, blob: blob("mine") }, &[]);
    stranger.send(&Message::FarReleased(FarRef { host: 99, id: far.id }), &[]);
    stranger.assert_quiet();
    other.assert_quiet();
    child.send(&Message::FarReleased(far), &[]);
    assert_eq!(other.next(), Message::FarGone { far: ends.far[1], reason: Reason::Closed });
}

#[test]
fn a_slot_that_has_another_connection_by_now_is_not_matched() {
    let Some(wire) = Wire::new("superseded") else { return };
    let hosts = linked(&wire);
    for (early, late) in [(0, 1), (1, 0)] {
        let switches = [hosts[0].switch(), hosts[1].switch()];
        let (first, second) = (wire.connection(), wire.connection());
        let of =
            |connection: &(TcpStream, TcpStream), end: usize| [&connection.0, &connection.1][end].try_clone().unwrap();
        let (old, new) = (of(&first, early), of(&second, early));
        let (old_end, new_end) = (of(&first, late), of(&second, late));
        switches[early].meet(1, &old);
        switches[early].assert_quiet();
        let meet = Meet { slot: SlotRef { slot: 1, generation: 3 }, ..claim(1, &new) };
        switches[early].send(&Message::Meet(meet), &[]);
        switches[early].assert_quiet();
        switches[late].meet(5, &old_end);
        switches[late].assert_quiet();
        switches[late].meet(6, &new_end);
        // The old connection's end may be told by now that its other end is closed.
        let companion = loop {
            match switches[late].next() {
                Message::Refused { slot, .. } if slot.slot == 5 => {}
                Message::FarCompanion(companion) => break companion,
                other => panic!("no companion: {other:?}"),
            }
        };
        assert_eq!((companion.slot.slot, companion.far.id), (6, introduced(&switches[early], 1).far.id));
    }
}
