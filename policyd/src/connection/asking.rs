//! What clients ask on the control socket: requests, their end, which networks there are, and why a process has what it has.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::info;

use super::process::{self, Process};
use super::request::{Net, Request, Spec, State, Status};
use super::{Connections, Policy};
use crate::daemon::Shared;
use crate::kernel;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub pid: u32,
    pub uid: u32,
    /// Whose it may see and change; `None`: everybody's.
    pub sees: Option<u32>,
}

/// `{"networks": …}`, one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub name: String,
    /// That a request would get now.
    pub interface: Option<String>,
    pub reason: Option<String>,
    pub interfaces: Vec<InterfaceStatus>,
    pub destinations: Vec<String>,
    /// Of the asking user, or for root and policyd's own user of all.
    pub requests: usize,
    pub allowed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `up`, `down`, `absent` or `no-address`.
    pub state: String,
    pub addresses: Vec<IpAddr>,
    pub cost: u32,
    pub bandwidth_mbit: Option<u32>,
    /// By `from ADDRESS` rules of ours, not by device.
    pub by_rules: bool,
}

/// Where an assignment comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Nothing,
    /// In another network namespace than policyd, where interfaces are others.
    Elsewhere,
    Request {
        id: u64,
        inherited: bool,
    },
    Environment(Net),
    Rule {
        number: usize,
        net: Net,
    },
    /// This user's processes have too many different assignments at one time.
    TooMany,
}

impl Connections {
    /// Makes a request, or says what would become of it.
    pub fn open(
        shared: &Rc<Shared>,
        asker: Asker,
        own: Option<&Arc<std::os::fd::OwnedFd>>,
        spec: Spec,
    ) -> Result<Status, String> {
        // Before anything that costs: who asks too much is to be refused cheaply.
        shared.connections.borrow().check_quota(asker.uid)?;
        let pid = spec.pid.unwrap_or(asker.pid);
        // Who connected, even if it has died since and another process has its number.
        let asking = own.and_then(|pidfd| Process::held(asker.pid, pidfd.clone()));
        let asking = asking.ok_or_else(|| format!("process {}, which asks, is not to be found", asker.pid))?;
        if asking.facts.effective_uid != asker.uid {
            return Err(format!(
                "this connection is user {}'s, and its process is not any more; connect anew",
                asker.uid
            ));
        }
        let process = Process::of(pid).ok_or_else(|| format!("there is no process {pid}"))?;
        if pid == asker.pid && process.identity != asking.identity {
            return Err(format!("there is no process {pid}"));
        }
        let mut connections = shared.connections.borrow_mut();
        connections.check_owner(asker, &process)?;
        let net = connections.net_of(&spec)?;
        if !connections.may_use(&net, asker.uid) {
            return Err(format!("user {} may not use {net}; its users are named in the configuration", asker.uid));
        }
        let uid = asker.uid;
        let lifetime = spec.lifetime_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let mut request = Request {
            id: connections.next_request,
            net,
            owner: process.identity,
            uid,
            state: State::WaitingForResource,
            reason: "new".to_owned(),
            interface: None,
            expires: lifetime.map(|lifetime| Instant::now() + lifetime),
            spec,
        };
        if request.spec.dry_run {
            return Ok(connections.tried(request));
        }
        let id = request.id;
        connections.next_request += 1;
        request.spec.pid = Some(pid);
        info!(request = id, pid, uid, net = %request.net, "requested");
        connections.owners.entry(request.owner).or_default().push(id);
        connections.requests.insert(id, request);
        connections.unsaved = true;
        connections.settle_requests(Instant::now());
        connections.work.notify_one();
        let status = connections.requests.get(&id).map(|request| connections.status(request));
        drop(connections);
        end_with_process(shared, id, process.pidfd);
        status.ok_or_else(|| "its lifetime is over".to_owned())
    }

    fn check_quota(&self, uid: u32) -> Result<(), String> {
        let most = self.settings.requests_per_user;
        if self.requests.values().filter(|request| request.uid == uid).count() >= most {
            return Err(format!("user {uid} has {most} requests already (quotas.requests); release some"));
        }
        Ok(())
    }

    /// Watches the processes of requests that were taken over from before.
    pub fn watch_owners(shared: &Rc<Shared>) {
        let owners: Vec<_> =
            shared.connections.borrow().requests.values().map(|request| (request.id, request.owner)).collect();
        for (id, owner) in owners {
            match Process::of(owner.pid).filter(|process| process.identity == owner) {
                Some(process) => end_with_process(shared, id, process.pidfd),
                None => shared.connections.borrow_mut().end(id, "its process has ended"),
            }
        }
    }

