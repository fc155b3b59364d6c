//! Links between two hosts' policyds: who gets one, what ends it, and that it comes back.

mod hosts;
mod switch;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hosts::*;
use nix::sys::signal::Signal;
use tandem_policyd::peers::Keypair;

#[test]
fn two_hosts_that_dial_each_other_at_once_have_one_link() {
    let Some(wire) = Wire::new("both dial") else { return };
    let hosts = linked(&wire);
    // Long enough for a second link to have taken the first one's place again and again.
    std::thread::sleep(Duration::from_secs(2));
    assert!(hosts[0].peer("b").up && hosts[1].peer("a").up);
    let established = wire.run(0, "ss -Htn state established '( sport = :7470 or dport = :7470 )'");
    assert_eq!(established.lines().count(), 1, "{established}");
    let (one, other) = (hosts[0].peer("b"), hosts[1].peer("a"));
    assert!(one.seconds >= 1 && other.seconds >= 1, "it stays up: {one:?} {other:?}");
    let ports = |peer: &str| peer.rsplit(':').next().unwrap() == "7470";
    let to = [one.linked_to.unwrap(), other.linked_to.unwrap()];
    // Whoever came first: a link that is up when the other would dial stays.
    assert!(ports(&to[0]) != ports(&to[1]), "both ends speak of one link: {to:?}");
}

/// Both have dialled when neither has a link: in whichever order the two come to be, both ends decide for the same one.
#[test]
fn of_two_links_at_once_the_one_that_the_smaller_key_dialled_stays() {
    for first in [0, 1] {
        let Some(wire) = Wire::new("two at once") else { return };
        let mut hosts = ordered(&wire);
        // Each dials somebody who lets it wait.
        let middles = [0, 1].map(|end| wire.at(end, || TcpListener::bind("127.0.0.1:0").unwrap()));
        let at = middles.each_ref().map(|middle| middle.local_addr().unwrap());
        let keys = hosts.each_ref().map(|host| host.key.public.to_string());
        let addresses = ["10.77.0.1", "10.77.0.2"];
        hosts[0].lists_key("b", &keys[1], Some(at[0]), &addresses[1..]);
        hosts[1].lists_key("a", &keys[0], Some(at[1]), &addresses[..1]);
        hosts.iter_mut().for_each(Host::start);
        let mut dials = middles.each_ref().map(|middle| Some(middle.accept().unwrap().0));
        let linked_to = |hosts: &[Host; 2]| [hosts[0].peer("b").linked_to, hosts[1].peer("a").linked_to];
        // The end that has dialled is linked to where it dialled.
        let dialled_by = |hosts: &[Host; 2], end: usize| {
            let to = linked_to(hosts);
            to[end] == Some(at[end].to_string())
                && to[1 - end].as_ref().is_some_and(|to| to.starts_with(addresses[end]))
        };
        let mut pass_on = |end: usize| pass_on(&wire, end, dials[end].take().unwrap());
        let one = pass_on(first);
        within("the first is a link", || dialled_by(&hosts, first));
        let other = pass_on(1 - first);
        let [smaller, larger] = if first == 0 { [one, other] } else { [other, one] };
        within("the larger key's ends", || larger.is_finished());
        within("the smaller key's is the link", || dialled_by(&hosts, 0));
        assert!(!smaller.is_finished());
    }
}

/// Bytes both ways between who has dialled at this end and the other end's policyd, until either closes.
fn pass_on(wire: &Wire, end: usize, near: TcpStream) -> JoinHandle<()> {
    let far = wire.at(end, || TcpStream::connect(address(1 - end, PORT)).unwrap());
    let [there, back] = [(&near, &far), (&far, &near)].map(|(from, to)| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        to.set_nodelay(true).unwrap();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
    });
    std::thread::spawn(|| drop((there.join(), back.join())))
}

