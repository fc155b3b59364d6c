//! What messages about companions between hosts speak of.

use super::SlotRef;

/// A companion between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FarRef {
    /// This policyd's number for the other host; it stays the same for as long as policyd runs.
    pub host: u32,
    /// Random, never zero, the same at both ends.
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarCompanion {
    pub slot: SlotRef,
    pub far: FarRef,
    /// This end's role, 0 or 1; the other end has the other.
    pub role: u8,
}

/// What a provider says to the other end's; nobody in between reads it. Unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    used: u16,
    bytes: [u8; Blob::BYTES],
}

impl Blob {
    pub const BYTES: usize = 320;

    /// `None`: too long.
    pub fn new(content: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..content.len())?.copy_from_slice(content);
        Some(Self { used: u16::try_from(content.len()).ok()?, bytes })
    }

    pub fn content(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.used)).unwrap_or(&[])
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.used)
    }
}

/// One word of a direction's switch-over, said by the policyds when the queue pair is dead. The newest of each kind and
/// direction is what counts: it may be said again, and one that waits is replaced by a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    pub kind: WordKind,
    /// The role that writes in this direction.
    pub writer: u8,
    pub epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WordKind {
    /// Writer: did you see this epoch taken?
    Ask = 1,
    /// Reader: it was not, and now it can't be any more.
    AnswerVoid = 2,
    /// Reader: it was.
    AnswerTaken = 3,
    /// Writer: this epoch is never taken.
    Void = 4,
    /// Reader: give this epoch back.
    Leave = 5,
}

impl WordKind {
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Ask),
            2 => Some(Self::AnswerVoid),
            3 => Some(Self::AnswerTaken),
            4 => Some(Self::Void),
            5 => Some(Self::Leave),
            _ => None,
        }
    }
}
