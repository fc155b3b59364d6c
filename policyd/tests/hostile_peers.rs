//! A peer that has its key and is listed, and lies, floods, or listens to nobody. It is played by this program.

mod hosts;
mod switch;

use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use hosts::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use switch::*;
use tandem_policyd::peers::session::{self, Session};
use tandem_policyd::peers::wire::{Farewell, Wire as Said};
use tandem_policyd::peers::{Keypair, PublicKey};
use tandem_protocol::message::{Blob, Word, WordKind};
use tandem_protocol::{Addresses, Message, Reason};
use tokio::io::AsyncWriteExt;

/// The played policyd of the second host.
struct Played {
    stream: tokio::net::TcpStream,
    session: Session,
    instance: u64,
}

impl Played {
    async fn dial(wire: &Wire, own: &Keypair, victim: PublicKey, instance: u64) -> Self {
        let stream = wire.at(1, || TcpStream::connect(address(0, PORT)).unwrap());
        stream.set_nonblocking(true).unwrap();
        let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let session = session::dial(&mut stream, own, victim).await.map_err(|fault| fault.to_string()).unwrap();
        let mut played = Self { stream, session, instance };
        played.say(&Said::Hello { instance, keepalive_seconds: 60 }).await.unwrap();
        assert!(matches!(played.hear().await, Some(Said::Hello { .. })));
        played
    }

    async fn say(&mut self, message: &Said) -> std::io::Result<()> {
        let mut out = Vec::new();
        self.session.seal(message, &mut out).map_err(|fault| std::io::Error::other(fault.to_string()))?;
        self.stream.write_all(&out).await
    }

    /// `None`: the link has ended.
    async fn hear(&mut self) -> Option<Said> {
        let mut frame = Vec::new();
        tokio::time::timeout(PATIENCE, session::next_frame(&mut self.stream, &mut frame)).await.unwrap().ok()?;
        Some(self.session.open(&frame).map_err(|fault| fault.to_string()).unwrap())
    }

    /// The next that is no news of served addresses or held companions, and no sign of life.
    async fn answer(&mut self) -> Option<Said> {
        loop {
            match self.hear().await {
                Some(Said::Served(_) | Said::Ping { .. } | Said::Hold(_) | Said::HoldEnd) => {}
                answer => return answer,
            }
        }
    }
}

