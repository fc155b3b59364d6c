//! What no device and no peer's provider should ever do, planted into the second process by a library before libibverbs (`planted.c`): the
//! completion queue overruns, receives run out, a queue pair goes to its error state.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tandem_provider::{NOTIFY, REPORT};

use crate::end::{End, FIRST};
use crate::faults::{RING, again, leave, put_into_the_void};
use crate::other::Other;
use crate::streams::exchange;

/// The second process has the library before all others.
fn meet(test: &str, fault: &str) -> Other {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/planted.c");
    let library = std::env::temp_dir().join(format!("tandem-planted-{}.so", std::process::id()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    if !Other::is_second() {
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        assert!(cc.status().unwrap().success());
    }
    command.env("LD_PRELOAD", &library).env("PLANTED", fault);
    Other::meet_as(test, command)
}

/// Its peer's notifications are tried again a few times, and then the peer is told: never for ever.
#[test]
#[ignore = "runs inside scripts/vm"]
fn receives_that_run_out_are_told() {
    let mut other = meet("planted::receives_that_run_out_are_told", "receives");
    let (mut end, mut stream) = other.stream(RING);
    if other.first() {
        let started = Instant::now();
        let errno = put_into_the_void(&mut end, &mut stream);
        println!("no receive at the peer: errno {errno} after {:?}", started.elapsed());
        assert_eq!(errno, libc::ENOBUFS);
    }
    other.step(b'n');
    leave(other, end, stream);
}

/// The device tells the provider's thread; all companions of the queue are dead, and the device is opened anew for the next.
#[test]
#[ignore = "runs inside scripts/vm"]
fn a_completion_queue_that_overruns_is_told() {
    let mut other = meet("planted::a_completion_queue_that_overruns_is_told", "completions");
    let (mut end, stream) = other.stream(RING);
    if other.first() {
        // More than the peer's queue takes, fewer than its window allows.
        for token in 1..=40 {
            let put = end.put(stream.companion, &[stream.record(&[0, 0], NOTIFY | REPORT, token)]);
            assert!(put == 0 || put == -libc::EPIPE, "{put}");
        }
        other.step(b'p');
        other.step(b'd');
        end.close(stream.companion, FIRST);
        end.shut();
    } else {
        other.step(b'p');
        let errno = end.death(FIRST);
        assert_eq!(errno, libc::EIO);
        other.step(b'd');
        end.close(stream.companion, FIRST);
        end.shut();
        End::open(other.own, RING).shut();
    }
    other.part();
}

#[test]
#[ignore = "runs inside scripts/vm"]
fn a_queue_pair_that_fails_is_told_and_the_next_one_works() {
    let mut other = meet("planted::a_queue_pair_that_fails_is_told_and_the_next_one_works", "pair");
    let (mut end, mut stream) = other.stream(RING);
    exchange(&mut end, &mut stream, 10_000, 500, [1, 1]);
    other.step(b'x');
    if !other.first() {
        // SAFETY: a name that ends, and a function of this type where it is found.
        let failed = unsafe {
            let function = libc::dlsym(libc::RTLD_DEFAULT, c"planted_fail_pairs".as_ptr());
            assert!(!function.is_null());
            std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(function)()
        };
        assert_eq!(failed, 1);
    }
    other.step(b'f');
    let errno = put_into_the_void(&mut end, &mut stream);
    println!(
        "a queue pair in the error state: {} is told errno {errno}",
        if other.first() { "its peer" } else { "its owner" }
    );
    assert_eq!(errno, if other.first() { libc::ETIMEDOUT } else { libc::ECONNRESET });
    let stream = again(&mut other, &mut end, stream);
    leave(other, end, stream);
}
