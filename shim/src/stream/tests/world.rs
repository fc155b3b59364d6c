//! The two processes of a shuttle round: shared words whose every access may be interleaved, ring memory, the kernel
//! between them, wakes, and the knife.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32 as Plain32, Ordering::Relaxed};

use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};

use super::*;
use crate::stream::sleepers::Board;
use crate::stream::{Port, WORDS, Word};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    Nobody,
    Writer,
    Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Writer = 0,
    Reader = 1,
}

/// Wake id of the writing thread; the reading ones have 1 and 2.
pub const WRITER: u32 = 0;

/// What the kernel knows.
pub struct Wire {
    pub kernel: Kernel,
    pub reader_gone: bool,
    wakes: [bool; 3],
}

impl Wire {
    pub fn readable(&self) -> bool {
        !self.kernel.queue.is_empty() || self.kernel.fin
    }
}

pub struct World {
    words: Vec<AtomicU64>,
    memory: Box<[UnsafeCell<u8>]>,
    wire: Mutex<Wire>,
    changed: Condvar,
    sleep: [AtomicU32; 3],
    woken: [Plain32; 3],
    kill: Kill,
    /// Stores and sends that the victim has left.
    fuse: Plain32,
    dead: AtomicBool,
    /// The reader will hand its end to somebody without a switch.
    pub hand_over: bool,
}

// SAFETY: the cells are the rings; their accesses are the protocol's business, and shuttle runs one thread at a time.
unsafe impl Sync for World {}
// SAFETY: the same.
unsafe impl Send for World {}

impl World {
    pub fn new(kill: Kill, fuse: u32, hand_over: bool) -> World {
        World {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            memory: (0..MEMORY).map(|_| UnsafeCell::new(0xee)).collect(),
            wire: Mutex::new(Wire { kernel: Kernel::new(3), reader_gone: false, wakes: [false; 3] }),
            changed: Condvar::new(),
            sleep: Default::default(),
            woken: Default::default(),
            kill,
            fuse: Plain32::new(fuse),
            dead: AtomicBool::new(false),
            hand_over,
        }
    }

    pub fn view(&self, side: Side) -> View<'_> {
        View { world: self, side }
    }

    pub fn anchor(&self, side: Side) -> Anchor<'_> {
        Anchor { world: self, side }
    }

    pub fn dead(&self, side: Side) -> bool {
        let victim = match side {
            Side::Writer => Kill::Writer,
            Side::Reader => Kill::Reader,
        };
        self.kill == victim && self.dead.load(Relaxed)
    }

    /// One step of this side's that others can see: is it killed before?
    fn lives(&self, side: Side) -> bool {
        let victim = if side == Side::Writer { Kill::Writer } else { Kill::Reader };
        if self.kill != victim {
            return true;
        }
        if self.fuse.load(Relaxed) > 0 {
            self.fuse.fetch_sub(1, Relaxed);
        } else if !self.dead.swap(true, Relaxed) {
            let mut wire = self.wire.lock().unwrap();
            match side {
                Side::Writer => wire.kernel.fin = true,
                Side::Reader => {
                    wire.reader_gone = true;
                    wire.kernel.broken = Some(32);
                    wire.wakes[1..].fill(true);
                }
            }
            self.changed.notify_all();
        }
        !self.dead.load(Relaxed)
    }

    /// The writer's orderly FIN, if it has not been said already.
    pub fn close(&self) {
        self.wire.lock().unwrap().kernel.fin = true;
        self.changed.notify_all();
    }

    pub fn writers_view(&self) -> (u64, bool) {
        let wire = self.wire.lock().unwrap();
        (wire.kernel.sent, wire.reader_gone)
    }

    pub fn finished(&self) -> bool {
        self.wire.lock().unwrap().kernel.fin
    }

    pub fn tcp_readable(&self) -> bool {
        self.wire.lock().unwrap().readable()
    }

    /// A place that was given back now belongs to somebody else.
    pub fn poison(&self, place: Place) {
        if self.dead(Side::Writer) {
            return;
        }
        for cell in &self.memory[place.offset() as usize..][..place.size() as usize] {
            // SAFETY: one thread at a time, no references.
            unsafe { cell.get().write(0xdd) };
        }
    }

    // ---- sleeping ----

    pub fn lie_down(&self, id: u32) {
        self.sleep[id as usize].fetch_add(1, SeqCst);
    }

    pub fn rise(&self, id: u32) {
        self.sleep[id as usize].fetch_add(1, SeqCst);
    }

    /// On {TCP as `ready` says, own wake}.
    pub fn sleep(&self, id: u32, ready: impl Fn(&Wire) -> bool) {
        let mut wire = self.wire.lock().unwrap();
        let side = if id == WRITER { Side::Writer } else { Side::Reader };
        while !wire.wakes[id as usize] && !ready(&wire) && !self.dead(side) {
            wire = self.changed.wait(wire).unwrap();
        }
        wire.wakes[id as usize] = false;
    }

    pub fn wake(&self, id: u32, counter: u32) {
        self.rouse(id);
        self.woken[id as usize].store(counter, Relaxed);
    }

    pub fn rouse(&self, id: u32) {
        self.wire.lock().unwrap().wakes[id as usize] = true;
        self.changed.notify_all();
    }
}

