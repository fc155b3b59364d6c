//! Where there are RDMA devices: rdma_rxe in guests, by `scripts/vm`, with Debian's own kernel.
//!
//! Tests named here start `scripts/vm`, and with it this very program inside, which runs the tests of one module there:
//! - `one`: one host with one device; `cost`: the same, whose two policyds stand for two hosts
//! - `namespaces`: two hosts of one guest; `verbs`: the same, and programs whose bytes go by queue pairs between them; `matrix`: all
//!   kinds of programs, either end or both under Tandem; `torture`: its program, byte by byte
//! - `failures`: the same, and all that can break there
//! - `guests`: two guests; the same test runs on both; by hand also redis between two kernels, and then one of them goes off
//!
//! `script`: what `scripts/vm` promises whoever runs it.

mod cost;
mod failures;
mod guests;
mod load;
mod matrix;
mod namespaces;
mod one;
mod perftest;
mod redis;
mod script;
mod torture;
mod verbs;
mod vm;

use vm::{run_inside, run_other_inside};

#[test]
fn in_one_host() {
    run_inside(&["one"], "one::");
}

#[test]
fn in_two_namespaces() {
    run_inside(&["namespaces", "--once"], "namespaces::");
}

#[test]
fn by_queue_pairs() {
    // Here, not in the guest, where that takes long.
    tandem_tests::programs::program("between");
    run_inside(&["namespaces", "--once"], "verbs::");
}

#[test]
#[ignore = "by hand: takes six minutes; the step between runs all of it by the stand-in"]
fn programs_by_queue_pairs() {
    // initdb takes minutes in a guest.
    matrix::prepare();
    run_inside(&["namespaces", "--once"], "matrix::");
}

#[test]
fn torture_by_queue_pairs() {
    run_inside(&["namespaces", "--once"], "torture::");
}

#[test]
#[ignore = "by hand: has not been seen to pass; the step between runs it by the stand-in"]
fn calls_by_queue_pairs() {
    tandem_tests::programs::program("calls");
    run_other_inside("calls", &["namespaces", "--once"], "between::named");
}

/// The brief ones.
#[test]
fn queue_pairs_that_break() {
    tandem_tests::programs::program("outlast");
    let brief = "processes_that_change a_device_that_is_deleted what_is_closed_full no_thread_sleeps";
    run_inside(&["namespaces", "--once"], brief);
}

#[test]
#[ignore = "by hand: takes a quarter of an hour (TANDEM_TESTS_VM_SECONDS=1800); the step between runs its like by the stand-in"]
fn all_that_breaks_queue_pairs() {
    tandem_tests::programs::program("outlast");
    run_inside(&["namespaces", "--once"], "failures::");
}

#[test]
#[ignore = "by hand: takes long, and has not been seen to pass"]
fn what_queue_pairs_leave() {
    tandem_tests::programs::program("crowd");
    run_inside(&["one"], "cost::");
}

#[test]
fn in_two_guests() {
    run_inside(&["guests"], "guests::rdma_crosses");
}

#[test]
#[ignore = "by hand: takes minutes of guests with one processor each, and a busy host breaks it"]
fn redis_between_two_guests_and_one_that_goes_off() {
    tandem_tests::programs::program("patience");
    run_inside(&["guests"], "guests::redis");
}
