//! Bytes, credit and notifications between two processes.

use std::time::{Duration, Instant};

use tandem_provider::{NOTIFY, PUT, Put, kind};

use crate::end::{End, FIRST, LONG, Stream, WORDS};
use crate::other::Other;

/// The byte at an offset of the stream: anything else than what is due there shows.
pub fn byte(offset: u64, seed: u64) -> u8 {
    let mixed = (offset ^ seed << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Both ways at once, in pieces of random sizes, sleeping whenever nothing can be done; every byte is compared.
pub fn exchange(end: &mut End, stream: &mut Stream, all: u64, most: u64, seeds: [u64; 2]) -> Counts {
    let mut random = Random(0x5eed + seeds[0]);
    let mut piece = vec![0u8; most as usize];
    let mut counts = Counts::default();
    let (start, until) = (stream.written, stream.written + all);
    let read_until = stream.consumed + all;
    assert_eq!(start, stream.consumed, "both ways are as far");
    let limit = Instant::now() + LONG * 3;
    while stream.written < until || stream.consumed < read_until {
        let room = stream.room(end);
        let (written, read) = (stream.written, stream.consumed);
        assert!(Instant::now() < limit, "stuck: {written} written, room {room}, {read} read of {until}, {counts:?}");
        let mut moved = 0;
        if stream.written < until {
            let count = (1 + random.below(most)).min(until - stream.written);
            let bytes: Vec<u8> = (0..count).map(|at| byte(stream.written + at, seeds[0])).collect();
            moved += stream.write(end, &bytes);
            counts.writes += u64::from(moved > 0);
        }
        let count = 1 + random.below(most) as usize;
        let offset = stream.consumed;
        let got = stream.read(end, &mut piece[..count]);
        for (at, found) in piece[..got].iter().enumerate() {
            assert_eq!(*found, byte(offset + at as u64, seeds[1]), "at offset {}", offset + at as u64);
        }
        moved += got;
        if moved == 0 && end.poll() == 0 {
            counts.sleeps += 1;
            let asleep = Instant::now();
            // Something is always on its way: nobody sleeps for long.
            counts.unwoken += u64::from(!end.sleep(Duration::from_secs(10)));
            counts.longest = counts.longest.max(asleep.elapsed());
        }
    }
    counts
}

#[derive(Default, Debug)]
pub struct Counts {
    pub writes: u64,
    pub sleeps: u64,
    /// Sleeps that only their limit ended.
    pub unwoken: u64,
    pub longest: Duration,
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn bytes_arrive_both_ways() {
    both_ways(Other::meet("streams::bytes_arrive_both_ways"));
}

/// Devices belong to the first network namespace; a program in another one has the addresses alone.
#[test]
#[ignore = "runs inside scripts/vm"]
fn bytes_arrive_in_another_namespace() {
    both_ways(Other::meet_in_namespace("streams::bytes_arrive_in_another_namespace"));
}

pub fn both_ways(mut other: Other) {
    let ring = 64 << 10;
    let (mut end, mut stream) = other.stream(ring);
    eprintln!("{}", end.describe(stream.companion));
    let seeds = if other.first() { [1, 2] } else { [2, 1] };
    for (all, most) in [(2_000, 1), (100_000, 300), (8 << 20, 40_000), (8 << 20, 200_000)] {
        let counts = exchange(&mut end, &mut stream, all, most, seeds);
        println!("{all} bytes each way in pieces up to {most}: {counts:?}");
        other.step(b'n');
    }
    stream.settle(&mut end, 9);
    other.step(b'e');
    end.close(stream.companion, FIRST);
    end.shut();
    other.part();
}

/// A peer that does not poll loses no notification, and its window is never overrun: bytes keep going, until the ring is full.
#[test]
#[ignore = "runs inside scripts/vm"]
fn notifications_wait_for_a_peer_that_does_not_poll() {
    let mut other = Other::meet("streams::notifications_wait_for_a_peer_that_does_not_poll");
    let ring = 64 << 10;
    let (mut end, mut stream) = other.stream(ring);
    let mut random = Random(7);
    for round in 0..30u64 {
        let count = 20 + random.below(600);
        if other.first() {
            for _ in 0..count {
                let one = [byte(stream.written, 5)];
                while stream.write(&mut end, &one) == 0 {
                    end.poll();
                }
            }
            other.step(round as u8);
            // Returned, and perhaps asked for late ones; nothing else is put by us.
            let until = Instant::now() + Duration::from_millis(20);
            while Instant::now() < until {
                end.poll();
            }
        } else {
            other.step(round as u8);
            let mut got = 0;
            let mut buffer = [0u8; 4096];
            while got < count {
                let offset = stream.consumed;
                let n = stream.read(&mut end, &mut buffer);
                (0..n).for_each(|at| assert_eq!(buffer[at], byte(offset + at as u64, 5)));
                got += n as u64;
                if n == 0 {
                    assert!(end.sleep(LONG), "a notification was lost: {got} of {count} in round {round}");
                }
            }
        }
        other.step(b'r');
    }
    end.close(stream.companion, FIRST);
    end.shut();
    other.part();
}

/// A thousand companions in one domain and one queue: made, used, closed; twice, so that nothing is left over from the first time.
#[test]
#[ignore = "runs inside scripts/vm"]
fn a_thousand_companions() {
    let mut other = Other::meet("streams::a_thousand_companions");
    const COUNT: u64 = 1000;
    let ring = 64u64;
    let mut end = End::open(other.own, WORDS * 20 + COUNT.next_multiple_of(64) * ring);
    let theirs = other.swap_share(&end.share(end.landing.number));
    let (remote, _) = end.adopt(&theirs);
    for turn in 0..2 {
        let started = Instant::now();
        let mut streams: Vec<Stream> = Vec::new();
        for number in 0..COUNT {
            let (words_at, ring_at) = (number * 16, WORDS * 20 + number * ring);
            let joined = other.join(&mut end, FIRST + number, remote, ring);
            streams.push(Stream::at(joined.companion, joined.cookie, remote, ring, words_at, ring_at, number * ring));
        }
        let made = started.elapsed();
        for (number, stream) in streams.iter_mut().enumerate() {
            assert_eq!(stream.write(&mut end, &[number as u8; 20]), 20, "of companion {number}");
        }
        let mut open: Vec<usize> = (0..COUNT as usize).collect();
        let limit = Instant::now() + LONG * 2;
        while !open.is_empty() {
            assert!(Instant::now() < limit, "{} of them have not been reached", open.len());
            if end.poll() == 0 && end.told.is_empty() {
                end.sleep(Duration::from_secs(5));
            }
            let told: Vec<_> = end.told.drain(..).collect();
            for told in told.iter().filter(|told| told.kind == kind::NOTIFIED) {
                let number = (told.cookie - FIRST) as usize;
                assert_eq!(told.note, 20);
                if !open.contains(&number) {
                    continue; // credit
                }
                let mut buffer = [0u8; 20];
                streams[number].produced = 20;
                assert_eq!(streams[number].read(&mut end, &mut buffer), 20);
                assert_eq!(buffer, [number as u8; 20]);
                open.retain(|left| *left != number);
            }
        }
        other.step(b'u');
        let closing = Instant::now();
        for stream in &streams {
            // SAFETY: not used again.
            assert_eq!(unsafe { (end.provider.close)(stream.companion) }, 0);
        }
        for stream in &streams {
            end.expect(kind::CLOSED, stream.cookie);
        }
        println!("turn {turn}: {COUNT} made in {made:?}, closed in {:?}", closing.elapsed());
        other.step(b't');
        // SAFETY: this process's memory, which no companion leads to now.
        unsafe { end.landing.base.write_bytes(0, end.landing.bytes as usize) };
    }
    end.shut();
    assert_eq!(pairs_of_this_process(), 0, "queue pairs are left");
    other.part();
}

/// As the kernel counts them.
pub fn pairs_of_this_process() -> usize {
    let output = std::process::Command::new("rdma").args(["resource", "show", "qp"]).output().unwrap();
    let mine = format!("pid {} ", std::process::id());
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&mine)).count()
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn puts_that_cannot_be_are_refused() {
    let mut other = Other::meet("streams::puts_that_cannot_be_are_refused");
    let ring = 64 << 10;
    let (mut end, mut stream) = other.stream(ring);
    let good = Put {
        kind: PUT,
        flags: NOTIFY,
        local: end.staging.number,
        remote: 0,
        local_offset: 0,
        remote_offset: WORDS,
        immediate: std::ptr::null(),
        bytes: 100,
        note: 100,
        token: 0,
    };
    let bad = [
        Put { kind: 9, ..good },
        Put { flags: 1 << 9, ..good },
        Put { local: 77, ..good },
        Put { remote: 77, ..good },
        Put { local_offset: ring - 99, ..good },
        Put { local_offset: u64::MAX - 5, ..good },
        Put { remote_offset: WORDS + ring - 99, ..good },
        Put { remote_offset: u64::MAX - 5, ..good },
        Put { bytes: (1 << 20) + 1, ..good },
        Put { note: 1 << 31, ..good },
        Put { flags: 4, ..good },
    ];
    for put in bad {
        assert_eq!(end.put(stream.companion, &[good, put]), -libc::EINVAL, "{put:?}");
    }
    assert_eq!(end.put(stream.companion, &[]), -libc::EINVAL);
    assert_eq!(end.put(stream.companion, &[good; 9]), -libc::EINVAL);
    // And none of the good ones beside them was made.
    exchange(&mut end, &mut stream, 10_000, 500, [3, 3]);
    other.step(b'e');
    end.close(stream.companion, FIRST);
    end.shut();
    other.part();
}
