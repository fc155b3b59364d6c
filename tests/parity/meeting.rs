//! Meeting: what must never be taken for one connection, and a policyd that is away.

use std::time::Duration;

use tandem_tests::apps::free_port;
use tandem_tests::artifacts::native_only;
use tandem_tests::namespace::Namespace;
use tandem_tests::patience::within;
use tandem_tests::programs;
use tandem_tests::{Carried, End, Outcome, Page, Pair, Policyd, Proof, Running, Scratch};

/// A `fixed` or `proxy` process with a page of its own.
struct Fixed {
    scratch: Scratch,
    page: Page,
    process: Running,
}

impl Fixed {
    fn start(
        name: &str,
        role: &str,
        arguments: &[&str],
        policyd: Option<&Policyd>,
        inside: Option<&Namespace>,
    ) -> Self {
        let scratch = Scratch::new();
        let page = Page::create(scratch.path());
        let launch = programs::end(name, role, &scratch).args(arguments);
        let process = launch.preload(policyd).in_namespace(inside).spawn(&scratch);
        Self { scratch, page, process }
    }

    #[track_caller]
    fn wait(&mut self, slot: usize) {
        let told = || self.page.told(slot) != 0;
        within(Duration::from_secs(15), Duration::from_millis(2), || told() || self.process.ended());
        assert!(told(), "slot {slot} not told:\n{}", self.process.wait(Duration::ZERO));
    }

    fn end(mut self) -> Outcome {
        self.page.tell(2);
        self.page.tell(4);
        let outcome = self.process.wait(Duration::from_secs(10));
        drop(self.scratch);
        outcome
    }
}

#[track_caller]
fn all_right(test: &str, ends: Vec<Fixed>, policyd: Option<&Policyd>, why: &str) {
    for end in ends {
        let outcome = end.end();
        assert_eq!(outcome.end, End::Exit(0), "{test}:\n{outcome}");
        assert!(outcome.stderr.is_empty(), "{test}:\n{outcome}");
    }
    let mut proof = Proof::new(test);
    if let Some(policyd) = policyd {
        let status = policyd.status();
        assert!(status.nothing_carried(), "{test}: matched, but must not be: {}", status.whole);
        proof.fact(format!("{why}; nothing matched: {}", status.whole));
    } else {
        proof.fact(why);
    }
    proof.print();
}

/// The client keeps its address through the proxy: the proxy's two sockets mirror each other in one namespace.
#[test]
fn a_transparent_proxy_stays_on_tcp() {
    const TEST: &str = "a_transparent_proxy_stays_on_tcp";
    let Some([client_side, middle, server_side]) = line_of_three(TEST) else { return };
    let firewall = "nft add table ip t
        nft 'add chain ip t p { type filter hook prerouting priority mangle; }'
        nft 'add rule ip t p iifname pa tcp dport 7000 tproxy to :9000 meta mark set 1 accept'
        nft 'add rule ip t p iifname pb meta l4proto tcp socket transparent 1 meta mark set 1 accept'
        ip rule add fwmark 1 lookup 100; ip route add local default dev lo table 100";
    if let Err(e) = middle.shell(firewall) {
        println!("{TEST}: NOT RUN: no TPROXY here (nftables and its kernel modules are needed): {e}");
        return;
    }
    let policyd = Policyd::start_in(Some(&middle));
    let mut server = Fixed::start("fixed", "server", &["60", "7000", "30"], None, Some(&server_side));
    server.wait(0);
    let mut proxy = Fixed::start("proxy", "alone", &["-", "9000"], policyd.as_ref(), Some(&middle));
    proxy.wait(0);
    let client_arguments = ["60", "7000", "30", "40000", "10.2.0.2"];
    let mut client = Fixed::start("fixed", "client", &client_arguments, None, Some(&client_side));
    client.wait(1);
    server.wait(1);
    all_right(TEST, vec![client, server, proxy], policyd.as_ref(), "60 exchanges through a transparent proxy");
}

fn three(test: &str) -> Option<[Namespace; 3]> {
    Some([Namespace::new(test)?, Namespace::new(test)?, Namespace::new(test)?])
}

