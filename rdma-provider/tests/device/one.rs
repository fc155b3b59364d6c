//! One device that talks to itself. Between two interfaces of one host IPv6 goes by the loopback, where no device listens.

use crate::other::Other;
use crate::streams::both_ways;

#[test]
#[ignore = "runs inside scripts/vm one"]
fn bytes_arrive_by_ipv6() {
    both_ways(Other::meet_by_six("one::bytes_arrive_by_ipv6"));
}

#[test]
#[ignore = "runs inside scripts/vm one"]
fn bytes_arrive_on_one_device() {
    both_ways(Other::meet("one::bytes_arrive_on_one_device"));
}
