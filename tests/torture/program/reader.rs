//! One reading thread: alone it checks as it reads, and peeks, asks for all, asks how much there is; beside others it keeps
//! what it got for the reassembly.

use std::io;
use std::os::fd::RawFd;
use std::thread;
use std::time::Duration;

use crate::pattern::Positions;
use crate::plan::{Dice, Direction};
use crate::socket::{self, Call, Waiter};

/// What a reading thread got, call by call.
#[derive(Default)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
    pub positions: Positions,
    pub failed: Option<io::Error>,
}

impl Got {
    /// The bytes of one read.
    pub fn nth(&self, at: usize) -> Option<&[u8]> {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        self.ends.get(at).map(|&end| &self.bytes[from..end])
    }
}

pub fn read(fd: RawFd, direction: &Direction, number: usize) -> Result<Got, String> {
    let alone = direction.readers == 1;
    let mut dice = Dice::new(direction.dice.clone().next() ^ (number as u64 + 1) << 40);
    let waiter = Waiter::new(fd, true, direction.reader_wait).map_err(|e| format!("waiter: {e}"))?;
    let mut buffer = vec![0; direction.largest_read as usize];
    let mut got = Got::default();
    thread::sleep(Duration::from_micros(direction.reader_late_us));
    loop {
        let chunk = &mut buffer[..dice.size(direction.largest_read) as usize];
        match take(fd, chunk, alone, &mut dice)? {
            Ok(0) => return Ok(got),
            Ok(count) if alone => {
                let before = got.positions;
                got.positions.take(&chunk[..count], direction.key).map_err(|at| {
                    format!("wrong byte {at} of {count} after {before:?}, {}", neighbourhood(&chunk[..count], at))
                })?;
            }
            Ok(count) => {
                got.bytes.extend_from_slice(&chunk[..count]);
                got.ends.push(got.bytes.len());
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if let Err(e) = waiter.wait() {
                    return Err(format!("reader {number}: {e} at {:?}", got.positions));
                }
            }
            Err(e) => {
                got.failed = Some(e);
                return Ok(got);
            }
        }
        direction.pause(&mut dice);
    }
}

fn neighbourhood(bytes: &[u8], at: usize) -> String {
    format!("bytes {:x?}", &bytes[at.saturating_sub(4)..bytes.len().min(at + 12)])
}

/// One receive of a random kind; the outer error is a broken promise.
fn take(fd: RawFd, chunk: &mut [u8], alone: bool, dice: &mut Dice) -> Result<io::Result<usize>, String> {
    let call = Call::ALL[dice.below(4) as usize];
    let dont_wait = if dice.chance(3) { libc::MSG_DONTWAIT } else { 0 };
    if !alone {
        return Ok(socket::receive(fd, chunk, call, dont_wait));
    }
    match dice.below(12) {
        0 | 1 => peek_then_take(fd, chunk, call, dont_wait),
        2 => Ok(socket::receive(fd, chunk, call, libc::MSG_WAITALL)),
        3 => {
            let there = socket::readable_bytes(fd).map_err(|e| format!("FIONREAD: {e}"))?;
            let result = socket::receive(fd, chunk, call, dont_wait);
            if let Ok(count) = result
                && count < there.min(chunk.len())
            {
                return Err(format!("FIONREAD said {there}, {count} of {} came", chunk.len()));
            }
            Ok(result)
        }
        _ => Ok(socket::receive(fd, chunk, call, dont_wait)),
    }
}

fn peek_then_take(fd: RawFd, chunk: &mut [u8], call: Call, dont_wait: i32) -> Result<io::Result<usize>, String> {
    let mut peeked = vec![0; chunk.len()];
    let seen = match socket::receive(fd, &mut peeked, call, libc::MSG_PEEK | dont_wait) {
        Ok(seen) => seen,
        Err(e) => return Ok(Err(e)),
    };
    let result = socket::receive(fd, chunk, call, 0);
    if let Ok(count) = result
        && (count < seen || chunk[..seen] != peeked[..seen])
    {
        return Err(format!("peeked {seen} bytes, then read {count} others"));
    }
    Ok(result)
}
