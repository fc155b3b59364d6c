//! `tandem ss` and `tandem status`.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::Show;
use crate::control::client::Control;
use crate::control::{Answer, Ask, Status};
use crate::registry::SsRow;

const PATIENCE: Duration = Duration::from_secs(10);

pub fn ss(show: &Show) -> Result<()> {
    let Answer::Ss(rows) = ask(show, Ask::Ss)? else { bail!("policyd answered something else") };
    if show.json { json(&rows) } else { print(&table(&rows)) }
}

pub fn status(show: &Show) -> Result<()> {
    let Answer::Status(status) = ask(show, Ask::Status)? else { bail!("policyd answered something else") };
    if show.json { json(&status) } else { print(&page(&status)) }
}

pub fn ask(show: &Show, ask: Ask) -> Result<Answer> {
    Control::connect(&find(show)?, PATIENCE)?.ask(ask)
}

/// The switches' socket of the policyd that answers.
pub fn find(show: &Show) -> Result<PathBuf> {
    let uid = nix::unistd::geteuid().as_raw();
    let candidates = crate::search(show.policyd.as_deref());
    let sockets: Vec<_> = candidates.iter().filter(|place| place.is_trusted(uid)).map(crate::path_of).collect();
    match sockets.into_iter().find(|socket| Control::connect(socket, PATIENCE).is_ok()) {
        Some(socket) => Ok(socket),
        None => {
            let tried: Vec<_> = candidates.iter().map(|place| crate::path_of(place).display().to_string()).collect();
            Err(anyhow!(
                "no policyd answers at {}; start one (tandem-policyd, or tandem run) or name its socket by --policyd",
                tried.join(" or ")
            ))
        }
    }
}

pub fn json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

pub fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // As in `tandem ss | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn table(rows: &[SsRow]) -> String {
    let head = [
        "Provider",
        "Local Address:Port",
        "Peer Address:Port",
        "Tx-TCP",
        "Rx-TCP",
        "Tx-Companion",
        "Rx-Companion",
        "Process",
        "Reason",
        "Native",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.provider.clone(),
            row.local.clone(),
            row.remote.clone(),
            row.tx_tcp.to_string(),
            row.rx_tcp.to_string(),
            row.tx_companion.to_string(),
            row.rx_companion.to_string(),
            format!("{}/{}", row.pid, row.program),
            row.reason.clone().unwrap_or_default(),
            row.native.clone().unwrap_or_default(),
        ]
    }));
    let mut widths = [0; 10];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Addresses and numbers end where the next column begins, words begin there.
            let cell = if (1..=6).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            shown.push_str(&cell);
            shown.push_str("  ");
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

fn page(status: &Status) -> String {
    let mut lines = vec![
        ("connections", status.connections.to_string()),
        ("carried", status.carried.to_string()),
        ("sent by companion", format!("{} bytes", status.tx_companion)),
        ("received by companion", format!("{} bytes", status.rx_companion)),
        ("fail-backs", status.fail_backs.to_string()),
        ("clients", status.clients.to_string()),
        ("pairs", status.pairs.to_string()),
        ("parked meets", status.parked.to_string()),
        ("with other hosts", format!("{} companions, {} parked meets", status.far, status.far_parked)),
        ("policyd", format!("{} (instance {}) at {}", status.version, status.instance, status.socket)),
    ];
    let reasons: Vec<_> = status.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let reasons = if reasons.is_empty() { "-".to_owned() } else { reasons.join(", ") };
    lines.insert(5, ("on TCP because of", reasons));
    lines.iter().map(|(name, value)| format!("{name:<22} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |local: &str, reason: Option<&str>| SsRow {
            pid: 7,
            program: "redis-server".to_owned(),
            local: local.to_owned(),
            remote: "127.0.0.1:40000".to_owned(),
            provider: if reason.is_some() { "tcp" } else { "local" }.to_owned(),
            reason: reason.map(str::to_owned),
            tx_tcp: 1,
            rx_tcp: 22,
            tx_companion: 333,
            rx_companion: 4_444,
            native: reason.is_none().then(|| "rxe0/1 ::1 qp 17 > ::2 qp 18, mtu 4096".to_owned()),
        };
        let text = table(&[row("127.0.0.1:6379", None), row("[::1]:80", Some("few-calls"))]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let column = lines[0].find("Process").unwrap();
        assert!(lines.iter().skip(1).all(|line| line[column..].starts_with("7/redis-server")), "{text}");
        let reason = lines[0].find("Reason").unwrap();
        assert_eq!(&lines[2][reason..], "few-calls");
        let native = lines[0].find("Native").unwrap();
        assert_eq!(&lines[1][native..], "rxe0/1 ::1 qp 17 > ::2 qp 18, mtu 4096");
        let end = lines[0].find("Local Address:Port").unwrap() + "Local Address:Port".len();
        assert!(lines[1][..end].ends_with(":6379") && lines[2][..end].ends_with("[::1]:80"), "{text}");
    }
}
