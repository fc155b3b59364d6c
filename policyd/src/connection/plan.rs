//! What every request and every process should have now. No waiting and no side effects but on our own state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use tandem_protocol::assignment::{self, Content, InterfaceName};

use super::compile::Compiled;
use super::destroy::Doomed;
use super::request::{Blocked, Claim, Net, Request, State, allocate};
use super::settings::{Existing, WhenGone};
use super::{Connections, Pair, Policy, Source};
use crate::broker::ClientId;
use crate::connection::process::{Identity, Process, is_below};
use crate::registry::FamilyId;

/// An assignment: processes with an equal one share a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub net: Net,
    /// `None`: the network has no interface now.
    pub interface: Option<u32>,
    /// Without an interface: connecting fails.
    pub down: bool,
    /// As in `Pair`.
    pub user: u32,
}

impl Plan {
    pub(super) fn is_ready(&self, compiled: &HashMap<Pair, (u64, Compiled)>) -> bool {
        self.pair().is_none_or(|pair| compiled.contains_key(&pair))
    }

    /// `None`: without an interface.
    pub(super) fn pair(&self) -> Option<Pair> {
        Some(Pair { net: self.net.clone(), interface: self.interface?, user: self.user })
    }

    fn last(&self) -> (Net, u32) {
        (self.net.clone(), self.user)
    }
}

impl Connections {
    /// Gives every request its interface, or takes it, and ends those whose time is over.
    pub(super) fn settle_requests(&mut self, now: Instant) {
        let over = |request: &&Request| request.expires.is_some_and(|expires| expires <= now);
        let ended: Vec<u64> = self.requests.values().filter(over).map(|request| request.id).collect();
        for id in ended {
            self.end(id, "its lifetime is over");
        }
        self.kept.retain(|_, until| *until > now);
        for (id, outcome) in self.allocation(None) {
            let Some(request) = self.requests.get(&id) else { continue };
            match outcome {
                Ok(interface) if request.interface == Some(interface) => {}
                Ok(interface) => {
                    if let Some(request) = self.requests.get_mut(&id) {
                        request.interface = Some(interface);
                    }
                    let name = self.interface_name(interface);
                    self.set_state(id, State::Connecting, &format!("{name} is being prepared"));
                }
                Err(blocked) => {
                    let reason = self.blocked(&request.net, blocked);
                    let lost = matches!(request.state, State::Connected | State::Suspended);
                    if let Some(request) = self.requests.get_mut(&id) {
                        request.interface = None;
                    }
                    let state = if lost { State::Suspended } else { State::WaitingForResource };
                    self.set_state(id, state, &reason);
                }
            }
        }
    }

    /// Who gets what; with one more that is only tried.
    pub(super) fn allocation(&self, tried: Option<&Request>) -> BTreeMap<u64, Result<u32, Blocked>> {
        let claims = self.requests.values().chain(tried).map(|request| Claim {
            id: request.id,
            owner: request.owner,
            priority: request.spec.priority,
            exclusive: request.spec.exclusive,
            candidates: self.candidates(request),
        });
        allocate(claims.collect())
    }

    fn candidates(&self, request: &Request) -> Vec<u32> {
        let Some(policy) = self.policy(&request.net) else { return Vec::new() };
        let fits = |name: &&String| {
            let cost = request.spec.max_cost.is_none_or(|most| self.cost(name) <= most);
            let least = request.spec.min_bandwidth_mbit;
            cost && least.is_none_or(|least| self.bandwidth(name).is_some_and(|mbit| mbit >= least))
        };
        policy.interfaces.iter().filter(fits).filter_map(|name| self.usable(name)).collect()
    }

    pub(super) fn usable(&self, name: &str) -> Option<u32> {
        self.view.link(name).map(|link| link.index).filter(|&index| self.view.is_usable(index))
    }

