//! The handshake and the frames of one link.
//!
//! Noise_XK_25519_ChaChaPoly_BLAKE2s: the dialler knows whom it dials, and says who it is only to that host. An answerer says
//! nothing to who doesn't know its public key, and believes nothing before the third message, which depends on a key that
//! it has just made: a recorded handshake, played again, ends there.
//!
//! ```text
//! dialler                                   answerer
//!   "TNDP", version, 0, 0;  e, es  ──────>    another version: its own preamble, and it closes
//!   <──────  "TNDP", version, 0, 0;  e, ee
//!   s, se  ──────────────────────────────>    looks the dialler's key up among the listed peers'
//! ```
//!
//! The dialler's preamble is the handshake's prologue. Then frames: a u16 length, and so many bytes with their tag.

use std::io;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::{MAX, Malformed, VERSION, Wire};
use super::{Keypair, PublicKey};
use crate::broker::far::Misbehaviour;

const PATTERN: &str = "Noise_XK_25519_ChaChaPoly_BLAKE2s";
const MAGIC: [u8; 4] = *b"TNDP";
const PREAMBLE: usize = 8;
const KEY: usize = 32;
const TAG: usize = 16;
const FIRST: usize = KEY + TAG;
const SECOND: usize = KEY + TAG;
const THIRD: usize = KEY + TAG + TAG;

/// Why there is no session, or no longer. Texts are for `tandem peer list` and the log.
#[derive(Debug)]
pub enum Fault {
    Io(io::Error),
    /// It speaks something else.
    NotAPolicyd,
    Version(u16),
    /// It answers with another key than the configuration says, or doesn't know us under the one we have.
    WrongKey,
    /// Closed in the handshake, where an answerer to whom our idea of its key is wrong would.
    ClosedEarly,
    UnknownKey(PublicKey),
    /// A frame that was not sealed by the peer.
    Forged,
    Malformed,
    /// A message that can't be said now.
    Misbehaviour(&'static str),
    Internal(snow::Error),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => f.write_str("the peer closed the link"),
            Self::Io(error) => error.fmt(f),
            Self::NotAPolicyd => f.write_str("no policyd speaks there: is it the peer's `listen` address?"),
            Self::Version(theirs) => {
                write!(
                    f,
                    "its policyd speaks version {theirs} of the peers' protocol, not {VERSION}: run one release on both"
                )
            }
            Self::WrongKey => {
                f.write_str("it has not the key that is listed here: compare with `tandem peer key` there")
            }
            Self::ClosedEarly => f.write_str(
                "it closed in the handshake: compare the key that is listed here with `tandem peer key` there",
            ),
            Self::UnknownKey(key) => write!(f, "{key} is no listed peer's key"),
            Self::Forged => f.write_str("a frame that the peer did not seal"),
            Self::Malformed => f.write_str("a message that no policyd of this version sends"),
            Self::Misbehaviour(what) => write!(f, "the peer misbehaves: {what}"),
            Self::Internal(error) => write!(f, "the handshake can't be made: {error}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Misbehaviour> for Fault {
    fn from(Misbehaviour(what): Misbehaviour) -> Self {
        Self::Misbehaviour(what)
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

pub struct Session {
    noise: TransportState,
    pub peer: PublicKey,
}

/// Proves to `peer` who we are, and that it is the peer.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    own: &Keypair,
    peer: PublicKey,
) -> Result<Session, Fault> {
    let preamble = preamble();
    let builder = builder(own, &preamble)?.remote_public_key(peer.bytes()).map_err(Fault::Internal)?;
    let mut noise = builder.build_initiator().map_err(Fault::Internal)?;
    let mut first = preamble.to_vec();
    first.extend(write::<FIRST>(&mut noise)?);
    stream.write_all(&first).await?;

    let early = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Fault::ClosedEarly,
        _ => error.into(),
    };
    let mut theirs = [0; PREAMBLE];
    stream.read_exact(&mut theirs).await.map_err(early)?;
    match version(&theirs) {
        Some(VERSION) => {}
        Some(other) => return Err(Fault::Version(other)),
        None => return Err(Fault::NotAPolicyd),
    }
    let mut second = [0; SECOND];
    stream.read_exact(&mut second).await.map_err(early)?;
    read(&mut noise, &second).ok_or(Fault::WrongKey)?;
    stream.write_all(&write::<THIRD>(&mut noise)?).await?;
    Ok(Session { noise: noise.into_transport_mode().map_err(Fault::Internal)?, peer })
}

/// Finds out who dials. `listed` says whether that key is a peer's. Whoever does not know our public key hears nothing.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    own: &Keypair,
    listed: impl FnOnce(PublicKey) -> bool,
) -> Result<Session, Fault> {
    let mut theirs = [0; PREAMBLE];
    stream.read_exact(&mut theirs).await?;
    match version(&theirs) {
        Some(VERSION) => {}
        Some(other) => {
            // So that it can say clearly what is wrong.
            stream.write_all(&preamble()).await?;
            return Err(Fault::Version(other));
        }
        None => return Err(Fault::NotAPolicyd),
    }
    let mut noise = builder(own, &theirs)?.build_responder().map_err(Fault::Internal)?;
    let mut first = [0; FIRST];
    stream.read_exact(&mut first).await?;
    read(&mut noise, &first).ok_or(Fault::WrongKey)?;
    let mut second = preamble().to_vec();
    second.extend(write::<SECOND>(&mut noise)?);
    stream.write_all(&second).await?;
    let mut third = [0; THIRD];
    stream.read_exact(&mut third).await?;
    read(&mut noise, &third).ok_or(Fault::WrongKey)?;
    let peer = noise.get_remote_static().and_then(PublicKey::from_bytes).ok_or(Fault::WrongKey)?;
    if !listed(peer) {
        return Err(Fault::UnknownKey(peer));
    }
    Ok(Session { noise: noise.into_transport_mode().map_err(Fault::Internal)?, peer })
}

impl Session {
    /// Appends one frame.
    pub fn seal(&mut self, message: &Wire, out: &mut Vec<u8>) -> Result<(), Fault> {
        let plain = message.encode();
        let mut sealed = [0; MAX + TAG];
        let length = self.noise.write_message(&plain, &mut sealed).map_err(Fault::Internal)?;
        let prefix = u16::try_from(length).map_err(|_| Fault::Malformed)?;
        out.extend(prefix.to_le_bytes());
        out.extend(sealed.get(..length).unwrap_or_default());
        Ok(())
    }

