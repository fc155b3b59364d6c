//! Both ends of `outlast.c`, at work between the two hosts: connections of several kinds whose every byte is checked.

use std::thread::sleep;
use std::time::Duration;

use tandem_tests::patience::within;
use tandem_tests::policyd::{Policyd, Row};
use tandem_tests::{End, Launch, Outcome, Running, Scratch, programs};

use crate::verbs::{Between, LONG};

pub struct Load {
    port: u16,
    kinds: &'static str,
    pub ends: [Running; 2],
    /// What both are told by, and what they say.
    folder: Scratch,
}

/// One connection's own account: kind, bytes in and out, and how it ended.
pub type Line = (String, u64, u64, String);

impl Load {
    /// `mode`: whether each connection has a thread or a process.
    #[track_caller]
    pub fn start(between: &Between, port: u16, mode: &str, kinds: &'static str) -> Self {
        Self::start_by(between, port, mode, kinds, |at, launch| between.on(at, launch))
    }

    /// Without Tandem.
    #[track_caller]
    pub fn native(between: &Between, port: u16, mode: &str, kinds: &'static str) -> Self {
        Self::start_by(between, port, mode, kinds, |at, launch| {
            launch.in_namespace(between.hosts[at].namespace.as_ref())
        })
    }

    #[track_caller]
    fn start_by(
        between: &Between,
        port: u16,
        mode: &str,
        kinds: &'static str,
        on: impl Fn(usize, Launch) -> Launch,
    ) -> Self {
        let folder = Scratch::new();
        let words = |role: &str| {
            let address = &between.hosts[1].address;
            let launch = Launch::new(role, programs::program("outlast"));
            launch.args([role, address, &port.to_string(), mode, kinds]).arg(folder.path())
        };
        let mut server = on(1, words("server")).spawn(&folder);
        let listens = within(LONG, Duration::from_millis(50), || server.stdout().contains("listens"));
        assert!(listens, "the server does not listen:\n{}", server.wait(Duration::ZERO));
        let client = on(0, words("client")).spawn(&folder);
        Self { port, kinds, ends: [client, server], folder }
    }

    /// Rows of these connections, of both hosts; of none whose policyd does not answer.
    pub fn rows(&self, between: &Between) -> Vec<Row> {
        let port = format!(":{}", self.port);
        let of = |policyd: &Policyd| policyd.look().unwrap_or_default();
        let rows = between.policyds.iter().flat_map(of);
        rows.filter(|row| row.local.ends_with(&port) || row.remote.ends_with(&port)).collect()
    }

    pub fn count(&self) -> usize {
        self.kinds.split(',').count()
    }

    /// Until all that these connections send goes by queue pairs.
    #[track_caller]
    pub fn await_carried(&self, between: &Between) {
        let whole = 2 * self.count();
        let carried = |row: &&Row| row.provider == "verbs" && row.tx_companion + row.rx_companion > 0;
        let all =
            within(LONG, Duration::from_millis(300), || self.rows(between).iter().filter(carried).count() >= whole);
        assert!(all, "of {whole}: {:#?}\n{}\n{}", self.rows(between), self.ends[0].stdout(), self.ends[1].stdout());
    }

    /// Those that are to be idle are, from now on.
    pub fn idle(&self) {
        self.folder.write("idle", "");
        sleep(Duration::from_millis(700));
    }

    /// Those that are to be closed while full are.
    pub fn close(&self) {
        self.folder.write("close", "");
    }

    pub fn stop(&self) {
        self.folder.write("stop", "");
    }

    pub fn wait(&mut self) -> [Outcome; 2] {
        self.ends.each_mut().map(|end| end.wait(LONG))
    }

    /// Stops it: every byte came over, once and right. The sum of them.
    #[track_caller]
    pub fn finish(mut self, fault: &str) -> u64 {
        self.close();
        self.stop();
        let outcomes = self.wait();
        let told = outcomes.each_ref().map(|outcome| lines(&outcome.text()));
        let context = format!("{fault}: {}\n{}", outcomes[0], outcomes[1]);
        assert!(outcomes.iter().all(|outcome| outcome.end == End::Exit(0)), "{context}");
        assert!(told.iter().all(|told| told.len() == self.count()), "{context}");
        for (client, server) in told[0].iter().zip(&told[1]) {
            let mirrored = client.0 == server.0 && client.1 == server.2 && client.2 == server.1;
            assert!(mirrored && client.3 == "whole" && server.3 == "whole", "{client:?} {server:?} of {context}");
        }
        told[0].iter().map(|line| line.1 + line.2).sum()
    }
}

pub fn lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<_> = text.lines().filter_map(line).collect();
    lines.sort();
    lines
}

fn line(text: &str) -> Option<Line> {
    let (kind, rest) = text.split_once(": ")?;
    let mut parts = rest.splitn(3, ", ");
    let number = |part: Option<&str>| part?.split(' ').next()?.parse().ok();
    Some((kind.to_owned(), number(parts.next())?, number(parts.next())?, parts.next()?.to_owned()))
}
