//! One socket at a time: which are bound, how, and what the program can see of it.

use crate::field;
use crate::stand_in::Assigned;

use tandem_protocol::assignment::{Mode, PortBind, State};

const VIA_0: &str = "peer sees 10.70.0.1";
const VIA_1: &str = "peer sees 10.71.0.1";
const SIX_0: &str = "peer sees fd70::1";
const SIX_1: &str = "peer sees fd71::1";

/// Every kind of first packet to a far host, natively by eth0, under Tandem by eth1.
#[test]
fn first_packets_leave_by_the_assigned_interface() {
    let mut field = field!(first_packets_leave_by_the_assigned_interface);
    field.assign("eth1");
    for (actions, native, here) in [
        ("tcp4 connect:10.79.1.1/5000 ask", VIA_0, VIA_1),
        ("tcp4 hurry:10.79.2.1/5000 ask", VIA_0, VIA_1),
        ("tcp6 connect:fd79:1::1/5000 ask", SIX_0, SIX_1),
        ("tcp6 connect:10.79.1.1/5000 ask", VIA_0, VIA_1),
        ("tcp4 fast:10.79.1.1/5000", VIA_0, VIA_1),
        ("tcp6 fast:fd79:2::1/5000", SIX_0, SIX_1),
        ("udp4 connect:10.79.1.1/5001 ask", VIA_0, VIA_1),
        ("udp6 connect:fd79:1::1/5001 ask", SIX_0, SIX_1),
        ("udp6 connect:10.79.1.1/5001 ask", VIA_0, VIA_1),
        ("udp4 to:10.79.1.1/5001", VIA_0, VIA_1),
        ("udp6 to:fd79:1::1/5001", SIX_0, SIX_1),
        ("udp6 to:10.79.1.1/5001", VIA_0, VIA_1),
        ("udp4 message:10.79.1.1/5001", VIA_0, VIA_1),
        ("udp6 message:fd79:1::1/5001", SIX_0, SIX_1),
        ("udp6 message:10.79.1.1/5001", VIA_0, VIA_1),
        ("udp4 tos:10.79.1.1/5001", VIA_0, VIA_1),
        ("udp6 tos:fd79:1::1/5001", SIX_0, SIX_1),
        // A bind to nothing: dig does it.
        ("udp4 bind:0.0.0.0/0 connect:10.79.1.1/5001 ask", VIA_0, VIA_1),
        ("udp4 dup connect:10.79.1.1/5001 ask", VIA_0, VIA_1),
        ("drop tcp4 connect:10.79.1.1/5000 ask", VIA_0, VIA_1),
        ("drop udp6 to:fd79:1::1/5001", SIX_0, SIX_1),
    ] {
        field.differ(actions, native, here);
        field.proof.fact(format!("{actions}: natively '{native}', here '{here}'"));
    }
    field.proof.print();
}

/// No rule for the source address: device and address.
#[test]
fn tcp_by_device_where_there_are_no_rules() {
    let mut field = field!(tcp_by_device_where_there_are_no_rules);
    field.network.host.must("ip rule del from 10.71.0.1; ip -6 rule del from fd71::1");
    let assigned = Assigned { by_source: false, ..field.uplink("eth1") };
    field.stand_in.assign(Some(&assigned));
    field.differ("drop tcp4 connect:10.79.1.1/5000 ask", VIA_0, VIA_1);
    field.differ("drop tcp6 connect:fd79:1::1/5000 ask", SIX_0, SIX_1);
    field.differ("drop tcp6 connect:10.79.1.1/5000 ask", VIA_0, VIA_1);
    field.proof.fact("unprivileged TCP, v4, v6 and v4-mapped, by SO_BINDTOIFINDEX and address");
    // What the device could not reach is left alone.
    for host in ["10.70.0.1", "10.70.0.254", "127.0.0.1", "10.71.0.1"] {
        field.same(&format!("drop tcp4 connect:{host}/5000 ask name options"));
    }
    field.proof.fact("own addresses, on-link of eth0, loopback: as natively");
    // As if we had not been there.
    let own = "drop tcp4 connect:10.79.1.1/5000 options device:eth0 options device:eth1";
    field.same(own);
    field.same("drop tcp4 connect:10.79.1.1/5000 device:nonesuch options");
    field.proof.fact(
        "the program's own SO_BINDTODEVICE after ours, and getsockopt: as natively, the EPERM for a second one too",
    );
    field.proof.print();
}

