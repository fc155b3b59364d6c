//! Several threads have read one stream: is there an order of their reads, each thread's own kept, that makes the stream
//! from its first byte on? A read of a few bytes may fit where it does not belong, so there is a way back; how many reads of
//! each thread are taken says all about a state, so none is tried twice.

use std::collections::HashSet;

use crate::pattern::Positions;
use crate::reader::Got;

type Taken = [u32; 4];

struct Step {
    positions: Positions,
    taken: Taken,
    next: usize,
}

/// The positions at the end, or how far the longest fitting order came.
pub fn reassemble(got: &[Got], key: u64) -> Result<Positions, String> {
    let reads: u32 = got.iter().map(|got| got.ends.len() as u32).sum();
    let mut steps = vec![Step { positions: Positions::default(), taken: Taken::default(), next: 0 }];
    let mut seen = HashSet::new();
    let mut furthest = 0;
    while let Some(step) = steps.last_mut() {
        let depth: u32 = step.taken.iter().sum();
        if depth == reads {
            return Ok(step.positions);
        }
        furthest = furthest.max(depth);
        if step.next == got.len() {
            steps.pop();
            continue;
        }
        let reader = step.next;
        step.next += 1;
        let mut taken = step.taken;
        taken[reader] += 1;
        let mut positions = step.positions;
        let Some(read) = got[reader].nth(step.taken[reader] as usize) else { continue };
        if positions.take(read, key).is_ok() && seen.insert(taken) {
            steps.push(Step { positions, taken, next: 0 });
        }
    }
    Err(format!("{} readers' reads fit together only for the first {furthest} of {reads}", got.len()))
}
