//! The messages between a switch and policyd: little-endian, one a packet of a SEQPACKET socket.
//!
//! ```text
//! 0   magic    u32  "TNDM"
//! 4   version  u16
//! 6   kind     u16
//! 8   body          fixed length for its kind; anything longer or shorter is malformed
//! ```
//!
//! Descriptors that travel with a message are named at it. Credentials are taken by the kernel, packet by packet.
//!
//! After every packet it has sent to a process, policyd increments `mail` in that family's registry, so that a switch
//! that remembers the number needs one load to know that there is nothing to receive.

use crate::address::{Addresses, Endpoint, IpFamily};
use crate::assignment::{self, InterfaceName, NetworkName};
use crate::reason::Reason;
use crate::{PROTOCOL_VERSION, message::Message::*};

mod drain;
mod far;
mod fields;

pub use drain::Drain;
use fields::{Reader, Writer};

pub use far::{Blob, FarCompanion, FarRef, Word, WordKind};

/// No message is longer.
pub const MAX_MESSAGE: usize = 512;
/// No message carries more descriptors.
pub const MAX_DESCRIPTORS: usize = 4;

const MAGIC: u32 = u32::from_le_bytes(*b"TNDM");
const HEADER: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one stands on a stack at a time, and a switch allocates nothing for it")]
pub enum Message {
    /// Switch: first on every channel. Descriptors: the family's registry memfd, its board memfd, and this process's
    /// wake0 (a non-blocking eventfd). `mail` is what the registry's counter was before.
    Hello {
        /// Random, made by the family's first process: a process and the children it forked share one registry and board.
        family: [u8; 16],
        mail: u32,
    },
    /// Switch: this TCP socket, descriptor `fd` in this process, wants its other end. No descriptor. Policyd looks at the
    /// socket only while the registry has the claim too: see [`crate::registry`].
    Meet(Meet),
    /// Switch: the answer to `Prove`. One descriptor: the TCP socket. It is said to be shown in the registry until policyd
    /// has closed it.
    Proof(SlotRef),
    /// Switch: the other answer to `Prove`: the socket is gone.
    NoProof(SlotRef),
    /// Switch: this end touches that companion no more. The conn is used again when both ends have said so.
    Released(CompanionRef),
    /// Switch: cannot take the companion (no descriptor, no mapping, the socket is gone). Counts as `Released`.
    Unable { slot: SlotRef, companion: CompanionRef },
    /// Switch: which interface do my sockets get? Once a channel, at the first socket that could be bound. Both names are
    /// the environment's `TANDEM_INTERFACE` and `TANDEM_NETWORK`, or empty.
    Assign { interface: InterfaceName, network: NetworkName },

    /// Both ways, of a companion between hosts: what one end's provider must tell the other's. Once from each end.
    FarEndpoint { far: FarRef, blob: Blob },
    /// Both ways: that end is connected, so that what is put there from now on arrives. Once from each end.
    FarConfirmed(FarRef),
    /// Both ways: a word of the switch-over that can't go by the provider any more. See [`Word`].
    FarWord { far: FarRef, word: Word },
    /// Switch: this end touches that companion no more; nothing of it is kept. Any process of the family may say so.
    FarReleased(FarRef),
    /// Switch: cannot take that companion. Counts as `FarReleased`.
    FarUnable(FarRef),

