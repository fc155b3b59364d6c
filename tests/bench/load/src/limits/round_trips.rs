//! A message there and back, without a kernel socket between (`run`), or by the kernel's shortest one (`run_unix`).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::orders::{Times, obey, outcome};
use crate::wire::read_whole;

use super::shared::{child, shared_memory};

/// How an end waits for its turn, and tells the other that it is the other's.
pub trait Waiting: Sized {
    fn new() -> io::Result<Self>;
    fn wait(&self, turn: &AtomicU32, whose: u32) -> io::Result<()>;
    fn tell(&self, turn: &AtomicU32, whose: u32) -> io::Result<()>;
}

/// A word that says whose turn it is, on a cache line of its own, then the message.
struct Board {
    start: NonNull<u8>,
    size: usize,
}

const MESSAGE_AT: usize = 128;
const CLIENT: u32 = 0;
const SERVER: u32 = 1;

impl Board {
    fn turn(&self) -> &AtomicU32 {
        // SAFETY: the mapping starts with this word, is aligned to a page, and is never unmapped.
        unsafe { self.start.cast().as_ref() }
    }

    fn put(&self, message: &[u8]) {
        // SAFETY: the mapping has room for `size` bytes there, and it is this end's turn.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), self.start.as_ptr().add(MESSAGE_AT), self.size) };
    }

    fn take(&self, message: &mut [u8]) {
        // SAFETY: as in put.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(MESSAGE_AT), message.as_mut_ptr(), self.size) };
    }
}

pub fn run<W: Waiting>(size: usize, core: Option<usize>) -> anyhow::Result<()> {
    let board = Board { start: shared_memory(MESSAGE_AT + size)?, size };
    let waiting = W::new()?;
    let mut message = vec![b'x'; size];
    child(core, || {
        let mut message = vec![0; size];
        loop {
            waiting.wait(board.turn(), SERVER)?;
            board.take(&mut message);
            board.put(&message);
            waiting.tell(board.turn(), CLIENT)?;
        }
    })?;
    obey(|time| {
        measured(time, size, || {
            board.put(&message);
            waiting.tell(board.turn(), SERVER)?;
            waiting.wait(board.turn(), CLIENT)?;
            board.take(&mut message);
            Ok(())
        })
    })
}

pub fn run_unix(size: usize, core: Option<usize>) -> anyhow::Result<()> {
    let (mut here, mut there) = UnixStream::pair()?;
    let mut message = vec![b'x'; size];
    child(core, || {
        let mut message = vec![0; size];
        while read_whole(&mut there, &mut message)? {
            there.write_all(&message)?;
        }
        Ok(())
    })?;
    obey(|time| {
        measured(time, size, || {
            here.write_all(&message)?;
            read_whole(&mut here, &mut message).map(drop)
        })
    })
}

fn measured(
    time: Duration,
    size: usize,
    mut exchange: impl FnMut() -> io::Result<()>,
) -> anyhow::Result<serde_json::Value> {
    let mut times = Times::new();
    let started = Instant::now();
    let mut before = started;
    while before - started < time {
        exchange()?;
        let after = Instant::now();
        times.note(after - before);
        before = after;
    }
    let count = times.count();
    Ok(outcome(started, count, count * 2 * size as u64, &times))
}

pub struct Spin;

impl Waiting for Spin {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    fn wait(&self, turn: &AtomicU32, whose: u32) -> io::Result<()> {
        while turn.load(Ordering::Acquire) != whose {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn tell(&self, turn: &AtomicU32, whose: u32) -> io::Result<()> {
        turn.store(whose, Ordering::Release);
        Ok(())
    }
}

pub struct Futex;

impl Waiting for Futex {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    fn wait(&self, turn: &AtomicU32, whose: u32) -> io::Result<()> {
        let other = 1 - whose;
        while turn.load(Ordering::Acquire) != whose {
            // SAFETY: the word is mapped as long as the process lives; no time-out is passed.
            let slept = unsafe {
                let forever = std::ptr::null::<libc::timespec>();
                libc::syscall(libc::SYS_futex, turn.as_ptr(), libc::FUTEX_WAIT, other, forever)
            };
            let error = io::Error::last_os_error();
            if slept < 0 && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                return Err(error);
            }
        }
        Ok(())
    }

    fn tell(&self, turn: &AtomicU32, whose: u32) -> io::Result<()> {
        turn.store(whose, Ordering::Release);
        // SAFETY: as in wait.
        unsafe { libc::syscall(libc::SYS_futex, turn.as_ptr(), libc::FUTEX_WAKE, 1) };
        Ok(())
    }
}

/// An eventfd and an epoll set for each end.
pub struct Eventfd {
    sets: [i32; 2],
    events: [std::fs::File; 2],
}

impl Waiting for Eventfd {
    fn new() -> io::Result<Self> {
        let mut sets = [0; 2];
        let mut events = Vec::new();
        for set in &mut sets {
            // SAFETY: no memory is passed.
            *set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
            // SAFETY: no memory is passed.
            let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
            if *set < 0 || event < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut entry = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: the kernel reads the entry during the call.
            if unsafe { libc::epoll_ctl(*set, libc::EPOLL_CTL_ADD, event, &raw mut entry) } < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor was just made and belongs to nobody else.
            events.push(unsafe { std::os::fd::FromRawFd::from_raw_fd(event) });
        }
        let events = events.try_into().map_err(|_| io::Error::other("two were made"))?;
        Ok(Self { sets, events })
    }

    fn wait(&self, _: &AtomicU32, whose: u32) -> io::Result<()> {
        let mut entry = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for the one entry that is asked for.
        while unsafe { libc::epoll_wait(self.sets[whose as usize], &raw mut entry, 1, -1) } != 1 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        (&self.events[whose as usize]).read_exact(&mut [0; 8])
    }

    fn tell(&self, _: &AtomicU32, whose: u32) -> io::Result<()> {
        (&self.events[whose as usize]).write_all(&1_u64.to_ne_bytes())
    }
}
