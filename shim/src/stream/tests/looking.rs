//! Peeking, what is announced, and a receive that leaves TCP alone.

use super::units::Pair;
use super::*;
use crate::stream::{Port, Pumped, Word};

#[test]
fn peek_and_available_span_tcp_and_ring() {
    let mut pair = Pair::switched(3);
    assert_eq!(pair.write(4), 4);
    assert_eq!(pair.peek(9, 0), tcp(3));
    assert_eq!(pair.peek(9, 3), companion(4));
    assert_eq!(pair.peek(9, 5), companion(2));
    assert_eq!(pair.available(), 7);
    assert_eq!(pair.receive(2), tcp(2));
    assert_eq!(pair.peek(9, 1), companion(4));
    assert_eq!(pair.available(), 5);
    pair.fail_back();
    assert_eq!(pair.pump(), Pumped::Done);
    pair.write_tcp(2);
    assert_eq!(pair.receive(2), tcp(1));
    assert_eq!(pair.receive(1), companion(1));
    assert_eq!(pair.available(), 5);
    assert_eq!(pair.peek(9, 0), companion(3));
    assert_eq!(pair.peek(9, 3), tcp(2));
}

#[test]
fn what_stands_behind_a_record_is_announced_and_peeked_before_tcps_rest_is_read() {
    let mut pair = Pair::switched(3);
    assert_eq!(pair.write(4), 4);
    pair.fail_back();
    assert_eq!(pair.pump(), Pumped::Done);
    assert_eq!(pair.available(), 7);
    assert_eq!(pair.peek(9, 7), Take::WouldBlock);
    assert!(pair.reader.hides_a_record(&mut pair.kernel));
    pair.write_tcp(2);
    for read in 0..3 {
        assert_eq!(pair.available(), 9 - read);
        assert_eq!(pair.peek(9, 0), tcp(3 - read));
        assert_eq!(pair.peek(9, 3 - read), companion(4));
        assert_eq!(pair.peek(9, 7 - read), tcp(2));
        assert_eq!(pair.receive(1), tcp(1));
    }
    assert!(!pair.reader.hides_a_record(&mut pair.kernel));
    assert_eq!(pair.receive(9), companion(4));
    assert_eq!(pair.receive(9), tcp(2));
}

#[test]
fn a_light_receive_leaves_tcp_alone_only_while_the_ring_is_what_is_waited_for() {
    let mut pair = Pair::switched(3);
    assert_eq!(pair.receive_lightly(100), Some(tcp(3)), "TCP's rest comes first");
    assert_eq!(pair.receive_lightly(100), None);
    pair.write(4);
    assert_eq!(pair.receive_lightly(100), Some(companion(4)));
    assert_eq!(pair.receive_lightly(100), None);
    // The way back is told by a word, and TCP is asked.
    pair.fail_back();
    assert_eq!(pair.pump(), Pumped::Done);
    assert_eq!(pair.receive_lightly(100), Some(Take::WouldBlock));
    pair.write_tcp(2);
    assert_eq!(pair.receive(100), tcp(2));
    assert_eq!(pair.receive_lightly(100), Some(Take::WouldBlock), "nothing comes by the ring any more");

    let mut pair = Pair::switched(0);
    pair.write(1);
    assert_eq!(pair.receive_lightly(100), Some(companion(1)));
    assert!(pair.writer.finish(&pair.shared.port()));
    pair.kernel.fin = true;
    assert_eq!(pair.receive_lightly(100), Some(Take::Eof), "the end is told by its word");

    let mut pair = Pair::switched(0);
    pair.reader.leave(&pair.shared.port());
    assert_eq!(pair.receive_lightly(100), Some(Take::WouldBlock), "what was asked back comes by TCP");
}

/// Where words travel, an end is believed only at W: what is peeked lies before it.
#[test]
fn a_peek_behind_the_last_byte_does_not_make_the_end_a_short_one() {
    let mut pair = Pair::switched(1);
    pair.reader.words_travel();
    assert_eq!(pair.receive(1), tcp(1));
    assert_eq!(pair.write(4), 4);
    assert!(pair.writer.finish(&pair.shared.port()));
    pair.shared.port().store(Word::End, 6);
    pair.kernel.fin = true;
    assert_eq!(pair.peek(9, 0), companion(4));
    assert_eq!(pair.peek(9, 4), Take::WouldBlock);
    assert_eq!(pair.receive(9), companion(4));
    assert_eq!(pair.receive(9), Take::Eof);
}