    /// Policyd: the answer to Hello.
    Welcome {
        /// major << 16 | minor << 8 | patch
        policyd_version: u32,
        /// Random, new at every start of policyd.
        instance: u64,
    },
    /// Policyd: the other answer to Hello; the channel is then closed.
    RefuseHello { reason: Reason },
    /// Policyd: send that socket. Only where it may not take it itself (Yama, a daemon that did setuid).
    Prove(SlotRef),
    /// Policyd: both ends are proven. The first `Companion` of a pair towards a role carries four descriptors: the pair
    /// memfd, the peer's board memfd (read-only), the peer's wake0, and this end of the pair's channel; later ones carry none.
    Companion(Companion),
    /// Policyd: no companion for that slot; final for that generation. It may follow a `Companion`, when the other end
    /// was unable: let go of it and say `Released`.
    Refused { slot: SlotRef, reason: Reason },
    /// Policyd: the answer to `Assign`: this process's cell, for as long as the channel lives. One descriptor: the
    /// [`assignment::Arena`]. Having no assignment is a cell too, so that a later one needs no message.
    Assignment { cell: u32 },
    /// Policyd: the other answer to `Assign`: there is no cell for this process.
    Unassigned { reason: Reason },
    /// Policyd, after `Welcome` and where peers are configured: which addresses devices serve. One descriptor: the
    /// [`crate::san::San`].
    San,
    /// Policyd: both ends are proven, each by its own host's policyd. Each end now says its `FarEndpoint`.
    FarCompanion(FarCompanion),
    /// Policyd: the other end has gone (released, unable, dead, its host's policyd restarted); the companion's name is
    /// no longer known. To be answered by nothing.
    FarGone { far: FarRef, reason: Reason },
    /// Policyd: the device that serves one of its addresses has gone, here ([`Reason::NoDevice`]) or there
    /// ([`Reason::PeerNoDevice`]). The companion's name stays known.
    FarTrouble { far: FarRef, reason: Reason },
    /// Policyd, to who has companions with that host: whether messages reach it. What is said while they don't is said when
    /// they do again.
    PeerLink { host: u32, up: bool },
    /// Policyd: these companions are to go back to TCP. It also rings the process's wake0, so that who sleeps hears of it.
    Drain(Drain),
}

/// A switch's own name for one TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRef {
    pub slot: u32,
    pub generation: u32,
}

