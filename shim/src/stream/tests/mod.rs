//! What the stream's tests share: ring memory of exactly the right size (so that AddressSanitizer sees every byte beyond
//! it), a kernel with a small buffer, and a stream whose byte i has the value f(i).

mod directions;
mod hostile;
mod looking;
mod reading;
mod sharing;
mod sleeping;
mod travelling;
mod units;
mod world;

use std::collections::VecDeque;

use super::words::{LocalPort, Place, Slots, Words, at, epoch_of, stamp, want};
use super::{Reader, Source, Take, TcpPut, TcpReceive, TcpSend, TcpTake, WriterFacts};

/// A round that fails leaks its threads; the rounds with planted faults do so on purpose. LeakSanitizer asks for this.
#[unsafe(no_mangle)]
extern "C" fn __lsan_default_suppressions() -> *const std::ffi::c_char {
    c"leak:shuttle::runtime".as_ptr()
}

/// Byte i of every test's stream. The period is prime to all ring sizes: a byte out of place has the wrong value.
pub fn token(i: u64) -> u8 {
    (i % 251) as u8
}

pub fn tokens(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(token).collect()
}

pub const SMALL: Place = Place::new(0, 4);
pub const BIG: Slots = Slots { first: 64, size: 64, count: 2 };
pub const MEMORY: usize = 192;

pub fn big(index: u64) -> Place {
    Place::new(BIG.first + index * BIG.size, BIG.size)
}

/// One direction's shared memory, in this process alone.
pub struct Shared {
    pub words: Words,
    memory: Box<[std::cell::UnsafeCell<u8>]>,
}

impl Shared {
    pub fn new() -> Shared {
        let memory = (0..MEMORY).map(|_| std::cell::UnsafeCell::new(0xee)).collect();
        Shared { words: Words::default(), memory }
    }

    pub fn port(&self) -> LocalPort<'_> {
        let base = self.memory.as_ptr().cast_mut().cast();
        // SAFETY: the boxed cells hold both regions and live as long as `self`.
        unsafe { LocalPort::new(&self.words, base, Place::NONE, SMALL, BIG) }
    }
}

/// The anchor as its two ends see it.
#[derive(Debug)]
pub struct Kernel {
    pub queue: VecDeque<u8>,
    pub room: usize,
    pub fin: bool,
    /// For the receiver and for the sender: what it is told instead of bytes.
    pub error: Option<i32>,
    pub broken: Option<i32>,
    pub sent: u64,
    pub received: u64,
}

impl Kernel {
    pub fn new(room: usize) -> Kernel {
        Kernel { queue: VecDeque::new(), room, fin: false, error: None, broken: None, sent: 0, received: 0 }
    }

    fn empty(&mut self) -> TcpTake {
        match self.error.take() {
            Some(errno) => TcpTake::Failed(errno),
            None if self.fin => TcpTake::Fin,
            None => TcpTake::WouldBlock,
        }
    }

    /// As `send`, for the application's own bytes.
    pub fn put(&mut self, bytes: &[u8]) -> TcpPut {
        // SAFETY: a slice.
        unsafe { self.send(bytes.as_ptr(), bytes.len()) }
    }
}

impl TcpSend for Kernel {
    unsafe fn send(&mut self, src: *const u8, len: usize) -> TcpPut {
        assert!(len > 0 && !self.fin);
        if let Some(errno) = self.broken {
            return TcpPut::Failed(errno);
        }
        let n = len.min(self.room - self.queue.len());
        // SAFETY: `n` <= `len`, by the contract.
        self.queue.extend((0..n).map(|i| unsafe { src.add(i).read() }));
        self.sent += n as u64;
        if n == 0 { TcpPut::WouldBlock } else { TcpPut::Bytes(n) }
    }
}

impl TcpReceive for Kernel {
    unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake {
        assert!(len > 0);
        let n = len.min(self.queue.len());
        for (i, byte) in self.queue.drain(..n).enumerate() {
            // SAFETY: `n` <= `len`, by the contract.
            unsafe { dst.add(i).write(byte) };
        }
        self.received += n as u64;
        if n == 0 { self.empty() } else { TcpTake::Bytes(n) }
    }

    unsafe fn peek(&mut self, dst: *mut u8, len: usize, skip: usize) -> TcpTake {
        let n = len.min(self.queue.len().saturating_sub(skip));
        for (i, byte) in self.queue.iter().skip(skip).take(n).enumerate() {
            // SAFETY: `n` <= `len`, by the contract.
            unsafe { dst.add(i).write(*byte) };
        }
        match n {
            0 if self.queue.is_empty() => self.empty(),
            0 => TcpTake::WouldBlock,
            n => TcpTake::Bytes(n),
        }
    }

    fn pending(&mut self) -> usize {
        self.queue.len()
    }
}

/// A receive into a buffer of just this length.
pub fn receive(reader: &mut Reader, port: &impl super::Port, tcp: &mut impl TcpReceive, len: usize) -> (Take, Vec<u8>) {
    let mut bytes = vec![0xaa; len];
    // SAFETY: a vector of that length.
    let take = unsafe { reader.receive(port, tcp, bytes.as_mut_ptr(), len) };
    bytes.truncate(if let Take::Bytes { n, .. } = take { n } else { 0 });
    (take, bytes)
}

/// What a call can have before anything else is asked.
pub fn take_at_once(reader: &mut Reader, port: &impl super::Port, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    // SAFETY: a vector of that length.
    let n = unsafe { reader.take_at_once(port, bytes.as_mut_ptr(), len) };
    bytes.truncate(n);
    bytes
}

pub fn peek(
    reader: &mut Reader,
    port: &impl super::Port,
    tcp: &mut impl TcpReceive,
    len: usize,
    skip: usize,
) -> (Take, Vec<u8>) {
    let mut bytes = vec![0xaa; len];
    // SAFETY: a vector of that length.
    let take = unsafe { reader.peek(port, tcp, bytes.as_mut_ptr(), len, skip) };
    bytes.truncate(if let Take::Bytes { n, .. } = take { n } else { 0 });
    (take, bytes)
}

pub fn companion(n: usize) -> Take {
    Take::Bytes { n, from: Source::Companion }
}

pub fn tcp(n: usize) -> Take {
    Take::Bytes { n, from: Source::Tcp }
}

/// The facts of a writer that would take an offer at `offset`.
pub fn willing(offset: u64) -> WriterFacts {
    WriterFacts { offset, may_take: true, place: SMALL, ..WriterFacts::default() }
}
