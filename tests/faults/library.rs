//! The library itself: what it needs, and that it says nothing.

use std::process::Command;
use std::time::Duration;

use tandem_tests::artifacts::{artifacts, native_only};
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Policyd, Proof, Scratch};

#[test]
fn needed_is_libc_and_libgcc_at_most() {
    if native_only() {
        return println!("needed_is_libc_and_libgcc_at_most: NOTHING PROVED (native mode)");
    }
    let output = Command::new("readelf").arg("-d").arg(&artifacts().library).output().expect("readelf runs (binutils)");
    let text = String::from_utf8_lossy(&output.stdout);
    let needed: Vec<_> = text.lines().filter(|line| line.contains("(NEEDED)")).map(str::trim).collect();
    assert!(!needed.is_empty(), "no dynamic section in {text}");
    let foreign: Vec<_> = needed
        .iter()
        .filter(|line| {
            !["[libc.so.6]", "[libgcc_s.so.1]", "[ld-linux-x86-64.so.2]", "[ld-linux-aarch64.so.1]"]
                .iter()
                .any(|fine| line.contains(fine))
        })
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(text.contains("NODELETE"), "the library can be unloaded (-z nodelete is missing)");
    let mut proof = Proof::new("needed_is_libc_and_libgcc_at_most");
    proof.fact(format!("{needed:?}"));
    proof.print();
}

/// Ordinary programs, with policyd, without, and with a socket path that is nonsense: their output is theirs alone.
#[test]
fn nothing_on_stdout_or_stderr() {
    let mut proof = Proof::new("nothing_on_stdout_or_stderr");
    let mut policyd = Policyd::start();
    let commands: [(&str, &[&str]); 8] = [
        ("true", &[]),
        ("echo", &["hello"]),
        ("cat", &["/proc/self/comm", "/nonexistent"]),
        ("sh", &["-c", "echo out; echo err >&2; (exit 7) | cat; ls -d / | cat; exit 3"]),
        (
            "python3",
            &[
                "-c",
                "import socket, subprocess; print(subprocess.run(['echo', 'x'], capture_output=True)); socket.socket().close()",
            ],
        ),
        ("ls", &["/proc/self/fd"]),
        ("perl", &["-e", "print qx(echo perl); fork or exit 4; wait; print $? >> 8, qq(\\n)"]),
        ("bash", &["-c", "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; exec 5<>/dev/null; kill -TERM $$"]),
    ];
    for dead in [false, true] {
        if dead && let Some(policyd) = &mut policyd {
            policyd.kill();
        }
        for (command, arguments) in commands {
            let scratch = Scratch::new();
            let launch = || Launch::new(command, system_program(command)).args(arguments);
            let native = launch().run(&scratch, Duration::from_secs(10));
            let preloaded = launch().preload(policyd.as_ref()).run(&scratch, Duration::from_secs(10));
            assert_ne!(native.end, End::TimedOut, "{command}");
            let same = native == preloaded;
            assert!(same, "{command}, policyd dead: {dead}\nnatively:\n{native}\npreloaded:\n{preloaded}");
            proof.fact(format!(
                "{command}: {:?} and every byte of output as natively (policyd dead: {dead})",
                native.end
            ));
        }
    }
    proof.print();
}
