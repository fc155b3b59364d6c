//! What is to go back to TCP.

/// Named by what both know, whichever policyd made it: a restarted one drains what its predecessor began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// All of this process's, and what it connects or accepts from now on stays there.
    All,
    /// No longer: connections from now on may get companions again.
    Undo,
    /// All with the process at the other end of this pair.
    Pair(u32),
    /// One connection: the slot, while its socket has this cookie. Other processes of the family are told too.
    Slot { slot: u32, cookie: u64 },
}

impl Drain {
    pub(super) fn parts(self) -> (u8, u32, u64) {
        match self {
            Self::All => (0, 0, 0),
            Self::Undo => (1, 0, 0),
            Self::Pair(pair) => (2, pair, 0),
            Self::Slot { slot, cookie } => (3, slot, cookie),
        }
    }

    pub(super) fn of_parts(code: u8, number: u32, cookie: u64) -> Option<Self> {
        match (code, number, cookie) {
            (0, 0, 0) => Some(Self::All),
            (1, 0, 0) => Some(Self::Undo),
            (2, pair, 0) => Some(Self::Pair(pair)),
            (3, slot, 1..) => Some(Self::Slot { slot, cookie }),
            _ => None,
        }
    }
}
