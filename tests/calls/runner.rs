//! Runs cases in one of the ways and gives their transcripts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::policyd::Status;
use tandem_tests::{End, Outcome, Page, Policyd, Running, Scratch, Way, programs};

use crate::schedule::{Case, text_of};

/// The processes that hold the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    Together,
    Apart,
}

/// One way of running cases, and how many ping-pongs a connection makes before them.
#[derive(Clone, Debug)]
pub struct Manner {
    pub way: Way,
    pub held: Held,
    /// A number, or `w`: until the companion carries both directions.
    pub warm: &'static str,
    pub debug: Option<String>,
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
    pub status: Option<Status>,
}

impl Manner {
    pub const fn natively(held: Held) -> Self {
        Self { way: Way::Neither, held, warm: "3", debug: None }
    }

    pub const fn of(way: Way, held: Held, warm: &'static str) -> Self {
        Self { way, held, warm, debug: None }
    }

    pub fn name(&self) -> String {
        format!("{:?}, ends {:?}, after {} ping-pongs", self.way, self.held, self.warm)
    }

    pub fn run(&self, cases: &[Case]) -> Ran {
        let policyd = if self.way == Way::Neither { None } else { Policyd::start() };
        let lanes: Vec<Vec<Case>> =
            (0..LANES).map(|lane| cases.iter().skip(lane).step_by(LANES).cloned().collect()).collect();
        let mut ran = Ran { transcripts: Vec::new(), carried: 0, uncarried: 0, calls: 0, status: None };
        let mut transcripts = Vec::new();
        thread::scope(|scope| {
            let running: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| self.run_lane(lane, &policyd))).collect();
            for lane in running {
                let lane = lane.join().expect("a lane");
                (ran.carried, ran.uncarried) = (ran.carried + lane.carried, ran.uncarried + lane.uncarried);
                transcripts.push(lane.transcripts.into_iter());
            }
        });
        ran.transcripts = (0..cases.len()).filter_map(|at| transcripts[at % LANES].next()).collect();
        ran.calls = ran.transcripts.iter().map(Vec::len).sum();
        ran.status = policyd.as_ref().map(Policyd::status);
        ran
    }

    fn run_lane(&self, cases: &[Case], policyd: &Option<Policyd>) -> Ran {
        let mut ran = Ran { transcripts: Vec::new(), carried: 0, uncarried: 0, calls: 0, status: None };
        while ran.transcripts.len() < cases.len() {
            self.run_from(cases, policyd, &mut ran);
        }
        ran
    }

    /// Until the end, or to the first case that the program does not survive.
    fn run_from(&self, cases: &[Case], policyd: &Option<Policyd>, ran: &mut Ran) {
        let first = ran.transcripts.len();
        let scratch = Scratch::new();
        let _page = Page::create(scratch.path());
        let board = Board::create(&scratch);
        let file = scratch.write("cases", text_of(cases));
        let launch = |role: &str, preload: Option<&Policyd>| {
            let debug = self.debug.clone().or_else(|| self.way.debug());
            programs::end("calls", role, &scratch)
                .arg(if policyd.is_some() && self.way.both() { self.warm } else { "3" })
                .arg(&file)
                .arg(first.to_string())
                .preload(preload)
                .debug(debug.as_deref().filter(|_| preload.is_some()))
                .spawn(&scratch)
        };
        let mut ends = match self.held {
            Held::Together => vec![launch("alone", self.way.for_server(policyd))],
            Held::Apart => {
                vec![launch("server", self.way.for_server(policyd)), launch("client", self.way.for_client(policyd))]
            }
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
