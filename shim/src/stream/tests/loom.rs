//! The words, ring and sleepers under loom: the real types, every order the memory model allows. Ring bytes are cells that
//! loom watches, so a byte read before it was published is a data race.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::loom::cell::UnsafeCell;
use ::loom::model::Builder;
use ::loom::sync::atomic::{AtomicU32, Ordering, fence};
use ::loom::sync::{Arc, Condvar, Mutex};
use ::loom::thread;

use super::faults::{self, Fault};
use super::sleepers::{Board, Sleepers, Wake, whom};
use super::*;

#[path = "loom_waking.rs"]
mod waking;

const SMALL: Place = Place::new(0, 2);
const BIG: Slots = Slots { first: 64, size: 4, count: 1 };
const LARGE: Place = Place::new(64, 4);

struct Shared {
    words: Words,
    small: Vec<UnsafeCell<u8>>,
    large: Vec<UnsafeCell<u8>>,
    tcp: Mutex<Tcp>,
    news: Condvar,
    /// Of the reader and of the writer: the board's counter and what their wake was last signalled for.
    sleep: [AtomicU32; 2],
    woken: [AtomicU32; 2],
}

#[derive(Default)]
struct Tcp {
    queue: Vec<u8>,
    fin: bool,
    wakes: [bool; 2],
}

const READER: u32 = 0;
const WRITER: u32 = 1;

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared {
            words: Words::default(),
            small: (0..2).map(|_| UnsafeCell::new(0xee)).collect(),
            large: (0..4).map(|_| UnsafeCell::new(0xee)).collect(),
            tcp: Mutex::new(Tcp::default()),
            news: Condvar::new(),
            sleep: [AtomicU32::new(0), AtomicU32::new(0)],
            woken: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    /// Already switched over at N = 0.
    fn switched() -> (Arc<Shared>, Writer, Reader) {
        let shared = Shared::new();
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        assert!(reader.offer(&View(&shared), 0));
        assert!(matches!(writer.consider(&View(&shared), &willing(0), |_| true), WriterEvent::Took { .. }));
        (shared, writer, reader)
    }

    fn signal(&self, wake: Option<Wake>) {
        if let Some(Wake { id, counter }) = wake {
            self.tcp.lock().unwrap().wakes[id as usize] = true;
            self.news.notify_all();
            self.woken[id as usize].store(counter, Ordering::Relaxed);
        }
    }

    fn step(&self, id: u32) {
        let sleep = &self.sleep[id as usize];
        sleep.store(sleep.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// On the own wake alone.
    fn sleep(&self, id: u32) {
        let mut tcp = self.tcp.lock().unwrap();
        while !std::mem::take(&mut tcp.wakes[id as usize]) {
            tcp = self.news.wait(tcp).unwrap();
        }
    }
}

impl Board for Shared {
    fn sleep(&self, id: u32) -> u32 {
        self.sleep[id as usize].load(Ordering::Acquire)
    }
    fn woken(&self, id: u32) -> u32 {
        self.woken[id as usize].load(Ordering::Relaxed)
    }
}

struct View<'a>(&'a Shared);

impl View<'_> {
    fn words(&self) -> LocalPort<'_> {
        // SAFETY: this port's memory is never reached: the rings are cells.
        unsafe { LocalPort::new(&self.0.words, std::ptr::null_mut(), Place::NONE, SMALL, BIG) }
    }

    fn cell(&self, offset: u64) -> &UnsafeCell<u8> {
        if offset < 64 { &self.0.small[offset as usize] } else { &self.0.large[offset as usize - 64] }
    }
}

impl Port for View<'_> {
    fn load(&self, word: Word) -> u64 {
        self.words().load(word)
    }
    fn store(&self, word: Word, value: u64) {
        self.words().store(word, value);
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn admits(&self, place: Place) -> bool {
        self.words().admits(place)
    }
    fn pointer(&self, _: u64) -> *mut u8 {
        std::ptr::null_mut()
    }
    unsafe fn copy_out(&self, offset: u64, dst: *mut u8, len: usize) {
        for i in 0..len {
            // SAFETY: by the contract; loom checks the cell.
            self.cell(offset + i as u64).with(|byte| unsafe { dst.add(i).write(*byte) });
        }
    }
    unsafe fn copy_in(&self, offset: u64, src: *const u8, len: usize) {
        for i in 0..len {
            // SAFETY: by the contract; loom checks the cell.
            self.cell(offset + i as u64).with_mut(|byte| unsafe { *byte = src.add(i).read() });
        }
    }
}

