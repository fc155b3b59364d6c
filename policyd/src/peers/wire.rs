//! What two policyds say to each other, once their link is authenticated: little-endian, one message a frame.
//!
//! The host with the smaller public key has role 0 on the link. The other sends it its claims; role 0 matches them with its
//! own. So of two ends that ask at one moment only one side decides.
//!
//! ```text
//! role 1                                role 0
//!   Claim{reference, addresses} ──────>   parked, until a claim of its own mirrors it
//!   <────────────── Match{reference, id}  its own end is proven
//!   Accept{id} ────────────────────────>  so is this one; both switches are told
//!   <──── Endpoint, Confirmed, Word ───>  both ways, as the switches say them
//!   <──────────────── Gone{id} ────────>  whichever end goes first; nothing is kept
//! ```

use std::net::IpAddr;

use tandem_protocol::message::{Blob, Word, WordKind};
use tandem_protocol::{Addresses, Endpoint, IpFamily, Reason, san};

/// Said before the handshake; another version is refused by name.
pub const VERSION: u16 = 2;
/// No message is longer.
pub const MAX: usize = 8_192;
/// Addresses in one `Served`.
pub const MOST_SERVED: usize = 256;
/// Names in one `Hold`.
pub const MOST_HELD: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// First from each end. `instance` is random, new at every start of that policyd.
    Hello {
        instance: u64,
        keepalive_seconds: u8,
    },
    /// I am here; say so too if `answer`.
    Ping {
        answer: bool,
    },
    /// The link ends, and why.
    Bye(Farewell),
    /// All addresses that a device serves here, in place of what was said before.
    Served(Vec<IpAddr>),
    Claim {
        reference: u64,
        addresses: Addresses,
    },
    Unclaim {
        reference: u64,
    },
    Refuse {
        reference: u64,
        reason: Reason,
    },
    Match {
        reference: u64,
        id: u64,
    },
    Accept {
        id: u64,
    },
    Gone {
        id: u64,
        reason: Reason,
    },
    Endpoint {
        id: u64,
        blob: Box<Blob>,
    },
    Confirmed {
        id: u64,
    },
    Word {
        id: u64,
        word: Word,
    },
    /// After a link was lost: these companions are still there.
    Hold(Vec<u64>),
    /// And no others.
    HoldEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Farewell {
    /// There is another link between these two hosts.
    Duplicate = 1,
    /// policyd stops.
    Leaving = 2,
    /// The peer is no longer listed, or is listed otherwise.
    Removed = 3,
    /// A message that no policyd sends.
    Malformed = 4,
}

