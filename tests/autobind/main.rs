//! AutoBind: unbound sockets leave by the interface that policyd assigned, everything else as natively. Each test runs the same
//! program natively and under Tandem on a host with two uplinks, and asks the peers which address they saw.

mod apps;
mod changes;
mod cost;
mod network;
mod peers;
mod sockets;
mod stand_in;
mod whole;

use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::programs::program;
use tandem_tests::{Launch, Outcome, Proof, Running, Scratch};

use network::{Network, inside};
use stand_in::{Assigned, StandIn};

/// Waits for the first answer as long as it may take a busy machine.
pub const PATIENT: &str = "patience=3000";

/// A network, its peers, and a policyd that answers as a test tells it to.
pub struct Field {
    pub network: Network,
    pub stand_in: StandIn,
    pub scratch: Scratch,
    pub proof: Proof,
    runs: std::cell::Cell<u32>,
}

impl Field {
    /// `None`, and said so, where it can't be had.
    pub fn new(test: &str) -> Option<Self> {
        if native_only() {
            println!("{test}: NOTHING PROVED (native mode)");
            return None;
        }
        let network = Network::new(test)?;
        for namespace in [&network.one, &network.two, &network.host, &network.router] {
            peers::serve(namespace);
        }
        let runs = std::cell::Cell::new(0);
        Some(Self { network, stand_in: StandIn::start(), scratch: Scratch::new(), proof: Proof::new(test), runs })
    }

    pub fn uplink(&self, interface: &'static str) -> Assigned {
        let index = inside(&self.network.host, || {
            let name = std::ffi::CString::new(interface).expect("a name");
            // SAFETY: a name that ends in NUL.
            unsafe { libc::if_nametoindex(name.as_ptr()) }
        });
        assert_ne!(index, 0, "{interface}");
        Assigned::uplink(interface, index)
    }

    pub fn assign(&self, interface: &'static str) {
        self.stand_in.assign(Some(&self.uplink(interface)));
    }

    /// A program on the host, natively.
    pub fn native(&self, program: impl AsRef<std::ffi::OsStr>) -> Launch {
        self.runs.set(self.runs.get() + 1);
        Launch::new(&format!("run{}", self.runs.get()), program).in_namespace(Some(&self.network.host))
    }

    /// The same under Tandem with the stand-in.
    pub fn tandem(&self, program: impl AsRef<std::ffi::OsStr>) -> Launch {
        let mut launch = self.native(program);
        for (name, value) in self.stand_in.environment() {
            launch = launch.env(name, value);
        }
        // On a busy machine the answer may take longer than a program's first socket would wait.
        launch.debug(Some(PATIENT))
    }

    pub fn finish(&self, launch: Launch) -> Outcome {
        launch.run(&self.scratch, Duration::from_secs(20))
    }

    /// What `programs/autobind.c` says natively and under Tandem.
    pub fn both(&self, actions: &str) -> (Outcome, Outcome) {
        let actions = || actions.split_whitespace();
        let path = program("autobind");
        (self.finish(self.native(&path).args(actions())), self.finish(self.tandem(&path).args(actions())))
    }

    /// Both say this.
    #[track_caller]
    pub fn same(&self, actions: &str) {
        let (native, tandem) = self.both(actions);
        assert!(native == tandem, "{actions}: not as natively (first)\n{native}{tandem}");
    }

    /// Natively the one, under Tandem the other: lines, joined by "; ".
    #[track_caller]
    pub fn differ(&self, actions: &str, natively: &str, here: &str) {
        let (native, tandem) = self.both(actions);
        assert_eq!(lines(&native), natively, "{actions}: natively\n{native}");
        assert_eq!(lines(&tandem), here, "{actions}: under Tandem\n{tandem}");
    }

    /// Starts it under Tandem; it says `ready` and waits for the file "go".
    #[track_caller]
    pub fn start(&self, before: &str, after: &str) -> Running {
        let gate = format!("say:ready gate:{}", self.gate().display());
        let actions = format!("{before} {gate} {after}");
        let running = self.tandem(program("autobind")).args(actions.split_whitespace()).spawn(&self.scratch);
        self.wait_for(&running, "ready");
        running
    }

    pub fn gate(&self) -> std::path::PathBuf {
        self.scratch.file("go")
    }

    pub fn go(&self) {
        self.scratch.write("go", "");
    }

    #[track_caller]
    pub fn wait_for(&self, running: &Running, line: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !running.stdout().lines().any(|known| known == line) {
            assert!(std::time::Instant::now() < deadline, "no '{line}' in {}", running.stdout());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The lines, joined. Ends that are no success are lines, too.
pub fn lines(outcome: &Outcome) -> String {
    let mut lines: Vec<_> = outcome.text().lines().map(str::to_owned).collect();
    if outcome.end != tandem_tests::End::Exit(0) || !outcome.stderr.is_empty() {
        lines.push(format!("{:?} {}", outcome.end, String::from_utf8_lossy(&outcome.stderr)));
    }
    lines.join("; ")
}

macro_rules! field {
    ($test:ident) => {
        match crate::Field::new(stringify!($test)) {
            Some(field) => field,
            None => return,
        }
    };
}
pub(crate) use field;
