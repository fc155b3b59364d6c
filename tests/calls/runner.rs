//! Runs cases in one of the ways and gives their transcripts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::between::Between;
use tandem_tests::{End, Outcome, Page, Policyd, Running, Scratch, Way, programs};

use crate::schedule::{Case, text_of};

/// The processes that hold the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    Together,
    Apart,
}

/// One way of running cases, and how many ping-pongs a connection makes before them.
#[derive(Clone)]
pub struct Manner {
    pub way: Way,
    pub held: Held,
    /// A number, or `w`: until the companion carries both directions.
    pub warm: &'static str,
    pub debug: Option<String>,
    /// The server on the second host, the client on the first.
    pub hosts: Option<Arc<Between>>,
    /// Before each call, for what is on a wire.
    pub pause: Option<Duration>,
}

/// Cases mostly wait: so many are under way at one time. The same on every machine, so that a failure can be repeated.
const LANES: usize = 8;

/// What a case said, a line a call; a crash or a hang is its last line.
pub type Transcript = Vec<String>;

pub struct Ran {
    pub transcripts: Vec<Transcript>,
    /// Connections that were seen to be carried both ways before their case began, and those that should have been and were not.
    pub carried: u32,
    pub uncarried: u32,
    pub calls: usize,
    pub status: Option<Totals>,
}

impl Manner {
    pub const fn natively(held: Held) -> Self {
        Self { way: Way::Neither, held, warm: "3", debug: None, hosts: None, pause: None }
    }

    pub const fn of(way: Way, held: Held, warm: &'static str) -> Self {
        Self { way, held, warm, debug: None, hosts: None, pause: None }
    }

    /// The same without Tandem.
    pub fn native(&self) -> Self {
        Self { hosts: self.hosts.clone(), ..Self::natively(self.held) }
    }

    pub fn name(&self) -> String {
        let between = if self.hosts.is_some() { "between hosts, " } else { "" };
        format!("{between}{:?}, ends {:?}, after {} ping-pongs", self.way, self.held, self.warm)
    }

    pub fn run(&self, cases: &[Case]) -> Ran {
        let policyds = self.policyds();
        let before = policyds.total();
        let lanes: Vec<Vec<Case>> =
            (0..LANES).map(|lane| cases.iter().skip(lane).step_by(LANES).cloned().collect()).collect();
        let mut ran = Ran { transcripts: Vec::new(), carried: 0, uncarried: 0, calls: 0, status: None };
        let mut transcripts = Vec::new();
        thread::scope(|scope| {
            let running: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| self.run_lane(lane, &policyds))).collect();
            for lane in running {
                let lane = lane.join().expect("a lane");
                (ran.carried, ran.uncarried) = (ran.carried + lane.carried, ran.uncarried + lane.uncarried);
                transcripts.push(lane.transcripts.into_iter());
            }
        });
        ran.transcripts = (0..cases.len()).filter_map(|at| transcripts[at % LANES].next()).collect();
        ran.calls = ran.transcripts.iter().map(Vec::len).sum();
        ran.status = policyds.total().map(|now| now.since(before));
        ran
    }

    fn policyds(&self) -> Policyds {
        match &self.hosts {
            _ if self.way == Way::Neither => Policyds::None,
            Some(between) => Policyds::Between(between.clone()),
            None => Policyd::start().map_or(Policyds::None, |policyd| Policyds::Own(Box::new(policyd))),
        }
    }

    fn run_lane(&self, cases: &[Case], policyds: &Policyds) -> Ran {
        let mut ran = Ran { transcripts: Vec::new(), carried: 0, uncarried: 0, calls: 0, status: None };
        while ran.transcripts.len() < cases.len() {
            self.run_from(cases, policyds, &mut ran);
        }
        ran
    }

    /// Until the end, or to the first case that the program does not survive.
    fn run_from(&self, cases: &[Case], policyds: &Policyds, ran: &mut Ran) {
        let first = ran.transcripts.len();
        let scratch = Scratch::new();
        let _page = Page::create(scratch.path());
        let board = Board::create(&scratch);
        let file = scratch.write("cases", text_of(cases));
        let launch = |role: &str, at: usize, preload: bool| {
            let preload = if preload { policyds.of(at) } else { None };
            let debug = self.debug.clone().or_else(|| self.way.debug());
            let launch = programs::end("calls", role, &scratch)
                .arg(if policyds.of(at).is_some() && self.way.both() { self.warm } else { "3" })
                .arg(&file)
                .arg(first.to_string())
                .preload(preload)
                .debug(debug.as_deref().filter(|_| preload.is_some()));
            let Some(between) = &self.hosts else { return launch.spawn(&scratch) };
            let host = &between.hosts[at];
            let launch = launch.in_namespace(host.namespace.as_ref());
            let launch = match self.pause {
                Some(pause) => launch.env("TANDEM_TESTS_PAUSE_MS", pause.as_millis().to_string()),
                None => launch,
            };
            launch.env("TANDEM_TESTS_ADDRESS", &between.hosts[1].address).spawn(&scratch)
        };
        let mut ends = match self.held {
            Held::Together => vec![launch("alone", 1, self.way.server())],
            Held::Apart => vec![launch("server", 1, self.way.server()), launch("client", 0, self.way.client())],
        };
        let outcomes = board.watch(&mut ends);
        let mut transcripts = board.transcripts();
        let fine =
            |outcome: &Outcome| outcome.end == End::Exit(0) && outcome.stdout.is_empty() && outcome.stderr.is_empty();
        if !outcomes.iter().all(fine) {
            let last = board.case_number() + 1 - first;
            transcripts.resize_with(last, Vec::new);
            if let Some(transcript) = transcripts.last_mut() {
                transcript.push(format!("AFTER {} CALLS:", board.at().saturating_sub(1)));
                transcript.extend(outcomes.iter().map(Outcome::to_string));
            }
            if let Some(case) = cases.get(board.case_number()) {
                println!("did not survive, {}, after {} calls:\n{case}", self.name(), board.at().saturating_sub(1));
            }
        }
        ran.carried += board.word(5);
        ran.uncarried += board.word(6);
        ran.transcripts.extend(transcripts);
    }
}

