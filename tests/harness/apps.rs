//! A real server and its real clients, all four ways: what the body observes must be the same each way.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::artifacts::native_only;
use crate::patience::within;
use crate::policyd::Policyd;
use crate::process::{Launch, Outcome, Running, Scratch};
use crate::proof::Proof;
use crate::ways::Way;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Whether somebody listens at this port, without a connection that the listener would notice.
pub fn listens(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let end = format!(":{port:04X}");
        text.lines().any(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&end)) && words.nth(1) == Some("0A")
        })
    })
}

/// One way's surroundings.
pub struct Field {
    pub way: Way,
    pub port: u16,
    pub scratch: Scratch,
    pub policyd: Option<Policyd>,
}

impl Field {
    /// Starts the server, preloaded if this way says so, and waits until it accepts.
    #[track_caller]
    pub fn serve(&self, launch: Launch) -> Running {
        let mut server = self.server(launch).spawn(&self.scratch);
        let mut accepts = false;
        within(Duration::from_secs(20), Duration::from_millis(5), || {
            accepts = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            accepts || server.ended()
        });
        let fine = accepts || !server.ended();
        assert!(fine, "{:?}: the server ended at once:\n{}", self.way, server.wait(Duration::ZERO));
        assert!(accepts, "{:?}: the server does not accept", self.way);
        server
    }

    /// A server, preloaded if this way says so, ready to start.
    pub fn server(&self, launch: Launch) -> Launch {
        let debug = self.way.debug();
        launch.preload(self.way.for_server(&self.policyd)).debug(debug.as_deref().filter(|_| self.way.server()))
    }

    /// A client, preloaded if this way says so, ready to start.
    pub fn client(&self, launch: Launch) -> Launch {
        let debug = self.way.debug();
        launch.preload(self.way.for_client(&self.policyd)).debug(debug.as_deref().filter(|_| self.way.client()))
    }

    /// Runs a client to its end.
    #[track_caller]
    pub fn ask(&self, launch: Launch, seconds: u64) -> Outcome {
        self.client(launch).run(&self.scratch, Duration::from_secs(seconds))
    }

    /// Asks the server to end, as an administrator does; how it did.
    pub fn stop(&self, mut server: Running, signal: i32) -> String {
        server.signal(signal);
        let outcome = server.wait(Duration::from_secs(10));
        format!("server ended {:?}", outcome.end)
    }

    #[track_caller]
    pub fn wait_for(&self, what: &str, seconds: u64, done: impl FnMut() -> bool) {
        let came = within(Duration::from_secs(seconds), Duration::from_millis(10), done);
        assert!(came, "{:?}: {what} did not come within {seconds} s", self.way);
    }
}

/// Runs `body` each way; each way's observations must be those of the native one, and the registry must bear witness.
#[track_caller]
pub fn each_way(test: &str, ways: &[Way], body: impl Fn(&Field) -> Vec<String>) {
    let mut native = Vec::new();
    let mut proof = Proof::new(test);
    for &way in ways {
        let policyd = if way == Way::Neither { None } else { Policyd::start() };
        let field = Field { way, port: free_port(), scratch: Scratch::new(), policyd };
        let started = Instant::now();
        let seen = body(&field);
        let took = started.elapsed().as_secs_f32();
        if way == Way::Neither {
            native = seen;
            continue;
        }
        assert_eq!(native, seen, "{test}, {way:?}: not as natively (left)");
        let Some(policyd) = field.policyd.as_ref().filter(|_| !native_only()) else {
            proof.fact(format!("{way:?}: {} observations as natively", seen.len()));
            continue;
        };
        let status = policyd.status();
        if way.both() {
            assert!(
                status.carried > 0 && status.tx_companion > 0,
                "{test}, {way:?}: nothing was carried: {}",
                status.whole
            );
        } else {
            assert!(status.nothing_carried(), "{test}, {way:?}: carried? {}", status.whole);
        }
        proof.fact(format!("{way:?}: {} observations as natively in {took:.1} s; {}", seen.len(), status.witness()));
    }
    proof.print();
}