impl std::fmt::Display for Farewell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "there is another link",
            Self::Leaving => "its policyd is leaving",
            Self::Removed => "it has changed its list of peers",
            Self::Malformed => "it understood something that was said here otherwise",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Wire {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Ping { .. } => 2,
            Self::Bye(_) => 3,
            Self::Served(_) => 4,
            Self::Claim { .. } => 5,
            Self::Unclaim { .. } => 6,
            Self::Refuse { .. } => 7,
            Self::Match { .. } => 8,
            Self::Accept { .. } => 9,
            Self::Gone { .. } => 10,
            Self::Endpoint { .. } => 11,
            Self::Confirmed { .. } => 12,
            Self::Word { .. } => 13,
            Self::Hold(_) => 14,
            Self::HoldEnd => 15,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind()];
        match self {
            Self::Hello { instance, keepalive_seconds } => {
                put(&mut out, *instance);
                out.push(*keepalive_seconds);
            }
            Self::Ping { answer } => out.push((*answer).into()),
            Self::Bye(farewell) => out.push(*farewell as u8),
            Self::Served(addresses) => {
                addresses.iter().take(MOST_SERVED).for_each(|&ip| out.extend(san::number(ip).to_le_bytes()));
            }
            Self::Claim { reference, addresses } => {
                put(&mut out, *reference);
                put_addresses(&mut out, addresses);
            }
            Self::Unclaim { reference: id } | Self::Accept { id } | Self::Confirmed { id } => put(&mut out, *id),
            Self::Refuse { reference: id, reason } | Self::Gone { id, reason } => {
                put(&mut out, *id);
                out.extend(reason.code().to_le_bytes());
            }
            Self::Match { reference, id } => {
                put(&mut out, *reference);
                put(&mut out, *id);
            }
            Self::Endpoint { id, blob } => {
                put(&mut out, *id);
                out.extend(blob.content());
            }
            Self::Word { id, word } => {
                put(&mut out, *id);
                out.extend([word.kind as u8, word.writer]);
                out.extend(word.epoch.to_le_bytes());
            }
            Self::Hold(ids) => ids.iter().take(MOST_HELD).for_each(|&id| put(&mut out, id)),
            Self::HoldEnd => {}
        }
        out
    }

    /// Every field is checked here, once.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&kind, rest) = bytes.split_first().ok_or(Malformed)?;
        let mut r = Reader { rest };
        let message = match kind {
            1 => {
                let (instance, keepalive_seconds) = (r.u64()?, r.u8()?);
                if !(1..=60).contains(&keepalive_seconds) {
                    return Err(Malformed);
                }
                Self::Hello { instance, keepalive_seconds }
            }
            2 => Self::Ping { answer: r.flag()? },
            3 => Self::Bye(r.farewell()?),
            4 => Self::Served(r.served()?),
            5 => Self::Claim { reference: r.u64()?, addresses: r.addresses()? },
            6 => Self::Unclaim { reference: r.u64()? },
            7 => Self::Refuse { reference: r.u64()?, reason: r.reason()? },
            8 => Self::Match { reference: r.u64()?, id: r.id()? },
            9 => Self::Accept { id: r.id()? },
            10 => Self::Gone { id: r.id()?, reason: r.reason()? },
            11 => Self::Endpoint { id: r.id()?, blob: r.blob()? },
            12 => Self::Confirmed { id: r.id()? },
            13 => Self::Word { id: r.id()?, word: r.word()? },
            14 => Self::Hold(r.held()?),
            15 => Self::HoldEnd,
            _ => return Err(Malformed),
        };
        if r.rest.is_empty() { Ok(message) } else { Err(Malformed) }
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}