    pub fn open(&mut self, sealed: &[u8]) -> Result<Wire, Fault> {
        let mut plain = [0; MAX];
        let length = self.noise.read_message(sealed, &mut plain).map_err(|_| Fault::Forged)?;
        Ok(Wire::decode(plain.get(..length).unwrap_or_default())?)
    }
}

/// The next frame, still sealed. No more than a frame's room is ever taken for it, whatever length it claims.
pub async fn next_frame<R: AsyncRead + Unpin>(from: &mut R, frame: &mut Vec<u8>) -> Result<(), Fault> {
    let length = usize::from(from.read_u16_le().await?);
    if !(TAG..=MAX + TAG).contains(&length) {
        return Err(Fault::Malformed);
    }
    frame.resize(length, 0);
    from.read_exact(frame).await?;
    Ok(())
}

fn preamble() -> [u8; PREAMBLE] {
    let ([a, b, c, d], [low, high]) = (MAGIC, VERSION.to_le_bytes());
    [a, b, c, d, low, high, 0, 0]
}

/// `None`: no preamble of ours.
fn version(preamble: &[u8; PREAMBLE]) -> Option<u16> {
    let [a, b, c, d, low, high, _, _] = *preamble;
    ([a, b, c, d] == MAGIC).then(|| u16::from_le_bytes([low, high]))
}

fn builder<'a>(own: &'a Keypair, prologue: &'a [u8]) -> Result<Builder<'a>, Fault> {
    let pattern = PATTERN.parse().map_err(Fault::Internal)?;
    let builder = Builder::new(pattern).local_private_key(own.private()).map_err(Fault::Internal)?;
    builder.prologue(prologue).map_err(Fault::Internal)
}

fn write<const N: usize>(noise: &mut HandshakeState) -> Result<[u8; N], Fault> {
    let mut message = [0; N];
    let length = noise.write_message(&[], &mut message).map_err(Fault::Internal)?;
    if length == N { Ok(message) } else { Err(Fault::Malformed) }
}

/// `None`: whoever sent it has not the key that it should have.
fn read(noise: &mut HandshakeState, message: &[u8]) -> Option<()> {
    let mut payload = [0; THIRD];
    noise.read_message(message, &mut payload).ok().filter(|&length| length == 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    fn pair() -> (Keypair, Keypair) {
        (Keypair::generate().unwrap(), Keypair::generate().unwrap())
    }

    #[tokio::test]
    async fn both_know_each_other_and_frames_go_both_ways() {
        let (one, other) = pair();
        let (mut near, mut far) = duplex(1 << 16);
        let (dialled, answered) =
            tokio::join!(dial(&mut near, &one, other.public), answer(&mut far, &other, |key| key == one.public));
        let (mut dialled, mut answered) = (dialled.unwrap(), answered.unwrap());
        assert_eq!((dialled.peer, answered.peer), (other.public, one.public));
        for message in [Wire::HoldEnd, Wire::Hold((0..1_000).collect())] {
            let mut out = Vec::new();
            dialled.seal(&message, &mut out).unwrap();
            near.write_all(&out).await.unwrap();
            let mut frame = Vec::new();
            next_frame(&mut far, &mut frame).await.unwrap();
            assert_eq!(answered.open(&frame).unwrap(), message);
        }
        let mut out = Vec::new();
        answered.seal(&Wire::Ping { answer: true }, &mut out).unwrap();
        assert_eq!(dialled.open(&out[2..]).unwrap(), Wire::Ping { answer: true });
        // The same frame once more, and one with a flipped bit.
        assert!(matches!(dialled.open(&out[2..]), Err(Fault::Forged)));
        let mut out = Vec::new();
        answered.seal(&Wire::HoldEnd, &mut out).unwrap();
        out[3] ^= 1;
        assert!(matches!(dialled.open(&out[2..]), Err(Fault::Forged)));
    }

    #[tokio::test]
    async fn a_wrong_key_at_either_end_makes_no_session() {
        let (one, other) = pair();
        let stranger = Keypair::generate().unwrap();
        // The dialler expects another host: the answerer can't read its first word, and says nothing.
        let (mut near, mut far) = duplex(4_096);
        let answering = async {
            let fault = answer(&mut far, &other, |_| true).await.err();
            drop(far);
            fault
        };
        let (dialled, answered) = tokio::join!(dial(&mut near, &one, stranger.public), answering);
        assert!(matches!(dialled, Err(Fault::ClosedEarly)));
        assert!(matches!(answered, Some(Fault::WrongKey)));
        // The dialler is not listed.
        let (mut near, mut far) = duplex(4_096);
        let (_, answered) =
            tokio::join!(dial(&mut near, &stranger, other.public), answer(&mut far, &other, |key| key == one.public));
        assert!(matches!(answered, Err(Fault::UnknownKey(key)) if key == stranger.public));
    }

    #[tokio::test]
    async fn a_recorded_handshake_ends_at_the_third_message() {
        let (one, other) = pair();
        let (mut near, mut middle_near) = duplex(4_096);
        let (mut middle_far, mut far) = duplex(4_096);
        let record = async {
            let mut said = vec![0; PREAMBLE + FIRST];
            middle_near.read_exact(&mut said).await.unwrap();
            middle_far.write_all(&said).await.unwrap();
            let mut answer = [0; PREAMBLE + SECOND];
            middle_far.read_exact(&mut answer).await.unwrap();
            middle_near.write_all(&answer).await.unwrap();
            let mut third = [0; THIRD];
            middle_near.read_exact(&mut third).await.unwrap();
            middle_far.write_all(&third).await.unwrap();
            said.extend(third);
            said
        };
        let (_, answered, said) =
            tokio::join!(dial(&mut near, &one, other.public), answer(&mut far, &other, |_| true), record);
        assert!(answered.is_ok());
        let (mut near, mut far) = duplex(4_096);
        near.write_all(&said).await.unwrap();
        let again = answer(&mut far, &other, |_| panic!("nobody has been authenticated")).await;
        assert!(matches!(again, Err(Fault::WrongKey)));
    }

    #[tokio::test]
    async fn another_version_is_refused_by_name_at_both_ends() {
        let (_, other) = pair();
        let (mut near, mut far) = duplex(4_096);
        let mut newer = preamble();
        newer[4] = 9;
        near.write_all(&newer).await.unwrap();
        assert!(matches!(answer(&mut far, &other, |_| true).await, Err(Fault::Version(9))));
        let mut said = [0; PREAMBLE];
        near.read_exact(&mut said).await.unwrap();
        assert_eq!(version(&said), Some(VERSION));

        let (one, other) = pair();
        let (mut near, mut far) = duplex(4_096);
        far.write_all(&newer).await.unwrap();
        let fault = dial(&mut near, &one, other.public).await.err().unwrap();
        assert!(fault.to_string().contains("speaks version 9"), "{fault}");
    }

    #[tokio::test]
    async fn noise_makes_no_session_and_no_room() {
        let (one, other) = pair();
        let (mut near, mut far) = duplex(4_096);
        near.write_all(&[0x47; 200]).await.unwrap();
        assert!(matches!(answer(&mut far, &other, |_| true).await, Err(Fault::NotAPolicyd)));
        let (mut near, mut far) = duplex(4_096);
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        assert!(matches!(dial(&mut near, &one, other.public).await, Err(Fault::NotAPolicyd)));
        let (mut near, mut far) = duplex(4_096);
        near.write_all(&[0xff, 0xff]).await.unwrap();
        let mut frame = Vec::new();
        assert!(matches!(next_frame(&mut far, &mut frame).await, Err(Fault::Malformed)));
        assert_eq!(frame.capacity(), 0);
    }
}
