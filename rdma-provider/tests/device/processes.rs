//! Forks, threads, users, and what an idle process costs.

use std::fs;
use std::time::Duration;

use tandem_provider::{Completion, NOTIFY, PEER_PUTS, REPORT, kind};

use crate::end::{End, FIRST, LONG, Stream, address, shared_memory};
use crate::other::Other;
use crate::streams::{byte, exchange};

const RING: u64 = 64 << 10;

fn leave(mut other: Other, mut end: End, stream: Stream) {
    other.step(b'l');
    end.close(stream.companion, FIRST);
    end.shut();
    other.part();
}

/// Runs `work` in a forked child; what it says is the child's exit status.
fn in_child(handlers: bool, work: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls only `work` and leaves. A fork without libc knows no handlers.
    unsafe {
        let child =
            if handlers { libc::fork() } else { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 };
        assert!(child >= 0);
        if child == 0 {
            libc::_exit(work());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
        libc::WEXITSTATUS(status)
    }
}

/// Descriptors of this process that belong to a device.
fn device_descriptors() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("infiniband")).count()
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn a_forked_child_touches_nothing_of_its_parents() {
    let mut other = Other::meet("processes::a_forked_child_touches_nothing_of_its_parents");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 50_000, 500, [1, 1]);
    assert!(device_descriptors() > 0);
    for turn in 0..6 {
        let handlers = turn % 2 == 0;
        // Bytes that have landed and are not yet read, and bytes that are under way.
        let bytes: Vec<u8> = (0..5_000).map(|at| byte(stream.written + at, 1)).collect();
        assert!(stream.write(&mut end, &bytes) > 0);
        let status = in_child(handlers, || {
            let mut room = [Completion::default(); 4];
            // SAFETY: the plug-in's functions, which say no here.
            let answers = unsafe {
                [
                    (end.provider.poll)(end.queue, room.as_mut_ptr(), 4),
                    (end.provider.arm)(end.queue),
                    (end.provider.put)(stream.companion, &stream.record(&[1, 1], NOTIFY | REPORT, 5), 1),
                    (end.provider.close)(stream.companion),
                    (end.provider.stop)(end.provider.context),
                ]
            };
            if answers != [-libc::ECHILD; 5] {
                return 2;
            }
            if handlers && device_descriptors() != 0 {
                return 3;
            }
            // It reads what it shares with its parent.
            // SAFETY: memory that is mapped here, too.
            let seen =
                unsafe { end.staging.base.add((stream.written % RING) as usize).wrapping_sub(1).read_volatile() };
            if stream.written % RING != 0 && seen != byte(stream.written - 1, 1) {
                return 4;
            }
            0
        });
        assert_eq!(status, 0, "in the child of turn {turn}");
        // Read up to what was written there, too.
        let level = stream.written;
        other.tell(&level.to_ne_bytes());
        let theirs = u64::from_ne_bytes(other.hear());
        let mut buffer = [0u8; 4096];
        while stream.consumed < theirs {
            let (offset, left) = (stream.consumed, (theirs - stream.consumed).min(4096) as usize);
            let got = stream.read(&mut end, &mut buffer[..left]);
            (0..got).for_each(|at| assert_eq!(buffer[at], byte(offset + at as u64, 1)));
            if got == 0 {
                assert!(end.sleep(LONG), "nothing comes");
            }
        }
        other.step(b't');
    }
    leave(other, end, stream);
}

/// A child opens the provider for itself, and the parent's is none the worse.
#[test]
#[ignore = "runs inside scripts/vm"]
fn a_forked_child_has_companions_of_its_own() {
    let mut other = Other::meet("processes::a_forked_child_has_companions_of_its_own");
    let (mut end, mut stream) = other.stream(RING);
    for handlers in [true, false] {
        let status = in_child(handlers, || {
            let (mut own, mut second) = other.stream(RING);
            exchange(&mut own, &mut second, 100_000, 3_000, [6, 6]);
            other.step(b'x');
            own.close(second.companion, FIRST);
            own.shut();
            0
        });
        assert_eq!(status, 0);
        exchange(&mut end, &mut stream, 100_000, 3_000, [7, 7]);
    }
    leave(other, end, stream);
}