/// What has no business with the interface works as natively.
#[test]
fn other_destinations_are_native() {
    let mut field = field!(other_destinations_are_native);
    for by_source in [true, false] {
        field.stand_in.assign(Some(&Assigned { by_source, ..field.uplink("eth1") }));
        for (host, six) in [
            ("10.70.0.1", false),
            ("10.71.0.1", false),
            ("10.70.0.254", false),
            ("10.71.0.254", false),
            ("127.0.0.1", false),
            ("fd70::1", true),
            ("fd71::1", true),
            ("fd70::fe", true),
            ("::1", true),
            ("127.0.0.1", true),
        ] {
            let kind = if six { 6 } else { 4 };
            field.same(&format!("tcp{kind} connect:{host}/5000 ask name options"));
            field.same(&format!("udp{kind} to:{host}/5001 connect:{host}/5001 ask name options"));
        }
        // No route by the interface: the far host that only the other uplink's default route leads to.
        let narrow = ("10.71.0.1".parse().expect("an address"), vec![("10.79.1.0", "10.79.1.255")]);
        field.stand_in.assign(Some(&Assigned { by_source, v4: narrow, ..field.uplink("eth1") }));
        field.same("tcp4 connect:10.79.2.1/5000 ask name udp4 to:10.79.2.1/5001 connect:10.79.2.1/5001 ask name");
        field.differ("tcp4 connect:10.79.1.1/5000 ask", VIA_0, VIA_1);
        field.same("udp4 quiet:255.255.255.255/5001 quiet:224.0.0.251/5001 quiet:169.254.1.1/5001 name options");
        field.same("tcp6 connect:fe80::1/5000 options udp6 connect:fe80::1%eth0/1 name quiet:ff02::1%eth0/5001 connect:ff02::1%eth0/5001 name");
    }
    field.proof.fact(
        "own addresses, on-link of either uplink, loopback, broadcast, multicast, link-local, scoped: as natively",
    );
    field.proof.print();
}

#[test]
fn explicit_choices_are_left_alone() {
    let mut field = field!(explicit_choices_are_left_alone);
    field.assign("eth1");
    for actions in [
        "tcp4 bind:10.70.0.1/0 connect:10.79.1.1/5000 ask name options",
        "tcp4 bind:10.70.0.1/7001 connect:10.79.1.1/5000 ask name options",
        "tcp6 bind:fd70::1/0 connect:fd79:1::1/5000 ask name options",
        "tcp4 device:eth0 connect:10.79.1.1/5000 ask name options",
        "tcp4 mark:7 connect:10.79.1.1/5000 ask name options",
        "udp4 bind:10.70.0.1/0 to:10.79.1.1/5001 connect:10.79.1.1/5001 ask options",
        "udp4 device:eth0 to:10.79.1.1/5001 connect:10.79.1.1/5001 ask options",
        "udp4 unicast:eth0 to:10.79.1.1/5001 connect:10.79.1.1/5001 ask options",
        "udp4 own:10.79.1.1/5001 name options",
        "udp6 own:fd79:1::1/5001 name options",
        // Policy says that a port is explicit enough.
        "tcp4 bind:0.0.0.0/7002 connect:10.79.1.1/5000 ask name",
        "udp4 bind:0.0.0.0/7003 to:10.79.1.1/5001 connect:10.79.1.1/5001 ask",
        "tcp4 reserved connect:10.79.1.1/5000 ask",
        // Through another descriptor of the same socket.
        "udp4 bind:10.70.0.1/0 dup to:10.79.1.1/5001",
        "tcp4 bind:10.70.0.1/0 dup connect:10.79.1.1/5000 ask",
    ] {
        field.same(actions);
    }
    // What failed is no choice.
    field.differ(
        "drop tcp4 reserved connect:10.79.1.1/5000 ask",
        &format!("bindresvport: EACCES; {VIA_0}"),
        &format!("bindresvport: EACCES; {VIA_1}"),
    );
    field.proof.fact("bound addresses and ports, devices, marks, IP_UNICAST_IF, own IP_PKTINFO: as natively");
    field.stand_in.assign(Some(&Assigned { port_bind: PortBind::Device, ..field.uplink("eth1") }));
    field.differ("tcp4 bind:0.0.0.0/7002 connect:10.79.1.1/5000 ask", VIA_0, VIA_1);
    field.differ("tcp6 bind:::/7002 connect:fd79:1::1/5000 ask", SIX_0, SIX_1);
    field.differ("udp4 bind:0.0.0.0/7003 to:10.79.1.1/5001", VIA_0, VIA_1);
    field.differ("udp4 bind:0.0.0.0/7003 connect:10.79.1.1/5001 ask", VIA_0, VIA_1);
    field.same("tcp4 bind:10.70.0.1/7001 connect:10.79.1.1/5000 ask name options");
    field
        .proof
        .fact("port_bind = device: a socket bound to a port gets the interface, one bound to an address does not");
    field.proof.print();
}

