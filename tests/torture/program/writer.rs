//! One writing thread.

use std::io;
use std::os::fd::RawFd;

use crate::pattern;
use crate::plan::{Dice, Direction};
use crate::socket::{self, Call, Waiter};

/// Writes the whole quota of writer `number`; the bytes written.
pub fn write(fd: RawFd, direction: &Direction, number: usize) -> io::Result<u64> {
    let mut dice = Dice::new(direction.dice.clone().next() ^ (number as u64 + 1) << 32);
    let waiter = Waiter::new(fd, false, direction.writer_wait)?;
    let quota = direction.quotas[number];
    let mut buffer = vec![0; direction.largest_write as usize];
    let mut done = 0;
    while done < quota {
        let chunk = &mut buffer[..dice.size(direction.largest_write).min(quota - done) as usize];
        pattern::fill(chunk, number, done, direction.key);
        let call = Call::ALL[dice.below(4) as usize];
        let mut flags = if dice.chance(4) { libc::MSG_DONTWAIT } else { 0 };
        if dice.chance(16) {
            flags |= libc::MSG_MORE;
        }
        match socket::send(fd, chunk, call, flags) {
            Ok(sent) => done += sent as u64,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => waiter.wait()?,
            Err(e) => return Err(e),
        }
        direction.pause(&mut dice);
    }
    Ok(done)
}
