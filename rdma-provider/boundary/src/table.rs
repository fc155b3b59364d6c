//! The two tables, and when one may be used.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

use super::{Address, Blob, Companion, Completion, Domain, Put, Queue, Served, Share, VERSION};

/// What the switch gives the provider.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Host {
    pub version: u32,
    pub size: u32,
    pub context: *mut c_void,
    pub log: unsafe extern "C" fn(context: *mut c_void, level: u32, text: *const c_char, bytes: usize),
    pub hide: unsafe extern "C" fn(context: *mut c_void, descriptor: i32) -> i32,
    pub close_hidden: unsafe extern "C" fn(context: *mut c_void, descriptor: i32),
}

/// Takes one line of what `check` says.
pub type Line = unsafe extern "C" fn(argument: *mut c_void, text: *const c_char, bytes: usize);

/// What the provider gives the switch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Provider {
    pub version: u32,
    pub size: u32,
    pub context: *mut c_void,
    pub name: *const c_char,

    pub find: unsafe extern "C" fn(context: *mut c_void, local: *const Address) -> i32,
    pub list: unsafe extern "C" fn(context: *mut c_void, served: *mut Served, room: u32) -> i32,
    pub check: unsafe extern "C" fn(context: *mut c_void, argument: *mut c_void, line: Line) -> i32,
    pub stop: unsafe extern "C" fn(context: *mut c_void) -> i32,
    pub start: unsafe extern "C" fn(context: *mut c_void) -> i32,

    pub open_queue: unsafe extern "C" fn(context: *mut c_void, cookie: u64, queue: *mut *mut Queue) -> i32,
    pub close_queue: unsafe extern "C" fn(queue: *mut Queue) -> i32,
    pub poll: unsafe extern "C" fn(queue: *mut Queue, completions: *mut Completion, room: u32) -> i32,
    pub arm: unsafe extern "C" fn(queue: *mut Queue) -> i32,
    pub wake: unsafe extern "C" fn(queue: *mut Queue) -> i32,

    pub open_domain:
        unsafe extern "C" fn(queue: *mut Queue, local: *const Address, cookie: u64, domain: *mut *mut Domain) -> i32,
    pub close_domain: unsafe extern "C" fn(domain: *mut Domain) -> i32,
    pub register_memory: unsafe extern "C" fn(
        domain: *mut Domain,
        base: *mut c_void,
        bytes: u64,
        rights: u32,
        cookie: u64,
        memory: *mut u32,
    ) -> i32,
    pub release_memory: unsafe extern "C" fn(domain: *mut Domain, memory: u32) -> i32,
    pub share: unsafe extern "C" fn(domain: *mut Domain, memory: u32, share: *mut Share) -> i32,
    pub adopt_share:
        unsafe extern "C" fn(domain: *mut Domain, share: *const Share, remote: *mut u32, bytes: *mut u64) -> i32,
    pub drop_share: unsafe extern "C" fn(domain: *mut Domain, remote: u32) -> i32,

    pub create: unsafe extern "C" fn(domain: *mut Domain, cookie: u64, companion: *mut *mut Companion) -> i32,
    pub bind: unsafe extern "C" fn(companion: *mut Companion, local: *const Address, remote: *const Address) -> i32,
    pub set_option:
        unsafe extern "C" fn(companion: *mut Companion, level: i32, name: i32, value: *const c_void, bytes: u32) -> i32,
    pub prepare: unsafe extern "C" fn(companion: *mut Companion) -> i32,
    pub endpoint: unsafe extern "C" fn(companion: *mut Companion, own: *mut Blob) -> i32,
    pub connect: unsafe extern "C" fn(companion: *mut Companion, peer: *const Blob) -> i32,
    pub close: unsafe extern "C" fn(companion: *mut Companion) -> i32,
    pub describe: unsafe extern "C" fn(companion: *mut Companion, text: *mut c_char, room: u32) -> i32,

    pub put: unsafe extern "C" fn(companion: *mut Companion, puts: *const Put, count: u32) -> i32,
    pub notify: unsafe extern "C" fn(companion: *mut Companion, note: u32) -> i32,
}

impl Provider {
    /// Its name, which a table of our version has; `None`: it has none, or one that is no text.
    pub fn name(&self) -> Option<&str> {
        if self.name.is_null() {
            return None;
        }
        // SAFETY: by the boundary, a text that ends with a zero and lives as long as the table.
        unsafe { CStr::from_ptr(self.name) }.to_str().ok()
    }

    pub fn is_called(&self, name: &str) -> bool {
        self.name() == Some(name)
    }
}

/// The type of the symbol [`super::ENTRY`].
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