    pub fn release(&mut self, asker: Asker, id: u64) -> Result<Status, String> {
        let request = self.requests.get(&id).filter(|request| asker.sees.is_none_or(|uid| uid == request.uid));
        let request = request.ok_or_else(|| format!("there is no request {id} of yours"))?;
        if let Some(pair) = self.pair_of(request) {
            let until = Instant::now() + Duration::from_secs(self.settings.autobind.cache_seconds.into());
            self.kept.insert(pair, until);
        }
        let mut status = self.requests.get(&id).map(|request| self.status(request)).ok_or("it is over")?;
        self.end(id, "released");
        (status.state, status.reason) = (State::Disconnected, "released".to_owned());
        status.interface = None;
        Ok(status)
    }

    pub fn requests(&self, asker: Asker) -> Vec<Status> {
        let seen = self.requests.values().filter(|request| asker.sees.is_none_or(|uid| uid == request.uid));
        seen.map(|request| self.status(request)).collect()
    }

    /// Sees to it that a program that is about to start finds its assignment compiled, and says whether it may have it.
    pub fn prepare(&mut self, asker: Asker, net: Net) -> Result<String, String> {
        let policy = self.policy(&net).ok_or_else(|| self.unknown(&net))?;
        if !self.may_use(&net, asker.uid) {
            return Err(format!("user {} may not use {net}; its users are named in the configuration", asker.uid));
        }
        let Some(interface) = policy.interfaces.iter().find_map(|name| self.usable(name)) else {
            return Err(self.blocked(&net, super::request::Blocked::NoInterface));
        };
        let until = Instant::now() + Duration::from_secs(2);
        let pair = self.pair(&net, interface, asker.uid);
        let kept = self.kept.entry(pair).or_insert(until);
        *kept = until.max(*kept);
        self.work.notify_one();
        Ok(self.interface_name(interface))
    }

    /// A request is over, for this reason.
    pub(super) fn end(&mut self, id: u64, reason: &str) {
        self.set_state(id, State::Disconnected, reason);
        if let Some(request) = self.requests.remove(&id) {
            info!(request = id, pid = request.owner.pid, "{reason}");
            if let Some(all) = self.owners.get_mut(&request.owner) {
                all.retain(|&other| other != id);
                if all.is_empty() {
                    self.owners.remove(&request.owner);
                }
            }
            // The pidfd goes with it.
            if let Some(watcher) = self.watchers.remove(&id) {
                watcher.abort();
            }
            self.unsaved = true;
            self.work.notify_one();
        }
    }

