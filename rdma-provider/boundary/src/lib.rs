//! The boundary between the switch and a SAN provider that it loads as a plug-in: the Rust form of
//! `../include/tandem_provider.h`, which is the authority on what each call means, on errors, threads, signals, processes
//! and blocking.
//!
//! `table` has the functions that each side gives the other; here what they speak of. [`stream`] is how the words and rings of a
//! TCP stream lie above a provider, with what both ends of that need.

pub mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_void};
use std::marker::{PhantomData, PhantomPinned};

pub use table::{Host, Line, Mismatch, Open, Provider, Table};

/// Versions of both tables must be equal.
pub const VERSION: u32 = 1;
/// The one symbol that a plug-in exports; its type is [`Open`].
pub const ENTRY: &CStr = c"tandem_provider_open";

pub const BLOB_BYTES: usize = 240;
pub const SHARE_BYTES: usize = 40;
/// At most so many bytes in one put.
pub const PUT_BYTES: u32 = 1 << 20;
/// At most so many puts in one call.
pub const PUTS: u32 = 8;
/// At most so many bytes in one put that are not in registered memory.
pub const IMMEDIATE_BYTES: u32 = 64;
/// Of [`Put::note`].
pub const NOTE_BITS: u32 = 31;

/// Rights on registered memory: the peer may put there.
pub const PEER_PUTS: u32 = 1;
/// Rights on registered memory: the peer may fetch from there.
pub const PEER_FETCHES: u32 = 2;

/// [`Put::kind`]: local bytes go to the peer's memory.
pub const PUT: u32 = 0;
/// [`Put::kind`]: the peer's come here.
pub const FETCH: u32 = 1;

/// [`Put::flags`]: poll tells when this one, and with it all before, has landed.
pub const REPORT: u32 = 1;
/// [`Put::flags`]: the peer is notified once this one has landed, and told the note.
pub const NOTIFY: u32 = 2;
/// [`Put::flags`]: the bytes are at [`Put::immediate`].
pub const IMMEDIATE: u32 = 4;

/// What a [`Completion`] tells.
pub mod kind {
    /// A domain is open, memory registered, a companion's endpoint there; or why not. Of a domain once more when its device has gone.
    pub const READY: u32 = 1;
    /// Puts may be made; or why not.
    pub const CONNECTED: u32 = 2;
    /// The put with this token, and all before it, are in place.
    pub const LANDED: u32 = 3;
    /// The peer has notified.
    pub const NOTIFIED: u32 = 4;
    /// The companion is dead.
    pub const DEAD: u32 = 5;
    /// The object's last: its memory may be unmapped.
    pub const CLOSED: u32 = 6;
    /// Of the queue: devices or addresses have changed.
    pub const CHANGED: u32 = 7;
    /// Of a companion that has refused a put for want of room: it would take puts again.
    pub const ROOM: u32 = 8;
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _opaque: [u8; 0],
            _not_ours: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )* };
}

handles! {
    /// What sleepers sleep on and pollers poll; the plug-in's own, as those that follow.
    Queue;
    /// What one peer process may reach.
    Domain;
    /// One end of a path between two processes, beside one TCP connection.
    Companion;
}

/// IPv4 in the first four bytes; bytes and port in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address {
    pub family: u16,
    pub port: u16,
    pub scope: u32,
    pub bytes: [u8; 16],
}

/// What one end's provider must tell the other's before they can connect.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Blob {
    pub used: u32,
    pub reserved: u32,
    pub bytes: [u8; BLOB_BYTES],
}

impl Blob {
    pub const EMPTY: Blob = Blob { used: 0, reserved: 0, bytes: [0; BLOB_BYTES] };

    /// The bytes in use; `None` if the other end lies about how many there are.
    pub fn content(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::try_from(self.used).ok()?)
    }
}

/// The same, for a region of memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    pub bytes: [u8; SHARE_BYTES],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Put {
    pub kind: u32,
    pub flags: u32,
    pub local: u32,
    pub remote: u32,
    pub local_offset: u64,
    pub remote_offset: u64,
    pub immediate: *const c_void,
    pub bytes: u32,
    pub note: u32,
    pub token: u64,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Completion {
    pub kind: u32,
    pub status: i32,
    pub cookie: u64,
    pub token: u64,
    pub note: u32,
    pub reserved: u32,
}

/// One address that a device serves.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub address: Address,
    pub usable: u32,
    pub mtu: u32,
    /// Ended by NUL.
    pub device: [u8; 56],
}
