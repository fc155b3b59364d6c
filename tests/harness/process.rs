//! One running program: started in a process group of its own, with a time limit, its output and end captured, and
//! killed by its number when the test lets go of it.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::patience::{stretched, within};
use crate::policyd::Policyd;

/// A directory that lives as long as one test run: captures, sockets, pages, data.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("tandem-test-").tempdir().expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, content).expect("writing into the scratch directory");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Exit(i32),
    Signal(i32),
    TimedOut,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Where `other` departs from this (native) one: line by line, at most a few.
    pub fn differences(&self, name: &str, other: &Self) -> String {
        let mut text = String::new();
        if self.end != other.end {
            let _ = writeln!(text, "    {name}: natively {:?}, here {:?}", self.end, other.end);
        }
        for (what, native, here) in [("stdout", &self.stdout, &other.stdout), ("stderr", &self.stderr, &other.stderr)] {
            let (native, here) = (String::from_utf8_lossy(native), String::from_utf8_lossy(here));
            let (mut native, mut here) = (native.lines(), here.lines());
            let mut shown = 0;
            loop {
                let (left, right) = (native.next(), here.next());
                if left.is_none() && right.is_none() || shown == 8 {
                    break;
                }
                if left != right {
                    let _ = writeln!(text, "    {name}, {what}: natively {left:?}, here {right:?}");
                    shown += 1;
                }
            }
        }
        text
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.end, End::Exit(0), "{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "    end: {:?}", self.end)?;
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<_> = text.lines().collect();
            for line in lines.iter().take(60) {
                writeln!(f, "    {name}: {line}")?;
            }
            if lines.len() > 60 {
                writeln!(f, "    {name}: ... {} lines more", lines.len() - 60)?;
            }
        }
        Ok(())
    }
}

/// A program about to be started.
pub struct Launch {
    name: String,
    command: Command,
}

impl Launch {
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        for variable in ["LD_PRELOAD", "TANDEM_POLICYD", "TANDEM_ATTACH", "TANDEM_DEBUG", "TANDEM_LOG"] {
            command.env_remove(variable);
        }
        Self { name: name.into(), command }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Preloads the library, with this policyd; `None` leaves the program alone.
    pub fn preload(mut self, policyd: Option<&Policyd>) -> Self {
        for (name, value) in policyd.into_iter().flat_map(Policyd::preload_environment) {
            self.command.env(name, value);
        }
        self
    }

    pub fn debug(self, switches: Option<&str>) -> Self {
        match switches {
            Some(switches) => self.env("TANDEM_DEBUG", switches),
            None => self,
        }
    }

    /// Starts it inside a network namespace.
    pub fn in_namespace(mut self, namespace: Option<&Namespace>) -> Self {
        let Some(namespace) = namespace else { return self };
        let file = File::open(Path::new("/run/netns").join(namespace.name())).expect("the namespace's file");
        // SAFETY: setns is a plain system call, safe between fork and exec; the file outlives it inside the closure.
        unsafe {
            self.command.pre_exec(move || match libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self
    }

    /// Starts it. Output goes to files: no pipe that could fill or that the program could notice.
    #[track_caller]
    pub fn spawn(mut self, scratch: &Scratch) -> Running {
        let out = scratch.file(&format!("{}.stdout", self.name));
        let err = scratch.file(&format!("{}.stderr", self.name));
        self.command
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("capture file"))
            .stderr(File::create(&err).expect("capture file"))
            .process_group(0);
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            self.command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child =
            self.command.spawn().unwrap_or_else(|e| panic!("cannot start {} ({:?}): {e}", self.name, self.command));
        Running { name: self.name, child, out, err, status: None }
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self, scratch: &Scratch, limit: Duration) -> Outcome {
        self.spawn(scratch).wait(limit)
    }
}

pub struct Running {
    pub name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    status: Option<ExitStatus>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waiting for a child");
        }
        self.status.is_some()
    }

    /// Waits for its end; past the limit it is killed and `TimedOut` is its end.
    pub fn wait(&mut self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + stretched(limit);
        let mut pause = Duration::from_micros(500);
        while !self.ended() && Instant::now() < deadline {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        let end = match self.status {
            Some(status) => status.code().map_or_else(|| End::Signal(status.signal().unwrap_or(0)), End::Exit),
            None => {
                self.show_where_it_hangs();
                self.kill_group();
                End::TimedOut
            }
        };
        self.outcome(end)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the child is not reaped yet, so the number is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// User and system time of the process so far, in milliseconds (10 ms steps).
    pub fn cpu_ms(&self) -> u64 {
        cpu_ms(self.pid())
    }

    /// The process has reached `state` (as in /proc/PID/stat).
    pub fn wait_state(&self, state: char) {
        let reached = within(Duration::from_secs(10), Duration::from_millis(2), || {
            stat_fields(self.pid()).first().and_then(|field| field.chars().next()) == Some(state)
        });
        assert!(reached, "{} never in state {state}", self.name);
    }

    fn outcome(&self, end: End) -> Outcome {
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        Outcome { end, stdout: read(&self.out), stderr: read(&self.err) }
    }

    fn show_where_it_hangs(&self) {
        let folder = format!("/proc/{}/task", self.pid());
        for task in fs::read_dir(folder).into_iter().flatten().flatten().take(12) {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            println!(
                "    {} hangs, thread {:?}: syscall {}, in {}",
                self.name,
                task.file_name(),
                read("syscall").trim(),
                read("wchan")
            );
        }
        if std::env::var_os("TANDEM_TESTS_GDB").is_some() {
            let pid = self.pid().to_string();
            let stacks = Command::new("gdb").args(["-p", &pid, "-batch", "-ex", "thread apply all bt 14"]).output();
            println!("{}", stacks.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default());
        }
    }

    fn kill_group(&mut self) {
        // SAFETY: kill has no memory effects; the group was made by `spawn` and its leader is not reaped before this.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn stat_fields(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split(' ').map(str::to_owned).collect()
}

pub fn cpu_ms(pid: u32) -> u64 {
    let fields = stat_fields(pid);
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10
}

/// Nanoseconds on a CPU by the process's own clock, threads that are no more included: exact where the ticks of `cpu_ms` are
/// coarse.
pub fn cpu_ns(pid: u32) -> u64 {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write into locals of the right type.
    let failed =
        unsafe { libc::clock_getcpuclockid(pid as i32, &mut clock) != 0 || libc::clock_gettime(clock, &mut time) != 0 };
    assert!(!failed, "the CPU clock of process {pid}");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A program by name, as an absolute path, or `None`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The real binary of a Debian package's program; a version manager's wrapper script does not count.
#[track_caller]
pub fn system_program(program: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .map(|folder| Path::new(folder).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed: scripts/setup installs it"))
}
