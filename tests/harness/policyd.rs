//! A policyd of the test's own, with its own socket; and what its registry says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::artifacts::{artifacts, native_only};
use crate::namespace::Namespace;
use crate::patience::within;
use crate::process::{Launch, Running, Scratch};

pub struct Policyd {
    socket: PathBuf,
    folder: Scratch,
    /// Options besides.
    words: Vec<String>,
    process: Option<Running>,
    starts: u32,
}

/// One row of `tandem ss`: the end of a connection.
#[derive(Clone, Debug)]
pub struct Row {
    pub pid: u32,
    pub local: String,
    pub remote: String,
    pub provider: String,
    pub reason: Option<String>,
    pub tx_tcp: u64,
    pub rx_tcp: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
}

/// `tandem status`: totals that outlive connections and processes.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub connections: u64,
    pub carried: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
    pub fail_backs: u64,
    pub whole: Value,
}

impl Policyd {
    /// Starts one and waits until it answers; `None` in native mode.
    pub fn start() -> Option<Self> {
        Self::start_in(None)
    }

    pub fn start_in(namespace: Option<&Namespace>) -> Option<Self> {
        Self::start_with(namespace, "")
    }

    /// With this configuration.
    pub fn start_with(namespace: Option<&Namespace>, config: &str) -> Option<Self> {
        Self::start_by(namespace, config, &[])
    }

    /// With these options besides.
    pub fn start_by(namespace: Option<&Namespace>, config: &str, words: &[String]) -> Option<Self> {
        if native_only() {
            return None;
        }
        let folder = Scratch::new();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("chmod of the scratch directory");
        folder.write("policyd.toml", config);
        let socket = folder.file("policyd.sock");
        let mut policyd = Self { socket, folder, words: words.to_vec(), process: None, starts: 0 };
        policyd.launch(namespace);
        Some(policyd)
    }

    /// A new daemon on the same socket, after `kill`.
    pub fn start_again(&mut self) {
        self.start_again_in(None);
    }

    pub fn start_again_in(&mut self, namespace: Option<&Namespace>) {
        self.launch(namespace);
    }

    fn launch(&mut self, namespace: Option<&Namespace>) {
        self.process = None;
        self.starts += 1;
        let launch = Launch::new(&format!("policyd{}", self.starts), &artifacts().daemon).in_namespace(namespace);
        self.process = Some(
            launch
                .arg("--socket")
                .arg(&self.socket)
                .arg("--config")
                .arg(self.folder.file("policyd.toml"))
                .args(&self.words)
                .spawn(&self.folder),
        );
        let control = self.control_socket();
        let running = self.process.as_mut().expect("just started");
        let answers = within(Duration::from_secs(10), Duration::from_millis(2), || {
            let answers = UnixStream::connect(&control).is_ok();
            assert!(answers || !running.ended(), "policyd ended at once:\n{}", running.wait(Duration::ZERO));
            answers
        });
        assert!(answers, "policyd does not answer on {control:?}");
    }

    pub fn process(&self) -> &Running {
        self.process.as_ref().expect("policyd runs")
    }

    /// kill -9; the socket files stay, as after a crash.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn stop(&self) {
        self.process().signal(libc::SIGSTOP);
        self.process().wait_state('T');
    }

    pub fn resume(&self) {
        self.process().signal(libc::SIGCONT);
    }

    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process().pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
    }

    /// Other users' programs may use it, if it is root's.
    pub fn open_to_users(&self) {
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711))
            .expect("chmod of the scratch directory");
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn control_socket(&self) -> PathBuf {
        let mut name = self.socket.clone().into_os_string();
        name.push(".control");
        name.into()
    }

    pub fn preload_environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut environment =
            vec![("LD_PRELOAD", artifacts().library.clone()), ("TANDEM_POLICYD", self.socket.clone())];
        // For finding faults: every preloaded process logs, by number, into this folder.
        if let Some(folder) = std::env::var_os("TANDEM_TESTS_LOG") {
            environment.push(("TANDEM_LOG", PathBuf::from(format!("trace={}/%p.log", Path::new(&folder).display()))));
        }
        environment
    }

    /// The command's answer in JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&artifacts().command);
        command.args(arguments).env("TANDEM_POLICYD", &self.socket).env_remove("LD_PRELOAD").stdin(Stdio::null());
        let output = command.output().map_err(|e| format!("tandem {arguments:?}: {e}"))?;
        if !output.status.success() {
            return Err(format!("tandem {arguments:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("tandem {arguments:?}: {e}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    #[track_caller]
    pub fn rows(&self) -> Vec<Row> {
        self.look().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same, of a policyd that may be stopped, or be slow.
    pub fn look(&self) -> Result<Vec<Row>, String> {
        let answer = self.ask(&["ss", "--json"])?;
        let rows = answer.as_array().ok_or_else(|| format!("tandem ss --json is no array: {answer}"))?;
        Ok(rows.iter().map(Row::from_json).collect())
    }

    /// Every listed host has a link, and addresses that a device serves there.
    #[track_caller]
    pub fn is_linked(&self) -> bool {
        let answer = self.ask(&["peer", "list", "--json"]).unwrap_or_else(|e| panic!("{e}"));
        let linked = |peer: &Value| peer["up"] == true && peer["served"].as_array().is_some_and(|all| !all.is_empty());
        answer["peers"].as_array().is_some_and(|peers| peers.iter().all(linked))
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        let whole = self.ask(&["status", "--json"]).unwrap_or_else(|e| panic!("{e}"));
        let number = |name: &str| {
            let value = whole.get(name).or_else(|| whole.get("totals").and_then(|totals| totals.get(name)));
            value.and_then(Value::as_u64).unwrap_or_else(|| panic!("no {name} in tandem status --json: {whole}"))
        };
        Status {
            connections: number("connections"),
            carried: number("carried"),
            tx_companion: number("tx_companion"),
            rx_companion: number("rx_companion"),
            fail_backs: number("fail_backs"),
            whole: whole.clone(),
        }
    }

    /// Rows of ends that have sent and received by a companion.
    pub fn carried_ends(&self) -> usize {
        self.rows().iter().filter(|row| row.carried()).count()
    }

    /// Waits until at least `ends` ends have carried both ways; whether they did.
    pub fn wait_carried(&self, ends: usize, limit: Duration) -> bool {
        within(limit, Duration::from_millis(10), || self.carried_ends() >= ends)
    }
}

impl Status {
    pub fn nothing_carried(&self) -> bool {
        self.carried == 0 && self.tx_companion == 0
    }

    pub fn witness(&self) -> String {
        let Self { carried, connections, tx_companion, .. } = self;
        format!("{carried} of {connections} ends carried, {tx_companion} bytes sent by companion")
    }
}

impl Row {
    /// Both ways.
    pub fn carried(&self) -> bool {
        self.tx_companion > 0 && self.rx_companion > 0
    }

    fn from_json(value: &Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_u64)
                .unwrap_or_else(|| panic!("no number {name} in a row of tandem ss --json: {value}"))
        };
        let required =
            |name: &str| text(name).unwrap_or_else(|| panic!("no {name} in a row of tandem ss --json: {value}"));
        Self {
            pid: number("pid") as u32,
            local: required("local"),
            remote: required("remote"),
            provider: required("provider"),
            reason: text("reason"),
            tx_tcp: number("tx_tcp"),
            rx_tcp: number("rx_tcp"),
            tx_companion: number("tx_companion"),
            rx_companion: number("rx_companion"),
        }
    }
}