    pub(super) fn set_state(&mut self, id: u64, state: State, reason: &str) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        if request.state == state && request.reason == reason {
            return;
        }
        request.state = state;
        request.reason = reason.to_owned();
        if state == State::Disconnected {
            request.interface = None;
        }
        let uid = request.uid;
        if let Some(request) = self.requests.get(&id) {
            // Nobody may be watching.
            drop(self.events.send((uid, self.status(request))));
        }
    }

    pub(super) fn status(&self, request: &Request) -> Status {
        let now = Instant::now();
        let compiled = self.pair_of(request).and_then(|pair| self.compiled.get(&pair));
        Status {
            id: request.id,
            pid: request.owner.pid,
            program: process::name(request.owner.pid),
            network: match &request.net {
                Net::Network(name) => Some(name.clone()),
                Net::Interface(_) => None,
            },
            interface: request.interface.map(|interface| self.interface_name(interface)),
            sources: compiled.map(|(_, compiled)| compiled.sources().collect()).unwrap_or_default(),
            state: request.state,
            reason: request.reason.clone(),
            priority: request.spec.priority,
            exclusive: request.spec.exclusive,
            required: request.spec.required,
            expires_in_seconds: request.expires.map(|at| at.saturating_duration_since(now).as_secs()),
        }
    }

    fn check_owner(&self, asker: Asker, process: &Process) -> Result<(), String> {
        let owner = process.facts.uid;
        let allowed = self.settings.autobind.on_behalf.iter().any(|user| user.0 == asker.uid);
        if owner == asker.uid || asker.sees.is_none() || allowed {
            return Ok(());
        }
        Err(format!(
            "process {} is user {owner}'s, and user {} may not ask for it; autobind.on_behalf names who may",
            process.identity.pid, asker.uid
        ))
    }

    /// What a request is for.
    fn net_of(&self, spec: &Spec) -> Result<Net, String> {
        let net = match (&spec.network, &spec.interface) {
            (Some(_), Some(_)) => return Err("give a network or an interface, not both".to_owned()),
            (Some(name), None) => Net::Network(name.clone()),
            (None, Some(name)) if tandem_protocol::assignment::InterfaceName::new(name.as_bytes()).is_none() => {
                return Err(format!("{name:?} names no interface"));
            }
            (None, Some(name)) => Net::Interface(name.clone()),
            (None, None) => match spec.destination {
                Some(to) => return self.net_to(to),
                None => return Err("give a network, an interface or a destination".to_owned()),
            },
        };
        let policy = self.policy(&net).ok_or_else(|| self.unknown(&net))?;
        match spec.destination.filter(|to| !covers(&policy, *to)) {
            Some(to) => Err(format!("{net} is not for {to}")),
            None => Ok(net),
        }
    }

    /// The first network that is for this destination and has an interface with a route to it.
    fn net_to(&self, to: IpAddr) -> Result<Net, String> {
        let names = self.settings.networks.iter().map(|network| Net::Network(network.name.get_ref().0.clone()));
        let serving = |net: &Net| {
            let Some(policy) = self.policy(net) else { return false };
            let routed = |name: &String| self.usable(name).is_some_and(|interface| self.routes_to(interface, to));
            covers(&policy, to) && policy.interfaces.iter().any(routed)
        };
        names.into_iter().find(serving).ok_or_else(|| format!("no network has a route to {to}"))
    }

    fn routes_to(&self, interface: u32, to: IpAddr) -> bool {
        let routes = self.view.routes.iter().filter(|route| route.unicast && route.legs.contains(&interface));
        routes.into_iter().any(|route| route.net.contains(&to))
    }

    pub(super) fn unknown(&self, net: &Net) -> String {
        let known: Vec<_> = self.settings.networks.iter().map(|network| network.name.get_ref().0.as_str()).collect();
        let known = if known.is_empty() { "none is".to_owned() } else { known.join(", ") };
        format!("{net} is not configured ({known})")
    }

    /// As it would be answered now.
    fn tried(&self, mut request: Request) -> Status {
        let outcome = self.allocation(Some(&request)).remove(&request.id);
        match outcome {
            Some(Ok(interface)) => {
                request.interface = Some(interface);
                request.state = State::Connected;
                request.reason = format!("would be by {}", self.interface_name(interface));
            }
            Some(Err(blocked)) => request.reason = format!("would wait: {}", self.blocked(&request.net, blocked)),
            None => {}
        }
        request.id = 0;
        self.status(&request)
    }

    pub fn networks(&self, asker: Asker) -> Vec<NetworkStatus> {
        let all = self.settings.networks.iter().map(|network| Net::Network(network.name.get_ref().0.clone()));
        all.filter_map(|net| self.network(asker, &net)).collect()
    }

    fn network(&self, asker: Asker, net: &Net) -> Option<NetworkStatus> {
        let policy = self.policy(net)?;
        let usable = policy.interfaces.iter().find_map(|name| self.usable(name));
        let (Net::Network(name) | Net::Interface(name)) = net;
        let mine = self.requests.values().filter(|request| asker.sees.is_none_or(|uid| uid == request.uid));
        Some(NetworkStatus {
            name: name.clone(),
            interface: usable.map(|index| self.interface_name(index)),
            reason: usable.is_none().then(|| self.blocked(net, super::request::Blocked::NoInterface)),
            interfaces: policy.interfaces.iter().map(|name| self.interface(name)).collect(),
            destinations: policy.destinations.iter().map(ToString::to_string).collect(),
            requests: mine.filter(|request| request.net == *net).count(),
            allowed: self.may_use(net, asker.uid),
        })
    }

    fn interface(&self, name: &str) -> InterfaceStatus {
        let link = self.view.link(name);
        let addresses: Vec<IpAddr> = link.map(|link| self.view.sources(link.index).collect()).unwrap_or_default();
        let state = match link {
            None => "absent",
            Some(link) if !link.up => "down",
            Some(_) if addresses.is_empty() => "no-address",
            Some(_) => "up",
        };
        InterfaceStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            addresses,
            cost: self.cost(name),
            bandwidth_mbit: self.bandwidth(name),
            by_rules: link.is_some_and(|link| self.steered.contains(&link.index)),
        }
    }
}

fn covers(policy: &Policy, to: IpAddr) -> bool {
    policy.destinations.is_empty() || policy.destinations.iter().any(|net| net.contains(&to))
}

/// By its pidfd: no pid is ever taken for its successor.
fn end_with_process(shared: &Rc<Shared>, id: u64, process: Arc<std::os::fd::OwnedFd>) {
    let of_task = shared.clone();
    let watcher = tokio::task::spawn_local(async move {
        kernel::death(process).await;
        of_task.connections.borrow_mut().end(id, "its process has ended");
    });
    shared.connections.borrow_mut().watchers.insert(id, watcher.abort_handle());
}
