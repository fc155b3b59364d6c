//! From a case that deviates to a small one that still does: calls are taken out, then made simpler, as long as natively it
//! always says the same and here something else. All candidates of a round are run as one batch.

use crate::runner::{Manner, Transcript};
use crate::schedule::Case;

pub struct Shrunk {
    pub case: Case,
    pub native: Transcript,
    pub here: Transcript,
}

/// A chance deviation (forced fail-backs, timing) counts if it comes once in so many runs.
const TRIES: usize = 6;

pub fn shrink(case: &Case, manner: &Manner) -> Option<Shrunk> {
    let mut best = deviates(std::slice::from_ref(case), manner).pop()??;
    let mut size = (best.case.calls.len() / 2).max(1);
    loop {
        let smaller = deviates(&without(&best.case, size), manner).into_iter().flatten();
        match smaller.min_by_key(|found| found.case.calls.len()) {
            Some(found) => best = found,
            None if size == 1 => break,
            None => size = (size / 2).max(1),
        }
        size = size.min((best.case.calls.len() / 2).max(1));
    }
    while let Some(found) = deviates(&simpler(&best.case), manner).into_iter().flatten().next() {
        best = found;
    }
    Some(best)
}

/// Of each candidate: what it says natively and here, if that differs and natively it is certain.
fn deviates(candidates: &[Case], manner: &Manner) -> Vec<Option<Shrunk>> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let natively = manner.native();
    let native: Vec<_> = (0..2).map(|_| natively.run(candidates).transcripts).collect();
    let repeated: Vec<Case> = candidates.iter().flat_map(|case| std::iter::repeat_n(case.clone(), TRIES)).collect();
    let here = manner.run(&repeated).transcripts;
    candidates
        .iter()
        .enumerate()
        .map(|(at, case)| {
            let (first, second) = (&native[0][at], &native[1][at]);
            let other = here[at * TRIES..(at + 1) * TRIES].iter().find(|transcript| *transcript != first)?;
            (first == second).then(|| Shrunk { case: case.clone(), native: first.clone(), here: other.clone() })
        })
        .collect()
}

fn without(case: &Case, size: usize) -> Vec<Case> {
    let count = case.calls.len();
    (0..count)
        .step_by(size)
        .map(|from| {
            let kept = case.calls.iter().enumerate().filter(|(at, _)| !(from..from + size).contains(at));
            Case::new(case.name.clone(), kept.map(|(_, call)| call.clone()))
        })
        .filter(|smaller| smaller.calls.len() < count && is_sound(smaller))
        .collect()
}

/// A thread's call has its time limit before it and is joined before its end does anything else: two that read at one time, or
/// wait for ever, would tell nothing.
fn is_sound(case: &Case) -> bool {
    let end_of = |call: &str| if call.starts_with(['a', 'c']) { 'a' } else { 'b' };
    case.calls.iter().enumerate().filter(|(_, call)| call.contains('&')).all(|(at, call)| {
        let limited = at > 0 && case.calls[at - 1].contains("RCVTIMEO") && end_of(&case.calls[at - 1]) == end_of(call);
        let next = case.calls[at + 1..].iter().find(|other| end_of(other) == end_of(call));
        limited && next.is_some_and(|next| next.contains("join"))
    })
}

/// One number or flag of one call made smaller.
fn simpler(case: &Case) -> Vec<Case> {
    let mut list = Vec::new();
    for (at, call) in case.calls.iter().enumerate() {
        let words: Vec<&str> = call.split(' ').collect();
        for (place, word) in words.iter().enumerate().skip(2) {
            let others: Vec<String> = match word.parse::<u64>() {
                Ok(n) if n > 1 => vec!["1".into(), (n / 2).to_string()],
                Ok(_) => Vec::new(),
                Err(_) if word.contains('|') => word.split('|').map(str::to_owned).collect(),
                Err(_) => Vec::new(),
            };
            for other in others {
                let mut words = words.clone();
                words[place] = &other;
                let mut smaller = case.clone();
                smaller.calls[at] = words.join(" ");
                list.push(smaller);
            }
        }
    }
    list
}