struct Anchor<'a>(&'a Shared);

impl TcpReceive for Anchor<'_> {
    unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake {
        let mut tcp = self.0.tcp.lock().unwrap();
        let n = len.min(tcp.queue.len());
        for (i, byte) in tcp.queue.drain(..n).enumerate() {
            // SAFETY: `n` <= `len`.
            unsafe { dst.add(i).write(byte) };
        }
        match n {
            0 if tcp.fin => TcpTake::Fin,
            0 => TcpTake::WouldBlock,
            n => TcpTake::Bytes(n),
        }
    }
    unsafe fn peek(&mut self, _: *mut u8, _: usize, _: usize) -> TcpTake {
        TcpTake::WouldBlock
    }
    fn pending(&mut self) -> usize {
        self.0.tcp.lock().unwrap().queue.len()
    }
}

/// For the ring alone: no lock that would order the words.
struct Silent;

impl TcpReceive for Silent {
    unsafe fn receive(&mut self, _: *mut u8, _: usize) -> TcpTake {
        TcpTake::WouldBlock
    }
    unsafe fn peek(&mut self, _: *mut u8, _: usize, _: usize) -> TcpTake {
        TcpTake::WouldBlock
    }
    fn pending(&mut self) -> usize {
        0
    }
}

fn willing(offset: u64) -> WriterFacts {
    WriterFacts { offset, may_take: true, place: SMALL, ..WriterFacts::default() }
}

fn write(writer: &mut Writer, shared: &Shared, len: u64) -> u64 {
    let from = writer.written();
    let bytes: Vec<u8> = (from..from + len).map(|i| i as u8).collect();
    // SAFETY: a vector of that length.
    unsafe { writer.write(&View(shared), bytes.as_ptr(), bytes.len()) as u64 }
}

/// What came, which must be the next bytes; None at the end.
fn receive(reader: &mut Reader, shared: &Shared, tcp: &mut impl TcpReceive, len: usize) -> Option<usize> {
    let from = reader.consumed();
    let mut bytes = vec![0xaa; len];
    // SAFETY: a vector of that length.
    match unsafe { reader.receive(&View(shared), tcp, bytes.as_mut_ptr(), len) } {
        Take::Bytes { n, .. } => {
            let due: Vec<u8> = (from..from + n as u64).map(|i| i as u8).collect();
            assert_eq!(bytes[..n], due);
            Some(n)
        }
        Take::WouldBlock => Some(0),
        Take::Eof => None,
        other => panic!("{other:?}"),
    }
}

fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    // LOOM_MAX_PREEMPTIONS=3 for a longer look.
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(test);
}

fn found(fault: Fault, test: fn()) {
    faults::with(fault, || {
        assert!(catch_unwind(AssertUnwindSafe(test)).is_err(), "{fault:?} goes unnoticed");
    });
}

/// Bytes through a ring of two, while room comes and goes.
fn ring() {
    model(3, || {
        let (shared, mut writer, mut reader) = Shared::switched();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            for _ in 0..3 {
                write(&mut writer, &other, 2);
            }
            writer.written()
        });
        for _ in 0..3 {
            receive(&mut reader, &shared, &mut Silent, 2);
        }
        let written = thread.join().unwrap();
        while receive(&mut reader, &shared, &mut Silent, 2) != Some(0) {}
        assert_eq!(reader.consumed(), written);
    });
}

/// Grows with bytes unread, starts over, goes back: the reader finds each byte where it stands.
fn geometry() {
    model(2, || {
        let (shared, mut writer, mut reader) = Shared::switched();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            let port = View(&other);
            write(&mut writer, &other, 1);
            writer.grow(&port, LARGE);
            write(&mut writer, &other, 1);
            if !writer.rewind_if_empty(&port) {
                writer.grow(&port, SMALL);
            }
            write(&mut writer, &other, 2);
            writer.grow(&port, LARGE);
            write(&mut writer, &other, 1);
            writer.written()
        });
        for _ in 0..3 {
            receive(&mut reader, &shared, &mut Silent, 2);
        }
        let written = thread.join().unwrap();
        while receive(&mut reader, &shared, &mut Silent, 2) != Some(0) {}
        assert_eq!(reader.consumed(), written);
    });
}

