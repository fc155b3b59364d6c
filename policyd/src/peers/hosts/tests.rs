use super::*;
use crate::peers::settings::PeerName;

/// Two hosts, each as it knows itself and the other; the first has the smaller key.
struct Two {
    folder: tempfile::TempDir,
    peers: [Peers; 2],
}

fn settings(folder: &std::path::Path, peers: Vec<Peer>) -> Settings {
    Settings {
        listen: None,
        key: None,
        keepalive: Duration::from_secs(5),
        companions: 10,
        parked: 10,
        peers,
        folder: Some(folder.join("peers.d")),
    }
}

fn peer(name: &str, key: PublicKey, address: &str) -> Peer {
    let addresses = vec![address.parse().unwrap()];
    Peer { name: PeerName(name.to_owned()), public_key: key, endpoint: None, addresses, same_host: false }
}

fn two() -> Option<Two> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root's policyd has peers");
        return None;
    }
    loop {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let keys = ["a", "b"].map(|name| {
            std::fs::create_dir(at(name)).unwrap();
            Keypair::create(&at(name).join("peer.key")).unwrap().public
        });
        if keys[0] > keys[1] {
            continue;
        }
        let peers = [("a", peer("b", keys[1], "10.0.0.2/32")), ("b", peer("a", keys[0], "10.0.0.1/32"))]
            .map(|(own, other)| Peers::new(settings(&at(own), vec![other]), "/sys".into()));
        return Some(Two { folder, peers });
    }
}

impl Two {
    /// One end sees a link that this end has dialled.
    fn sees(&mut self, end: usize, dialler: usize, instance: u64) -> bool {
        let address = "10.0.0.9:1".parse().unwrap();
        let candidate = Candidate { host: 1, dialled: end == dialler, instance, address };
        matches!(self.peers[end].adopt(&candidate), Adoption::Adopted { .. })
    }

    /// Who dialled the link that each end has.
    fn links(&self) -> [Option<usize>; 2] {
        [0, 1].map(|end: usize| {
            let current = self.peers[end].hosts[&1].current.as_ref();
            current.map(|current| if current.dialled { end } else { 1 - end })
        })
    }
}

/// In whatever order two links that are dialled at one moment come to be, both ends end up with the same.
#[test]
fn two_links_at_once_become_one_in_any_order() {
    // (end, dialler), in each order in which the four things can happen.
    let happenings = [(0, 0), (0, 1), (1, 0), (1, 1)];
    for order in 0..24 {
        let Some(mut two) = two() else { return };
        let mut left = happenings.to_vec();
        let mut rest = order;
        let mut refused = [false; 2];
        for count in (1..=4).rev() {
            let (end, dialler) = left.remove(rest % count);
            rest /= count;
            if !two.sees(end, dialler, 7) {
                refused[dialler] = true;
            }
        }
        assert!(!refused[0], "order {order}: the link that stays is refused by nobody");
        assert_eq!(two.links(), [Some(0), Some(0)], "order {order}");
    }
}

#[test]
fn the_newer_of_one_end_and_of_a_restarted_policyd_replaces_the_older() {
    let Some(mut two) = two() else { return };
    assert!(two.sees(0, 0, 7));
    let before = two.peers[0].hosts[&1].current.as_ref().unwrap().stop.clone();
    assert!(!two.sees(0, 1, 7), "the same policyd has a link already");
    assert_eq!(before.why.get(), None);
    assert!(two.sees(0, 1, 8), "it has been started anew, and knows nothing of the link");
    assert_eq!(before.why.get(), Some(Farewell::Duplicate));
    assert!(two.sees(0, 1, 8), "and dials once more: it knows best");
    let number = two.peers[0].hosts[&1].current.as_ref().unwrap().number;
    assert!(!two.peers[0].ended(1, number - 1, "late news of an old link"));
    assert!(two.peers[0].while_linked(1).is_some());
    assert!(two.peers[0].ended(1, number, "over"));
    assert!(two.peers[0].while_linked(1).is_none());
}

#[test]
fn handshakes_are_for_peers_addresses_and_few_at_once() {
    let Some(mut two) = two() else { return };
    let peers = &mut two.peers[0];
    let (theirs, now) = ("10.0.0.2".parse().unwrap(), Instant::now());
    assert!(!peers.may_begin("10.0.0.3".parse().unwrap(), now));
    assert!(peers.may_begin("::ffff:10.0.0.2".parse().unwrap(), now), "as a listener of both families sees it");
    let begun = (0..100).filter(|_| peers.may_begin(theirs, now)).count();
    assert_eq!(begun, BURST as usize - 1);
    assert!(peers.may_begin(theirs, now + Duration::from_secs(1)));
    peers.handshakes = MOST_HANDSHAKES;
    assert!(!peers.may_begin(theirs, now + Duration::from_secs(9)));
    assert!(peers.may_come(1, theirs) && !peers.may_come(1, "10.0.0.3".parse().unwrap()));
}

#[test]
fn another_configuration_keeps_what_stays_as_it_was() {
    let Some(mut two) = two() else { return };
    assert!(two.sees(0, 0, 7));
    let own = two.folder.path().join("a");
    let before = two.peers[0].settings.peers[0].clone();
    two.peers[0].configure(settings(&own, vec![before.clone()]));
    assert!(two.peers[0].is_linked());
    let moved = Peer { addresses: vec!["10.0.0.7/32".parse().unwrap()], ..before.clone() };
    two.peers[0].configure(settings(&own, vec![moved]));
    assert!(!two.peers[0].is_linked(), "it may speak for something else now");
    two.peers[0].configure(settings(&own, Vec::new()));
    assert!(two.peers[0].listed().is_empty() && two.peers[0].of_key(before.public_key).is_none());
    two.peers[0].configure(settings(&own, vec![before.clone()]));
    assert_eq!(two.peers[0].of_key(before.public_key), Some(1), "its number is what it was");
    // A key of its own that others may read, or that is listed as another's.
    let file = own.join("peer.key");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    two.peers[0].configure(settings(&own, vec![before]));
    assert!(two.peers[0].listed().is_empty() && two.peers[0].fault.as_ref().unwrap().contains("mode 644"));
}

#[test]
fn pauses_double_to_a_bound_and_are_spread() {
    let mut back_off = BackOff::default();
    let pauses: Vec<_> = (0..20).map(|_| back_off.pause()).collect();
    assert!(pauses[0] <= BackOff::LEAST.mul_f64(1.5));
    assert!(pauses.iter().skip(10).all(|&pause| pause >= BackOff::MOST / 2 && pause <= BackOff::MOST.mul_f64(1.5)));
    let mut late: Vec<_> = pauses.into_iter().skip(10).collect();
    late.dedup();
    assert_eq!(late.len(), 10);
}