/// One end of one companion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompanionRef {
    pub pair: u32,
    pub conn: u32,
    /// This end's role in the pair, 0 or 1.
    pub role: u8,
    /// The companion's id: a `Released` from before policyd was restarted names another and is ignored.
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meet {
    pub slot: SlotRef,
    /// The descriptor's number in the sender, for pidfd_getfd.
    pub fd: i32,
    pub addresses: Addresses,
    /// SO_COOKIE
    pub cookie: u64,
    /// SO_NETNS_COOKIE
    pub netns_cookie: u64,
    /// The switch has a provider for companions between hosts.
    pub verbs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Companion {
    pub slot: SlotRef,
    /// `companion.id` is random, never zero, and the same at both ends.
    pub companion: CompanionRef,
    pub peer_pid: u32,
}

/// What a packet that is no message has wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Magic,
    /// Another version speaks; it is named, so that the refusal can be clear.
    Version(u16),
    Kind(u16),
    Length,
    /// A field has a value that no sender may give it.
    Value,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("not a Tandem message"),
            Self::Version(v) => write!(f, "protocol version {v}, not {PROTOCOL_VERSION}"),
            Self::Kind(k) => write!(f, "unknown message kind {k}"),
            Self::Length => f.write_str("wrong length for its kind"),
            Self::Value => f.write_str("a field out of its range"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Message {
    /// How many descriptors must come with it (for `Companion`: that, or none).
    pub const fn descriptors(&self) -> usize {
        match self {
            Hello { .. } => 3,
            Proof(_) | Assignment { .. } | San => 1,
            Companion(_) => 4,
            _ => 0,
        }
    }

    const fn kind(&self) -> u16 {
        match self {
            Hello { .. } => 1,
            Meet(_) => 2,
            Proof(_) => 3,
            NoProof(_) => 4,
            Released(_) => 5,
            Unable { .. } => 6,
            Assign { .. } => 7,
            FarEndpoint { .. } => 8,
            FarConfirmed(_) => 9,
            FarWord { .. } => 10,
            FarReleased(_) => 11,
            FarUnable(_) => 12,
            Welcome { .. } => 0x81,
            RefuseHello { .. } => 0x82,
            Prove(_) => 0x83,
            Companion(_) => 0x84,
            Refused { .. } => 0x85,
            Assignment { .. } => 0x86,
            Unassigned { .. } => 0x87,
            San => 0x88,
            FarCompanion(_) => 0x89,
            FarGone { .. } => 0x8a,
            FarTrouble { .. } => 0x8b,
            PeerLink { .. } => 0x8c,
            Drain(_) => 0x8d,
        }
    }

    /// Writes the packet; returns its length.
    pub fn encode(&self, packet: &mut [u8; MAX_MESSAGE]) -> usize {
        let mut w = Writer { packet, at: 0 };
        w.u32(MAGIC);
        w.u16(PROTOCOL_VERSION);
        w.u16(self.kind());
        match *self {
            Hello { family, mail } => {
                w.bytes(&family);
                w.u32(mail);
            }
            Meet(meet) => {
                w.slot(meet.slot);
                w.u32(meet.fd as u32);
                w.addresses(meet.addresses);
                w.u64(meet.cookie);
                w.u64(meet.netns_cookie);
                w.bytes(&[meet.verbs.into()]);
            }
            Proof(slot) | NoProof(slot) | Prove(slot) => w.slot(slot),
            Released(companion) => w.companion(companion),
            Unable { slot, companion } => {
                w.slot(slot);
                w.companion(companion);
            }
            Welcome { policyd_version, instance } => {
                w.u32(policyd_version);
                w.u64(instance);
            }
            RefuseHello { reason } | Unassigned { reason } => w.u16(reason.code()),
            Assign { interface, network } => {
                w.bytes(interface.bytes());
                w.bytes(network.bytes());
            }
            Assignment { cell } => w.u32(cell),
            Companion(c) => {
                w.slot(c.slot);
                w.companion(c.companion);
                w.u32(c.peer_pid);
            }
            Refused { slot, reason } => {
                w.slot(slot);
                w.u16(reason.code());
            }
            FarEndpoint { far, blob } => {
                w.far(far);
                w.u16(blob.content().len() as u16);
                w.bytes(blob.content());
            }
            FarConfirmed(far) | FarReleased(far) | FarUnable(far) => w.far(far),
            FarWord { far, word } => {
                w.far(far);
                w.bytes(&[word.kind as u8, word.writer]);
                w.u64(word.epoch);
            }
            San => {}
            FarCompanion(c) => {
                w.slot(c.slot);
                w.far(c.far);
                w.bytes(&[c.role]);
            }
            FarGone { far, reason } | FarTrouble { far, reason } => {
                w.far(far);
                w.u16(reason.code());
            }
            PeerLink { host, up } => {
                w.u32(host);
                w.bytes(&[up.into()]);
            }
            Drain(drain) => {
                let (code, number, cookie) = drain.parts();
                w.bytes(&[code]);
                w.u32(number);
                w.u64(cookie);
            }
        }
        w.at
    }

    /// Reads one packet. Every field is checked here, once.
    pub fn decode(packet: &[u8]) -> Result<Message, Malformed> {
        let mut r = Reader { rest: packet };
        if packet.len() < HEADER {
            return Err(Malformed::Length);
        }
        if r.u32()? != MAGIC {
            return Err(Malformed::Magic);
        }
        let version = r.u16()?;
        if version != PROTOCOL_VERSION {
            return Err(Malformed::Version(version));
        }
        let message = match r.u16()? {
            1 => Hello { family: r.bytes()?, mail: r.u32()? },
            2 => Meet(crate::message::Meet {
                slot: r.slot()?,
                fd: r.descriptor()?,
                addresses: r.addresses()?,
                cookie: r.u64()?,
                netns_cookie: r.u64()?,
                verbs: r.flag()?,
            }),
            3 => Proof(r.slot()?),
            4 => NoProof(r.slot()?),
            5 => Released(r.companion()?),
            6 => Unable { slot: r.slot()?, companion: r.companion()? },
            7 => Assign { interface: r.name()?, network: r.name()? },
            8 => FarEndpoint { far: r.far()?, blob: r.blob()? },
            9 => FarConfirmed(r.far()?),
            10 => FarWord { far: r.far()?, word: r.word()? },
            11 => FarReleased(r.far()?),
            12 => FarUnable(r.far()?),
            0x81 => Welcome { policyd_version: r.u32()?, instance: r.u64()? },
            0x82 => RefuseHello { reason: r.reason()? },
            0x83 => Prove(r.slot()?),
            0x84 => {
                Companion(crate::message::Companion { slot: r.slot()?, companion: r.companion()?, peer_pid: r.u32()? })
            }
            0x85 => Refused { slot: r.slot()?, reason: r.reason()? },
            0x86 => Assignment { cell: r.cell()? },
            0x87 => Unassigned { reason: r.reason()? },
            0x88 => San,
            0x89 => FarCompanion(crate::message::FarCompanion { slot: r.slot()?, far: r.far()?, role: r.role()? }),
            0x8a => FarGone { far: r.far()?, reason: r.reason()? },
            0x8b => FarTrouble { far: r.far()?, reason: r.reason()? },
            0x8c => PeerLink { host: r.u32()?, up: r.flag()? },
            0x8d => Drain(r.drain()?),
            kind => return Err(Malformed::Kind(kind)),
        };
        if r.rest.is_empty() { Ok(message) } else { Err(Malformed::Length) }
    }
}

#[cfg(test)]
mod tests;
