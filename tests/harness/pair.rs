//! A two-ended test program (`programs/NAME.c`, see `common.h`), run every way, each way's outcome compared with the
//! native one, with witnesses of what carried it.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::artifacts::native_only;
use crate::namespace::Namespace;
use crate::page::Page;
use crate::patience::{stretched, within};
use crate::policyd::{Policyd, Status};
use crate::process::{End, Outcome, Running, Scratch};
use crate::programs;
use crate::proof::Proof;
use crate::ways::Way;

/// What must carry the connections when both ends are preloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// Every warmed-up connection, both ways.
    Yes,
    /// Bytes went into a ring; they may have come back to TCP before anybody read them.
    Sent,
    /// It may stay on TCP: the outcome alone counts.
    Perhaps,
    /// It must stay on TCP.
    Never,
}

/// What a test does to the processes or to policyd in the midst of a run.
pub type Tamper<'a> = dyn Fn(&Page, Option<&mut Policyd>) + 'a;

pub struct Pair<'a> {
    test: &'a str,
    program: &'a str,
    passes: &'a str,
    arguments: Vec<String>,
    carried: Carried,
    failing_back: Vec<u32>,
    least_fail_backs: u64,
    stays: bool,
    ways: Vec<Way>,
    limit: Duration,
    alone: bool,
    namespace: Option<&'a Namespace>,
    debug: Option<String>,
    tamper: Option<&'a Tamper<'a>>,
    tells: u32,
    must_succeed: bool,
    others: bool,
}

/// What one way gave.
struct Seen {
    server: Outcome,
    client: Option<Outcome>,
    status: Option<Status>,
    uncarried: Vec<String>,
    warm_ups: u32,
}

impl<'a> Pair<'a> {
    /// `test` is the row's name; `program` its source in `programs/`.
    pub fn new(test: &'a str, program: &'a str) -> Self {
        Self {
            test,
            program,
            passes: "0,1,2,3,4,6,w",
            arguments: Vec::new(),
            carried: Carried::Yes,
            failing_back: vec![6],
            least_fail_backs: 0,
            stays: false,
            ways: Way::FOUR.to_vec(),
            limit: Duration::from_secs(40),
            alone: false,
            namespace: None,
            debug: None,
            tamper: None,
            tells: 1,
            must_succeed: true,
            others: false,
        }
    }

    /// Connections: how many ping-pongs each before the scenario, `w` until carried.
    pub fn passes(mut self, passes: &'a str) -> Self {
        self.passes = passes;
        self
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn carried(mut self, carried: Carried) -> Self {
        self.carried = carried;
        self
    }

    /// Also both ends preloaded with a direction failing back once in so many calls; none when empty.
    pub fn failing_back(mut self, calls: &[u32]) -> Self {
        self.failing_back = calls.to_vec();
        self
    }

    pub fn least_fail_backs(mut self, count: u64) -> Self {
        self.least_fail_backs = count;
        self
    }

    /// With both ends preloaded nothing goes back to TCP.
    pub fn stays_carried(mut self) -> Self {
        self.stays = true;
        self
    }

    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// One process holds both ends: native and preloaded, no other ways.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self.ways = vec![Way::Neither, Way::Both];
        self
    }

    pub fn inside(mut self, namespace: &'a Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    pub fn debug(mut self, switches: &str) -> Self {
        self.debug = Some(switches.into());
        self
    }

    /// Called once a way when the program tells slot 60 (with no policyd natively); the harness then tells slot 61.
    pub fn tamper(mut self, tamper: &'a Tamper<'a>) -> Self {
        self.tamper = Some(tamper);
        self
    }

    /// `tamper` waits until both ends have told slot 60.
    pub fn when_both_tell(mut self) -> Self {
        self.tells = 2;
        self
    }

    /// An end that is killed or aborts natively is part of the test.
    pub fn may_die(mut self) -> Self {
        self.must_succeed = false;
        self
    }

