//! As a system service: units, socket activation, what the service manager is told, reload, `--check`.

mod network;
mod switch;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use network::*;
use nix::sys::signal::Signal;
use switch::*;
use tandem_policyd::connection::request::State;
use tandem_policyd::control::Ask;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn systemd_analyze(arguments: &[&str], units: &[PathBuf]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(arguments).args(units).output();
    let Ok(output) = output else {
        println!("NOT RUN: no systemd-analyze here");
        return None;
    };
    Some((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

#[test]
fn the_units_are_sound_and_hardened() {
    // A copy whose program is there: that it isn't installed here is no fault of the unit.
    let folder = tempfile::tempdir().unwrap();
    let units: Vec<PathBuf> = ["tandem-policyd.service", "tandem-policyd.socket"]
        .iter()
        .map(|name| {
            let text = std::fs::read_to_string(unit(name)).unwrap().replace("/usr/sbin/tandem-policyd", DAEMON);
            let text = text.replace("file:///usr/share/doc/tandem/README.md", "https://example.org/");
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let Some((sound, text)) = systemd_analyze(&["verify", "--man=no"], &units) else { return };
    assert!(sound && text.is_empty(), "{text}");
    let options = ["security", "--offline=true", "--threshold=30", "--no-pager"];
    let Some((hardened, text)) = systemd_analyze(&options, &units[..1]) else { return };
    let level = text.lines().last().unwrap_or_default().to_owned();
    assert!(hardened, "{text}");
    println!("{level}");
}

#[test]
fn check_says_what_is_wrong_with_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policyd.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(DAEMON).arg("--check").arg("--config").arg(&file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (sound, text) = check(BACKUP);
    assert!(sound && text.contains("sound; 1 networks, 0 rules"), "{text}");
    let (sound, text) = check("park_seconds = 5\n\n[[network]]\nname = 'x'\ninterfaces = 'eth0'\n");
    assert!(!sound && text.contains(file.to_str().unwrap()) && text.contains("line 5, column 14"), "{text}");
    let (sound, text) = check("park_seconds = 0\n");
    assert!(!sound && text.contains("park_seconds = 0: give 1 to 3600"), "{text}");
}

#[test]
fn a_reload_keeps_requests_and_refuses_a_bad_file() {
    let Some(net) = Net::new("a reload") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::new(&manager.socket);
    let kept = manager.open(backup()).unwrap();
    process.until_by(Some("eth1"));

    manager.configure(&BACKUP.replace("eth1", "eth0"));
    manager.signal(Signal::SIGHUP);
    process.until_by(Some("eth0"));
    assert_eq!(manager.request(kept.id).unwrap().state, State::Connected);

    manager.configure(&format!("{BACKUP}colour = 'blue'\n"));
    manager.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(process.way("192.0.2.1").map(|(name, _)| name).as_deref(), Some("eth0"), "the old one is in force");

    manager.configure("");
    manager.signal(Signal::SIGHUP);
    process.until_by(None);
    assert!(manager.request(kept.id).is_none());
    eventually("our rules are gone", || net.ours().is_empty());
}

#[test]
fn rules_by_program_user_group_and_cgroup() {
    let Some(net) = Net::new("static rules") else { return };
    let own = std::env::current_exe().unwrap();
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let rules = [
        (format!("program = '{}'", own.display()), true),
        ("program = '/usr/bin/other'".to_owned(), false),
        (format!("user = {}", nix::unistd::getuid()), true),
        ("user = 4711".to_owned(), false),
        (format!("group = {}", nix::unistd::getgid()), true),
        ("group = 4711".to_owned(), false),
        (format!("cgroup = '{cgroup}'"), true),
        ("cgroup = '/other.slice'".to_owned(), false),
        (format!("program = '{}'\nuser = 4711", own.display()), false),
    ];
    let manager = Manager::start(&net, "");
    for (rule, holds) in rules {
        manager.configure(&format!("{BACKUP}[[rule]]\n{rule}\nnetwork = 'backup'\n"));
        manager.signal(Signal::SIGHUP);
        let process = Assigned::new(&manager.socket);
        let wanted = if holds { Some("eth1") } else { None };
        process.until_by(wanted);
        let why = manager.explain(std::process::id()).why;
        assert_eq!(why.contains("rule 1 of the configuration gives it network backup"), holds, "{rule}: {why}");
    }
}

#[test]
fn the_service_manager_opens_the_sockets_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let socket = at("policyd.sock");
    std::fs::write(at("policyd.toml"), "").unwrap();
    let switches = listening(nix::sys::socket::SockType::SeqPacket, &socket);
    let control = listening(nix::sys::socket::SockType::Stream, &tandem_policyd::control::path(&socket));
    let notices = UnixDatagram::bind(at("notify")).unwrap();
    notices.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let heard = |wanted: &str| {
        let mut all = String::new();
        let mut bytes = [0; 512];
        while !all.contains(wanted) {
            let length = notices.recv(&mut bytes).unwrap_or_else(|error| panic!("no {wanted} in {all:?}: {error}"));
            all += &String::from_utf8_lossy(&bytes[..length]);
            all.push('\n');
        }
        all
    };

    // LISTEN_PID is the daemon's own number: the shell becomes the daemon.
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", DAEMON, "--socket"]).arg(&socket);
    command.arg("--config").arg(at("policyd.toml")).env("NOTIFY_SOCKET", at("notify")).env("LISTEN_FDS", "2");
    command.env("WATCHDOG_USEC", "200000").stdin(Stdio::null());
    let (first, second) = (control.as_raw_fd(), switches.as_raw_fd());
    // SAFETY: only calls that are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in [(first, 100), (second, 101), (100, 3), (101, 4)] {
                if nix::libc::dup2(from, to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let mut child = Sleeper(command.spawn().unwrap());
    heard("READY=1");
    ask(&socket, Ask::Status);
    heard("WATCHDOG=1");
    let switch = Switch::connect(&socket);
    heard("STATUS=1 processes, 0 requests");
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.pid() as i32), signal).unwrap();
    signal(Signal::SIGHUP);
    let reload = heard("READY=1");
    assert!(reload.contains("RELOADING=1") && reload.contains("MONOTONIC_USEC="), "{reload}");
    signal(Signal::SIGTERM);
    heard("STOPPING=1");
    assert!(child.0.wait().unwrap().success());
    assert!(socket.exists(), "the sockets are the service manager's");
    drop(switch);
}

fn listening(kind: nix::sys::socket::SockType, path: &Path) -> OwnedFd {
    use nix::sys::socket::*;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&socket, Backlog::new(16).unwrap()).unwrap();
    socket
}

/// The units as they are, but for a shorter watchdog.
#[test]
fn under_a_real_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let units = folder.path().join("units");
    std::fs::create_dir(&units).unwrap();
    for name in ["tandem-policyd.service", "tandem-policyd.socket"] {
        let text = std::fs::read_to_string(unit(name)).unwrap().replace("WatchdogSec=30s", "WatchdogSec=2s");
        std::fs::write(units.join(name), text).unwrap();
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd");
    let mut machine = Command::new("timeout");
    machine.args(["--kill-after=5", "120"]).arg(tests.join("machine")).arg(folder.path()).arg(&units);
    machine.arg(Path::new(DAEMON).parent().unwrap()).arg(tests.join("script"));
    let status = machine.status().unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap_or_default();
    if status.code() == Some(77) {
        return println!("NOT RUN: no machine with systemd can be made here: {}", read("console"));
    }
    print!("{}", read("log"));
    assert!(status.success(), "{status}: {}{}", read("console"), read("log"));
}

/// The system's configuration need not be there when policyd starts.
#[test]
fn a_configuration_that_comes_later_is_found_by_a_reload() {
    if !is_root() {
        return println!("NOT RUN: needs root, for an /etc of its own");
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("policyd.sock");
    let setup = "mount -t tmpfs tmpfs /etc && mkdir /etc/tandem && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "sh", "-c", setup, "sh", DAEMON, "--socket"]).arg(&socket);
    let child = Sleeper(command.stdin(Stdio::null()).spawn().unwrap());
    eventually("policyd serves", || {
        std::os::unix::net::UnixStream::connect(tandem_policyd::control::path(&socket)).is_ok()
    });
    let networks = || match ask(&socket, Ask::Networks) {
        tandem_policyd::control::Answer::Networks(all) => all.len(),
        other => panic!("no networks: {other:?}"),
    };
    let reload = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.pid() as i32), Signal::SIGHUP).unwrap();
    assert_eq!(networks(), 0);
    let file = format!("/proc/{}/root/etc/tandem/policyd.toml", child.pid());
    std::fs::write(&file, BACKUP).unwrap();
    reload();
    eventually("the network is known", || networks() == 1);
    std::fs::remove_file(&file).unwrap();
    reload();
    eventually("and gone with its file", || networks() == 0);
}
