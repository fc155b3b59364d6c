//! `tandem run`, `ss` and `status` as a user sees them. Any shared library stands in for the switch.

mod switch;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use switch::*;
use tandem_policyd::control::Ask;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// `tandem` with a runtime folder of its own, so that no other policyd is found.
    fn tandem(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TANDEM);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TANDEM_")) {
            command.env_remove(name);
        }
        command.env_remove("LD_PRELOAD").env("XDG_RUNTIME_DIR", self.folder.path()).env("TANDEM_LIBRARY", library());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tandem/policyd.sock")
    }
}

impl Drop for Place {
    /// Ends the policyd that was started on demand.
    fn drop(&mut self) {
        let lock = self.socket().with_extension("sock.lock");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let open = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            if open.flat_map(|fd| fd.path().read_link()).any(|target| target == lock) {
                let pid = entry.file_name().to_string_lossy().parse().unwrap();
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
        }
    }
}

/// A library that is loaded here anyway.
fn library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("libgcc_s"));
    PathBuf::from(path.expect("libgcc_s is loaded"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

#[test]
fn exit_status_and_signals_are_the_programs() {
    let place = Place::new();
    assert_eq!(output(place.tandem(&["run", "--", "sh", "-c", "exit 7"])).status.code(), Some(7));
    assert_eq!(output(place.tandem(&["run", "sh", "-c", "kill -KILL $$"])).status.signal(), Some(9));
    assert_eq!(output(place.tandem(&["run", "sh", "-c", "kill -TERM $$"])).status.signal(), Some(15));
}

#[test]
fn the_program_finds_everything_as_the_caller_left_it() {
    let place = Place::new();
    let script = "grep -E '^Sig(Ign|Blk|Cgt)' /proc/self/status; ls /proc/self/fd; echo $PPID; umask";
    let native = |ignored: bool| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        disposed(command, ignored)
    };
    let preloaded = |ignored| disposed(place.tandem(&["run", "sh", "-c", script]), ignored);
    for ignored in [false, true] {
        assert_eq!(text(&preloaded(ignored).stdout), text(&native(ignored).stdout), "SIGPIPE ignored: {ignored}");
    }
    assert_eq!(preloaded(true).stderr, b"");
}

fn disposed(mut command: Command, ignored: bool) -> Output {
    use nix::sys::signal::{SigHandler, Signal, signal};
    let handler = if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: one call that is async-signal-safe.
    unsafe { command.pre_exec(move || Ok(signal(Signal::SIGPIPE, handler).map(drop)?)) };
    output(command)
}

#[test]
fn no_child_of_ours_is_left_to_the_program() {
    let place = Place::new();
    let script = "import os, sys
try: os.waitpid(-1, os.WNOHANG); sys.exit('a child that is not mine')
except ChildProcessError: pass";
    let first = output(place.tandem(&["run", "python3", "-c", script]));
    assert!(first.status.success(), "{}", text(&first.stderr));
    ask(&place.socket(), Ask::Status);
}

#[test]
fn the_environment_of_the_program() {
    let place = Place::new();
    let show = ["run", "--attach", "connect", "--log", "info=x.log", "sh", "-c", "env"];
    let mut command = place.tandem(&show);
    command.env("LD_PRELOAD", "libm.so.6").current_dir(place.folder.path());
    let environment = text(&output(command).stdout);
    let has = |line: String| assert!(environment.lines().any(|l| l == line), "{line} is not in\n{environment}");
    has(format!("LD_PRELOAD={}:libm.so.6", library().display()));
    has("TANDEM_ATTACH=connect".to_owned());
    has(format!("TANDEM_POLICYD={}", place.socket().display()));
    has(format!("TANDEM_LOG=info={}/x.log", place.folder.path().display()));
}

#[test]
fn many_at_once_start_one_policyd() {
    let place = Place::new();
    let running: Vec<_> = (0..12)
        .map(|_| place.tandem(&["run", "--", TANDEM, "status", "--json"]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    let instances: std::collections::BTreeSet<String> = running
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            status["instance"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(instances.len(), 1);
}

#[test]
fn without_any_policyd_the_program_runs_and_only_the_log_tells() {
    let place = Place::new();
    let log = place.folder.path().join("log");
    let option = format!("warn={}", log.display());
    let quiet = output(place.tandem(&["run", "--policyd", "/nonexistent/p.sock", "--", "echo", "hello"]));
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), ("hello\n".to_owned(), String::new()));
    let told = output(place.tandem(&["run", "--policyd", "/nonexistent/p.sock", "--log", &option, "echo", "hello"]));
    assert_eq!((text(&told.stdout), text(&told.stderr)), ("hello\n".to_owned(), String::new()));
    assert!(std::fs::read_to_string(log).unwrap().contains("no policyd"));
}

#[test]
fn where_others_may_write_no_policyd_is_started_nor_named() {
    let place = Place::new();
    let folder = place.folder.path().join("tandem");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let log = place.folder.path().join("log");
    let option = format!("warn={}", log.display());
    let started = std::time::Instant::now();
    let output = output(place.tandem(&["run", "--log", &option, "sh", "-c", "echo ${TANDEM_POLICYD-none}"]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("none\n".to_owned(), String::new()));
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
    assert!(std::fs::read_to_string(log).unwrap().contains("not this user's alone"));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_run_is_refused_with_a_clear_word() {
    let place = Place::new();
    let refused = |arguments: &[&str], status: i32, word: &str| {
        let output = output(place.tandem(arguments));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(word) && said.lines().count() == 1, "{said}");
    };
    let setuid = place.folder.path().join("setuid");
    std::fs::copy("/bin/true", &setuid).unwrap();
    std::fs::set_permissions(&setuid, std::fs::Permissions::from_mode(0o4755)).unwrap();
    refused(&["run", "nosuchcommand"], 127, "not found");
    refused(&["run", "/nonexistent/x"], 127, "no such file");
    refused(&["run", "/etc/passwd"], 126, "denied");
    refused(&["run", setuid.to_str().unwrap()], 126, "setuid");
    refused(&["run", "--library", "/nonexistent.so", "true"], 125, "no such library");
    assert_eq!(output(place.tandem(&["run", "--attach", "never", "true"])).status.code(), Some(2));
    if let Some(program) = statically_linked(place.folder.path()) {
        refused(&["run", program.to_str().unwrap()], 126, "statically linked");
    }
}

/// If there is a compiler.
fn statically_linked(folder: &Path) -> Option<PathBuf> {
    let (source, program) = (folder.join("s.c"), folder.join("s"));
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    let built = Command::new("cc").arg("-static").arg(&source).arg("-o").arg(&program).output().ok()?;
    built.status.success().then_some(program)
}

#[test]
fn scripts_run() {
    let place = Place::new();
    let script = |name: &str, text: &str| {
        let path = place.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let with = script("with", "#!/bin/sh\necho \"$0\" \"$@\"\n");
    assert_eq!(text(&output(place.tandem(&["run", &with, "a b"])).stdout), format!("{with} a b\n"));
    let without = script("without", "echo \"$0\" \"$@\"\n");
    assert_eq!(text(&output(place.tandem(&["run", &without, "a b"])).stdout), format!("{without} a b\n"));
}

#[test]
fn nobody_answers() {
    let place = Place::new();
    for command in ["ss", "status"] {
        let output = output(place.tandem(&[command, "--policyd", "/nonexistent/p.sock"]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("no policyd answers at /nonexistent/p.sock") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn what_it_holds_it_keeps() {
    let place = Place::new();
    let policyd = Policyd::start(&["--linger", "1"]);
    let socket = policyd.socket.to_str().unwrap();
    let mut child = place.tandem(&["run", "--policyd", socket, "sleep", "60"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    assert!(policyd.socket.exists(), "a program that has not met anybody yet still needs it");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it leaves", || !policyd.socket.exists());
}
