use proptest::prelude::*;

use super::*;
use crate::address::Addresses;

/// Zeroed as a fresh memfd is.
fn fresh() -> Box<Registry> {
    // SAFETY: all-zero is valid for every field (atomic integers).
    unsafe { Box::<Registry>::new_zeroed().assume_init() }
}

fn identity(port: u16) -> Identity {
    let addresses = Addresses::new(([127, 0, 0, 1], port).into(), ([10, 1, 2, 3], 80).into()).expect("both are IPv4");
    Identity { pid: 42, addresses, cookie: 7, connected: true }
}

#[test]
fn a_row_lives_and_is_folded_once() {
    let registry = fresh();
    assert!(!registry.is_sound());
    registry.initialise();
    assert!(registry.is_sound());
    assert!(registry.used_rows().is_empty());

    registry.publish(5, &identity(4_000), Reason::FewCalls);
    assert_eq!(registry.used_rows().len(), 6);
    let row = registry.row(5);
    let copy = row.read().expect("live");
    assert_eq!(copy.identity, identity(4_000));
    assert_eq!((copy.provider, copy.reason, copy.settled), (Provider::Tcp, Some(Reason::FewCalls), false));

    row.set_provider(Provider::Local, Reason::None);
    row.tx_companion.store(100, Ordering::Relaxed);
    assert!(row.read().expect("live").carried());

    registry.retire(5);
    registry.retire(5);
    assert!(row.read().is_none());
    let totals = &registry.header.totals;
    assert_eq!(totals.connections.load(Ordering::Relaxed), 1);
    assert_eq!(totals.carried.load(Ordering::Relaxed), 1);
    assert_eq!(totals.tx_companion.load(Ordering::Relaxed), 100);

    registry.publish(5, &identity(4_001), Reason::FewCalls);
    registry.row(5).settle(Reason::PeerAbsent);
    let copy = registry.row(5).read().expect("live again");
    assert!(copy.settled);
    assert_eq!(copy.counted_reason(), Some(Reason::PeerAbsent));
    registry.retire(5);
    assert_eq!(totals.reasons[Reason::PeerAbsent.code() as usize].load(Ordering::Relaxed), 1);
}

#[test]
fn an_announced_connection_is_identified_later_and_keeps_its_counts() {
    let registry = fresh();
    registry.announce(5, (42, 9), true, Reason::FewCalls);
    let row = registry.row(5);
    row.tx_tcp.store(3, Ordering::Relaxed);
    let copy = row.read().expect("live");
    assert_eq!((copy.descriptor, copy.identity.pid, copy.identity.connected), (Some(9), 42, true));
    registry.identify(5, &identity(4_000));
    let copy = row.read().expect("live");
    assert_eq!((copy.descriptor, copy.identity, copy.tx_tcp), (None, identity(4_000), 3));
    assert_eq!(copy.reason, Some(Reason::FewCalls));
    registry.retire(5);
    registry.identify(5, &identity(4_001));
    assert!(row.read().is_none(), "a retired row stays so");
    assert_eq!(registry.header.totals.connections.load(Ordering::Relaxed), 1);
}

#[test]
fn a_row_under_the_pen_is_not_read() {
    let registry = fresh();
    registry.publish(0, &identity(1), Reason::None);
    registry.row(0).sequence.fetch_or(1, Ordering::Relaxed);
    assert!(registry.row(0).read().is_none());
}

