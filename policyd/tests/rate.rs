//! Meets as fast as they come: nothing of them stays with policyd, and others are answered meanwhile.

mod switch;

use std::time::{Duration, Instant};

use switch::*;
use tandem_protocol::Message;
use tandem_protocol::message::{Meet, SlotRef};

const CONNECTIONS: usize = 64;
const MEETS: usize = 50_000;

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Both ends of all connections meet, get their companions, and let go of them.
fn round(ends: [(&Switch, &[Meet]); 2], generation: u32) {
    for at in 0..CONNECTIONS {
        for (switch, meets) in ends {
            let slot = SlotRef { generation, ..meets[at].slot };
            switch.send(&Message::Meet(Meet { slot, ..meets[at] }), &[]);
        }
    }
    for _ in 0..CONNECTIONS {
        for (switch, _) in ends {
            let taken = switch.companion();
            assert_eq!(taken.slot.generation, generation);
            switch.send(&Message::Released(taken.companion), &[]);
        }
    }
}

#[test]
fn tens_of_thousands_of_meets_leave_nothing_behind() {
    let policyd = Policyd::start(&[]);
    let (one, other, bystander) =
        (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let listener = listener();
    let streams: Vec<_> = (0..CONNECTIONS).map(|_| connection(&listener)).collect();
    let meets: [Vec<Meet>; 2] = [
        streams.iter().enumerate().map(|(at, ends)| claim(at as u32, &ends.0)).collect(),
        streams.iter().enumerate().map(|(at, ends)| claim(at as u32, &ends.1)).collect(),
    ];
    let ends = [(&one, &meets[0][..]), (&other, &meets[1][..])];
    let mut generation = 1;
    let mut rounds = |meets: usize, mut between: Box<dyn FnMut() + '_>| {
        for _ in 0..meets.div_ceil(2 * CONNECTIONS) {
            round(ends, generation);
            generation += 2;
            between();
        }
    };
    rounds(MEETS / 10, Box::new(|| {}));
    let pid = policyd.child.id();
    let before = (resident_kb(pid), descriptors(pid));
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    rounds(
        MEETS,
        Box::new(|| {
            let asked = Instant::now();
            bystander.assert_quiet();
            slowest = slowest.max(asked.elapsed());
        }),
    );
    let took = started.elapsed();
    let after = (resident_kb(pid), descriptors(pid));
    println!(
        "{:.0} meets/s; policyd has {after:?} kB and descriptors, {before:?} before",
        MEETS as f64 / took.as_secs_f64()
    );
    assert_eq!(after.1, before.1, "descriptors");
    assert!(after.0 < before.0 + 4_096, "{} kB after {} kB", after.0, before.0);
    assert!(slowest < Duration::from_secs(2), "another switch was answered after {slowest:?}");
    let status = policyd.status();
    assert_eq!((status.pairs, status.parked), (1, 0));
}