/// The first host lists the second, which is played; `smaller`: the played one has the smaller key, and matches.
fn victim(wire: &Wire, smaller: bool) -> (Host, Keypair) {
    loop {
        let mut host = Host::new(wire, 0);
        let own = Keypair::generate().unwrap();
        if (own.public < host.key.public) == smaller {
            host.settings.push_str("parked = 100\ncompanions = 50\n");
            host.lists_key("b", &own.public.to_string(), None, &["10.77.0.2"]);
            host.start();
            return (host, own);
        }
    }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn served() -> Said {
    Said::Served(vec!["10.77.0.2".parse().unwrap(), "10.77.0.66".parse().unwrap(), "10.77.0.1".parse().unwrap()])
}

fn addresses(local: &str, remote: &str) -> Addresses {
    Addresses::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap()
}

#[test]
fn it_speaks_for_its_own_addresses_alone() {
    let Some(wire) = Wire::new("wrong addresses") else { return };
    let (host, own) = victim(&wire, false);
    run(async {
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        played.say(&served()).await.unwrap();
        within("only its own address counts", || host.peer("b").served == ["10.77.0.2".parse::<IpAddr>().unwrap()]);
        for (local, remote, reason) in [
            ("10.77.0.66:1", "10.77.0.1:2", Some(Reason::AddressMismatch)),
            ("127.0.0.1:1", "10.77.0.1:2", Some(Reason::AddressMismatch)),
            ("10.77.0.2:1", "10.77.0.3:2", Some(Reason::NotLocal)),
            ("10.77.0.2:1", "127.0.0.1:2", Some(Reason::NotLocal)),
            ("10.77.0.2:1", "10.77.0.1:2", None),
        ] {
            played.say(&Said::Claim { reference: 5, addresses: addresses(local, remote) }).await.unwrap();
            match reason {
                Some(reason) => assert_eq!(played.answer().await, Some(Said::Refuse { reference: 5, reason })),
                None => within("it waits", || host.status().far_parked == 1),
            }
        }
    });
}

/// It can claim what it likes of its own end: the other end is still looked at here, and what it says goes nowhere.
#[test]
fn a_claim_without_a_true_end_here_gets_nothing() {
    let Some(wire) = Wire::new("one true end") else { return };
    let (host, own) = victim(&wire, false);
    let switch = host.switch();
    let connection = wire.connection();
    run(async {
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        played.say(&served()).await.unwrap();
        let truth = claim(1, &connection.0);
        let theirs = truth.addresses.mirrored();
        played.say(&Said::Claim { reference: 9, addresses: theirs }).await.unwrap();
        within("it waits", || host.status().far_parked == 1);
        switch.send(&Message::Meet(tandem_protocol::message::Meet { cookie: 1, ..truth }), &[]);
        assert_eq!(switch.refused(), (1, Reason::CookieMismatch));
        // Companions that there are not.
        for id in [1, 2, u64::MAX] {
            played.say(&Said::Accept { id }).await.unwrap();
            played.say(&Said::Endpoint { id, blob: Box::new(Blob::new(b"x").unwrap()) }).await.unwrap();
            played.say(&Said::Confirmed { id }).await.unwrap();
            played.say(&Said::Gone { id, reason: Reason::Closed }).await.unwrap();
        }
        switch.assert_quiet();
        // The true end: it is matched, and a second acceptance is one too many.
        switch.meet(2, &connection.0);
        let Some(Said::Match { reference: 9, id }) = played.answer().await else { panic!("no match") };
        switch.assert_quiet();
        played.say(&Said::Accept { id }).await.unwrap();
        assert!(matches!(switch.next(), Message::FarCompanion(_)));
        played.say(&Said::Accept { id }).await.unwrap();
        assert_eq!(played.answer().await, Some(Said::Bye(Farewell::Malformed)));
        assert_eq!(played.hear().await, None);
    });
    assert!(matches!(switch.next(), Message::PeerLink { up: false, .. }));
    assert!(host.peer("b").error.unwrap().contains("misbehaves"));
}

#[test]
fn who_accepts_nothing_or_floods_is_bounded_and_others_are_served() {
    let Some(wire) = Wire::new("flood") else { return };
    let (host, own) = victim(&wire, false);
    let switch = host.switch();
    let before = host.resident_kb();
    let connections: Vec<_> = (0..3).map(|_| wire.connection()).collect();
    run(async {
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        played.say(&served()).await.unwrap();
        // A match that is never accepted.
        let theirs = claim(1, &connections[0].0).addresses.mirrored();
        played.say(&Said::Claim { reference: 1, addresses: theirs }).await.unwrap();
        switch.meet(1, &connections[0].0);
        assert!(matches!(played.answer().await, Some(Said::Match { reference: 1, .. })));
        assert_eq!(switch.refused(), (1, Reason::PeerAbsent));
        // One companion, and then words without end to a switch that reads nothing.
        let theirs = claim(2, &connections[1].0).addresses.mirrored();
        played.say(&Said::Claim { reference: 2, addresses: theirs }).await.unwrap();
        switch.meet(2, &connections[1].0);
        let id = loop {
            match played.answer().await {
                Some(Said::Match { reference: 2, id }) => break id,
                Some(Said::Gone { .. }) => {}
                other => panic!("{other:?}"),
            }
        };
        played.say(&Said::Accept { id }).await.unwrap();
        for epoch in 0..20_000 {
            let word = Word { kind: WordKind::Ask, writer: 1, epoch };
            played.say(&Said::Word { id, word }).await.unwrap();
        }
        // Claims without end; each one too many is refused, and nobody reads that.
        let flood = async {
            for reference in 0..400_000u64 {
                let port = reference as u16;
                let theirs = addresses(&format!("10.77.0.2:{port}"), &format!("10.77.0.1:{}", reference >> 16));
                if played.say(&Said::Claim { reference, addresses: theirs }).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(4), flood).await;
        let asked = Instant::now();
        let status = host.status();
        assert!(asked.elapsed() < Duration::from_secs(5), "others are served meanwhile");
        assert!(status.far_parked <= 100 && status.far <= 1, "{status:?}");
        // The switch was not drowned: it hears of its companion, of the last word, and is still there.
        assert!(matches!(switch.next(), Message::FarCompanion(_)));
        let last = loop {
            match switch.next() {
                Message::FarWord { word, .. } if word.epoch == 19_999 => break word,
                Message::FarWord { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(last.kind, WordKind::Ask);
        switch.meet(3, &connections[2].0);
        drop(played);
    });
    within("what was its is gone", || host.status().far_parked == 0 && !host.peer("b").up);
    let grown = host.resident_kb().saturating_sub(before);
    assert!(grown < 8_192, "policyd has grown by {grown} KiB");
}

#[test]
fn who_names_more_companions_than_it_may_have_is_cut_off() {
    let Some(wire) = Wire::new("names") else { return };
    let (host, own) = victim(&wire, false);
    run(async {
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        played.say(&Said::Hold((1..=51).collect())).await.unwrap();
        assert_eq!(played.answer().await, Some(Said::Bye(Farewell::Malformed)));
        // Out of turn.
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        played.say(&Said::HoldEnd).await.unwrap();
        played.say(&Said::Hold(vec![1])).await.unwrap();
        assert_eq!(played.answer().await, Some(Said::Bye(Farewell::Malformed)));
        // A claim, to the end that does not match.
        drop(played);
    });
    drop(host);
    let (host, own) = victim(&wire, true);
    run(async {
        let mut played = Played::dial(&wire, &own, host.key.public, 1).await;
        let theirs = addresses("10.77.0.2:1", "10.77.0.1:2");
        played.say(&Said::Claim { reference: 1, addresses: theirs }).await.unwrap();
        assert_eq!(played.answer().await, Some(Said::Bye(Farewell::Malformed)));
        // A match of nothing.
        let mut played = Played::dial(&wire, &own, host.key.public, played.instance).await;
        played.say(&Said::Match { reference: 77, id: 5 }).await.unwrap();
        assert_eq!(played.answer().await, Some(Said::Gone { id: 5, reason: Reason::Closed }));
    });
}

/// Any sequence of sound messages, and of frames with any content: policyd lives, and serves others.
#[test]
fn any_sequence_of_messages_is_survived() {
    let Some(wire) = Wire::new("fuzz") else { return };
    let (host, own) = victim(&wire, false);
    let switch = host.switch();
    let connection = wire.connection();
    let true_claim = claim(1, &connection.0).addresses.mirrored();
    let id = || prop_oneof![1..5u64, any::<u64>().prop_map(|id| id.max(1))];
    let reason = || (0..Reason::ALL.len()).prop_map(|at| Reason::ALL[at]);
    let message = prop_oneof![
        Just(served()),
        Just(Said::HoldEnd),
        id().prop_map(|id| Said::Hold(vec![id])),
        (0..5u64).prop_map(move |reference| Said::Claim { reference, addresses: true_claim }),
        (0..5u64).prop_map(|reference| Said::Unclaim { reference }),
        (0..5u64, reason()).prop_map(|(reference, reason)| Said::Refuse { reference, reason }),
        id().prop_map(|id| Said::Accept { id }),
        (id(), reason()).prop_map(|(id, reason)| Said::Gone { id, reason }),
        id().prop_map(|id| Said::Confirmed { id }),
        (id(), proptest::collection::vec(any::<u8>(), 0..256))
            .prop_map(|(id, bytes)| Said::Endpoint { id, blob: Box::new(Blob::new(&bytes).unwrap()) }),
        (id(), any::<u64>())
            .prop_map(|(id, epoch)| Said::Word { id, word: Word { kind: WordKind::Leave, writer: 0, epoch } }),
        any::<bool>().prop_map(|answer| Said::Ping { answer }),
        (0..5u64, id()).prop_map(|(reference, id)| Said::Match { reference, id }),
    ];
    let mut runner = TestRunner::default();
    run(async {
        let mut links = 0;
        for round in 0..12u64 {
            let mut played = Played::dial(&wire, &own, host.key.public, round % 3).await;
            links += 1;
            switch.meet(1, &connection.0);
            for _ in 0..200 {
                let mut said = message.new_tree(&mut runner).unwrap().current();
                // Sometimes the match that was really offered is accepted.
                if let (Said::Accept { id }, true) = (&mut said, round % 2 == 0) {
                    let mut offered = None;
                    while let Ok(Some(heard)) = tokio::time::timeout(Duration::from_millis(2), played.hear()).await {
                        if let Said::Match { id, .. } = heard {
                            offered = Some(id);
                        }
                    }
                    *id = offered.unwrap_or(*id);
                }
                if played.say(&said).await.is_err() {
                    break;
                }
            }
            // The handshakes of one peer are limited: as many as it may have.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(links, 12);
    });
    assert!(host.status().far <= 1);
    drop(switch);
    within("nothing is left", || host.is_empty());
}