#[test]
fn only_one_end_need_listen_and_only_one_dial() {
    let Some(wire) = Wire::new("one dials") else { return };
    let mut hosts = [Host::new(&wire, 0), Host::new(&wire, 1)];
    hosts[0].settings = "[peers]\nkeepalive_seconds = 1\n".to_owned();
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[1].lists_key("a", &hosts[0].key.public.to_string(), None, &["10.77.0.1", "fd00:77::1"]);
    hosts.iter_mut().for_each(Host::start);
    until_linked(&hosts);
    assert_eq!(wire.run(0, "ss -Hltn").trim(), "", "nothing listens that is not configured to");
}

#[test]
fn strangers_and_wrong_keys_get_no_link_and_are_told_what_to_compare() {
    let Some(wire) = Wire::new("wrong keys") else { return };
    let mut hosts = ordered(&wire);
    let stranger = Keypair::generate().unwrap().public.to_string();
    // The second host lists the first under another key; the first one's entry is right.
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[1].lists_key("a", &stranger, None, &["10.77.0.1", "fd00:77::1"]);
    hosts.iter_mut().for_each(Host::start);
    within("the first is told", || hosts[0].peer("b").error.is_some_and(|error| error.contains("listed there")));
    assert!(!hosts[0].peer("b").up && !hosts[1].peer("a").up);
    // And the other way round: whom it dials has another key.
    hosts[0].lists_key("b", &stranger, Some(address(1, PORT)), &["10.77.0.2"]);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1"]);
    hosts.iter().for_each(Host::reload);
    within("the first is told", || {
        hosts[0].peer("b").error.is_some_and(|error| error.contains("closed in the handshake"))
    });
    within("the second is told", || hosts[1].peer("a").error.is_some());
    assert!(!hosts[0].peer("b").up && !hosts[1].peer("a").up);
    // Put right, it needs no restart.
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1", "fd00:77::1"]);
    hosts.iter().for_each(Host::reload);
    until_linked(&hosts);
    // A peer that is removed is cut off.
    std::fs::remove_file(hosts[1].folder.path().join("peers.d/a.toml")).unwrap();
    hosts[1].reload();
    within("it is cut off", || !hosts[0].peer("b").up);
    assert!(hosts[1].peers().peers.is_empty());
}

/// A listed host's key, from an address that is not that host's; and hosts that are not listed hear nothing at all.
#[test]
fn other_addresses_are_not_answered() {
    let Some(wire) = Wire::new("other addresses") else { return };
    let mut hosts = ordered(&wire);
    wire.run(0, "ip addr add 10.77.0.99/24 dev wire");
    hosts[0].lists("b", &hosts[1], &["10.77.0.2"]);
    hosts[1].lists_key("a", &hosts[0].key.public.to_string(), None, &["10.77.0.99"]);
    hosts.iter_mut().for_each(Host::start);
    // It dials from 10.77.0.1, which is nobody's.
    within("it tries", || hosts[0].peer("b").error.is_some());
    let sent = "cat /proc/net/snmp | awk '/^Tcp:/ && $6 ~ /[0-9]/ { print $12 \" \" $15 }'";
    let before = wire.run(1, sent);
    let answered = wire.at(0, || {
        TcpStream::connect_timeout(&address(1, PORT), Duration::from_millis(1_500)).map(drop).map_err(|e| e.kind())
    });
    assert_eq!(answered, Err(std::io::ErrorKind::TimedOut));
    assert_eq!(wire.run(1, sent), before, "no segment was sent, not even a reset");
    assert!(!hosts[1].peer("a").up);
    wire.run(0, "ip route change 10.77.0.0/24 dev wire src 10.77.0.99");
    within("it comes from its own address", || hosts[1].peer("a").up);
}

