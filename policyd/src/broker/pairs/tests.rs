use super::*;

fn ends(slot: u32) -> [End; 2] {
    [1, 2].map(|id| End { client: ClientId(id), uid: 7, slot: SlotRef { slot, generation: 1 } })
}

fn companion(granted: &Granted, role: u8, id: u64) -> CompanionRef {
    CompanionRef { pair: granted.pair, conn: granted.conn, role, id }
}

#[test]
fn a_conn_is_used_again_only_when_both_ends_have_let_go() {
    let mut pairs = Pairs::default();
    let first = pairs.take_conn(ends(1), 10).unwrap();
    assert_eq!((first.conn, first.introductions.len()), (0, 2));
    let second = pairs.take_conn(ends(2), 11).unwrap();
    assert_eq!((second.conn, second.pair, second.introductions.len()), (1, first.pair, 0));

    assert!(pairs.release(companion(&first, 0, 99)).is_none(), "another companion's id");
    assert_eq!(pairs.release(companion(&first, 0, 10)).map(|end| end.client), Some(ClientId(2)));
    assert!(pairs.release(companion(&first, 0, 10)).is_none(), "said twice");
    assert_eq!(pairs.take_conn(ends(3), 12).unwrap().conn, 2);
    assert!(pairs.release(companion(&first, 1, 10)).is_none(), "nobody is left to be told");
    assert_eq!(pairs.usage(7), Usage { pairs: 2, companions: 4 });
    assert_eq!(pairs.take_conn(ends(4), 13).unwrap().conn, 0);
}

#[test]
fn a_full_pair_says_so() {
    let mut pairs = Pairs::default();
    for id in 1..=u64::from(pair::CONNS) {
        pairs.take_conn(ends(1), id).unwrap();
    }
    assert_eq!(pairs.take_conn(ends(1), 9_999).err(), Some(Reason::NoSlot));
}

#[test]
fn a_pair_dies_with_either_client() {
    let mut pairs = Pairs::default();
    let first = pairs.take_conn(ends(1), 10).unwrap();
    pairs.remove_client(ClientId(2));
    assert!(!pairs.exists([ClientId(1), ClientId(2)]));
    assert_eq!(pairs.usage(7), Usage::default());
    assert!(pairs.release(companion(&first, 0, 10)).is_none());
    assert_ne!(pairs.take_conn(ends(1), 11).unwrap().pair, first.pair);
}

#[test]
fn a_process_may_meet_itself() {
    let mut pairs = Pairs::default();
    let both = [1, 2].map(|slot| End { client: ClientId(1), uid: 7, slot: SlotRef { slot, generation: 1 } });
    let granted = pairs.take_conn(both, 10).unwrap();
    assert_eq!(granted.introductions.len(), 2);
    assert_eq!(pairs.release(companion(&granted, 0, 10)).map(|end| end.slot.slot), Some(2));
    assert!(pairs.release(companion(&granted, 1, 10)).is_none());
    pairs.remove_client(ClientId(1));
    assert_eq!(pairs.count(|_| true), 0);
    assert_eq!(pairs.usage(7), Usage::default());
}

#[test]
fn the_memory_is_sealed_and_of_the_right_size() {
    let file = memory().unwrap();
    assert_eq!(nix::sys::stat::fstat(&file).unwrap().st_size, pair::BYTES as i64);
    assert!(ftruncate(&file, 0).is_err());
    assert!(ftruncate(&file, pair::BYTES as i64 + 4_096).is_err());
}
