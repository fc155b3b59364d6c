//! The cases that have a name, in all ways: the ends held by one process or by two, either end or both under Tandem, before,
//! while and after the switch-over, and with fail-backs forced in between.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::{Proof, Way};

use crate::matrix;
use crate::random::compared;
use crate::runner::{Held, Manner, Transcript};
use crate::schedule::{Case, parse};

/// What is not as on kernel TCP, and stays so for now: the case's name, and why.
/// Printed by the test, which fails when one no longer deviates. `generate` does not ask these.
pub const KNOWN: &[(&str, &str)] =
    &[("the low-water mark is reached beyond an urgent byte", BEYOND), ("two urgent bytes", URGENT)];

const BEYOND: &str = "ring and TCP are added up by FIONREAD, which stops at an urgent byte";
const URGENT: &str =
    "an urgent byte that another follows is dropped if it is the first unread one; behind a fail-back record it is not";

/// Where fail-backs are forced, and only there: a word of the call's line, and why its answer may differ.
const EXCUSED: &[(&str, &str)] = &[
    ("epoll_wait", "an edge more, without news, where a direction changes hands: epoll(7) allows that"),
    ("poll OUT", FULL),
    ("send", FULL),
];

/// Of a socket that was full before. A program that waits for room gets it, and a real network may be as late.
const FULL: &str =
    "bytes that are owed to the kernel go first: no room yet, as on TCP while acknowledgements are on their way";

/// The first line that differs is excused. What follows from it is not compared. While the switch-over is due an edge without news
/// is excused, too.
fn excused(manner: &Manner, case: &Case, native: &Transcript, here: &Transcript) -> bool {
    let Some(at) = native.iter().zip(here).position(|(left, right)| left != right) else { return false };
    let of = |word: &str| case.calls.iter().any(|call| call.contains(word));
    let applies = |word: &str| match word {
        "epoll_wait" => native[at].ends_with("nothing"),
        "poll OUT" => of("stuff") && here[at].ends_with("none"),
        _ => of("stuff") && here[at].ends_with("EAGAIN"),
    };
    match manner.way {
        Way::BothFailingBack(_) => EXCUSED.iter().any(|(word, _)| native[at].contains(word) && applies(word)),
        Way::Both if manner.warm == "2" => native[at].contains("epoll_wait") && applies("epoll_wait"),
        _ => false,
    }
}

const FILES: [&str; 5] = ["data", "ends", "readiness", "options", "processes"];

pub fn manners() -> Vec<Manner> {
    use Held::{Apart, Together};
    let mut all = vec![
        Manner::of(Way::ServerOnly, Apart, "3"),
        Manner::of(Way::ClientOnly, Apart, "3"),
        Manner::of(Way::Both, Apart, "w"),
        Manner::of(Way::Both, Together, "w"),
        Manner::of(Way::Both, Apart, "0"),
        Manner::of(Way::Both, Together, "2"),
        Manner::of(Way::BothFailingBack(6), Apart, "w"),
        Manner::of(Way::BothFailingBack(3), Together, "w"),
    ];
    // By hand: `TANDEM_CALLS_WAYS=2,3` runs these alone.
    if let Ok(wanted) = std::env::var("TANDEM_CALLS_WAYS") {
        let wanted: Vec<usize> = wanted.split(',').filter_map(|number| number.parse().ok()).collect();
        all = wanted.into_iter().map(|at| all[at].clone()).collect();
    }
    all
}

pub fn every_case() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("calls/cases");
    let read = |name| fs::read_to_string(folder.join(name).with_extension("calls")).expect("a file of cases");
    let files = FILES.iter().flat_map(|name| parse(&read(name)));
    files.chain(matrix::cases()).collect()
}

