//! Two guests, inside `scripts/vm guests`: this runs on both at once.

use std::time::Duration;

use tandem_tests::host;
use tandem_tests::{Proof, Scratch};

use crate::perftest;

#[test]
#[ignore = "runs inside scripts/vm guests"]
fn rdma_crosses_the_wire() {
    let (host, peer) = host::guest();
    let scratch = Scratch::new();
    let before = host.counter("sent_pkts");
    let bandwidth = perftest::bandwidth("ib_write_bw", &host, 100);
    if peer.server {
        let mut server = bandwidth.spawn(&scratch);
        perftest::await_listening(&mut server);
        peer.tell("serving");
        server.wait(Duration::from_secs(60)).succeeded();
    } else {
        peer.await_told("serving", Duration::from_secs(60));
        bandwidth.arg(&peer.address).run(&scratch, Duration::from_secs(60)).succeeded();
    }
    let packets = host.counter("sent_pkts") - before;
    // The server answers a message, not a packet.
    let least = if peer.server { 50 } else { 100 * 16 };
    assert!(packets >= least, "{packets} packets sent, at least {least} were to be");
    let mut proof = Proof::new("rdma_crosses_the_wire");
    proof.fact(format!("ib_write_bw between two guests, 100 times 64 KiB: {packets} packets sent by {}", host.device));
    proof.print();
}
