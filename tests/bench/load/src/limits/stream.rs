//! Bytes one way: by a ring in shared memory, one copy in and one out, or by a pair of unix sockets.

use std::io;
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::wire::{drain, pour};

use super::shared::{child, shared_memory};

/// Fits into a core's own cache.
const RING: usize = 256 << 10;
const READ_AT: usize = 128;
const BYTES_AT: usize = 4096;

/// A writer's count, a reader's count, each on cache lines of its own, then the bytes.
#[derive(Clone, Copy)]
struct Words {
    start: NonNull<u8>,
}

impl Words {
    fn written(&self) -> &AtomicU64 {
        // SAFETY: the mapping starts with this word and is never unmapped.
        unsafe { self.start.cast().as_ref() }
    }

    fn read(&self) -> &AtomicU64 {
        // SAFETY: as above, aligned and inside the first page.
        unsafe { self.start.add(READ_AT).cast().as_ref() }
    }

    /// Where the byte of this number is, and how many follow it before the ring's end.
    fn at(&self, number: u64) -> (*mut u8, usize) {
        let offset = number as usize % RING;
        // SAFETY: the ring starts there and is RING bytes long.
        (unsafe { self.start.as_ptr().add(BYTES_AT + offset) }, RING - offset)
    }
}

pub struct Ring {
    words: Words,
    chunk: Vec<u8>,
    written: u64,
    /// What the reader had read when last looked at.
    read: u64,
}

impl Ring {
    pub fn start(size: usize, core: Option<usize>) -> anyhow::Result<Self> {
        let words = Words { start: shared_memory(BYTES_AT + RING)? };
        child(core, || read_for_ever(words, size.max(65_536)))?;
        Ok(Self { words, chunk: vec![b'x'; size], written: 0, read: 0 })
    }

    pub fn run(&mut self, time: Duration) -> anyhow::Result<Value> {
        let (before, started) = (self.written, Instant::now());
        let writes_a_look = (65_536 / self.chunk.len()).max(1);
        while started.elapsed() < time {
            for _ in 0..writes_a_look {
                self.write();
            }
        }
        while self.words.read().load(Ordering::Acquire) < self.written {
            std::hint::spin_loop();
        }
        Ok(told(self.written - before, self.chunk.len(), started))
    }

    fn write(&mut self) {
        let mut done = 0;
        while done < self.chunk.len() {
            let room = RING - (self.written - self.read) as usize;
            if room == 0 {
                self.read = self.words.read().load(Ordering::Acquire);
                std::hint::spin_loop();
                continue;
            }
            let (to, straight) = self.words.at(self.written);
            let part = room.min(straight).min(self.chunk.len() - done);
            // SAFETY: `part` bytes are free there, and as many are left in the chunk.
            unsafe { std::ptr::copy_nonoverlapping(self.chunk.as_ptr().add(done), to, part) };
            done += part;
            self.written += part as u64;
            self.words.written().store(self.written, Ordering::Release);
        }
    }
}

fn read_for_ever(words: Words, room: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; room];
    let mut read = 0;
    loop {
        let there = (words.written().load(Ordering::Acquire) - read) as usize;
        if there == 0 {
            std::hint::spin_loop();
            continue;
        }
        let (from, straight) = words.at(read);
        let part = there.min(straight).min(room);
        // SAFETY: so many bytes have been written there, and the buffer has room for them.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), part) };
        // The copy is the load: nobody looks at the buffer, and the compiler must not know.
        std::hint::black_box(&mut buffer);
        read += part as u64;
        words.read().store(read, Ordering::Release);
    }
}

pub struct UnixPair {
    here: UnixStream,
    chunk: Vec<u8>,
}

impl UnixPair {
    pub fn start(size: usize, core: Option<usize>) -> io::Result<Self> {
        let (here, mut there) = UnixStream::pair()?;
        child(core, || {
            drain(&mut there, size)?;
            Ok(())
        })
        .map_err(io::Error::other)?;
        Ok(Self { here, chunk: vec![b'x'; size] })
    }

    /// What is still in the socket at the end, 200 kB at most, counts too.
    pub fn run(&mut self, time: Duration) -> anyhow::Result<Value> {
        let started = Instant::now();
        let total = pour(&mut self.here, &self.chunk, time)?;
        Ok(told(total, self.chunk.len(), started))
    }
}

fn told(total: u64, chunk: usize, started: Instant) -> Value {
    let seconds = started.elapsed().as_secs_f64();
    json!({ "megabytes": total as f64 / seconds / 1e6, "rate": (total / chunk as u64) as f64 / seconds, "bytes": total })
}
