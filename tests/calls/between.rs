//! The named cases and random ones with their ends on two hosts, by queue pairs or by the stand-in: the same calls over veth or a wire of the
//! guest natively. Inside `tests/stand_in/try inside` or `scripts/vm namespaces --once`.

use std::sync::Arc;

use tandem_tests::Way;
use tandem_tests::between::Between;

use crate::named;
use crate::random::{Tester, failing_back, seed};
use crate::runner::{Held, Manner};

fn between(hosts: &Arc<Between>, manner: Manner) -> Manner {
    Manner { hosts: Some(hosts.clone()), ..manner }
}

pub fn manners() -> Vec<Manner> {
    let hosts = Arc::new(Between::start());
    let ways = [Way::Both, Way::BothFailingBack(6)];
    ways.map(|way| between(&hosts, Manner::of(way, Held::Apart, "w"))).into()
}

#[test]
#[ignore = "runs inside tests/stand_in/try or scripts/vm namespaces"]
fn named_cases_between_hosts() {
    let manners = manners();
    let natives = [(); 3].map(|()| manners[0].native());
    named::compare("named_cases_between_hosts", natives, &manners, named::KNOWN);
}

#[test]
#[ignore = "runs inside tests/stand_in/try or scripts/vm namespaces"]
fn random_calls_between_hosts() {
    let hosts = Arc::new(Between::start());
    let manner = between(&hosts, Manner::of(Way::Both, Held::Apart, "w"));
    Tester::new("random_calls_between_hosts", seed(), manner).run();
}

#[test]
#[ignore = "runs inside tests/stand_in/try or scripts/vm namespaces"]
fn random_calls_between_hosts_with_forced_fail_backs() {
    let hosts = Arc::new(Between::start());
    let seed = seed();
    let manner = between(&hosts, failing_back(Held::Apart, 6, seed));
    Tester::new("random_calls_between_hosts_with_forced_fail_backs", seed, manner).run();
}
