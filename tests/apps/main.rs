//! Unmodified programs of Debian, each end preloaded or not, all four ways: same bytes, same exit as natively.

mod drain;
mod explain;
mod iperf3;
mod memcached;
mod nginx_curl;
mod python;
mod redis;

use tandem_tests::programs::python;
use tandem_tests::{End, Outcome};

/// The whole outcome as observations.
fn whole(what: &str, outcome: &Outcome) -> Vec<String> {
    vec![
        format!("{what}: {:?}", outcome.end),
        format!("{what}: stdout {}", outcome.text()),
        format!("{what}: stderr {}", String::from_utf8_lossy(&outcome.stderr)),
    ]
}

/// Exit and stderr only: stdout has rates in it.
#[track_caller]
fn end_and_stderr(what: &str, outcome: &Outcome) -> Vec<String> {
    assert_eq!(outcome.end, End::Exit(0), "{what}:\n{outcome}");
    vec![format!("{what}: {:?}", outcome.end), format!("{what}: stderr {}", String::from_utf8_lossy(&outcome.stderr))]
}