impl Board for World {
    fn sleep(&self, id: u32) -> u32 {
        self.sleep[id as usize].load(SeqCst)
    }

    fn woken(&self, id: u32) -> u32 {
        self.woken[id as usize].load(Relaxed)
    }
}

/// The port of one end.
pub struct View<'a> {
    world: &'a World,
    side: Side,
}

impl Port for View<'_> {
    fn load(&self, word: Word) -> u64 {
        self.world.words[word as usize].load(SeqCst)
    }

    fn store(&self, word: Word, value: u64) {
        let readers = Word::READERS.contains(&word);
        assert_eq!(self.side == Side::Reader, readers, "{word:?} is the other side's");
        if self.world.lives(self.side) {
            self.world.words[word as usize].store(value, SeqCst);
        }
    }

    fn fence(&self) {}

    fn admits(&self, place: Place) -> bool {
        place == SMALL || place == big(0) || place == big(1)
    }

    fn pointer(&self, offset: u64) -> *mut u8 {
        self.world.memory[offset as usize].get()
    }

    unsafe fn copy_out(&self, offset: u64, dst: *mut u8, len: usize) {
        for i in 0..len {
            self.world.words[WORDS - 1].load(SeqCst); // others may run between two bytes
            // SAFETY: by the contract.
            unsafe { dst.add(i).write(self.pointer(offset + i as u64).read()) };
        }
    }

    unsafe fn copy_in(&self, offset: u64, src: *const u8, len: usize) {
        for i in 0..len {
            self.world.words[WORDS - 1].load(SeqCst);
            if !self.world.dead(Side::Writer) {
                // SAFETY: by the contract.
                unsafe { self.pointer(offset + i as u64).write(src.add(i).read()) };
            }
        }
    }
}

/// The anchor of one end.
pub struct Anchor<'a> {
    world: &'a World,
    side: Side,
}

impl Anchor<'_> {
    fn with<R>(&self, call: impl FnOnce(&mut Kernel) -> R) -> R {
        let result = call(&mut self.world.wire.lock().unwrap().kernel);
        self.world.changed.notify_all();
        result
    }
}

impl TcpSend for Anchor<'_> {
    unsafe fn send(&mut self, src: *const u8, len: usize) -> TcpPut {
        if !self.world.lives(self.side) {
            return TcpPut::Bytes(len); // nobody there to see it
        }
        // SAFETY: the contract is the same.
        self.with(|kernel| unsafe { kernel.send(src, len) })
    }
}

impl TcpReceive for Anchor<'_> {
    unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake {
        // SAFETY: the contract is the same.
        self.with(|kernel| unsafe { kernel.receive(dst, len) })
    }

    unsafe fn peek(&mut self, dst: *mut u8, len: usize, skip: usize) -> TcpTake {
        // SAFETY: the contract is the same.
        self.with(|kernel| unsafe { kernel.peek(dst, len, skip) })
    }

    fn pending(&mut self) -> usize {
        self.with(|kernel| kernel.pending())
    }
}
