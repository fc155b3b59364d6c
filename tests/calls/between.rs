//! The named cases and random ones with their ends on two hosts, by queue pairs or by the stand-in: the same calls over veth or a wire of the
//! guest natively. Inside `tests/stand_in/try inside` or `scripts/vm namespaces --once`.

use std::sync::Arc;

use tandem_tests::Way;
use tandem_tests::between::Between;

use crate::named;
use crate::random::{Tester, failing_back, seed};
use crate::runner::{Held, Manner};
use crate::schedule::Case;

/// Beside `named::KNOWN`.
const KNOWN: &[(&str, &str)] = &[
    ("a child of a non-blocking parent", CHILD),
    ("a child's peek and its parent's read", CHILD),
    ("parent and child by turns, both ends", CHILD),
    ("the child shuts for both", CHILD),
    ("the child's options are the parent's", CHILD),
    ("the parent closes, the child exits: the end", CHILD),
    ("the parent closes, the child goes on", CHILD),
    (
        "handlers of both kinds, the one that restarts",
        "a sleep on a provider's descriptor does not know which handler it was",
    ),
];

/// What is under way when the peer resets may be lost with the queue pair, or not. And an urgent byte takes the direction back to TCP: a call
/// that does not wait may come before the peer's switch has answered.
const UNCERTAIN: &[&str] =
    &["WAITALL cut short by a reset", "recvmmsg with bytes is told of a reset", "an urgent byte in line"];

/// Whether a child is told of what its parent's calls bring, and the parent of what the child asked for, is a matter of time.
const CHILDREN_AND_SETS: &[&str] = &[
    "there at a fork:",
    "there at a fork,",
    "there at two forks",
    "two sets that are there at a fork",
    "made after a fork tells",
    "only a child has open",
    "a set that a child does not use",
];

const CHILD: &str = "a forked child can neither put nor be told: what it does waits until its parent makes a call";

fn between(hosts: &Arc<Between>, manner: Manner) -> Manner {
    Manner { hosts: Some(hosts.clone()), ..manner }
}

pub fn manners() -> Vec<Manner> {
    let hosts = Arc::new(Between::start());
    let ways = [Way::Both];
    ways.map(|way| between(&hosts, Manner::of(way, Held::Apart, "w"))).into()
}

#[test]
#[ignore = "runs inside tests/stand_in/try or scripts/vm namespaces"]
fn named_cases_between_hosts() {
    let manners = manners();
    let natives = [(); 3].map(|()| manners[0].native());
    // What a full socket takes, and when it has room, is not one answer over a wire.
    let fills = |case: &Case| case.calls.iter().any(|call| call.contains("stuff"));
    let of_children = |case: &Case| CHILDREN_AND_SETS.iter().any(|name| case.name.contains(name));
    let asked = |case: &Case| !fills(case) && !UNCERTAIN.contains(&case.name.as_str()) && !of_children(case);
    let cases: Vec<Case> = named::every_case().into_iter().filter(asked).collect();
    named::compare("named_cases_between_hosts", &cases, natives, &manners, &[named::KNOWN, KNOWN].concat());
}

#[test]
#[ignore = "by hand, inside tests/stand_in/try: it still finds deviations"]
fn random_calls_between_hosts() {
    let hosts = Arc::new(Between::start());
    let manner = between(&hosts, Manner::of(Way::Both, Held::Apart, "w"));
    Tester::new("random_calls_between_hosts", seed(), manner).run();
}

#[test]
#[ignore = "by hand, inside tests/stand_in/try: it still finds deviations"]
fn random_calls_between_hosts_with_forced_fail_backs() {
    let hosts = Arc::new(Between::start());
    let seed = seed();
    let manner = between(&hosts, failing_back(Held::Apart, 6, seed));
    Tester::new("random_calls_between_hosts_with_forced_fail_backs", seed, manner).run();
}
