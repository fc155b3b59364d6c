//! `tandem request`, `release`, `watch`, `networks` and `explain`.

use std::io::{Write, stdout};

use anyhow::{Result, bail};

use super::show::{ask, find, json, print};
use super::{Explain, Release, RequestFor, Show, Subject, Watch, reasons};
use crate::connection::request::{Spec, Status};
use crate::connection::{Explanation, NetworkStatus};
use crate::control::client::Watching;
use crate::control::{Answer, Ask, OfProcess, OfRequest, Watched};

pub fn request(request: &RequestFor) -> Result<()> {
    let parent = nix::unistd::getppid().as_raw().unsigned_abs();
    let spec = Spec {
        network: request.network.clone(),
        interface: request.interface.clone(),
        destination: request.destination,
        // The command itself is gone in a moment.
        pid: Some(request.pid.unwrap_or(parent)),
        priority: request.priority,
        exclusive: request.exclusive,
        required: request.required,
        max_cost: request.max_cost,
        min_bandwidth_mbit: request.min_bandwidth,
        lifetime_seconds: request.lifetime,
        dry_run: request.dry_run,
    };
    let Answer::Opened(status) = ask(&request.show, Ask::Open(spec))? else { bail!("policyd answered something else") };
    if request.show.json { json(&status) } else { print(&line(&status)) }
}

pub fn release(release: &Release) -> Result<()> {
    let Answer::Released(status) = ask(&release.show, Ask::Release(OfRequest { id: release.id }))? else {
        bail!("policyd answered something else")
    };
    if release.show.json { json(&status) } else { print(&line(&status)) }
}

/// Until it is interrupted, or the one request that is watched is over. A policyd that is started again is found again.
pub fn watch(watch: &Watch) -> Result<()> {
    let watching = Watching::new(find(&watch.show)?, Watched { id: watch.id });
    for status in watching {
        let status = status?;
        let text = if watch.show.json { serde_json::to_string(&status)? + "\n" } else { line(&status) };
        let mut out = stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

pub fn networks(show: &Show) -> Result<()> {
    let Answer::Networks(networks) = ask(show, Ask::Networks)? else { bail!("policyd answered something else") };
    if show.json {
        json(&networks)
    } else if networks.is_empty() {
        print("no network is configured: name some by [[network]] in /etc/tandem/policyd.toml\n")
    } else {
        print(&networks.iter().map(network).collect::<String>())
    }
}

pub fn explain(explain: &Explain) -> Result<()> {
    let pid = match explain.subject {
        Subject::Process(pid) => pid,
        Subject::Connections(address) => return reasons::explain(address, &explain.show),
    };
    let asked = ask(&explain.show, Ask::Explain(OfProcess { pid }))?;
    let Answer::Explanation(explanation) = asked else { bail!("policyd answered something else") };
    if explain.show.json { json(&explanation) } else { print(&page(&explanation)) }
}

/// `request 3  eth1  connected: by eth1  (network backup, process 71/rsync, priority high, exclusive)`
fn line(status: &Status) -> String {
    let program = status.program.as_deref().unwrap_or("?");
    let mut about = vec![format!("process {}/{program}", status.pid)];
    about.extend(status.network.as_ref().map(|network| format!("network {network}")));
    about.push(format!("priority {}", status.priority.text()));
    about.extend(status.exclusive.then(|| "exclusive".to_owned()));
    about.extend(status.required.then(|| "required".to_owned()));
    about.extend(status.expires_in_seconds.map(|seconds| format!("{seconds} s left")));
    let interface = status.interface.as_deref().unwrap_or("-");
    let number = if status.id == 0 { "dry run".to_owned() } else { format!("request {}", status.id) };
    format!("{number}  {interface}  {}: {}  ({})\n", status.state.text(), status.reason, about.join(", "))
}

fn network(network: &NetworkStatus) -> String {
    let now = match (&network.interface, &network.reason) {
        (Some(interface), _) => format!("by {interface}"),
        (None, Some(reason)) => format!("unavailable: {reason}"),
        (None, None) => "unavailable".to_owned(),
    };
    let refused = if network.allowed { "" } else { " (not for you)" };
    let mut text = format!("{}  {now}, {} requests{refused}\n", network.name, network.requests);
    for interface in &network.interfaces {
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        let by = if interface.by_rules { ", by rules" } else { "" };
        let bandwidth = interface.bandwidth_mbit.map_or(String::new(), |mbit| format!(", {mbit} Mbit/s"));
        text += &format!(
            "    {}  {}{by}, cost {}{bandwidth}  {}\n",
            interface.name,
            interface.state,
            interface.cost,
            addresses.join(" ")
        );
    }
    if !network.destinations.is_empty() {
        text += &format!("    only to {}\n", network.destinations.join(" "));
    }
    text
}

fn page(explanation: &Explanation) -> String {
    let program = explanation.program.as_deref().unwrap_or("?");
    let mut lines = vec![("process", format!("{}/{program}", explanation.pid))];
    lines.push(("interface", explanation.interface.clone().unwrap_or_else(|| "as the routing table says".to_owned())));
    lines.push(("why", explanation.why.clone()));
    if let Some(by) = &explanation.by {
        let sources: Vec<_> = explanation.sources.iter().map(ToString::to_string).collect();
        lines.push(("source addresses", sources.join(" ")));
        let how = if by == "rules" { "source address and policyd's rules" } else { "device and source address" };
        lines.push(("TCP is bound by", how.to_owned()));
    }
    if !explanation.destinations.is_empty() {
        let more = match explanation.more_destinations {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(("destinations", explanation.destinations.join(" ") + &more));
    }
    lines.extend(explanation.notes.iter().map(|note| ("note", note.clone())));
    lines.iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::request::{Priority, State};

    #[test]
    fn a_request_in_one_line() {
        let status = Status {
            id: 3,
            pid: 71,
            program: Some("rsync".to_owned()),
            network: Some("backup".to_owned()),
            interface: Some("eth1".to_owned()),
            sources: Vec::new(),
            state: State::Connected,
            reason: "by eth1".to_owned(),
            priority: Priority::High,
            exclusive: true,
            required: false,
            expires_in_seconds: None,
        };
        let expected =
            "request 3  eth1  connected: by eth1  (process 71/rsync, network backup, priority high, exclusive)\n";
        assert_eq!(line(&status), expected);
    }
}