/// Getters and names are those of a program that is alone, but for the source address itself.
#[test]
fn options_and_names_are_the_programs_own() {
    let mut field = field!(options_and_names_are_the_programs_own);
    field.assign("eth1");
    for actions in [
        "tcp4 options connect:10.79.1.1/5000 options",
        "tcp4 noport:1 options connect:10.79.1.1/5000 options",
        "tcp6 connect:fd79:1::1/5000 options",
        "udp4 connect:10.79.1.1/5001 options unspec name options",
        "udp6 connect:fd79:1::1/5001 options",
        "udp4 to:127.0.0.1/5001 name options",
        // Nobody listens there: what is left is an unbound socket, as natively.
        "tcp4 connect:10.79.1.1/9 name options",
        "tcp4 connect:10.79.1.1/9 bind:10.70.0.1/0 connect:10.79.1.1/5000 ask",
        "tcp4 connect:10.79.1.1/9 connect:10.70.0.254/5000 ask",
    ] {
        field.same(actions);
    }
    field.differ("tcp4 connect:10.79.1.1/5000 name", "own name 10.70.0.1", "own name 10.71.0.1");
    field.differ(
        "tcp4 connect:10.79.1.1/9 connect:10.79.1.1/5000 ask",
        &format!("connect: ECONNREFUSED; {VIA_0}"),
        &format!("connect: ECONNREFUSED; {VIA_1}"),
    );
    field.proof.fact("getsockopt and getsockname answer as natively, after failed connects too");
    field.proof.print();
}

/// One socket and destinations of both kinds.
#[test]
fn a_socket_with_several_destinations() {
    let mut field = field!(a_socket_with_several_destinations);
    field.assign("eth1");
    let both = |first: &str, second: &str| format!("{first}; {second}");
    let local = "peer sees 127.0.0.1";
    // The resolver next door, and a far server.
    field.differ(
        "udp4 to:127.0.0.1/5001 to:10.79.1.1/5001 to:127.0.0.1/5001",
        &format!("{local}; {VIA_0}; {local}"),
        &format!("{local}; {VIA_1}; {local}"),
    );
    field.differ(
        "udp4 connect:10.79.1.1/5001 ask to:10.70.0.254/5001",
        &both(VIA_0, "no answer"),
        &both(VIA_1, "no answer"),
    );
    // Connected anew: elsewhere as natively, and there again.
    field.differ(
        "udp4 connect:10.79.1.1/5001 ask connect:10.70.0.254/5001 ask name",
        &format!("{VIA_0}; {VIA_0}; own name 10.70.0.1"),
        &format!("{VIA_1}; {VIA_0}; own name 10.70.0.1"),
    );
    field.differ("udp4 connect:10.79.1.1/5001 unspec connect:10.79.2.1/5001 ask", VIA_0, VIA_1);
    field.differ(
        "udp4 connect:10.79.1.1/5001 unspec to:127.0.0.1/5001 to:10.79.1.1/5001",
        &both(local, VIA_0),
        &both(local, VIA_1),
    );
    field.differ(
        "udp6 connect:fd79:1::1/5001 ask unspec connect:10.79.1.1/5001 ask",
        &both(SIX_0, VIA_0),
        &both(SIX_1, VIA_1),
    );
    field.differ(
        "tcp4 connect:10.79.1.1/5000 ask unspec connect:10.79.2.1/5000 ask",
        &both(VIA_0, VIA_0),
        &both(VIA_1, VIA_1),
    );
    field.differ(
        "tcp4 connect:10.79.1.1/5000 ask unspec connect:10.70.0.254/5000 ask name",
        &format!("{VIA_0}; {VIA_0}; own name 10.70.0.1"),
        &format!("{VIA_1}; {VIA_0}; own name 10.70.0.1"),
    );
    // A connection's own decision stays, also for a TCP socket that was first left alone.
    field.same("tcp4 connect:127.0.0.1/5000 ask unspec connect:10.79.1.1/5000 ask");
    let mixed = "many:10.79.1.1/5001,127.0.0.1/5001,10.70.0.254/5001,10.79.2.1/5001,10.70.0.1/5001";
    field.differ(&format!("udp4 {mixed}"), "sent 5, whole 5; peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 127.0.0.1", "sent 5, whole 5; peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 10.71.0.1; peer sees 10.71.0.1; peer sees 127.0.0.1");
    let long = vec!["fd79:1::1/5001"; 20].join(",");
    let seen = |what: &str| format!("sent 20, whole 20{}", format!("; {what}").repeat(20));
    field.differ(&format!("udp6 many:{long}"), &seen(SIX_0), &seen(SIX_1));
    field
        .proof
        .fact("UDP per message and per connect, sendmmsg with mixed destinations, AF_UNSPEC, v4-mapped and v6 in turn");
    field.proof.print();
}