    /// The server has no Tandem; other programs under the same policyd may be carried.
    pub fn client_only(mut self) -> Self {
        self.others = true;
        self.ways = vec![Way::Neither, Way::ClientOnly];
        self.failing_back = Vec::new();
        self
    }

    /// Runs every way and compares. Panics with everything seen where one differs from the native one.
    #[track_caller]
    pub fn run(self) {
        let native = self.run_way(Way::Neither);
        let ends = [Some(&native.server), native.client.as_ref()];
        for outcome in ends.into_iter().flatten() {
            let fine = outcome.end == End::Exit(0) || (!self.must_succeed && outcome.end != End::TimedOut);
            assert!(fine, "{}: natively it must work:\n{}", self.test, native.show());
        }

        let mut proof = Proof::new(self.test);
        let mut failures = String::new();
        let failing_back = self.failing_back.iter().map(|&calls| Way::BothFailingBack(calls));
        for way in self.ways.iter().copied().filter(|&way| way != Way::Neither).chain(failing_back) {
            let seen = self.run_way(way);
            let complaints = self.complaints(way, &native, &seen);
            if complaints.is_empty() {
                proof.fact(format!("{way:?}: outcome as natively; {}", seen.witness()));
            } else {
                let _ = write!(failures, "--- {way:?}: {complaints}\n{}", seen.differences(&native));
            }
        }
        proof.print();
        assert!(
            failures.is_empty(),
            "{}, program {} {}:\n{failures}",
            self.test,
            self.program,
            self.arguments.join(" ")
        );
    }

    fn complaints(&self, way: Way, native: &Seen, seen: &Seen) -> String {
        let mut complaints = Vec::new();
        if seen.server != native.server {
            complaints.push(format!("{} differs", if self.alone { "outcome" } else { "the server's outcome" }));
        }
        if seen.client != native.client {
            complaints.push("the client's outcome differs".into());
        }
        let Some(status) = &seen.status else { return complaints.join("; ") };
        let carried = if way.both() || self.others { self.carried } else { Carried::Never };
        match carried {
            Carried::Sent if status.carried == 0 || status.tx_companion == 0 => {
                complaints.push(format!("nothing was carried: {}", status.whole));
            }
            Carried::Yes => {
                complaints.extend(seen.uncarried.clone());
                if status.carried == 0 || status.tx_companion == 0 || status.rx_companion == 0 {
                    complaints.push(format!("nothing was carried: {}", status.whole));
                }
            }
            Carried::Sent | Carried::Perhaps => {}
            Carried::Never if !status.nothing_carried() => {
                complaints.push(format!("carried, but must not be: {}", status.whole));
            }
            Carried::Never => {}
        }
        if matches!(way, Way::BothFailingBack(_)) && status.fail_backs < self.least_fail_backs {
            complaints.push(format!("{} fail-backs, wanted at least {}", status.fail_backs, self.least_fail_backs));
        }
        if self.stays && way == Way::Both && status.fail_backs > 0 {
            complaints.push(format!("{} fail-backs, wanted none: {}", status.fail_backs, status.whole));
        }
        complaints.join("; ")
    }

    #[track_caller]
    fn run_way(&self, way: Way) -> Seen {
        let scratch = Scratch::new();
        let page = Page::create(scratch.path());
        let mut policyd = if way == Way::Neither { None } else { Policyd::start_in(self.namespace) };

        let role = if self.alone { "alone" } else { "server" };
        let mut server = self.launch(role, &scratch, way.for_server(&policyd), way);
        let mut client = (!self.alone).then(|| self.launch("client", &scratch, way.for_client(&policyd), way));

        let mut watch = Watch { uncarried: Vec::new(), asked_at: None, tampered: false };
        let deadline = Instant::now() + stretched(self.limit);
        while !(server.ended() && client.as_mut().is_none_or(Running::ended)) && Instant::now() < deadline {
            watch.look(self, way, &page, &mut policyd);
            thread::sleep(Duration::from_millis(2));
        }
        // Both past the limit: the second gets no time of its own.
        let server = server.wait(deadline.saturating_duration_since(Instant::now()));
        let client = client.map(|mut client| client.wait(deadline.saturating_duration_since(Instant::now())));
        let status = policyd.as_ref().map(Policyd::status);
        Seen { server, client, status, uncarried: watch.uncarried, warm_ups: page.gone() }
    }

