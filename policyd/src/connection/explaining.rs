//! Why a process has the assignment that it has: `tandem explain`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Connections;
use super::asking::{Asker, Source};
use super::plan::Plan;
use super::process::{self, Process};
use super::request::Net;

/// `{"explain": …}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub pid: u32,
    pub program: Option<String>,
    /// Whether its switch has asked for its assignment yet.
    pub switch: bool,
    pub network: Option<String>,
    pub interface: Option<String>,
    pub sources: Vec<IpAddr>,
    /// `rules`, `device`, or none.
    pub by: Option<String>,
    /// Ranges of destinations that are bound.
    pub destinations: Vec<String>,
    /// Ranges beyond those shown.
    pub more_destinations: usize,
    pub why: String,
    pub notes: Vec<String>,
}

/// Ranges that an explanation shows.
const SHOWN: usize = 32;

impl Connections {
    pub fn explain(&self, asker: Asker, pid: u32) -> Result<Explanation, String> {
        let member = self.members.values().find(|member| member.process.identity.pid == pid);
        let process = match member {
            Some(member) => member.process.clone(),
            None => Process::of(pid).ok_or_else(|| format!("there is no process {pid}"))?,
        };
        if asker.sees.is_some_and(|uid| uid != process.facts.uid) {
            return Err(format!("process {pid} is another user's"));
        }
        let (why, plan) = match member {
            Some(member) => (member.why.clone(), member.plan.clone()),
            None => self.choose(&process, None, None),
        };
        let mut explanation = self.explain_plan(plan.as_ref());
        explanation.pid = pid;
        explanation.program = process::name(pid);
        explanation.switch = member.is_some();
        explanation.why = self.explain_why(&why, plan.as_ref(), process.facts.uid);
        if member.is_none() {
            explanation.notes.push(
                "no switch of this process has asked for its assignment: it is not run under Tandem, is linked \
                 statically, or has made no connection yet"
                    .to_owned(),
            );
        }
        if plan.is_some() {
            explanation.notes.push(
                "what the program binds to an address itself is left alone; getaddrinfo looks names up by sockets that \
                 no preload sees, as the routing table says"
                    .to_owned(),
            );
        }
        Ok(explanation)
    }

    fn explain_plan(&self, plan: Option<&Plan>) -> Explanation {
        let mut explanation = Explanation {
            pid: 0,
            program: None,
            switch: false,
            network: None,
            interface: None,
            sources: Vec::new(),
            by: None,
            destinations: Vec::new(),
            more_destinations: 0,
            why: String::new(),
            notes: Vec::new(),
        };
        let Some(plan) = plan else { return explanation };
        if let Net::Network(name) = &plan.net {
            explanation.network = Some(name.clone());
        }
        let Some(pair) = plan.pair() else {
            let then = if plan.down { "connecting fails with ENETDOWN" } else { "sockets stay unbound" };
            let why = self.blocked(&plan.net, super::request::Blocked::NoInterface);
            explanation.notes.push(format!("it has no interface now, so {then}: {why}"));
            return explanation;
        };
        explanation.interface = Some(self.interface_name(pair.interface));
        let steered = self.steered.contains(&pair.interface);
        explanation.by = Some(if steered { "rules" } else { "device" }.to_owned());
        if let Some((_, compiled)) = self.compiled.get(&pair) {
            if steered && !compiled.by_source {
                explanation.by = Some("device".to_owned());
                explanation.notes.push(
                    "a rule that comes before policyd's (autobind.rule_priority) leads elsewhere, so the device is named"
                        .to_owned(),
                );
            }
            explanation.sources = compiled.sources().collect();
            let v4 = compiled.v4.iter().map(|range| format!("{}-{}", range.first, range.last));
            let v6 = compiled.v6.iter().map(|range| format!("{}-{}", range.first, range.last));
            explanation.destinations = v4.chain(v6).collect();
            explanation.more_destinations = explanation.destinations.len().saturating_sub(SHOWN);
            explanation.destinations.truncate(SHOWN);
            if compiled.v4.is_empty() && compiled.v6.is_empty() {
                explanation.notes.push("the interface has no route to anything, so nothing is bound".to_owned());
            }
        }
        explanation
    }

    fn explain_why(&self, why: &Source, plan: Option<&Plan>, uid: u32) -> String {
        match why {
            Source::Nothing => "nobody has asked for it, and no rule names it: the routing table chooses".to_owned(),
            Source::Elsewhere => {
                "it is in another network namespace than policyd: the routing table chooses".to_owned()
            }
            Source::TooMany => "this user's processes have too many different assignments at one time".to_owned(),
            Source::Request { id, inherited } => {
                let Some(request) = self.requests.get(id) else { return format!("request {id}") };
                let whose =
                    if *inherited { format!(", inherited from process {}", request.owner.pid) } else { String::new() };
                format!("request {id} ({}: {}){whose}", request.state.text(), request.reason)
            }
            Source::Environment(net) if self.policy(net).is_none() => self.unknown(net),
            Source::Environment(net) if !self.may_use(net, uid) => format!("user {uid} may not use {net}"),
            Source::Environment(net) => format!("its environment names {net}{}", self.absent(plan)),
            Source::Rule { number, net } => {
                format!("rule {number} of the configuration gives it {net}{}", self.absent(plan))
            }
        }
    }

    fn absent(&self, plan: Option<&Plan>) -> &'static str {
        if plan.is_none_or(|plan| plan.interface.is_none()) { ", which cannot be used now" } else { "" }
    }
}