/// Client's, proxy's, server's namespace in a row, addresses 10.1.0.2, .1 - 10.2.0.1, .2.
fn line_of_three(test: &str) -> Option<[Namespace; 3]> {
    let row = three(test)?;
    let [left, middle, right] = row.each_ref().map(Namespace::name);
    row[1].must(&format!(
        "ip link add pa type veth peer name a netns {left}; ip link add pb type veth peer name b netns {right}
         ip addr add 10.1.0.1/24 dev pa; ip addr add 10.2.0.1/24 dev pb; ip link set pa up; ip link set pb up
         echo 1 >/proc/sys/net/ipv4/ip_forward
         for f in all pa pb; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; done; : {middle}"
    ));
    row[0].must("ip addr add 10.1.0.2/24 dev a; ip link set dev a up; ip route add default via 10.1.0.1");
    row[2].must("ip addr add 10.2.0.2/24 dev b; ip link set dev b up; ip route add default via 10.2.0.1");
    Some(row)
}

/// Two sockets of one namespace with mirroring addresses, bound to different devices, each with its own far end.
#[test]
fn mirrors_on_different_devices_stay_on_tcp() {
    const TEST: &str = "mirrors_on_different_devices_stay_on_tcp";
    let Some([left, middle, right]) = three(TEST) else { return };
    middle.must(&format!(
        "ip link add d1 type veth peer name x netns {}; ip link add d2 type veth peer name y netns {}
         ip addr add 10.9.0.1/24 dev d1; ip addr add 10.9.0.2/24 dev d2; ip link set d1 up; ip link set d2 up
         for f in all d1 d2; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/$f/accept_local
         echo 1 >/proc/sys/net/ipv4/conf/$f/arp_ignore; done",
        left.name(),
        right.name()
    ));
    left.must("ip addr add 10.9.0.2/24 dev x; ip link set dev x up");
    right.must("ip addr add 10.9.0.1/24 dev y; ip link set dev y up");
    let policyd = Policyd::start_in(Some(&middle));
    let mut far_server = Fixed::start("fixed", "server", &["60", "2000", "50"], None, Some(&left));
    let near_server_arguments = ["60", "2000", "70", "d2"];
    let mut near_server = Fixed::start("fixed", "server", &near_server_arguments, policyd.as_ref(), Some(&middle));
    far_server.wait(0);
    near_server.wait(0);
    let near_client_arguments = ["60", "2000", "50", "1000", "10.9.0.2", "10.9.0.1", "d1"];
    let mut near_client = Fixed::start("fixed", "client", &near_client_arguments, policyd.as_ref(), Some(&middle));
    let far_client_arguments = ["60", "2000", "70", "1000", "10.9.0.2"];
    let mut far_client = Fixed::start("fixed", "client", &far_client_arguments, None, Some(&right));
    for end in [&mut far_server, &mut near_server, &mut near_client, &mut far_client] {
        end.wait(1);
    }
    let ends = vec![near_client, far_client, far_server, near_server];
    all_right(TEST, ends, policyd.as_ref(), "two connections with one four-tuple, mirrored, on two devices");
}

#[test]
fn a_self_connect_stays_on_tcp() {
    Pair::new("a_self_connect_stays_on_tcp", "self_connect").alone().carried(Carried::Never).failing_back(&[]).run();
}

/// The client's parked meet of a connection that is no more, then its four-tuple again, with a switch at the other end.
#[test]
fn a_parked_meet_is_not_matched_with_its_successor() {
    const TEST: &str = "a_parked_meet_is_not_matched_with_its_successor";
    let policyd = Policyd::start();
    let (port, local) = (free_port().to_string(), free_port().to_string());
    let client_arguments = ["20", &port, "80", &local, "127.0.0.1"];
    let mut first_server = Fixed::start("fixed", "server", &["20", &port, "80"], None, None);
    first_server.wait(0);
    let mut first_client = Fixed::start("fixed", "client", &client_arguments, policyd.as_ref(), None);
    first_client.wait(1);
    first_server.wait(1);
    for end in [&mut first_client, &mut first_server] {
        end.page.tell(2);
        end.wait(3);
    }
    // Its process lives on; its socket does not.
    let mut second_server = Fixed::start("fixed", "server", &["60", &port, "90"], policyd.as_ref(), None);
    second_server.wait(0);
    let again = ["60", &port, "90", &local, "127.0.0.1"];
    let mut second_client = Fixed::start("fixed", "client", &again, None, None);
    second_client.wait(1);
    second_server.wait(1);
    let ends = vec![second_client, second_server, first_client, first_server];
    all_right(TEST, ends, policyd.as_ref(), "the same four-tuple again, other ends preloaded");
}