#[test]
fn one_way_only() {
    let mut field = field!(one_way_only);
    for mode in [Mode::Device, Mode::Address] {
        field.stand_in.assign(Some(&Assigned { mode, ..field.uplink("eth1") }));
        for actions in [
            "drop tcp4 connect:10.79.1.1/5000 ask",
            "drop udp4 connect:10.79.1.1/5001 ask",
            "drop udp4 to:10.79.1.1/5001",
        ] {
            field.differ(actions, VIA_0, VIA_1);
        }
        field.differ(
            "drop udp6 to:fd79:1::1/5001 to:fd79:2::1/5001",
            &format!("{SIX_0}; {SIX_0}"),
            &format!("{SIX_1}; {SIX_1}"),
        );
        field.same("drop tcp4 connect:127.0.0.1/5000 ask udp4 to:127.0.0.1/5001");
        field.same("drop udp4 connect:10.79.1.1/5001 options");
        field.proof.fact(format!("{mode:?}: TCP and UDP by eth1; local destinations as natively"));
    }
    field.proof.print();
}

/// The interface is gone, and policy says what then.
#[test]
fn an_interface_that_is_gone() {
    let mut field = field!(an_interface_that_is_gone);
    let all = "tcp4 connect:10.79.1.1/5000 ask tcp6 connect:fd79:1::1/5000 ask udp4 to:10.79.1.1/5001 udp4 connect:10.79.1.1/5001 ask udp4 many:10.79.1.1/5001";
    field.stand_in.assign(Some(&Assigned { state: State::GoneUnbound, ..field.uplink("eth1") }));
    field.same(all);
    field.proof.fact("unbound: as natively");
    field.stand_in.assign(Some(&Assigned { state: State::GoneDown, ..field.uplink("eth1") }));
    field.differ("tcp4 connect:10.79.1.1/5000", "", "connect: ENETDOWN");
    field.differ("tcp6 connect:fd79:1::1/5000", "", "connect: ENETDOWN");
    field.differ("tcp4 fast:10.79.1.1/5000", VIA_0, "fast: ENETDOWN");
    field.differ("udp4 to:10.79.1.1/5001", VIA_0, "sendto: ENETDOWN");
    field.differ("udp4 message:10.79.1.1/5001", VIA_0, "sendmsg: ENETDOWN");
    field.differ("udp4 connect:10.79.1.1/5001", "", "connect: ENETDOWN");
    field.differ(
        "udp4 many:10.79.1.1/5001",
        &format!("sent 1, whole 1; {VIA_0}"),
        "sendmmsg: ENETDOWN; sent -1, whole 0",
    );
    field.differ(
        "udp4 many:127.0.0.1/5001,10.79.1.1/5001",
        &format!("sent 2, whole 2; {VIA_0}; peer sees 127.0.0.1"),
        "sent 1, whole 1; peer sees 127.0.0.1",
    );
    field.same("tcp4 connect:127.0.0.1/5000 ask tcp4 connect:10.70.0.254/5000 ask udp4 to:127.0.0.1/5001 tcp4 bind:10.70.0.1/0 connect:10.79.1.1/5000 ask");
    field.proof.fact("ENETDOWN: what the interface would serve fails so, the rest is as natively");
    // Policyd has not noticed yet.
    let assigned = field.uplink("eth1");
    field.network.host.must("ip link del eth1");
    for by_source in [true, false] {
        field.stand_in.assign(Some(&Assigned { by_source, ..assigned.clone() }));
        field.same(all);
    }
    field.proof.fact("deleted, and the assignment still says active: as natively");
    field.proof.print();
}

/// Numbers that are closed and used again, here and in a vfork child; a handler in the midst of it; errno.
#[test]
fn numbers_handlers_and_errno() {
    let mut field = field!(numbers_handlers_and_errno);
    field.assign("eth1");
    for (actions, native, here) in [
        ("udp4 bind:10.70.0.1/0 close udp4 to:10.79.1.1/5001", VIA_0, VIA_1),
        ("tcp4 bind:10.70.0.1/0 close tcp4 connect:10.79.1.1/5000 ask", VIA_0, VIA_1),
        ("tcp4 close udp4 close tcp6 connect:fd79:1::1/5000 ask", SIX_0, SIX_1),
        ("udp4 udp4 vfork to:10.79.1.1/5001", VIA_0, VIA_1),
        ("tcp4 udp4 vfork socket:1 connect:10.79.1.1/5000 ask", VIA_0, VIA_1),
        ("threads", "16 by eth0, 0 by eth1", "0 by eth0, 16 by eth1"),
        ("storm", "failures 0, only by eth0: yes", "failures 0, only by eth1: yes"),
    ] {
        field.differ(actions, native, here);
    }
    field.same("udp4 bind:10.70.0.1/0 vfork to:10.79.1.1/5001 dup to:10.79.1.1/5001 fork to:10.79.1.1/5001");
    field.proof.fact("a number's new socket is a new socket; vfork children touch nothing; 400 handlers amid connects; errno untouched");
    field.proof.print();
}
