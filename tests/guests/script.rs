//! What `scripts/vm` promises: status and output come back, several may run at once, nothing stays behind, and words that tell
//! what is wrong.

use std::fs;
use std::thread::{scope, sleep};
use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::patience::within;
use tandem_tests::{End, Proof, Running, Scratch};

use crate::vm;

const AT_ONCE: [i32; 2] = [7, 255];

#[test]
fn status_and_output_come_back_from_two_at_once() {
    if native_only() {
        return;
    }
    let mut proof = Proof::new("status_and_output_come_back_from_two_at_once");
    scope(|scope| {
        let runs = AT_ONCE.map(|status| scope.spawn(move || one_run(status)));
        for run in runs {
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    proof
        .fact(format!("exit statuses {AT_ONCE:?}, stdout and stderr apart, a file in the shared folder; nothing left"));
    proof.print();
}

fn one_run(status: i32) {
    let (scratch, shared) = (Scratch::new(), Scratch::new());
    let folder = shared.path().to_str().expect("a plain path");
    let line =
        format!("echo \"out 'and' $HOME\"; echo err >&2; uname -r >$TANDEM_VM_SHARED/kernel; sleep 99 & exit {status}");
    let outcome = vm::in_a_guest(&["one", "--guest", "--share", folder], &["sh", "-c", &line], &scratch);
    assert_eq!(outcome.end, End::Exit(status), "{outcome}");
    let home = std::env::var("HOME").unwrap_or_default();
    assert_eq!(outcome.text(), format!("out 'and' {home}\n"), "{outcome}");
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    assert!(stderr.lines().filter(|line| !line.starts_with("vm: ")).eq(["err"]), "{outcome}");
    let here = fs::read_to_string("/proc/sys/kernel/osrelease").expect("this kernel");
    assert_ne!(fs::read_to_string(shared.file("kernel")).expect("what the guest wrote"), here, "that was no guest");
    nothing_left(&scratch);
}

#[test]
fn a_limit_leaves_nothing() {
    ended("a_limit_leaves_nothing", &["one", "--guest", "--limit", "8"], None, 124);
}

#[test]
fn an_interrupt_leaves_nothing() {
    ended("an_interrupt_leaves_nothing", &["guests"], Some(libc::SIGINT), 130);
}

#[test]
fn a_termination_leaves_nothing() {
    ended("a_termination_leaves_nothing", &["namespaces", "--guest"], Some(libc::SIGTERM), 143);
}

/// Not even a script that is killed leaves a guest; its folder it can't help.
#[test]
fn a_kill_leaves_no_process() {
    if native_only() {
        return;
    }
    let scratch = Scratch::new();
    let script = vm::launch(&["one", "--guest", "--", "sleep", "1000"], &scratch).spawn(&scratch);
    wait_for_qemu(&scratch);
    script.signal(libc::SIGKILL);
    no_process(&scratch);
}

#[track_caller]
fn ended(test: &str, words: &[&str], signal: Option<i32>, status: i32) {
    if native_only() {
        return;
    }
    let scratch = Scratch::new();
    let mut script: Running = vm::launch(words, &scratch).args(["--", "sleep", "1000"]).spawn(&scratch);
    wait_for_qemu(&scratch);
    if let Some(signal) = signal {
        sleep(Duration::from_secs(2)); // into the boot
        script.signal(signal);
    }
    let outcome = script.wait(Duration::from_secs(60));
    assert_eq!(outcome.end, End::Exit(status), "{outcome}");
    nothing_left(&scratch);
    let mut proof = Proof::new(test);
    proof.fact(format!("a guest was booting; exit status {status}, no process and no file left"));
    proof.print();
}

#[track_caller]
fn wait_for_qemu(scratch: &Scratch) {
    let started = || processes(scratch).iter().any(|line| line.contains("-kernel"));
    // The first run of all downloads the guest.
    assert!(within(Duration::from_secs(400), Duration::from_millis(100), started), "no QEMU was started");
}

#[track_caller]
fn nothing_left(scratch: &Scratch) {
    no_process(scratch);
    let files: Vec<_> =
        fs::read_dir(scratch.path()).expect("the folder").flatten().map(|file| file.file_name()).collect();
    assert!(files.iter().all(|name| name.to_string_lossy().starts_with("vm.std")), "left: {files:?}");
}

#[track_caller]
fn no_process(scratch: &Scratch) {
    let gone = within(Duration::from_secs(10), Duration::from_millis(50), || processes(scratch).is_empty());
    assert!(gone, "still there: {:#?}", processes(scratch));
}

/// The command lines of processes that name the script's folder: virtme-ng and QEMU do.
fn processes(scratch: &Scratch) -> Vec<String> {
    let folder = scratch.path().to_string_lossy().into_owned();
    let lines = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder)).collect()
}

#[test]
fn wrong_words_are_answered_plainly() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "the first word is one, namespaces, guests or prepare"),
        (&["one"], "a command is missing"),
        (&["one", "--limit", "soon", "--", "true"], "--limit needs a number of seconds, not 'soon'"),
        (&["one", "--share", "/nowhere", "--", "true"], "there is no folder '/nowhere'"),
        (&["guests", "--once", "--", "true"], "--once goes with namespaces only"),
        (&["one", "true"], "there is no option 'true' (the command comes after --)"),
    ];
    for (words, answer) in cases {
        let scratch = Scratch::new();
        let outcome = vm::launch(words, &scratch).run(&scratch, Duration::from_secs(30));
        assert_eq!(outcome.end, End::Exit(1), "{words:?}: {outcome}");
        let stderr = String::from_utf8_lossy(&outcome.stderr);
        assert!(stderr.contains(answer) && stderr.lines().count() == 1, "{words:?}: {outcome}");
        nothing_left(&scratch);
    }
}