/// The same four-tuple again within milliseconds, 300 times.
#[test]
fn the_same_four_tuple_again_and_again() {
    Pair::new("the_same_four_tuple_again_and_again", "reuse").failing_back(&[4]).run();
}

/// A namespace made by somebody with the victim's addresses and ports: it can reach policyd's socket.
#[test]
fn a_foreign_namespace_with_the_same_addresses_is_not_matched() {
    const TEST: &str = "a_foreign_namespace_with_the_same_addresses_is_not_matched";
    let Some(foreign) = Namespace::new(TEST) else { return };
    let policyd = Policyd::start();
    let (port, local) = (free_port().to_string(), free_port().to_string());
    let (server_arguments, evil_server_arguments) = (["80", &port, "100"], ["80", &port, "110"]);
    let mut server = Fixed::start("fixed", "server", &server_arguments, None, None);
    let mut evil_server = Fixed::start("fixed", "server", &evil_server_arguments, policyd.as_ref(), Some(&foreign));
    server.wait(0);
    evil_server.wait(0);
    let (arguments, evil_arguments) =
        (["80", &port, "100", &local, "127.0.0.1"], ["80", &port, "110", &local, "127.0.0.1"]);
    let mut client = Fixed::start("fixed", "client", &arguments, policyd.as_ref(), None);
    let mut evil_client = Fixed::start("fixed", "client", &evil_arguments, None, Some(&foreign));
    for end in [&mut server, &mut evil_server, &mut client, &mut evil_client] {
        end.wait(1);
    }
    let ends = vec![client, evil_client, server, evil_server];
    all_right(TEST, ends, policyd.as_ref(), "mirrored claims from two namespaces");
}

/// A redirected connection: what the two ends call their addresses does not mirror.
#[test]
fn a_redirected_connection_stays_on_tcp() {
    const TEST: &str = "a_redirected_connection_stays_on_tcp";
    let Some(inside) = Namespace::new(TEST) else { return };
    let firewall = "nft add table ip t; nft 'add chain ip t o { type nat hook output priority -100; }'
        nft 'add rule ip t o tcp dport 7777 redirect to :7778'";
    if let Err(e) = inside.shell(firewall) {
        println!("{TEST}: NOT RUN: no NAT here (nftables and its kernel modules are needed): {e}");
        return;
    }
    let policyd = Policyd::start_in(Some(&inside));
    let mut server = Fixed::start("fixed", "server", &["60", "7778", "120"], policyd.as_ref(), Some(&inside));
    server.wait(0);
    let arguments = ["60", "7777", "120", "41000", "127.0.0.1"];
    let mut client = Fixed::start("fixed", "client", &arguments, policyd.as_ref(), Some(&inside));
    client.wait(1);
    server.wait(1);
    all_right(TEST, vec![client, server], policyd.as_ref(), "a connection redirected to another port");
}

#[test]
fn policyd_stopped_with_a_thousand_connections() {
    let stop_for_a_while = |page: &Page, policyd: Option<&mut Policyd>| {
        let Some(policyd) = policyd else { return };
        policyd.stop();
        // The ends must all be seen while it is stopped.
        page.tell(61);
        within(Duration::from_secs(10), Duration::from_millis(5), || page.told(2) != 0);
        policyd.resume();
    };
    let pair = Pair::new("policyd_stopped_with_a_thousand_connections", "thousand").carried(Carried::Perhaps);
    pair.failing_back(&[]).tamper(&stop_for_a_while).limit(60).run();
}

/// One user's process parks meets by the thousand; policyd stays small and another pair is carried meanwhile.
#[test]
fn parked_meets_are_bounded_and_harm_nobody() {
    const TEST: &str = "parked_meets_are_bounded_and_harm_nobody";
    let seen = |_: &Page, policyd: Option<&mut Policyd>| {
        let Some(policyd) = policyd else { return };
        let kilobytes = policyd.resident_kb();
        assert!(kilobytes < 200_000, "policyd has {kilobytes} kB after a flood of meets");
        let others = tandem_tests::pair::ping_pong_carried(policyd);
        assert!(others, "another pair was not carried during the flood: {:#?}", policyd.rows());
        println!("{TEST}: policyd has {kilobytes} kB resident; another pair was carried");
    };
    if native_only() {
        println!("{TEST}: nothing to see natively");
    }
    let pair = Pair::new(TEST, "flood").argument("20000").argument("1500").carried(Carried::Perhaps);
    pair.client_only().tamper(&seen).limit(90).run();
}