/// One thread closes, another examines, as a switch and policyd do it: round after round, as close together as may be.
#[test]
fn a_close_never_overtakes_an_examination() {
    let registry = fresh();
    let (closed, looked) = (AtomicU32::new(0), AtomicU32::new(0));
    let slot = |round| SlotRef { slot: 3, generation: 2 * round + 1 };
    let linger = |steps: u32| (0..steps).for_each(|_| std::hint::spin_loop());
    let until = |done: &dyn Fn() -> bool| {
        while !done() {
            std::thread::yield_now();
        }
    };
    let rounds = 5_000;
    let (mut examined, mut overtaken) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                until(&|| registry.claimed(slot(round)).is_some() || closed.load(Ordering::Acquire) > round);
                linger(round % 7);
                registry.begin_examination(slot(round));
                if registry.claimed(slot(round)).is_some() {
                    examined += 1;
                    linger(20);
                    overtaken += u32::from(closed.load(Ordering::Relaxed) > round);
                }
                registry.end_examination();
                looked.store(round + 1, Ordering::Release);
            }
        });
        for round in 0..rounds {
            registry.claim(slot(round), 5, 1);
            linger(round % 200);
            registry.withdraw(slot(round));
            until(&|| !registry.is_examined(slot(round)));
            closed.store(round + 1, Ordering::Release);
            until(&|| looked.load(Ordering::Acquire) > round);
        }
    });
    assert_eq!(overtaken, 0, "closed under one of {examined} examinations");
    println!("{examined} of {rounds} claims were examined before they were closed, or meanwhile");
}

#[test]
fn a_claim_is_one_generations() {
    let registry = fresh();
    let (old, new) = (SlotRef { slot: 9, generation: 1 }, SlotRef { slot: 9, generation: 3 });
    registry.claim(old, 5, 42);
    assert_eq!((registry.claimed(old), registry.claimed(new)), (Some((5, 42)), None));
    registry.claim(new, 6, 43);
    registry.withdraw(old);
    registry.unshow(old);
    assert_eq!((registry.claimed(old), registry.show(new)), (None, Some((6, 43))));
    registry.unshow(old);
    assert!(registry.is_examined(new) && !registry.is_examined(old));
}

#[test]
fn a_header_that_lies_about_its_rows_gives_no_more_than_there_are() {
    let registry = fresh();
    registry.header.rows_used.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(registry.used_rows().len(), ROWS);
}

proptest! {
    /// Whatever a hostile family writes into a row, reading it gives a checked copy or nothing.
    #[test]
    fn hostile_rows_never_panic(words in proptest::collection::vec(any::<u32>(), 32), hint in 0..8u32) {
        let registry = fresh();
        let row = std::ptr::from_ref(registry.row(3)).cast::<AtomicU32>();
        for (at, &word) in words.iter().enumerate() {
            // SAFETY: a row is 128 bytes of atomics, and 32 words fill exactly that.
            unsafe { (*row.add(at)).store(word, Ordering::Relaxed) };
        }
        // Often enough, let the checks before the interesting fields pass.
        if hint > 2 {
            registry.row(3).sequence.store(2, Ordering::Relaxed);
            registry.row(3).addr_family.store(4 + (hint & 2), Ordering::Relaxed);
            registry.row(3).provider.store(hint % 3, Ordering::Relaxed);
        }
        if let Some(copy) = registry.row(3).read() {
            let _ = (copy.carried(), copy.counted_reason(), copy.identity.addresses.normalised());
            let _ = copy.identity.addresses.local_address().to_string();
        }
        let slot = SlotRef { slot: 3, generation: words[0] };
        let _ = (registry.claimed(slot), registry.show(slot), registry.is_examined(slot));
        registry.withdraw(slot);
        registry.unshow(slot);
        registry.retire(3);
        prop_assert!(registry.row(3).read().is_none());
    }
}

#[test]
fn what_a_provider_calls_its_ends_is_a_line_whatever_it_says() {
    let registry = fresh();
    assert_eq!(registry.native(7), "");
    registry.set_native(7, "rxe0/1 ::ffff:10.0.0.1 qp 17 > ::ffff:10.0.0.2 qp 18, mtu 4096");
    assert_eq!(registry.native(7), "rxe0/1 ::ffff:10.0.0.1 qp 17 > ::ffff:10.0.0.2 qp 18, mtu 4096");
    registry.set_native(7, "a\nb\u{1b}[2J");
    assert_eq!(registry.native(7), "a?b?[2J");
    registry.set_native(7, &"x".repeat(1_000));
    assert_eq!(registry.native(7), "x".repeat(Native::BYTES));
    assert_eq!((registry.native(6), registry.native(8)), (String::new(), String::new()));
}
