use proptest::prelude::*;

use super::*;

fn slot() -> impl Strategy<Value = SlotRef> {
    (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| SlotRef { slot, generation })
}

fn companion() -> impl Strategy<Value = CompanionRef> {
    (any::<u32>(), 0..crate::pair::CONNS, 0..=1u8, 1..=u64::MAX).prop_map(|(pair, conn, role, id)| CompanionRef {
        pair,
        conn,
        role,
        id,
    })
}

fn addresses() -> impl Strategy<Value = Addresses> {
    let end = || (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port });
    (any::<bool>(), end(), end()).prop_map(|(v6, local, remote)| {
        let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
        let addresses = Addresses { family, local, remote };
        if v6 { addresses } else { addresses.normalised() }
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    (0..Reason::ALL.len()).prop_map(|at| Reason::ALL[at])
}

fn far() -> impl Strategy<Value = FarRef> {
    (any::<u32>(), 1..=u64::MAX).prop_map(|(host, id)| FarRef { host, id })
}

fn word() -> impl Strategy<Value = super::Word> {
    (1..=5u8, 0..=1u8, any::<u64>()).prop_map(|(kind, writer, epoch)| super::Word {
        kind: WordKind::from_code(kind).unwrap(),
        writer,
        epoch,
    })
}

fn drain() -> impl Strategy<Value = super::Drain> {
    use super::Drain::{All, Pair, Slot, Undo};
    prop_oneof![
        Just(All),
        Just(Undo),
        any::<u32>().prop_map(Pair),
        (any::<u32>(), 1..=u64::MAX).prop_map(|(slot, cookie)| Slot { slot, cookie }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<[u8; 16]>(), any::<u32>()).prop_map(|(family, mail)| Hello { family, mail }),
        (slot(), 0..i32::MAX, addresses(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(slot, fd, addresses, cookie, netns_cookie, verbs)| {
                Meet(super::Meet { slot, fd, addresses, cookie, netns_cookie, verbs })
            }
        ),
        slot().prop_map(Proof),
        slot().prop_map(NoProof),
        slot().prop_map(Prove),
        companion().prop_map(Released),
        (slot(), companion()).prop_map(|(slot, companion)| Unable { slot, companion }),
        (any::<u32>(), any::<u64>()).prop_map(|(policyd_version, instance)| Welcome { policyd_version, instance }),
        reason().prop_map(|reason| RefuseHello { reason }),
        (slot(), companion(), any::<u32>())
            .prop_map(|(slot, companion, peer_pid)| { Companion(super::Companion { slot, companion, peer_pid }) }),
        (slot(), reason()).prop_map(|(slot, reason)| Refused { slot, reason }),
        ("[!-.0-~]{1,15}", "([!-.0-~]{1,31})?").prop_map(|(interface, network)| Assign {
            interface: InterfaceName::new(interface.as_bytes()).unwrap_or_default(),
            network: NetworkName::new(network.as_bytes()).unwrap_or_default(),
        }),
        (0..assignment::CELLS as u32).prop_map(|cell| Assignment { cell }),
        reason().prop_map(|reason| Unassigned { reason }),
        (far(), proptest::collection::vec(any::<u8>(), 0..=Blob::BYTES))
            .prop_map(|(far, content)| FarEndpoint { far, blob: Blob::new(&content).unwrap() }),
        far().prop_map(FarConfirmed),
        (far(), word()).prop_map(|(far, word)| FarWord { far, word }),
        far().prop_map(FarReleased),
        far().prop_map(FarUnable),
        Just(San),
        (slot(), far(), 0..=1u8).prop_map(|(slot, far, role)| FarCompanion(super::FarCompanion { slot, far, role })),
        (far(), reason()).prop_map(|(far, reason)| FarGone { far, reason }),
        (far(), reason()).prop_map(|(far, reason)| FarTrouble { far, reason }),
        (any::<u32>(), any::<bool>()).prop_map(|(host, up)| PeerLink { host, up }),
        drain().prop_map(Drain),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in message()) {
        let mut packet = [0; MAX_MESSAGE];
        let length = message.encode(&mut packet);
        prop_assert!(length < MAX_MESSAGE);
        prop_assert_eq!(Message::decode(&packet[..length]), Ok(message));
    }

    #[test]
    fn one_byte_more_or_less_is_malformed(message in message()) {
        let mut packet = [0; MAX_MESSAGE];
        let length = message.encode(&mut packet);
        prop_assert_eq!(Message::decode(&packet[..length + 1]), Err(Malformed::Length));
        prop_assert_eq!(Message::decode(&packet[..length - 1]), Err(Malformed::Length));
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&noise);
    }

    /// Past the header, so that noise reaches every kind's fields. What is accepted must be canonical: it encodes to
    /// the very bytes it came from.
    #[test]
    fn noise_behind_a_true_header_is_refused_or_canonical(
        kind in prop_oneof![0..14u16, 0x80..0x8eu16],
        body in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut packet = MAGIC.to_le_bytes().to_vec();
        packet.extend(PROTOCOL_VERSION.to_le_bytes());
        packet.extend(kind.to_le_bytes());
        packet.extend(&body);
        if let Ok(message) = Message::decode(&packet) {
            let mut again = [0; MAX_MESSAGE];
            let length = message.encode(&mut again);
            prop_assert_eq!(&again[..length], &packet[..]);
        }
    }

    /// A flipped bit in a true message is refused or is another message, never a crash.
    #[test]
    fn flipped_bits_never_panic(message in message(), at in 0..MAX_MESSAGE, bit in 0..8u8) {
        let mut packet = [0; MAX_MESSAGE];
        let length = message.encode(&mut packet);
        packet[at % length] ^= 1 << bit;
        let _ = Message::decode(&packet[..length]);
    }
}

#[test]
fn another_version_is_named() {
    let mut packet = [0; MAX_MESSAGE];
    let length = Hello { family: [1; 16], mail: 0 }.encode(&mut packet);
    packet[4] = 9;
    assert_eq!(Message::decode(&packet[..length]), Err(Malformed::Version(9)));
}