/// Offer, take, fail-back and FIN beside TCP.
fn switch_over() {
    model(3, || {
        let shared = Shared::new();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            let (port, mut writer, mut sent) = (View(&other), Writer::default(), 0);
            for _ in 0..2 {
                writer.consider(&port, &willing(sent), |_| true);
                match writer.state() {
                    WState::Ring => sent += write(&mut writer, &other, 1),
                    _ => {
                        other.tcp.lock().unwrap().queue.push(sent as u8);
                        sent += 1;
                    }
                }
            }
            assert!(writer.finish(&port));
            other.tcp.lock().unwrap().fin = true;
            sent
        });
        let mut reader = Reader::default();
        assert!(reader.offer(&View(&shared), 0));
        let mut ended = false;
        for _ in 0..2 {
            ended = ended || receive(&mut reader, &shared, &mut Anchor(&shared), 3).is_none();
        }
        let written = thread.join().unwrap();
        while !ended {
            ended = receive(&mut reader, &shared, &mut Anchor(&shared), 3).is_none();
        }
        assert_eq!(reader.consumed(), written);
    });
}

/// A reader without bytes sleeps, on its wake alone; twice, so that a wake spared for the first sleep would be missed
/// in the second.
fn sleeping_reader(bytes: u64) {
    model(3, move || {
        let (shared, mut writer, mut reader) = Shared::switched();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            for _ in 0..bytes {
                assert_eq!(write(&mut writer, &other, 1), 1);
                other.signal(whom(&View(&other), Word::RSleep, &*other));
            }
        });
        let (port, mut sleepers) = (View(&shared), Sleepers::default());
        while reader.consumed() < bytes {
            if receive(&mut reader, &shared, &mut Silent, 1) != Some(0) {
                continue;
            }
            let added = sleepers.add(READER);
            sleepers.name(&port, Word::RSleep);
            shared.step(READER);
            port.fence();
            if !reader.readable(&port) {
                shared.sleep(READER);
            }
            shared.step(READER);
            sleepers.remove(READER, added);
            sleepers.name(&port, Word::RSleep);
            port.fence();
        }
        thread.join().unwrap();
    });
}

/// A writer without room sleeps.
fn sleeping_writer() {
    model(3, || {
        let (shared, mut writer, mut reader) = Shared::switched();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            let port = View(&other);
            while writer.written() < 3 {
                if write(&mut writer, &other, 1) > 0 {
                    continue;
                }
                port.store(Word::WSleep, u64::from(WRITER) + 1);
                other.step(WRITER);
                port.fence();
                if writer.room(&port) == 0 {
                    other.sleep(WRITER);
                }
                other.step(WRITER);
                port.store(Word::WSleep, 0);
                port.fence();
            }
        });
        let mut idle = 0;
        while reader.consumed() < 3 {
            match receive(&mut reader, &shared, &mut Silent, 1) {
                Some(0) if idle < 2 => {
                    idle += 1;
                    thread::yield_now();
                }
                Some(0) => break, // the rest would only be more waiting
                _ => shared.signal(whom(&View(&shared), Word::WSleep, &*shared)),
            }
        }
        while reader.consumed() < 3 {
            match receive(&mut reader, &shared, &mut Silent, 1) {
                Some(0) => thread::yield_now(),
                _ => shared.signal(whom(&View(&shared), Word::WSleep, &*shared)),
            }
        }
        thread.join().unwrap();
    });
}

#[test]
fn ring_bytes_are_published_before_they_are_read() {
    ring();
}

#[test]
fn geometry_is_never_older_than_the_bytes() {
    geometry();
}

#[test]
fn switch_over_beside_tcp() {
    switch_over();
}

#[test]
fn reader_is_never_left_asleep() {
    sleeping_reader(2);
}

#[test]
fn writer_is_never_left_asleep() {
    sleeping_writer();
}

#[test]
fn finds_produced_before_the_bytes() {
    found(Fault::ProducedFirst, ring);
}

#[test]
fn finds_the_geometry_before_produced() {
    found(Fault::GeometryFirst, geometry);
}

#[test]
fn finds_growth_ahead_of_the_reader() {
    found(Fault::GrowthUnasked, geometry);
}

#[test]
fn finds_the_stamp_before_n() {
    found(Fault::StampFirst, switch_over);
}

#[test]
fn finds_no_look_after_fin() {
    found(Fault::FinWithoutLook, switch_over);
}

#[test]
fn finds_a_missing_fence() {
    found(Fault::NoFence, || sleeping_reader(1));
    found(Fault::NoFence, sleeping_writer);
}
