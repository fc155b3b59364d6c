//! The boundary between the switch and a SAN provider that it loads as a plug-in: the Rust form of
//! `include/tandem_provider.h`, which says what each function means.
//!
//! **Only the boundary exists.** There is no verbs provider in this crate yet, the switch loads no plug-in, and the built-in
//! `local` provider does not go through this table.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::marker::{PhantomData, PhantomPinned};

/// Versions of both tables must be equal.
pub const VERSION: u32 = 1;
/// The one symbol that a plug-in exports; its type is [`Open`].
pub const ENTRY: &CStr = c"tandem_provider_open";
pub const BLOB_BYTES: usize = 240;

/// [`Put::flags`]: the receiver's sleeper is to be told when this put has landed.
pub const PUT_NOTIFY: u32 = 1;

/// [`Completion::kind`]: a put of ours is in the peer's memory.
pub const LANDED: u32 = 0;
/// [`Completion::kind`]: the peer has notified us.
pub const NOTIFIED: u32 = 1;
/// [`Completion::kind`]: the companion has failed; nothing more will land.
pub const DEAD: u32 = 2;

/// One companion; the plug-in's own, never looked into.
#[repr(C)]
pub struct Companion {
    _opaque: [u8; 0],
    _not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

/// IPv4 in the first four bytes; bytes and port in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub family: u16,
    pub port: u16,
    pub scope: u32,
    pub bytes: [u8; 16],
}

/// What one end's plug-in must tell the other's before they can connect.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Blob {
    pub used: u32,
    pub reserved: u32,
    pub bytes: [u8; BLOB_BYTES],
}

impl Blob {
    /// The bytes in use; `None` if the other end lies about how many there are.
    pub fn content(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::try_from(self.used).ok()?)
    }
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    pub id: u64,
    pub bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put {
    pub local_memory: u64,
    pub local_offset: u64,
    pub remote_memory: u64,
    pub remote_offset: u64,
    pub bytes: u32,
    pub flags: u32,
    pub token: u64,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    pub kind: u32,
    pub status: i32,
    pub token: u64,
}

/// What the switch gives the plug-in.
#[repr(C)]
pub struct Host {
    pub version: u32,
    pub size: u32,
    pub context: *mut c_void,
    pub log: unsafe extern "C" fn(context: *mut c_void, level: u32, text: *const c_char, bytes: usize),
    pub hide: unsafe extern "C" fn(context: *mut c_void, descriptor: i32) -> i32,
    pub close_hidden: unsafe extern "C" fn(context: *mut c_void, descriptor: i32),
}

/// What the plug-in gives the switch.
#[repr(C)]
pub struct Provider {
    pub version: u32,
    pub size: u32,
    pub context: *mut c_void,
    pub name: *const c_char,
    pub serves: unsafe extern "C" fn(context: *mut c_void, local: *const Address) -> i32,
    pub create: unsafe extern "C" fn(context: *mut c_void, companion: *mut *mut Companion) -> i32,
    pub bind: unsafe extern "C" fn(companion: *mut Companion, local: *const Address, remote: *const Address) -> i32,
    pub set_option:
        unsafe extern "C" fn(companion: *mut Companion, level: i32, name: i32, value: *const c_void, bytes: u32) -> i32,
    pub endpoint: unsafe extern "C" fn(companion: *mut Companion, own: *mut Blob) -> i32,
    pub connect: unsafe extern "C" fn(companion: *mut Companion, remote: *const Blob) -> i32,
    pub close_companion: unsafe extern "C" fn(companion: *mut Companion),
    pub register_memory:
        unsafe extern "C" fn(companion: *mut Companion, base: *mut c_void, bytes: u64, memory: *mut Memory) -> i32,
    pub put: unsafe extern "C" fn(companion: *mut Companion, put: *const Put) -> i32,
    pub notify: unsafe extern "C" fn(companion: *mut Companion) -> i32,
    pub poll: unsafe extern "C" fn(companion: *mut Companion, completions: *mut Completion, room: u32) -> i32,
    pub arm: unsafe extern "C" fn(companion: *mut Companion) -> i32,
    pub wake: unsafe extern "C" fn(companion: *mut Companion, descriptor: *mut i32) -> i32,
}

/// The type of the symbol [`ENTRY`].
pub type Open = unsafe extern "C" fn(host: *const Host) -> *const Provider;

/// Why the other side's table cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    Absent,
    Version { theirs: u32 },
    Short { theirs: u32, needed: usize },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "no table was given"),
            Self::Version { theirs } => write!(f, "its table has version {theirs}, ours {VERSION}"),
            Self::Short { theirs, needed } => write!(f, "its table has {theirs} bytes, {needed} are needed"),
        }
    }
}

impl std::error::Error for Mismatch {}

/// A table that one side gives the other: it begins with version and size.
///
/// # Safety
/// `repr(C)`, with two `u32` first: version and size.
pub unsafe trait Table: Sized {
    /// The table behind the pointer, if it can be used.
    ///
    /// # Safety
    /// Null, or a table of any version that outlives `'a`, as long as its size says.
    unsafe fn accept<'a>(table: *const Self) -> Result<&'a Self, Mismatch> {
        if table.is_null() {
            return Err(Mismatch::Absent);
        }
        // SAFETY: every version's table begins with these two words; no more is read until they are known to be right.
        let [version, size] = unsafe { table.cast::<[u32; 2]>().read() };
        if version != VERSION {
            return Err(Mismatch::Version { theirs: version });
        }
        if (size as usize) < size_of::<Self>() {
            return Err(Mismatch::Short { theirs: size, needed: size_of::<Self>() });
        }
        // SAFETY: of our version and long enough.
        Ok(unsafe { &*table })
    }
}

// SAFETY: their first fields.
unsafe impl Table for Host {}
// SAFETY: their first fields.
unsafe impl Table for Provider {}

#[cfg(test)]
mod tests;