/// Those that a run's ends speak to.
enum Policyds {
    None,
    Own(Box<Policyd>),
    Between(Arc<Between>),
}

impl Policyds {
    fn of(&self, at: usize) -> Option<&Policyd> {
        match self {
            Self::None => None,
            Self::Own(policyd) => Some(policyd),
            Self::Between(between) => Some(&between.policyds[at]),
        }
    }

    fn total(&self) -> Option<Totals> {
        match self {
            Self::None => None,
            Self::Own(policyd) => Some(Totals::of(&[policyd])),
            Self::Between(between) => Some(Totals::of(&between.policyds.each_ref())),
        }
    }
}

/// What policyds have counted.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    pub connections: u64,
    pub carried: u64,
    pub tx_companion: u64,
    pub fail_backs: u64,
}

impl Totals {
    fn of(policyds: &[&Policyd]) -> Self {
        policyds.iter().map(|policyd| policyd.status()).fold(Self::default(), |sum, status| Self {
            connections: sum.connections + status.connections,
            carried: sum.carried + status.carried,
            tx_companion: sum.tx_companion + status.tx_companion,
            fail_backs: sum.fail_backs + status.fail_backs,
        })
    }

    fn since(self, before: Option<Self>) -> Self {
        let before = before.unwrap_or_default();
        Self {
            connections: self.connections - before.connections,
            carried: self.carried - before.carried,
            tx_companion: self.tx_companion - before.tx_companion,
            fail_backs: self.fail_backs - before.fail_backs,
        }
    }

    pub fn nothing_carried(&self) -> bool {
        self.carried == 0 && self.tx_companion == 0
    }

    pub fn witness(&self) -> String {
        let Self { connections, carried, tx_companion, fail_backs } = self;
        format!(
            "{carried} of {connections} ends carried, {tx_companion} bytes sent by companion, {fail_backs} fail-backs"
        )
    }
}

/// The memory that the processes share (`struct board` of `programs/calls_board.h`), read as a file.
struct Board(File);

impl Board {
    const HEADER: u64 = 4096;
    const TEXT: u64 = 192 << 20;
    const STALLED: Duration = Duration::from_secs(15);

    fn create(scratch: &Scratch) -> Self {
        let path = scratch.write("calls", "");
        let file = File::options().read(true).write(true).open(path).expect("the board");
        file.set_len(Self::HEADER + Self::TEXT).expect("the board's size");
        Self(file)
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at * 4).expect("the board");
        u32::from_ne_bytes(bytes)
    }

    fn case_number(&self) -> usize {
        self.word(2) as usize
    }

    fn at(&self) -> u32 {
        self.word(3)
    }

    fn length(&self) -> u64 {
        u64::from(self.word(8)) | u64::from(self.word(9)) << 32
    }

    /// To the end of all processes; one that makes no progress is killed.
    fn watch(&self, ends: &mut [Running]) -> Vec<Outcome> {
        let mut seen = (0, 0, 0);
        let mut changed = Instant::now();
        while !ends.iter_mut().all(Running::ended) && changed.elapsed() < Self::STALLED {
            let now = (self.case_number(), self.at(), self.length());
            if now != seen {
                (seen, changed) = (now, Instant::now());
            }
            // One that crashed leaves the other waiting for its turn.
            let mut crashed = false;
            for end in ends.iter_mut() {
                crashed |= end.ended() && self.word(4) == 0;
            }
            if crashed {
                thread::sleep(Duration::from_millis(200));
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let done = self.word(4) != 0;
        ends.iter_mut().map(|end| end.wait(if done { Duration::from_secs(10) } else { Duration::ZERO })).collect()
    }

    fn transcripts(&self) -> Vec<Transcript> {
        let mut bytes = vec![0; self.length().min(Self::TEXT) as usize];
        self.0.read_exact_at(&mut bytes, Self::HEADER).expect("the transcript");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split("== ").skip(1).map(|case| case.lines().skip(1).map(str::to_owned).collect()).collect()
    }
}