fn put_addresses(out: &mut Vec<u8>, addresses: &Addresses) {
    out.push(addresses.family as u8);
    for end in [addresses.local, addresses.remote] {
        out.extend(end.ip);
        out.extend(end.port.to_le_bytes());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Result<u64, Malformed> {
        self.u64().and_then(|id| if id != 0 { Ok(id) } else { Err(Malformed) })
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn reason(&mut self) -> Result<Reason, Malformed> {
        Reason::from_code(u16::from_le_bytes(self.bytes()?)).ok_or(Malformed)
    }

    fn farewell(&mut self) -> Result<Farewell, Malformed> {
        Ok(match self.u8()? {
            1 => Farewell::Duplicate,
            2 => Farewell::Leaving,
            3 => Farewell::Removed,
            4 => Farewell::Malformed,
            _ => return Err(Malformed),
        })
    }

    /// The rest, in pieces of N bytes.
    fn all<const N: usize>(&mut self, most: usize) -> Result<&[[u8; N]], Malformed> {
        let (pieces, rest) = self.rest.as_chunks::<N>();
        if pieces.len() > most || !rest.is_empty() {
            return Err(Malformed);
        }
        self.rest = rest;
        Ok(pieces)
    }

    fn served(&mut self) -> Result<Vec<IpAddr>, Malformed> {
        let all = self.all(MOST_SERVED)?;
        Ok(all.iter().map(|bytes| san::address(u128::from_le_bytes(*bytes))).collect())
    }

    fn held(&mut self) -> Result<Vec<u64>, Malformed> {
        Ok(self.all(MOST_HELD)?.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    fn blob(&mut self) -> Result<Box<Blob>, Malformed> {
        let blob = Blob::new(self.rest).ok_or(Malformed)?;
        self.rest = &[];
        Ok(Box::new(blob))
    }

    fn word(&mut self) -> Result<Word, Malformed> {
        let kind = WordKind::from_code(self.u8()?).ok_or(Malformed)?;
        let writer = u8::from(self.flag()?);
        Ok(Word { kind, writer, epoch: self.u64()? })
    }

    /// As they are compared: nothing else is sent.
    fn addresses(&mut self) -> Result<Addresses, Malformed> {
        let family = IpFamily::from_code(self.u8()?).ok_or(Malformed)?;
        let mut end = || Ok(Endpoint { ip: self.bytes()?, port: u16::from_le_bytes(self.bytes()?) });
        let addresses = Addresses { family, local: end()?, remote: end()? };
        if addresses == addresses.normalised() { Ok(addresses) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = Addresses> {
        let end = || (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port });
        (any::<bool>(), end(), end()).prop_map(|(v6, local, remote)| {
            let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
            Addresses { family, local, remote }.normalised()
        })
    }

    fn reason() -> impl Strategy<Value = Reason> {
        (0..Reason::ALL.len()).prop_map(|at| Reason::ALL[at])
    }

    fn id() -> impl Strategy<Value = u64> {
        1..=u64::MAX
    }

    fn ip() -> impl Strategy<Value = IpAddr> {
        any::<u128>().prop_map(san::address)
    }

    fn message() -> impl Strategy<Value = Wire> {
        let blob = proptest::collection::vec(any::<u8>(), 0..=Blob::BYTES);
        prop_oneof![
            (any::<u64>(), 1..=60u8)
                .prop_map(|(instance, keepalive_seconds)| Wire::Hello { instance, keepalive_seconds }),
            any::<bool>().prop_map(|answer| Wire::Ping { answer }),
            Just(Wire::Bye(Farewell::Duplicate)),
            Just(Wire::Bye(Farewell::Malformed)),
            proptest::collection::vec(ip(), 0..=MOST_SERVED).prop_map(Wire::Served),
            (any::<u64>(), addresses()).prop_map(|(reference, addresses)| Wire::Claim { reference, addresses }),
            any::<u64>().prop_map(|reference| Wire::Unclaim { reference }),
            (any::<u64>(), reason()).prop_map(|(reference, reason)| Wire::Refuse { reference, reason }),
            (any::<u64>(), id()).prop_map(|(reference, id)| Wire::Match { reference, id }),
            id().prop_map(|id| Wire::Accept { id }),
            (id(), reason()).prop_map(|(id, reason)| Wire::Gone { id, reason }),
            (id(), blob).prop_map(|(id, blob)| Wire::Endpoint { id, blob: Box::new(Blob::new(&blob).unwrap()) }),
            id().prop_map(|id| Wire::Confirmed { id }),
            (id(), 1..=5u8, 0..=1u8, any::<u64>()).prop_map(|(id, kind, writer, epoch)| Wire::Word {
                id,
                word: Word { kind: WordKind::from_code(kind).unwrap(), writer, epoch },
            }),
            proptest::collection::vec(any::<u64>(), 0..=MOST_HELD).prop_map(Wire::Hold),
            Just(Wire::HoldEnd),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_fits(message in message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX);
            prop_assert_eq!(Wire::decode(&bytes), Ok(message));
        }

        /// What is accepted encodes to the very bytes it came from: there is one way to say a thing.
        #[test]
        fn noise_is_refused_or_canonical(kind in 0..18u8, body in proptest::collection::vec(any::<u8>(), 0..MAX)) {
            let mut bytes = vec![kind];
            bytes.extend(body);
            if let Ok(message) = Wire::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn short_noise_is_refused_or_canonical(kind in 0..18u8, body in proptest::collection::vec(any::<u8>(), 0..48)) {
            let mut bytes = vec![kind];
            bytes.extend(body);
            if let Ok(message) = Wire::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn cut_and_flipped_messages_never_panic(message in message(), at in any::<usize>(), bit in 0..8u8) {
            let mut bytes = message.encode();
            let at = at % bytes.len();
            let _ = Wire::decode(&bytes[..at]);
            bytes[at] ^= 1 << bit;
            let _ = Wire::decode(&bytes);
        }
    }
}
