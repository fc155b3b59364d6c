//! What came of each program, each way.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use tandem_tests::{Proof, Way};

use super::{Expected, Program};

/// One program, one way; of each host.
pub struct Cell {
    pub took: Duration,
    /// Where there are devices.
    pub packets: Option<[u64; 2]>,
    pub bytes: [u64; 2],
    pub carried: [u64; 2],
    pub connections: [u64; 2],
    pub fail_backs: u64,
    pub reasons: [BTreeMap<String, u64>; 2],
    /// Rows of `tandem ss` by `verbs`, with bytes.
    pub rows: [usize; 2],
}

pub struct Table {
    test: &'static str,
    lines: Vec<String>,
    failures: String,
}

/// What a connection's end may say that has nobody under Tandem at the other end.
const ALONE: [&str; 6] = ["few-calls", "waiting-for-peer", "peer-absent", "closed", "connecting", "not-established"];

impl Table {
    pub fn new(test: &'static str) -> Self {
        Self { test, lines: Vec::new(), failures: String::new() }
    }

    pub fn enter(&mut self, program: &Program, way: Way, cell: Cell, native: &[String], seen: &[String]) {
        let mut complaints = cell.complaints(program, way);
        if native != seen {
            let differences = native.iter().zip(seen).filter(|(left, right)| left != right);
            let shown: String =
                differences.map(|(left, right)| format!("\n   native {left}\n   now    {right}")).collect();
            complaints.push(format!("not as natively ({} and {} observations):{shown}", native.len(), seen.len()));
        }
        let line = format!(
            "{:<22} {:<8} {:<11} {:>5.1} s  {}",
            program.name,
            program.attach,
            ends(way),
            cell.took.as_secs_f32(),
            cell.what()
        );
        // At once: who waits for a guest sees how far it has come.
        println!("{line}{}", complaints.iter().map(|what| format!("\n   WRONG: {what}")).collect::<String>());
        self.lines.push(line);
        if !complaints.is_empty() {
            let _ = writeln!(self.failures, "{}, {way:?}: {}", program.name, complaints.join("\n  "));
        }
    }

    #[track_caller]
    pub fn print(self, witness: &str) {
        let mut proof = Proof::new(self.test);
        self.lines.iter().for_each(|line| proof.fact(line.as_str()));
        proof.fact(format!("each as natively; {witness}"));
        assert!(self.failures.is_empty(), "\n{}", self.failures);
        assert!(!self.lines.is_empty(), "no program was asked for");
        proof.print();
    }
}

fn ends(way: Way) -> &'static str {
    match way {
        Way::ServerOnly => "server only",
        Way::ClientOnly => "client only",
        _ => "both",
    }
}

impl Cell {
    fn complaints(&self, program: &Program, way: Way) -> Vec<String> {
        let mut complaints = Vec::new();
        let on_tcp = |allowed: &[&str], complaints: &mut Vec<String>| {
            if self.carried != [0, 0] || self.bytes != [0, 0] || self.rows != [0, 0] {
                complaints.push("carried, but must not be".into());
            }
            let others: Vec<_> = self
                .reasons
                .iter()
                .flat_map(BTreeMap::keys)
                .filter(|reason| !allowed.contains(&reason.as_str()))
                .collect();
            if !others.is_empty() {
                complaints.push(format!("reasons besides {allowed:?}: {others:?}"));
            }
        };
        match program.expected {
            Expected::OnTcp(reasons) => on_tcp(&[&ALONE, reasons].concat(), &mut complaints),
            Expected::Carried(_) if !way.both() => on_tcp(&ALONE, &mut complaints),
            Expected::Carried(least) => {
                // A guest is slow: more is over before there is a companion.
                let part = if self.packets.is_some() { 8 } else { 1 };
                let least = least.map(|bytes| bytes / part);
                for at in 0..2 {
                    if self.bytes[at] < least[at] {
                        complaints.push(format!(
                            "host {}: {} bytes by companion, not {}",
                            at + 1,
                            self.bytes[at],
                            least[at]
                        ));
                    }
                    // Whoever receives much answers little, but answers.
                    if let Some(packets) = self.packets.filter(|packets| packets[at] < 10) {
                        complaints.push(format!("host {}: {packets:?} packets by the devices", at + 1));
                    }
                }
                // Without a device a program may be over between two looks.
                if self.packets.is_some() && self.rows.contains(&0) {
                    complaints.push(format!("rows by verbs in tandem ss: {:?}", self.rows));
                }
            }
        }
        complaints
    }

    fn what(&self) -> String {
        let reasons = self.reasons.each_ref().map(|reasons| {
            reasons.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        });
        let reasons: Vec<_> = (1..=2).zip(&reasons).filter(|(_, text)| !text.is_empty()).collect();
        let reasons: String = reasons.iter().map(|(host, text)| format!("; host {host} on TCP: {text}")).collect();
        if self.carried == [0, 0] {
            return format!("TCP, {:?} ends known{reasons}", self.connections);
        }
        format!(
            "verbs {:?} bytes, {:?} of {:?} ends, {} fail-backs, packets {:?}{reasons}",
            self.bytes,
            self.carried,
            self.connections,
            self.fail_backs,
            self.packets.unwrap_or_default()
        )
    }
}
