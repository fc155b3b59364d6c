//! The records of UDP sockets: one a socket of this process, however many descriptors show it.
//!
//! A UDP socket has no slot: it needs no memory that forked children share, no lock and no holder. Its number's word in the
//! descriptor table names its record here, in .bss, of which a program touches what it uses. Receiving, polling and sending
//! without an address never look at it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::record::{Record, is};
use crate::exports::types::c_int;
use crate::fd_table::{self, Entry};

/// A process's UDP sockets beyond that are left alone.
const MOST: usize = 65_536;

static RECORDS: [Record; MOST] = [const { Record::new() }; MOST];
/// Descriptors that show the socket.
static DESCRIPTORS: [AtomicU16; MOST] = [const { AtomicU16::new(0) }; MOST];
static TAKEN: [AtomicU64; MOST / 64] = [const { AtomicU64::new(0) }; MOST / 64];
/// Where the last free one was found.
static HINT: AtomicU16 = AtomicU16::new(0);

#[inline]
pub fn at(index: u32) -> Option<&'static Record> {
    RECORDS.get(index as usize)
}

/// Whether `socket()`'s arguments are those of a UDP socket.
pub fn is_udp(domain: c_int, kind: c_int, protocol: c_int) -> bool {
    matches!(domain, libc::AF_INET | libc::AF_INET6)
        && kind & 0xf == libc::SOCK_DGRAM
        && matches!(protocol, 0 | libc::IPPROTO_UDP)
}

/// A new UDP socket has this number.
pub fn made(fd: c_int, domain: c_int) {
    let Some(index) = claim() else { return };
    let (Some(record), Some(descriptors)) = (RECORDS.get(index), DESCRIPTORS.get(index)) else { return };
    record.begin(if domain == libc::AF_INET6 { is::V6 } else { 0 });
    descriptors.store(1, Ordering::Relaxed);
    if !fd_table::set(fd, Entry::Datagram(index as u32)) {
        free(index);
    }
}

/// One more descriptor shows it.
pub fn doubled(index: u32) {
    if let Some(descriptors) = DESCRIPTORS.get(index as usize) {
        descriptors.fetch_add(1, Ordering::Relaxed);
    }
}

/// One fewer; the number's entry is gone already.
pub fn dropped(index: u32) {
    let index = index as usize;
    if DESCRIPTORS.get(index).is_some_and(|count| count.fetch_sub(1, Ordering::AcqRel) == 1) {
        free(index);
    }
}

fn claim() -> Option<usize> {
    let start = usize::from(HINT.load(Ordering::Relaxed));
    for step in 0..TAKEN.len() {
        let at = (start + step) % TAKEN.len();
        let word = TAKEN.get(at)?;
        let mut seen = word.load(Ordering::Relaxed);
        while seen != u64::MAX {
            let bit = seen.trailing_ones();
            match word.compare_exchange_weak(seen, seen | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    HINT.store(at as u16, Ordering::Relaxed);
                    return Some(at * 64 + bit as usize);
                }
                Err(now) => seen = now,
            }
        }
    }
    None
}

fn free(index: usize) {
    if let Some(word) = TAKEN.get(index / 64) {
        word.fetch_and(!(1 << (index % 64)), Ordering::Release);
        HINT.fetch_min((index / 64) as u16, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_as_long_as_its_last_descriptor() {
        let (one, two) = (900_001, 900_002);
        made(one, libc::AF_INET6);
        let Entry::Datagram(index) = fd_table::life(one) else { panic!("no record") };
        assert!(at(index).unwrap().has(is::V6));
        assert!(fd_table::is_plain(one) && !fd_table::is_untracked(one));
        doubled(index);
        dropped(index);
        made(two, libc::AF_INET);
        let Entry::Datagram(other) = fd_table::life(two) else { panic!("no record") };
        assert_ne!(index, other);
        dropped(index);
        dropped(other);
        fd_table::clear(one);
        fd_table::clear(two);
    }

    #[test]
    fn only_udp() {
        assert!(is_udp(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        assert!(!is_udp(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP));
        assert!(!is_udp(libc::AF_UNIX, libc::SOCK_DGRAM, 0) && !is_udp(libc::AF_INET, libc::SOCK_STREAM, 0));
    }
}