/// Name and blocked signals of each thread.
fn threads() -> Vec<(String, String)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let of = |path: std::path::PathBuf| {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
        Some((line("Name:")?, line("SigBlk:")?))
    };
    tasks.filter_map(|entry| of(entry.path())).collect()
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn the_thread_is_one_takes_no_signal_and_can_be_stopped() {
    let mut other = Other::meet("processes::the_thread_is_one_takes_no_signal_and_can_be_stopped");
    let (mut end, mut stream) = other.stream(RING);
    let ours = || threads().into_iter().filter(|(name, _)| name == "tandem-verbs").collect::<Vec<_>>();
    let found = ours();
    assert_eq!(found.len(), 1, "{:?}", threads());
    // All but the two that libc keeps for itself, and the two that cannot be blocked.
    let blocked = u64::from_str_radix(&found[0].1, 16).unwrap();
    let free: Vec<u32> = (1..=64).filter(|signal| blocked >> (signal - 1) & 1 == 0).collect();
    assert_eq!(free, [libc::SIGKILL as u32, libc::SIGSTOP as u32, 32, 33]);

    let context = end.provider.context;
    // SAFETY: the plug-in's function.
    assert_eq!(unsafe { (end.provider.stop)(context) }, 0);
    assert!(ours().is_empty());
    // Bytes go without it.
    exchange(&mut end, &mut stream, 200_000, 3_000, [1, 1]);
    other.step(b's');
    // Orders wait for it.
    // SAFETY: as above; the handle is not used again.
    assert_eq!(unsafe { (end.provider.close)(stream.companion) }, 0);
    assert!(end.wait(Duration::from_millis(300), |told| told.kind == kind::CLOSED).is_none());
    // SAFETY: as above.
    assert_eq!(unsafe { (end.provider.start)(context) }, 0);
    end.expect(kind::CLOSED, FIRST);
    end.shut();
    other.step(b'e');
    other.part();
}

/// What all threads of this process have used of a processor.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place of this frame.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const ASLEEP: Duration = Duration::from_secs(3);
/// A busy emulator charges whoever is interrupted; whoever spins is charged ten times this.
const LITTLE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "runs inside scripts/vm"]
fn idle_costs_nothing() {
    let mut other = Other::meet("processes::idle_costs_nothing");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'i');
    if other.first() {
        let before = cpu_time();
        std::thread::sleep(ASLEEP);
        let spent = cpu_time() - before;
        assert!(spent < LITTLE, "{spent:?} of a processor in {ASLEEP:?} asleep");
        let byte_ = [byte(stream.written, 1)];
        assert_eq!(stream.write(&mut end, &byte_), 1);
    } else {
        let before = cpu_time();
        let mut sleeps = 0;
        let mut buffer = [0u8; 8];
        while stream.read(&mut end, &mut buffer) == 0 {
            assert!(end.sleep(LONG), "not woken");
            sleeps += 1;
        }
        let spent = cpu_time() - before;
        eprintln!("waiting for {ASLEEP:?}: {spent:?} of a processor, {sleeps} sleeps");
        assert!(spent < LITTLE && sleeps <= 4, "{spent:?} of a processor, {sleeps} sleeps");
    }
    leave(other, end, stream);
}

/// The kernel refuses a doorbell of another user's: the companion dies, nothing of it lands later, and a new domain works.
#[test]
#[ignore = "runs inside scripts/vm"]
fn another_users_rights_end_a_companion() {
    let mut other = Other::meet("processes::another_users_rights_end_a_companion");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'u');
    let seen = stream.produced;
    if other.first() {
        let record = [5, 5];
        // SAFETY: all threads of this process become somebody else for a moment.
        unsafe { assert_eq!(libc::seteuid(65_534), 0) };
        assert_eq!(end.put(stream.companion, &[stream.record(&record, NOTIFY | REPORT, 1)]), -libc::EPIPE);
        assert_eq!(end.death(FIRST), libc::EACCES);
        // SAFETY: and itself again.
        unsafe { assert_eq!(libc::seteuid(0), 0) };
        // The domain's device was opened by somebody else, as the kernel sees it.
        let mut companion = std::ptr::null_mut();
        let (local, remote) = (address(other.own, 1), address(other.peer, 2));
        // SAFETY: the plug-in's functions.
        unsafe {
            assert_eq!((end.provider.create)(end.domain, 7, &mut companion), 0);
            assert_eq!((end.provider.bind)(companion, &local, &remote), 0);
            assert_eq!((end.provider.prepare)(companion), 0);
        }
        let told = end.wait(LONG, |told| told.cookie == 7).expect("an answer");
        assert_eq!((told.kind, told.status), (kind::READY, -libc::ENODEV));
        end.close(companion, 7);
        other.step(b'd');
    } else {
        other.step(b'd');
        stream.attend(&mut end);
        assert_eq!(stream.produced, seen, "the put that was refused has come");
    }
    end.close(stream.companion, FIRST);
    end.shut();
    other.step(b'n');
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 100_000, 3_000, [2, 2]);
    leave(other, end, stream);
}

