//! What a device, a wire, a peer or a blob can do: each is told as what it is, in bounded time, and the next companion works.

use std::process::Command;
use std::time::{Duration, Instant};

use tandem_provider::{Blob, NOTIFY, REPORT, kind};

use crate::end::{End, FIRST, LONG, Stream, address};
use crate::other::{Other, said};
use crate::streams::{exchange, pairs_of_this_process};

pub const RING: u64 = 64 << 10;

fn run(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// This process's half of a pair of names.
fn own(name: &str, other: &Other) -> String {
    let names = said(name);
    let mut names = names.split_whitespace();
    let (first, second) = (names.next().unwrap(), names.next().unwrap());
    if other.first() { first } else { second }.to_owned()
}

/// A put that is reported, and what becomes of it.
pub fn put_into_the_void(end: &mut End, stream: &mut Stream) -> i32 {
    assert_eq!(end.put(stream.companion, &[stream.record(&[0, 0], NOTIFY | REPORT, 1)]), 0);
    let errno = end.death(FIRST);
    assert_eq!(end.put(stream.companion, &[stream.record(&[0, 0], 0, 0)]), -libc::EPIPE);
    errno
}

/// Once more, in the same domain.
pub fn again(other: &mut Other, end: &mut End, stream: Stream) -> Stream {
    end.close(stream.companion, FIRST);
    other.step(b'a');
    let theirs = other.swap_share(&end.share(end.landing.number));
    let (remote, _) = end.adopt(&theirs);
    // What an earlier connection left in the words is not this one's.
    // SAFETY: this process's memory, which no companion leads to now.
    unsafe { end.landing.base.write_bytes(0, 4096) };
    let mut stream = other.join(end, FIRST, remote, RING);
    exchange(end, &mut stream, 100_000, 3_000, [4, 4]);
    stream
}

pub fn leave(mut other: Other, mut end: End, stream: Stream) {
    other.step(b'l');
    end.close(stream.companion, FIRST);
    end.shut();
    assert_eq!(pairs_of_this_process(), 0, "queue pairs are left");
    other.part();
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn a_killed_peer_is_noticed() {
    let mut other = Other::meet("faults::a_killed_peer_is_noticed");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'k');
    if !other.first() {
        // SAFETY: this process itself.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    other.child.take().unwrap().wait().unwrap();
    let started = Instant::now();
    let errno = put_into_the_void(&mut end, &mut stream);
    println!("a killed peer: errno {errno} after {:?}", started.elapsed());
    assert_eq!(errno, libc::ETIMEDOUT);
    end.close(stream.companion, FIRST);
    end.shut();
    assert_eq!(pairs_of_this_process(), 0);
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn a_wire_that_is_cut_is_told_and_comes_back() {
    let mut other = Other::meet("faults::a_wire_that_is_cut_is_told_and_comes_back");
    let wire = own("TANDEM_VM_WIRE", &other);
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'd');
    let started = Instant::now();
    if other.first() {
        // Its IPv6 addresses are for the tests that follow.
        run(&format!("sysctl -qw net.ipv6.conf.{wire}.keep_addr_on_down=1; ip link set {wire} down"));
    }
    // Both ends of the virtual wire lose it, and nobody has posted anything.
    assert_eq!(end.death(FIRST), libc::ENETDOWN);
    println!("the wire was cut: told after {:?}", started.elapsed());
    assert!(end.wait(LONG, |told| told.kind == kind::CHANGED).is_some());
    other.step(b'u');
    if other.first() {
        run(&format!("ip link set {wire} up"));
    }
    assert!(end.wait(LONG, |told| told.kind == kind::CHANGED).is_some(), "that it is back");
    other.step(b'b');
    std::thread::sleep(Duration::from_millis(500));
    let stream = again(&mut other, &mut end, stream);
    leave(other, end, stream);
}

/// The peer knows that it landed, and may wait for an answer for ever: it is told, though the device's own news came before anybody polled.
#[test]
#[ignore = "runs inside scripts/vm"]
fn what_had_arrived_is_told_of_the_dead() {
    let mut other = Other::meet("faults::what_had_arrived_is_told_of_the_dead");
    let wire = own("TANDEM_VM_WIRE", &other);
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    end.poll();
    end.told.clear();
    other.step(b'd');
    if other.first() {
        assert_eq!(end.put(stream.companion, &[stream.record(&[0, 0], NOTIFY | REPORT, 1)]), 0);
        assert!(end.wait(LONG, |told| told.kind == kind::LANDED && told.token == 1).is_some());
        other.step(b'p');
        assert_eq!(end.death(FIRST), libc::ENETDOWN);
    } else {
        other.step(b'p');
        run(&format!("sysctl -qw net.ipv6.conf.{wire}.keep_addr_on_down=1; ip link set {wire} down"));
        // The provider's thread has seen it then, and nobody has polled since.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(end.death(FIRST), libc::ENETDOWN);
        end.poll();
        assert!(end.told.iter().any(|told| told.kind == kind::NOTIFIED && told.cookie == FIRST), "{:?}", end.told);
        run(&format!("ip link set {wire} up"));
    }
    other.step(b'u');
    std::thread::sleep(Duration::from_millis(500));
    leave(other, end, stream);
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn an_address_that_goes_is_told_and_comes_back() {
    let mut other = Other::meet("faults::an_address_that_goes_is_told_and_comes_back");
    let wire = own("TANDEM_VM_WIRE", &other);
    let ip = other.own;
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'd');
    if other.first() {
        run(&format!("ip addr del {ip}/24 dev {wire}"));
        assert_eq!(end.death(FIRST), libc::EADDRNOTAVAIL);
        // SAFETY: the plug-in's function and an address of this frame.
        let found = unsafe { (end.provider.find)(end.provider.context, &address(ip, 0)) };
        assert_eq!(found, -libc::ENODEV);
        other.step(b'g');
    } else {
        other.step(b'g');
        // Nothing tells the peer, until it puts.
        assert_eq!(put_into_the_void(&mut end, &mut stream), libc::ETIMEDOUT);
    }
    other.step(b'r');
    if other.first() {
        run(&format!("ip addr add {ip}/24 dev {wire}"));
    }
    other.step(b'b');
    std::thread::sleep(Duration::from_millis(500));
    let stream = again(&mut other, &mut end, stream);
    leave(other, end, stream);
}

/// The kernel waits until everybody has let go of a device, and says so to nobody: the provider sees its node go, and lets go by itself.
#[test]
#[ignore = "runs inside scripts/vm"]
fn a_device_that_goes_is_let_go_of() {
    let mut other = Other::meet("faults::a_device_that_goes_is_let_go_of");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'd');
    if !other.first() {
        other.step(b'g');
        assert_eq!(put_into_the_void(&mut end, &mut stream), libc::ETIMEDOUT);
        end.close(stream.companion, FIRST);
        end.shut();
        return other.step(b'e');
    }
    let (device, wire) = (own("TANDEM_VM_DEVICES", &other), own("TANDEM_VM_WIRE", &other));
    let started = Instant::now();
    let mut deletion = Command::new("rdma").args(["link", "del", &device]).spawn().unwrap();
    // Nobody polls and nobody closes meanwhile.
    let until = Instant::now() + LONG;
    while deletion.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "rdma link del still waits for us");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("the device has gone after {:?}", started.elapsed());
    assert_eq!(end.death(FIRST), libc::ENODEV);
    end.close(stream.companion, FIRST);
    end.shut();
    run(&format!("rdma link add {device} type rxe netdev {wire}"));
    std::thread::sleep(Duration::from_millis(500));
    End::open(other.own, RING).shut();
    other.step(b'g');
    other.step(b'e');
    other.part();
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn memory_that_was_released_is_out_of_reach() {
    let mut other = Other::meet("faults::memory_that_was_released_is_out_of_reach");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'r');
    if other.first() {
        other.step(b'g');
        assert_eq!(put_into_the_void(&mut end, &mut stream), libc::EFAULT);
    } else {
        // SAFETY: the plug-in's function.
        assert_eq!(unsafe { (end.provider.release_memory)(end.domain, end.landing.number) }, 0);
        end.expect(kind::CLOSED, crate::end::LANDING);
        other.step(b'g');
    }
    leave(other, end, stream);
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn endpoints_are_not_trusted() {
    let mut other = Other::meet("faults::endpoints_are_not_trusted");
    let mut end = End::open(other.own, RING);
    let (local, remote) = (address(other.own, 7000), address(other.peer, 8000));
    let (local, remote) =
        if other.first() { (local, remote) } else { (address(other.own, 8000), address(other.peer, 7000)) };
    let (companion, blob) = end.prepare(FIRST, &local, &remote);
    let theirs = other.swap_blob(&blob);
    let refused = |end: &End, blob: &Blob, errno: i32| {
        // SAFETY: the plug-in's function.
        assert_eq!(unsafe { (end.provider.connect)(companion, blob) }, -errno);
    };
    refused(&end, &Blob::EMPTY, libc::EINVAL);
    refused(&end, &Blob { used: 10_000, ..theirs }, libc::EINVAL);
    refused(&end, &Blob { used: 60, ..theirs }, libc::EINVAL);
    let mut other_version = theirs;
    other_version.bytes[4] = 9;
    refused(&end, &other_version, libc::EPROTO);
    // Our own is a good one, but of no peer's.
    refused(&end, &blob, libc::EADDRNOTAVAIL);
    // One that names a host that is not there: the call does not wait for it.
    let mut nowhere = theirs;
    nowhere.bytes[31] = 77;
    let started = Instant::now();
    // SAFETY: as above.
    assert_eq!(unsafe { (end.provider.connect)(companion, &nowhere) }, 0);
    assert!(started.elapsed() < Duration::from_millis(500), "connect has waited");
    let told = end.wait(LONG, |told| told.kind == kind::CONNECTED).expect("an answer");
    println!("a host that is not there: errno {} after {:?}", -told.status, started.elapsed());
    assert!(told.status < 0);
    end.close(companion, FIRST);
    end.shut();
    other.step(b'e');
    other.part();
}