    pub(super) fn cost(&self, name: &str) -> u32 {
        self.settings.interfaces.iter().find(|interface| interface.name.0 == name).map_or(0, |i| i.cost)
    }

    /// As configured, else as the driver says.
    pub(super) fn bandwidth(&self, name: &str) -> Option<u32> {
        let configured = self.settings.interfaces.iter().find(|interface| interface.name.0 == name);
        configured
            .and_then(|interface| interface.bandwidth_mbit)
            .or_else(|| std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?.trim().parse().ok())
    }

    pub(super) fn interface_name(&self, index: u32) -> String {
        self.view.links.get(&index).map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    /// Why a request has no interface.
    pub(super) fn blocked(&self, net: &Net, blocked: Blocked) -> String {
        let describe = |id: u64| match self.requests.get(&id) {
            Some(other) => format!("request {id} of process {}", other.owner.pid),
            None => format!("request {id}"),
        };
        match blocked {
            Blocked::Held(id) => format!("{} has it for itself", describe(id)),
            Blocked::InUse(id) => format!("{} uses it", describe(id)),
            Blocked::NoInterface => {
                let policy = self.policy(net);
                let names = policy.map(|policy| policy.interfaces).unwrap_or_default();
                let state = |name: &String| match self.view.link(name) {
                    None => format!("{name} is not there"),
                    Some(link) if !link.up => format!("{name} is down"),
                    Some(link) if link.loopback => format!("{name} is a loopback"),
                    Some(link) if self.view.sources(link.index).next().is_none() => format!("{name} has no address"),
                    Some(_) => format!("{name} costs too much or is too slow"),
                };
                names.iter().map(state).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Every process's plan, and the tables that are needed for them.
    pub(super) fn settle_members(&mut self) {
        let families = self.requests_by_family();
        let all: Vec<ClientId> = self.members.keys().copied().collect();
        for client in all {
            self.settle(client, &families);
        }
    }

    /// What must be compiled.
    pub(super) fn needed(&self) -> BTreeSet<Pair> {
        let of_members = self.members.values().filter_map(|member| member.plan.as_ref()?.pair());
        let of_requests = self.requests.values().filter_map(|request| self.pair_of(request));
        let kept = self.kept.keys().filter(|pair| self.view.is_usable(pair.interface)).cloned();
        of_members.chain(of_requests).chain(kept).collect()
    }

    /// `None`: it has no interface.
    pub(super) fn pair_of(&self, request: &Request) -> Option<Pair> {
        Some(self.pair(&request.net, request.interface?, request.uid))
    }

    pub(super) fn settle_member(&mut self, client: ClientId) {
        let families = self.requests_by_family();
        self.settle(client, &families);
    }

    fn settle(&mut self, client: ClientId, families: &HashMap<FamilyId, u64>) {
        let Some(member) = self.members.get(&client) else { return };
        let kin = families.get(&member.family).copied();
        let (why, plan) = self.choose(&member.process, kin, member.wish.as_ref());
        self.doom(client);
        let Some(member) = self.members.get_mut(&client) else { return };
        member.why = why;
        // What is compiled already, as for every process but the first, is nothing to do for the worker.
        if plan.as_ref().is_some_and(|plan| !plan.is_ready(&self.compiled)) {
            self.work.notify_one();
        }
        member.plan = plan;
        self.show(client);
    }

    /// What a process had by an interface that has gone is ended, if policy says so.
    fn doom(&mut self, client: ClientId) {
        let Some(member) = self.members.get(&client) else { return };
        let Some((plan, pair)) = member.plan.as_ref().and_then(|plan| Some((plan, plan.pair()?))) else { return };
        let fails = self.policy(&pair.net).is_some_and(|policy| policy.existing == Existing::Failed);
        if !fails || self.view.is_usable(pair.interface) {
            return;
        }
        // It may have gone while it was compiled the last time: then that has nothing, and what was before has it.
        let now = self.compiled.get(&pair).map(|(_, compiled)| compiled);
        let before = self.last.get(&plan.last()).filter(|(of, _)| *of == pair.interface).map(|(_, compiled)| compiled);
        let sources = now.into_iter().chain(before).flat_map(Compiled::sources).collect();
        let doomed = Doomed { pid: member.process.identity.pid, sources };
        self.doomed.push(doomed);
    }

    /// No process has an assignment any more.
    pub(super) fn withdraw(&mut self) {
        for member in self.members.values_mut() {
            // Giving up a table cannot fail.
            let _ = member.cell.assign(None);
        }
    }

    /// Lets a process see its plan, if its table can be written.
    pub(super) fn show(&mut self, client: ClientId) {
        let Some(mut member) = self.members.remove(&client) else { return };
        let shown = match member.plan.clone() {
            None => member.cell.assign(None),
            // Until it is compiled what the process had stays.
            Some(plan) if !plan.is_ready(&self.compiled) => Ok(()),
            Some(plan) => self.with_content(&plan, |content| match content {
                Some(content) => member.cell.assign(Some((&plan, content))),
                None => member.cell.assign(None),
            }),
        };
        if shown.is_err() {
            member.why = Source::TooMany;
        }
        self.members.insert(client, member);
    }

    /// Writes all tables anew.
    pub(super) fn rewrite(&self) {
        let plans: std::cell::RefCell<Vec<Plan>> = std::cell::RefCell::default();
        self.arenas.rewrite(|plan| {
            plans.borrow_mut().push(plan.clone());
            None
        });
        for plan in plans.into_inner() {
            self.with_content(&plan, |content| {
                let Some(content) = content else { return };
                self.arenas.rewrite(|known| (*known == plan).then_some(*content));
            });
        }
    }

    pub(super) fn with_content<T>(&self, plan: &Plan, run: impl FnOnce(Option<&Content>) -> T) -> T {
        let Some(policy) = self.policy(&plan.net) else { return run(None) };
        let (index, compiled) = match plan.pair() {
            Some(pair) => match self.compiled.get(&pair) {
                Some((_, compiled)) => (pair.interface, compiled),
                None => return run(None),
            },
            None => match self.last.get(&plan.last()) {
                Some((interface, compiled)) => (*interface, compiled),
                // Never served anything: there is nothing to say but that it must not be left by another way.
                None if plan.down => {
                    let everything = super::compile::everything(&self.view, &policy.destinations);
                    return run(Some(&self.content(plan, &policy, 0, &everything)));
                }
                None => return run(None),
            },
        };
        run(Some(&self.content(plan, &policy, index, compiled)))
    }

    fn content<'a>(&self, plan: &Plan, policy: &Policy, index: u32, compiled: &'a Compiled) -> Content<'a> {
        let name = self.view.links.get(&index).map_or("", |link| link.name.as_str());
        Content {
            state: match (plan.interface, plan.down) {
                (Some(_), _) => assignment::State::Active,
                (None, true) => assignment::State::GoneDown,
                (None, false) => assignment::State::GoneUnbound,
            },
            mode: policy.mode,
            by_source: compiled.by_source && self.steered.contains(&index),
            needs_source: compiled.needs_source,
            port_bind: policy.port_bind,
            existing_fail: policy.existing == Existing::Failed,
            interface_index: index,
            interface: InterfaceName::new(name.as_bytes()).unwrap_or_default(),
            v4_sources: &compiled.v4_sources,
            v6_sources: &compiled.v6_sources,
            v4: &compiled.v4,
            v6: &compiled.v6,
        }
    }

    /// What a process gets, and why: its own request, its ancestors', its family's, its environment's, a static rule.
    pub(super) fn choose(&self, process: &Process, kin: Option<u64>, wish: Option<&Net>) -> (Source, Option<Plan>) {
        if !process.facts.same_network {
            return (Source::Elsewhere, None);
        }
        if let Some((request, inherited)) = self.request_of(process, kin) {
            let down = request.spec.required || self.goes_down(&request.net);
            let source = Source::Request { id: request.id, inherited };
            return (source, self.plan(&request.net, request.interface, down, process));
        }
        if let Some(net) = wish {
            return (Source::Environment(net.clone()), self.default_plan(net, process));
        }
        let rule = self.settings.rules.iter().enumerate().find(|(_, rule)| {
            let facts = &process.facts;
            let program = |path: &super::settings::AbsolutePath| facts.program.as_ref() == Some(&path.0);
            let cgroup =
                |top: &super::settings::AbsolutePath| facts.cgroup.as_deref().is_some_and(|g| is_below(g, &top.0));
            rule.program.as_ref().is_none_or(program)
                && rule.cgroup.as_ref().is_none_or(cgroup)
                && rule.user.is_none_or(|user| user.0 == facts.uid)
                && rule.group.is_none_or(|group| facts.groups.contains(&group.0))
        });
        match rule {
            Some((index, rule)) => {
                let net = Net::Network(rule.network.get_ref().0.clone());
                let plan = self.rule_plan(&net, process);
                (Source::Rule { number: index + 1, net }, plan)
            }
            None => (Source::Nothing, None),
        }
    }

    /// By the user's own wish: only if that user may.
    fn default_plan(&self, net: &Net, process: &Process) -> Option<Plan> {
        // Of a process between two users nobody knows whose the environment is.
        let facts = &process.facts;
        let may = facts.uid == facts.effective_uid && self.may_use(net, facts.uid);
        if may { self.rule_plan(net, process) } else { None }
    }

    /// Without a request: what no request of another process has for itself.
    fn rule_plan(&self, net: &Net, process: &Process) -> Option<Plan> {
        let policy = self.policy(net)?;
        let held = |interface: u32| {
            self.requests.values().any(|request| {
                request.spec.exclusive && request.interface == Some(interface) && request.owner != process.identity
            })
        };
        let usable = policy.interfaces.iter().filter_map(|name| self.usable(name));
        let interface = usable.into_iter().find(|&interface| !held(interface));
        self.plan(net, interface, policy.when_gone == WhenGone::Enetdown, process)
    }

    /// `None`: there is nothing to say about any destination.
    fn plan(&self, net: &Net, interface: Option<u32>, down: bool, process: &Process) -> Option<Plan> {
        let user = self.view.user_class(process.facts.effective_uid);
        let plan = Plan { net: net.clone(), interface, down, user };
        (interface.is_some() || down || self.last.contains_key(&plan.last())).then_some(plan)
    }

    fn goes_down(&self, net: &Net) -> bool {
        self.policy(net).is_some_and(|policy| policy.when_gone == WhenGone::Enetdown)
    }

    /// The request that decides for a process, and whether it is inherited.
    fn request_of(&self, process: &Process, kin: Option<u64>) -> Option<(&Request, bool)> {
        if let Some(own) = self.best_request(process.identity) {
            return Some((own, false));
        }
        let inherited = process.ancestors.iter().find_map(|&ancestor| self.best_request(ancestor));
        // Where the parent in between has gone the family knows whose child it was.
        inherited.or_else(|| self.requests.get(&kin?)).map(|request| (request, true))
    }

    /// Of several the one that is connected, then the highest, then the newest.
    fn best_request(&self, owner: Identity) -> Option<&Request> {
        let own = self.owners.get(&owner)?.iter().filter_map(|id| self.requests.get(id));
        own.max_by_key(|request| (request.interface.is_some(), request.spec.priority, request.id))
    }

    /// The requests of processes that forked others.
    fn requests_by_family(&self) -> HashMap<FamilyId, u64> {
        if self.requests.is_empty() {
            return HashMap::new();
        }
        let owners = self.members.values();
        owners.filter_map(|owner| Some((owner.family, self.best_request(owner.process.identity)?.id))).collect()
    }
}