unsafe extern "C" fn take_line(lines: *mut std::ffi::c_void, text: *const std::ffi::c_char, bytes: usize) {
    // SAFETY: the vector of the caller's below, and the plug-in's text.
    let (lines, text) =
        unsafe { (&mut *lines.cast::<Vec<String>>(), std::slice::from_raw_parts(text.cast::<u8>(), bytes)) };
    lines.push(String::from_utf8_lossy(text).into_owned());
}

/// What there is, as policyd's table and `tandem check` ask for it; and options, as they are replayed.
#[test]
#[ignore = "runs inside scripts/vm"]
fn what_there_is_is_said() {
    let other = Other::meet("processes::what_there_is_is_said");
    let own = address(other.own, 0);
    let mut end = End::open(other.own, RING);
    let (provider, context) = (end.provider, end.provider.context);
    // SAFETY: zeroes are a valid entry.
    let mut served: [tandem_provider::Served; 16] = unsafe { std::mem::zeroed() };
    let mut lines: Vec<String> = Vec::new();
    // SAFETY: the plug-in's functions, with places of this frame.
    unsafe {
        let count = (provider.list)(context, served.as_mut_ptr(), 16);
        let mine = served.iter().take(count as usize).find(|entry| entry.address == own).expect("the own address");
        assert!(mine.usable == 1 && mine.device.starts_with(b"rxe"));
        assert_eq!((provider.find)(context, &own), 1);
        assert_eq!((provider.find)(context, &address("192.0.2.1".parse().unwrap(), 0)), -libc::ENODEV);
        assert_eq!((provider.check)(context, (&raw mut lines).cast(), take_line), 0, "{lines:?}");
    }
    assert!(lines.iter().any(|line| line.contains("can be opened")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(&format!("serves {}", other.own))), "{lines:?}");

    let mut companion = std::ptr::null_mut();
    let set = |companion, level, name, value: i32| {
        // SAFETY: as above.
        unsafe { (provider.set_option)(companion, level, name, (&raw const value).cast(), 4) }
    };
    // SAFETY: as above.
    unsafe {
        assert_eq!((provider.create)(end.domain, FIRST, &mut companion), 0);
        assert_eq!(set(companion, libc::IPPROTO_IP, libc::IP_TOS, 0x10), 0);
        assert_eq!(set(companion, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1), 0);
        assert_eq!(set(companion, libc::SOL_SOCKET, libc::SO_MARK, 1), -libc::ENOPROTOOPT);
        assert_eq!((provider.bind)(companion, &address("192.0.2.1".parse().unwrap(), 1), &own), -libc::EADDRNOTAVAIL);
        assert_eq!((provider.bind)(companion, &own, &address(other.peer, 1)), 0);
        assert_eq!((provider.prepare)(companion), 0);
        assert_eq!(set(companion, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1), -libc::EISCONN);
    }
    end.expect(kind::READY, FIRST);
    // SAFETY: as above.
    assert_eq!(unsafe { (provider.close_domain)(end.domain) }, -libc::EBUSY);
    end.close(companion, FIRST);
    end.shut();
    other.part();
}

/// Without the right to lock memory there is no memory, and nothing worse.
#[test]
#[ignore = "runs inside scripts/vm"]
fn a_low_memlock_is_an_errno() {
    let other = Other::meet("processes::a_low_memlock_is_an_errno");
    if other.first() {
        return other.part();
    }
    // SAFETY: this process's own limit and user.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 256 << 10, rlim_max: 256 << 10 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        assert_eq!(libc::setresuid(65_534, 65_534, 65_534), 0);
    }
    let mut end = End::open(other.own, 64 << 10);
    let mut number = 0;
    let bytes = 4 << 20;
    // SAFETY: the plug-in's function; the memory is mapped for good.
    let code = unsafe {
        (end.provider.register_memory)(end.domain, shared_memory(bytes).cast(), bytes as u64, PEER_PUTS, 9, &mut number)
    };
    assert_eq!(code, 0);
    let told = end.wait(LONG, |told| told.cookie == 9).expect("an answer");
    assert_eq!((told.kind, told.status), (kind::READY, -libc::ENOMEM));
    end.shut();
}
