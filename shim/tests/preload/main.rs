//! What a preloaded program that has nothing to do with Tandem must not notice: the same output, errors, exit status, as natively.

#![allow(clippy::disallowed_types, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cost;
mod support;

use std::ffi::OsString;
use support::{library, program, same_both_ways, same_with, shared_library};

#[test]
fn system_programs() {
    same_both_ways("/bin/true", &[]);
    same_both_ways("/bin/false", &[]);
    same_both_ways("/bin/cat", &["/etc/passwd", "/nonexistent"]);
    same_both_ways("/bin/ls", &["-la", "/etc"]);
    same_both_ways("/bin/sh", &["-c", "echo one | cat | wc -c; exec 5>&1 >&5; echo $(echo nested); exit 3"]);
    same_both_ways("/bin/sh", &["-c", "kill -9 $$"]);
}

/// Python's subprocess forks by vfork and calls close and dup2 in the child.
#[test]
fn python_subprocess() {
    let out = same_both_ways("/usr/bin/python3", &["-c", PYTHON]);
    assert!(out.ends_with("done\n"), "{out}");
}

const PYTHON: &str = r#"
import os, select, socket, subprocess, signal
print(subprocess.run(["cat"], input=b"piped", capture_output=True))
print(subprocess.run("echo shell; exit 4", shell=True, capture_output=True))
r, w = os.pipe()
print(subprocess.run(["sh", "-c", f"echo passed >&{w}"], pass_fds=[w], close_fds=True).returncode, os.read(r, 99))
a, b = socket.socketpair()
print(subprocess.run(["sh", "-c", "cat; echo reply >&0"], stdin=b, stdout=subprocess.PIPE, input=None) if a.shutdown(socket.SHUT_WR) else a.recv(99) if False else "socketpair")
print(os.popen("echo popen").read(), os.system("exit 5"))
pid = os.fork()
if pid == 0: os._exit(6)
print(os.waitpid(pid, 0)[1])
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, r)])
print(os.waitpid(pid, 0)[1])
s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname()); d, _ = s.accept()
p = select.epoll(); p.register(d, select.EPOLLIN); c.sendall(b"hello"); print(p.poll(5)[0][1], d.recv(99))
print(select.select([d], [c], [], 0)[1] == [c]); c.close(); print(d.recv(9))
signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.05); print(select.select([d], [], [], 0)[0] == [d])
print("done")
"#;

#[test]
fn spawning() {
    let spawn = program("spawn", &[]);
    for how in [
        "execl",
        "execlp",
        "execle",
        "execv",
        "execve",
        "execvp",
        "execvpe",
        "fexecve",
        "execveat",
        "vfork-execlp",
        "spawn",
        "spawnp",
    ] {
        for count in ["0", "1", "3", "4", "5", "6", "7", "8", "9", "50"] {
            let out = same_both_ways(&spawn, &[how, count]);
            assert!(out.contains(&format!("{count} arguments")), "{how} {count}: {out}");
        }
    }
    for how in
        ["popen", "system", "fork", "_Fork", "daemon", "forkpty", "_exit", "_Exit", "quick_exit", "exit", "missing"]
    {
        let out = same_both_ways(&spawn, &[how, "0"]);
        assert!(!out.is_empty(), "{how} printed nothing");
    }
}

#[test]
fn refusals_set_the_same_errno() {
    let out = same_both_ways(program("refusals", &[]), &[]);
    assert!(out.lines().count() > 90 && out.contains("errno 9"), "{out}");
}

#[test]
fn fortified_names() {
    let fortified = program("fortified", &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]);
    assert!(same_both_ways(&fortified, &["right"]).contains("read 5"));
    for call in ["read", "pread", "recv", "recvfrom", "poll", "ppoll"] {
        let native = support::run(&fortified, &[call], None);
        assert!(!native.status.success(), "{call} did not overflow");
        same_both_ways(&fortified, &[call]);
    }
}

#[test]
fn descriptors() {
    let out = same_both_ways(program("descriptors", &[]), &[]);
    assert!(out.ends_with("done\n"), "{out}");
}

#[test]
fn signal_handlers_as_they_were_set() {
    let out = same_both_ways(program("signals", &[]), &[]);
    assert!(out.contains("restart 1") && out.contains("restart 0"), "{out}");
}

/// A thread that sleeps in a call is cancelled there, and its clean-up runs.
#[test]
fn cancelled_threads() {
    let cancel = program("cancel", &[]);
    for call in ["read", "recv", "accept", "poll", "select", "epoll", "connect-accept", "system", "open"] {
        let out = same_both_ways(&cancel, &[call]);
        assert!(out.contains("cleaned up\ncancelled\n"), "{call}: {out}");
    }
}

/// Another library's constructor calls hooks before ours has run (or after).
#[test]
fn hooks_before_start_up() {
    let early = shared_library("early");
    let spawn = program("spawn", &[]);
    for order in [[library(), &early], [&early, library()]] {
        let preload: Vec<OsString> = order.iter().map(|path| path.into()).collect();
        let preload = preload.join(":".as_ref());
        let out = support::run(&spawn, &["execl", "2"], Some(&preload));
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("2 arguments") && text.contains("early: 0 x 0 0"), "{text}");
        assert!(out.stderr.is_empty());
    }
    same_with("/bin/true", &[], library().as_os_str());
}
