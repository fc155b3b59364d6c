//! Starts `scripts/vm`.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tandem_tests::artifacts::{artifacts, native_only, target};
use tandem_tests::{End, Launch, Outcome, Scratch};

/// The script has its own, shorter limit: this one is for a script that does not keep it.
const SLACK: Duration = Duration::from_secs(60);

pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm")
}

/// What the script leaves behind, it leaves in this folder.
pub fn launch(words: &[&str], scratch: &Scratch) -> Launch {
    Launch::new("vm", script()).args(words).env("TMPDIR", scratch.path()).env("CARGO_TARGET_DIR", target())
}

/// Runs the ignored tests of this program whose names have one of these words in them, in what `scripts/vm WORDS` makes.
#[track_caller]
pub fn run_inside(words: &[&str], filters: &str) {
    run_program_inside(&env::current_exe().expect("own path"), words, filters);
}

/// The same, of another test program that was built beside this one.
#[track_caller]
pub fn run_other_inside(name: &str, words: &[&str], filters: &str) {
    let this = env::current_exe().expect("own path");
    let beside = this.parent().and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten();
    let built = beside.map(|entry| entry.path()).filter(|path| {
        let of_it = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")));
        of_it && path.extension().is_none()
    });
    let newest = built.max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    let program =
        newest.unwrap_or_else(|| panic!("first: cargo test --release -p tandem-tests --test {name} --no-run"));
    run_program_inside(&program, words, filters);
}

#[track_caller]
fn run_program_inside(program: &Path, words: &[&str], filters: &str) {
    if native_only() {
        println!("{filters} NOT RUN: there is nothing to compare in native mode");
        return;
    }
    let (scratch, shared) = (Scratch::new(), Scratch::new());
    let limit = limit();
    let folder = artifacts().library.parent().expect("a folder");
    let launch = launch(words, &scratch)
        .args(["--limit", &limit.as_secs().to_string(), "--share"])
        .arg(shared.path())
        .args(["--", "env"])
        .arg(format!("TANDEM_BIN_DIR={}", folder.display()))
        .arg(format!("TANDEM_TESTS_PROVED={}", shared.file("proved").display()))
        .arg(program)
        .args(filters.split(' '))
        .args(["--ignored", "--show-output", "--test-threads=1"]);
    let outcome = launch.run(&scratch, limit + SLACK);
    let text = format!("{}{}", outcome.text(), String::from_utf8_lossy(&outcome.stderr));
    println!("{text}");
    assert_eq!(outcome.end, End::Exit(0), "{words:?}; what it printed is above");
    // Of two guests each has its line, unless the second one goes off: then the first has waited for its word.
    assert!(passed(&text).is_some_and(|lines| lines > 0), "no line that tests have passed, or one without any");
    hand_on_proofs(&shared);
}

/// Boot included. An emulated guest on a busy host takes minutes to boot.
fn limit() -> Duration {
    let said = env::var("TANDEM_TESTS_VM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(said.unwrap_or(900))
}

/// How many hosts say that tests passed; `None` when one of them ran no test at all: then the filter is wrong.
fn passed(text: &str) -> Option<usize> {
    let lines: Vec<_> = text.lines().filter(|line| line.contains("test result: ok. ")).collect();
    lines.iter().all(|line| !line.contains("ok. 0 passed")).then_some(lines.len())
}

/// What the tests inside have proved, told as this test's own.
fn hand_on_proofs(shared: &Scratch) {
    let proofs = std::fs::read(shared.file("proved")).expect("what the tests inside have proved");
    if let Some(path) = env::var_os("TANDEM_TESTS_PROVED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(&proofs)).expect("TANDEM_TESTS_PROVED is writable");
    }
}

/// A command in a guest of its own; its outcome.
pub fn in_a_guest(words: &[&str], command: &[&str], scratch: &Scratch) -> Outcome {
    let limit = limit();
    let launch = launch(words, scratch).args(["--limit", &limit.as_secs().to_string(), "--"]).args(command);
    launch.run(scratch, limit + SLACK)
}