    fn launch(&self, role: &str, scratch: &Scratch, policyd: Option<&Policyd>, way: Way) -> Running {
        let debug = way.debug().or_else(|| self.debug.clone());
        programs::end(self.program, role, scratch)
            .arg(self.passes)
            .args(&self.arguments)
            .preload(policyd)
            .debug(debug.as_deref().filter(|_| policyd.is_some()))
            .in_namespace(self.namespace)
            .spawn(scratch)
    }
}

/// The harness's side of the hand-shakes.
struct Watch {
    uncarried: Vec<String>,
    asked_at: Option<Instant>,
    tampered: bool,
}

impl Watch {
    const PATIENCE: Duration = Duration::from_secs(3);

    fn look(&mut self, pair: &Pair, way: Way, page: &Page, policyd: &mut Option<Policyd>) {
        if page.told(60) >= pair.tells && !self.tampered {
            self.tampered = true;
            if let Some(tamper) = pair.tamper {
                tamper(page, policyd.as_mut());
            }
            page.tell(61);
        }
        if page.asking() == page.gone() {
            self.asked_at = None;
            return;
        }
        let Some(policyd) = policyd.as_ref().filter(|_| way.both() && pair.carried == Carried::Yes) else {
            // Nothing to wait for; a connection that may or must not be carried gets the time in which it could be.
            let asked_at = *self.asked_at.get_or_insert_with(Instant::now);
            if policyd.is_none() || !way.both() || asked_at.elapsed() > Duration::from_millis(200) {
                page.let_go(page.asking());
            }
            return;
        };
        let asked_at = *self.asked_at.get_or_insert_with(Instant::now);
        let wanted = 2 * page.expected();
        let ends = policyd.carried_ends();
        if ends >= wanted {
            page.let_go(page.asking());
        } else if asked_at.elapsed() > Self::PATIENCE {
            self.uncarried
                .push(format!("{ends} of {wanted} warmed-up ends were carried both ways: {:#?}", policyd.rows()));
            page.let_go(page.asking());
        }
        thread::sleep(Duration::from_millis(8));
    }
}

impl Seen {
    fn witness(&self) -> String {
        match &self.status {
            None if native_only() => "no witness".into(),
            None => "no policyd".into(),
            Some(status) => {
                format!("{}, {} fail-backs, {} warm-ups", status.witness(), status.fail_backs, self.warm_ups)
            }
        }
    }

    fn differences(&self, native: &Self) -> String {
        let mut text = native.server.differences("server", &self.server);
        if let (Some(native), Some(client)) = (&native.client, &self.client) {
            text += &native.differences("client", client);
        }
        text
    }

    fn show(&self) -> String {
        let mut text = format!("  server:\n{}", self.server);
        if let Some(client) = &self.client {
            let _ = write!(text, "  client:\n{client}");
        }
        text
    }
}

/// A fresh pair of processes under this policyd: whether its one connection is carried both ways, by more rows than before.
pub fn ping_pong_carried(policyd: &Policyd) -> bool {
    let scratch = Scratch::new();
    let page = Page::create(scratch.path());
    let launch =
        |role: &str| programs::end("rounds", role, &scratch).args(["w", "100"]).preload(Some(policyd)).spawn(&scratch);
    let mut ends = [launch("server"), launch("client")];
    let pids = ends.each_ref().map(Running::pid);
    let carried = |pid: u32| policyd.rows().iter().any(|row| row.pid == pid && row.carried());
    let both = within(Duration::from_secs(5), Duration::from_millis(10), || pids.into_iter().all(carried));
    page.let_go(1);
    ends.each_mut().into_iter().all(|end| end.wait(Duration::from_secs(10)).end == End::Exit(0)) && both
}
