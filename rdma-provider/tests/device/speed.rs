//! Numbers beside the device's own limit. Nothing is asserted about time but what holds on any machine.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::end::{End, FIRST, Stream};
use crate::other::Other;
use crate::streams::byte;

const RING: u64 = 1 << 20;
const ROUNDS: usize = 2_000;

/// One piece there and one back, polling.
fn round_trips(end: &mut End, stream: &mut Stream, first: bool, bytes: usize, asleep: bool) -> Vec<f64> {
    let piece = vec![3u8; bytes];
    let mut buffer = vec![0u8; bytes];
    let mut times = Vec::with_capacity(ROUNDS);
    let hear = |end: &mut End, stream: &mut Stream, buffer: &mut [u8]| {
        let mut got = 0;
        while got < bytes {
            got += stream.read(end, &mut buffer[got..]);
            if got < bytes && end.poll() == 0 && asleep {
                end.sleep(Duration::from_secs(10));
            }
        }
    };
    for _ in 0..ROUNDS {
        let started = Instant::now();
        if !first {
            hear(end, stream, &mut buffer);
        }
        while stream.write(end, &piece) == 0 {
            end.poll();
        }
        if first {
            hear(end, stream, &mut buffer);
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    times
}

fn median(times: Vec<f64>) -> f64 {
    spread(times)[1]
}

/// The tenth part's, and the median.
fn spread(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [10, 2].map(|part| times.get(times.len() / part).copied().unwrap_or(0.0))
}

/// Both ends in one thread of one process: what a round trip costs, without a word of the scheduler's.
#[test]
#[ignore = "runs inside scripts/vm one"]
fn cost() {
    let [own, _] = crate::other::addresses();
    let mut ends = [End::open(own, RING), End::open(own, RING)];
    let [first, second] = &mut ends;
    let shares = [first.share(first.landing.number), second.share(second.landing.number)];
    let remotes = [first.adopt(&shares[1]).0, second.adopt(&shares[0]).0];
    let (here, there) = (crate::end::address(own, 7001), crate::end::address(own, 7002));
    let (one, one_blob) = first.prepare(FIRST, &here, &there);
    let (two, two_blob) = second.prepare(FIRST, &there, &here);
    first.connect(one, FIRST, &two_blob);
    second.connect(two, FIRST, &one_blob);
    let mut streams = [Stream::new(one, FIRST, remotes[0], RING), Stream::new(two, FIRST, remotes[1], RING)];
    for bytes in [1usize, 64, 200, 300, 1024, 16_384, 65_536] {
        let piece = vec![3u8; bytes];
        let mut buffer = vec![0u8; bytes];
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for way in [0, 1] {
                let mut done = 0;
                while done < bytes {
                    done += streams[way].write(&mut ends[way], &piece[done..]);
                    ends[way].poll();
                }
                let mut got = 0;
                while got < bytes {
                    ends[1 - way].poll();
                    got += streams[1 - way].read(&mut ends[1 - way], &mut buffer[got..]);
                }
            }
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let [tenth, median] = spread(times.clone());
        let least = times.iter().copied().fold(f64::MAX, f64::min);
        println!(
            "one thread, {bytes} B there and back: least {least:.1} us, tenth {tenth:.1} us, median {median:.1} us"
        );
    }
    pieces(&mut ends, &mut streams);
    // Both of its ends poll, each in a process: on a busy host only the least says what the device costs.
    for name in ["ib_write_lat", "ib_send_lat"] {
        let least = perftest(name, &["-s", "64", "-n", "1000"], 2);
        let typical = perftest(name, &["-s", "64", "-n", "1000"], 4);
        println!("{name} 64 B, half a round trip: least {least:?} us, typical {typical:?} us");
    }
    let [mut first, mut second] = ends;
    first.close(one, FIRST);
    second.close(two, FIRST);
    first.shut();
    second.shut();
}

/// What the parts of a round trip cost.
fn pieces(ends: &mut [End; 2], streams: &mut [Stream; 2]) {
    let time = |name: &str, work: &mut dyn FnMut()| {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            work();
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        println!("one thread, {name}: median {:.1} us", median(times));
    };
    let record = [0u64; 2];
    time("nothing", &mut || ());
    time("a poll that finds nothing", &mut || {
        ends[0].poll();
    });
    let nowhere = tandem_provider::Put { remote_offset: u64::MAX, ..streams[0].record(&record, 0, 0) };
    time("a put that is refused", &mut || assert_eq!(ends[0].put(streams[0].companion, &[nowhere]), -libc::EINVAL));
    time("16 bytes, nobody told", &mut || {
        while ends[0].put(streams[0].companion, &[streams[0].record(&record, 0, 0)]) != 0 {
            ends[0].poll();
        }
    });
    time("16 bytes and the peer told, not polled for", &mut || {
        while ends[0].put(streams[0].companion, &[streams[0].record(&record, tandem_provider::NOTIFY, 0)]) != 0 {
            ends[0].poll();
        }
    });
    ends[1].poll();
    ends[0].poll();
    ends[1].told.clear();
    time("16 bytes, told and polled for", &mut || {
        while ends[0].put(streams[0].companion, &[streams[0].record(&record, tandem_provider::NOTIFY, 0)]) != 0 {
            ends[0].poll();
        }
        while ends[1].poll() == 0 {}
        ends[1].told.clear();
    });
}

/// One way; megabytes a second.
fn one_way(other: &mut Other, end: &mut End, stream: &mut Stream, piece: usize, all: u64) -> f64 {
    let bytes = vec![1u8; piece];
    let mut buffer = vec![0u8; RING as usize];
    other.step(b'w');
    let started = Instant::now();
    let until = if other.first() { stream.written } else { stream.consumed } + all;
    if other.first() {
        while stream.written < until {
            let mut done = 0;
            while done < piece {
                match stream.write(end, &bytes[done..]) {
                    0 => drop(end.poll() == 0 && end.sleep(Duration::from_secs(10))),
                    n => done += n,
                }
            }
        }
    } else {
        while stream.consumed < until {
            if stream.read(end, &mut buffer) == 0 && end.poll() == 0 {
                end.sleep(Duration::from_secs(10));
            }
        }
    }
    other.step(b'v');
    all as f64 / started.elapsed().as_secs_f64() / 1e6
}

/// Perftest between two of its own processes on this device; the number in that column of its last line.
fn perftest(name: &str, arguments: &[&str], column: usize) -> Option<f64> {
    let device = std::env::var("TANDEM_VM_DEVICE").ok()?;
    let common = ["-F", "-d", &device, "-x", "1"];
    let mut server = Command::new(name).args(common).args(arguments).stdout(Stdio::null()).spawn().ok()?;
    std::thread::sleep(Duration::from_secs(2));
    let address = std::env::var("TANDEM_VM_ADDRESS").ok()?;
    let output = Command::new(name).args(common).args(arguments).arg(address).output().ok()?;
    let _ = server.wait();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().rfind(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()))?;
    line.split_whitespace().nth(column)?.parse().ok()
}

#[test]
#[ignore = "runs inside scripts/vm one"]
fn numbers() {
    let mut other = Other::meet("speed::numbers");
    let started = Instant::now();
    let (mut end, mut stream) = other.stream(RING);
    let opened = started.elapsed();
    let theirs = other.swap_share(&end.share(end.landing.number));
    let (remote, _) = end.adopt(&theirs);
    let mut connects = Vec::new();
    for number in 1..20u64 {
        std::thread::sleep(Duration::from_millis(20));
        let started = Instant::now();
        let joined = other.join(&mut end, FIRST + number, remote, RING);
        connects.push(started.elapsed().as_secs_f64() * 1e6);
        end.close(joined.companion, FIRST + number);
        other.step(b'j');
    }
    if other.first() {
        println!("first companion, device and memory with it: {opened:?}; one more: {:.0} us", median(connects));
    }
    for round in 0..3 {
        for (bytes, asleep) in [(64, false), (64, true), (1024, false), (65_536, false)] {
            other.step(b'p');
            let first = other.first();
            let [tenth, time] = spread(round_trips(&mut end, &mut stream, first, bytes, asleep));
            if first {
                let how = if asleep { "asleep" } else { "polling" };
                println!("round {round}: {bytes} B round trip, {how}: median {time:.1} us, tenth {tenth:.1} us");
            }
        }
        for (piece, all) in [(65_536, 16 << 20), (1 << 20, 16 << 20), (64, 200 << 10)] {
            let speed = one_way(&mut other, &mut end, &mut stream, piece, all);
            if other.first() {
                println!("round {round}: stream in pieces of {piece}: {speed:.1} MB/s");
            }
        }
        if other.first() {
            let half = perftest("ib_write_lat", &["-s", "64", "-n", "2000"], 4);
            let send = perftest("ib_send_lat", &["-s", "64", "-n", "2000"], 4);
            let wide = perftest("ib_write_bw", &["-s", "65536", "-n", "300"], 3);
            println!(
                "round {round}: ib_write_lat 64 B half {half:?} us, ib_send_lat half {send:?} us, ib_write_bw 64 KiB {wide:?} MB/s"
            );
        }
        other.step(b'q');
    }
    let _ = byte(0, 0);
    end.close(stream.companion, FIRST);
    end.shut();
    other.part();
}