/// What a case says natively: the same at all times, whoever holds the ends.
fn natively(cases: &[Case], manners: [Manner; 3]) -> Vec<Transcript> {
    let [first, second, third] = manners.map(|manner| manner.run(cases).transcripts);
    let mut uncertain = String::new();
    for (at, case) in cases.iter().enumerate() {
        for other in [&second[at], &third[at]] {
            if other != &first[at] {
                uncertain += &format!("== {}\n{}\n", case.name, compared(&first[at], other));
            }
        }
        if first[at].len() != case.calls.len() {
            uncertain += &format!("== {}: did not come to its end:\n{}\n", case.name, first[at].join("\n"));
        }
    }
    assert!(uncertain.is_empty(), "natively not one answer:\n{uncertain}");
    first
}

/// By wire: what the peer has just sent is under way, and a call that does not wait may come before it.
const ARRIVAL: Duration = Duration::from_millis(40);

/// Alone, in one of two more runs. What a busy machine did to a case once is printed, and no more. Between hosts all has arrived before
/// each call of these runs.
fn deviates_again(manner: &Manner, case: &Case, native: &Transcript) -> bool {
    let manner = &Manner { pause: manner.hosts.is_some().then_some(ARRIVAL), ..manner.clone() };
    (0..2).any(|_| {
        let here = manner.run(std::slice::from_ref(case)).transcripts;
        here.first().is_none_or(|here| here != native && !excused(manner, case, native, here))
    })
}

#[test]
fn every_named_case_is_as_natively() {
    let natives = [Held::Apart, Held::Together, Held::Apart].map(Manner::natively);
    compare("every_named_case_is_as_natively", &every_case(), natives, &manners(), KNOWN);
}

/// The cases in each of these manners.
#[track_caller]
pub fn compare(
    test: &'static str,
    cases: &[Case],
    natives: [Manner; 3],
    manners: &[Manner],
    known_ones: &[(&str, &str)],
) {
    let known = |name: &str| known_ones.iter().any(|(known, ..)| *known == name);
    let mut names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "names that are there twice: {twice:?}");
    let native = natively(cases, natives);
    let mut deviating: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut proof = Proof::new(test);
    for manner in manners {
        let here = manner.run(cases);
        let (mut same, mut pardoned) = (0, 0);
        for (at, case) in cases.iter().enumerate() {
            if native[at] == here.transcripts[at] {
                same += 1;
            } else if excused(manner, case, &native[at], &here.transcripts[at]) {
                pardoned += 1;
            } else if !known(&case.name) && !deviates_again(manner, case, &native[at]) {
                pardoned += 1;
                let text = compared(&native[at], &here.transcripts[at]);
                proof.fact(format!("once in three runs, {}, {}:\n{text}", manner.name(), case.name));
            } else {
                let text = format!("{}\n{}", manner.name(), compared(&native[at], &here.transcripts[at]));
                deviating.entry(&case.name).or_default().push(text);
            }
        }
        let witness = here.status.map_or(String::new(), |status| status.witness());
        if !native_only() {
            let status = here.status.expect("a status");
            let carried = manner.way.both() != status.nothing_carried();
            assert!(carried, "{test}, {}: carried? {}", manner.name(), status.witness());
            assert!(here.uncarried * 5 <= here.carried, "{test}: {} were not carried", here.uncarried);
        }
        proof.fact(format!(
            "{}: {same} of {} cases as natively, {pardoned} excused; {witness}",
            manner.name(),
            cases.len()
        ));
    }
    for (name, why) in known_ones {
        proof.fact(format!("known deviation: {name}: {why}"));
    }
    for (call, why) in EXCUSED {
        proof.fact(format!("excused where fail-backs are forced: {call}: {why}"));
    }
    proof.print();
    let gone = known_ones.iter().filter(|(name, _)| !native_only() && !deviating.contains_key(name));
    let gone: Vec<_> = gone.map(|(name, ..)| name).collect();
    let new: String = deviating
        .iter()
        .filter(|(name, _)| !known(name))
        .map(|(name, texts)| format!("== {name}\n   {}", texts.join("   ")))
        .collect();
    let count = deviating.keys().filter(|name| !known(name)).count();
    assert!(new.is_empty(), "{count} cases deviate from kernel TCP:\n{new}");
    assert!(gone.is_empty(), "as natively by now: take them out of KNOWN: {gone:?}");
}
