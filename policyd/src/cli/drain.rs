//! `tandem drain`: what is carried goes back to TCP; the command says what has become of it.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::reasons::has;
use super::show::{ask, json, print};
use super::{Drain, Show, Subject};
use crate::control::{self, Answer, Ask, Draining};
use crate::registry::SsRow;

const LOOK: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(300);

#[derive(Serialize)]
struct Report {
    subject: String,
    /// Processes that were told.
    switches: usize,
    /// Carried connection ends before; of these, on TCP now; closed meanwhile; still carried.
    carried: usize,
    drained: usize,
    closed: usize,
    left: Vec<SsRow>,
}

pub fn drain(drain: &Drain) -> Result<()> {
    let mut reports = Vec::new();
    for &subject in &drain.subjects {
        reports.push(one(drain, subject)?);
    }
    let left: usize = reports.iter().map(|report| report.left.len()).sum();
    if drain.show.json {
        json(&reports)?;
    } else {
        print(&reports.iter().map(|report| page(report, drain.undo)).collect::<String>())?;
    }
    if left > 0 {
        bail!(
            "{left} connection ends are carried still, for their programs have made no call on them for {} s: each goes back by \
             the program's next call (--wait gives more time)",
            drain.wait
        );
    }
    Ok(())
}

fn one(drain: &Drain, subject: Subject) -> Result<Report> {
    let (name, asked) = match subject {
        Subject::Process(pid) => {
            (format!("process {pid}"), control::Drain { pid: Some(pid), undo: drain.undo, ..control::Drain::default() })
        }
        Subject::Connections(address) => (
            format!("{address}"),
            control::Drain { address: Some(address), undo: drain.undo, ..control::Drain::default() },
        ),
    };
    let before = if drain.undo { Vec::new() } else { carried(&drain.show, subject)? };
    let Answer::Draining(Draining { switches }) = ask(&drain.show, Ask::Drain(asked))? else {
        bail!("policyd answered something else")
    };
    let until = Instant::now() + Duration::from_secs(drain.wait);
    let mut again = Instant::now() + AGAIN;
    let (left, known) = loop {
        let rows = if before.is_empty() { Vec::new() } else { rows(&drain.show)? };
        let mut left: Vec<_> = rows.iter().filter(|row| is_meant(row, subject) && is_carried(row)).cloned().collect();
        // A connection that was switched over while this one was asked for is none of those.
        left.retain(|row| before.contains(&key(row)));
        if left.is_empty() || Instant::now() > until {
            break (left, rows);
        }
        if Instant::now() > again {
            // An end that was told first may have been offered a switch-over by one that was not told yet: told anew, it declines.
            ask(&drain.show, Ask::Drain(asked))?;
            again = Instant::now() + AGAIN;
        }
        sleep(LOOK);
    };
    let known: BTreeSet<_> = known.iter().map(key).collect();
    let closed = before.iter().filter(|end| !known.contains(*end)).count();
    if matches!(subject, Subject::Connections(_)) && switches == 0 {
        bail!("no carried connection has the address {name}; `tandem ss` lists what is carried");
    }
    let drained = before.len() - closed - left.len();
    Ok(Report { subject: name, switches, carried: before.len(), drained, closed, left })
}

type Key = (u32, String, String);

fn key(row: &SsRow) -> Key {
    (row.pid, row.local.clone(), row.remote.clone())
}

fn rows(show: &Show) -> Result<Vec<SsRow>> {
    let Answer::Ss(rows) = ask(show, Ask::Ss)? else { bail!("policyd answered something else") };
    Ok(rows)
}

fn carried(show: &Show, subject: Subject) -> Result<Vec<Key>> {
    Ok(rows(show)?.iter().filter(|row| is_meant(row, subject) && is_carried(row)).map(key).collect())
}

fn is_carried(row: &SsRow) -> bool {
    row.reason.is_none()
}

fn is_meant(row: &SsRow, subject: Subject) -> bool {
    match subject {
        Subject::Process(pid) => row.pid == pid,
        Subject::Connections(address) => has(row, address),
    }
}

fn page(report: &Report, undo: bool) -> String {
    let Report { subject, carried, drained, closed, left, .. } = report;
    if undo {
        return format!("{subject}: drained no longer; what it connects from now on may be carried\n");
    }
    let mut text = format!("{subject}: {drained} of {carried} carried connection ends went back to TCP");
    if *closed > 0 {
        text += &format!(", {closed} were closed meanwhile");
    }
    text += if left.is_empty() { "\n" } else { "; carried still:\n" };
    for row in left {
        text += &format!("  {} to {}, process {}/{}\n", row.local, row.remote, row.pid, row.program);
    }
    text
}
