//! Unmodified programs of Debian, each end preloaded or not, all four ways: same bytes, same exit as natively.

mod drain;
mod explain;
mod iperf3;
mod memcached;
mod nginx_curl;
mod python;
mod redis;

use std::path::PathBuf;

use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Outcome};

/// A Python program of `programs/`, run by the system's own interpreter (not a version manager's wrapper).
fn python(name: &str, script: &str) -> Launch {
    let path: PathBuf = tandem_tests::programs::sources().join(script);
    Launch::new(name, system_program("python3")).env("PYTHONDONTWRITEBYTECODE", "1").arg(path)
}

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