/// The words of a handshake, taken from the wire and said again.
#[test]
fn a_handshake_that_is_played_again_is_nobodys() {
    let Some(wire) = Wire::new("replay") else { return };
    let mut hosts = ordered(&wire);
    let middle = wire.at(0, || TcpListener::bind("127.0.0.1:0").unwrap());
    hosts[0].settings = "[peers]\n".to_owned();
    let key = hosts[1].key.public.to_string();
    hosts[0].lists_key("b", &key, Some(middle.local_addr().unwrap()), &["10.77.0.2"]);
    hosts[1].lists_key("a", &hosts[0].key.public.to_string(), None, &["10.77.0.1"]);
    hosts[1].start();
    hosts[0].start();
    let (mut near, _) = middle.accept().unwrap();
    let mut far = wire.at(0, || TcpStream::connect(address(1, PORT)).unwrap());
    let mut said = vec![0; 8 + 48];
    near.read_exact(&mut said).unwrap();
    far.write_all(&said).unwrap();
    let mut answer = [0; 8 + 48];
    far.read_exact(&mut answer).unwrap();
    near.write_all(&answer).unwrap();
    let mut more = vec![0; 64 + 2 + 26];
    near.read_exact(&mut more).unwrap();
    far.write_all(&more).unwrap();
    said.extend(more);
    within("that was a link", || hosts[1].peer("a").up);
    drop((near, far, middle));
    within("which has ended", || !hosts[1].peer("a").up);
    hosts[0].kill();
    for _ in 0..3 {
        let mut again = wire.at(0, || TcpStream::connect(address(1, PORT)).unwrap());
        again.set_read_timeout(Some(PATIENCE)).unwrap();
        again.write_all(&said).unwrap();
        let mut rest = Vec::new();
        let _ = again.read_to_end(&mut rest);
        assert_eq!(rest.len(), 8 + 48, "it answers the first word, and closes at the next");
        assert!(!hosts[1].peer("a").up);
    }
}

#[test]
fn a_killed_policyd_and_a_cut_wire_are_noticed_and_the_link_comes_back() {
    let Some(wire) = Wire::new("reconnect") else { return };
    let mut hosts = linked(&wire);
    hosts[1].kill();
    within("the death is noticed", || !hosts[0].peer("b").up);
    hosts[1].start();
    until_linked(&hosts);

    // No FIN, no RST: only silence.
    let cut = Instant::now();
    wire.run(0, "ip link set wire down");
    within("the silence is noticed here", || !hosts[0].peer("b").up);
    within("and there", || !hosts[1].peer("a").up);
    println!("a cut wire is noticed in {:?}, with a keepalive of 1 s", cut.elapsed());
    wire.run(0, "ip link set wire up; ip addr replace fd00:77::1/64 dev wire nodad");
    until_linked(&hosts);

    // A policyd that is stopped: the kernel still acknowledges, nobody speaks.
    hosts[1].signal(Signal::SIGSTOP);
    within("its silence is noticed", || !hosts[0].peer("b").up);
    hosts[1].signal(Signal::SIGCONT);
    until_linked(&hosts);

    // One that leaves says so.
    hosts[1].signal(Signal::SIGTERM);
    within("it is told", || {
        hosts[0].peer("b").error.is_some_and(|error| error.contains("leaving") || error.contains("refused"))
    });
}

#[test]
fn who_says_nothing_or_nonsense_costs_nothing_and_hinders_nobody() {
    let Some(wire) = Wire::new("hostile strangers") else { return };
    let mut hosts = ordered(&wire);
    hosts[1].lists("a", &hosts[0], &["10.77.0.1"]);
    hosts[1].start();
    let before = hosts[1].resident_kb();
    // From a listed peer's address, without its key: silence, half a word, noise, another version, an endless stream.
    let silent: Vec<_> = (0..40).map(|_| wire.at(0, || TcpStream::connect(address(1, PORT)).unwrap())).collect();
    for words in [&b"TNDP\x01"[..], &[0x55; 5_000], b"TNDP\x09\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = wire.at(0, || TcpStream::connect(address(1, PORT)).unwrap());
        let _ = stream.write_all(words);
    }
    let asked = Instant::now();
    hosts[1].status();
    assert!(asked.elapsed() < Duration::from_secs(5), "others are served meanwhile");
    // When their time is over the true peer gets its link.
    hosts[0].lists("b", &hosts[1], &["10.77.0.2", "fd00:77::2"]);
    hosts[0].start();
    within("the true peer is linked", || hosts[0].peer("b").up && hosts[1].peer("a").up);
    drop(silent);
    let grown = hosts[1].resident_kb().saturating_sub(before);
    assert!(grown < 4_096, "policyd has grown by {grown} KiB");
}
