//! What switches of two hosts say to each other by their policyds, played by hand.

use std::net::TcpStream;

use tandem_protocol::message::{Blob, FarCompanion, FarRef, Word, WordKind};
use tandem_protocol::{Message, Reason};

use super::{Host, within};
use crate::switch::Switch;

/// A companion's two ends: who has it, and as what.
pub struct Ends<'a> {
    pub switches: [&'a Switch; 2],
    pub far: [FarRef; 2],
}

impl<'a> Ends<'a> {
    /// Both ends of a connection meet; each hears of the companion.
    #[track_caller]
    pub fn met(switches: [&'a Switch; 2], slot: u32, (client, server): &(TcpStream, TcpStream)) -> Self {
        switches[0].meet(slot, client);
        switches[1].meet(slot, server);
        Self::introduced(switches, slot)
    }

    #[track_caller]
    pub fn introduced(switches: [&'a Switch; 2], slot: u32) -> Self {
        let [one, other] = switches.map(|switch| introduced(switch, slot));
        assert_eq!((one.role, other.role), (0, 1));
        assert_eq!(one.far.id, other.far.id);
        Self { switches, far: [one.far, other.far] }
    }

    /// One end says something, the other hears it.
    #[track_caller]
    pub fn says(&self, end: usize, what: impl Fn(FarRef) -> Message) {
        self.switches[end].send(&what(self.far[end]), &[]);
        assert_eq!(self.switches[1 - end].next(), what(self.far[1 - end]));
    }

    #[track_caller]
    pub fn release(&self, end: usize) {
        self.switches[end].send(&Message::FarReleased(self.far[end]), &[]);
        let far = self.far[1 - end];
        assert_eq!(self.switches[1 - end].next(), Message::FarGone { far, reason: Reason::Closed });
    }
}

#[track_caller]
pub fn introduced(switch: &Switch, slot: u32) -> FarCompanion {
    match switch.next() {
        Message::FarCompanion(companion) => {
            assert_eq!(companion.slot.slot, slot);
            companion
        }
        other => panic!("no companion: {other:?}"),
    }
}

pub fn blob(text: &str) -> Blob {
    Blob::new(text.as_bytes()).unwrap()
}

pub fn word(kind: WordKind, writer: u8, epoch: u64) -> Word {
    Word { kind, writer, epoch }
}

pub fn all_gone(hosts: &[Host; 2]) {
    within("nothing is left at either host", || hosts.iter().all(Host::is_empty));
}
