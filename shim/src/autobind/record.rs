//! What is known of one socket: what the application chose for it, and what AutoBind did.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::datagrams;
use crate::fd_table::{self, Entry};
use crate::slot;

pub mod is {
    /// An IPv6 socket.
    pub const V6: u32 = 1;
    /// A TCP socket; the others are UDP.
    pub const STREAM: u32 = 2;
    /// The application chose address, device or route itself: never touched.
    pub const EXPLICIT: u32 = 4;
    /// Bound by the application to a port, but to no address.
    pub const PORT: u32 = 8;
    /// The one decision has been made.
    pub const DECIDED: u32 = 16;
    /// It was: bind.
    pub const SERVED: u32 = 32;
    /// UDP: connected by a connect that was let through.
    pub const CONNECTED: u32 = 64;
    /// The application set IP_BIND_ADDRESS_NO_PORT itself.
    pub const NO_PORT: u32 = 128;
    /// The application's SO_BINDTODEVICE came after ours, which only a privileged process can change: it was told yes.
    pub const TOLD_DEVICE: u32 = 256;
    /// Policyd ends the connection when the interface goes.
    pub const FAILS: u32 = 512;

    /// Done by us: the source address; the device; IP_UNICAST_IF, IPV6_UNICAST_IF.
    pub const OUR_ADDRESS: u32 = 1 << 16;
    pub const OUR_DEVICE: u32 = 1 << 17;
    pub const OUR_UNICAST_V4: u32 = 1 << 18;
    pub const OUR_UNICAST_V6: u32 = 1 << 19;
    pub const OUR_UNICAST: u32 = OUR_UNICAST_V4 | OUR_UNICAST_V6;
}

/// All-zero is an IPv4 UDP socket that nothing has happened to.
#[repr(C)]
pub struct Record {
    flags: AtomicU32,
    /// The device that the application was told it has (`TOLD_DEVICE`).
    told_device: AtomicU32,
}

impl Record {
    pub const fn new() -> Self {
        Self { flags: AtomicU32::new(0), told_device: AtomicU32::new(0) }
    }

    pub fn begin(&self, flags: u32) {
        self.told_device.store(0, Ordering::Relaxed);
        self.flags.store(flags, Ordering::Release);
    }

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    /// True when they were not all set before.
    pub fn raise(&self, flags: u32) -> bool {
        self.flags.fetch_or(flags, Ordering::AcqRel) & flags != flags
    }

    pub fn lower(&self, flags: u32) {
        self.flags.fetch_and(!flags, Ordering::AcqRel);
    }

    pub fn told_device(&self) -> u32 {
        self.told_device.load(Ordering::Relaxed)
    }

    pub fn tell_device(&self, index: u32) {
        self.told_device.store(index, Ordering::Relaxed);
        self.raise(is::TOLD_DEVICE);
    }
}

/// The record of the TCP or UDP socket at this number.
pub fn of(fd: RawFd) -> Option<&'static Record> {
    match fd_table::life(fd) {
        Entry::Socket(index) | Entry::Settled(index) => slot::at(index).map(|slot| &slot.slot.autobind),
        Entry::Datagram(index) => datagrams::at(index),
        _ => None,
    }
}

/// The record of the UDP socket at this number.
pub fn of_datagram(fd: RawFd) -> Option<&'static Record> {
    match fd_table::life(fd) {
        Entry::Datagram(index) => datagrams::at(index),
        _ => None,
    }
}
