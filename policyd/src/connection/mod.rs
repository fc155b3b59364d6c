//! The connection manager: which interface a process's sockets get.
//!
//! ```text
//! netlink ──> view ─┐
//! requests ─────────┼─ plan ──> steering (rules, tables) ──> compile ──> arenas: tables and cells
//! processes, rules ─┘                                                    events: what became of requests
//! ```
//!
//! | file | what it owns |
//! |---|---|
//! | `settings.rs` | networks, interfaces and static rules of the configuration |
//! | `view.rs`, `netlink.rs` | what the kernel says, and its notices of changes |
//! | `rules.rs` | which of the kernel's rules a socket meets |
//! | `ranges.rs`, `compile.rs` | from routes to the destinations that an interface serves |
//! | `steering.rs` | our own rules and tables |
//! | `process.rs` | who a process is, its ancestors, what static rules ask |
//! | `request.rs` | requests, and who gets which interface |
//! | `plan.rs` | what every process and request should have now |
//! | `worker.rs` | the task that makes it so |
//! | `arenas.rs` | the memory that processes look it up in |
//! | `asking.rs` | what clients ask: open, release, networks |
//! | `explaining.rs` | why a process has what it has |
//! | `destroy.rs` | ending connections whose interface has gone, where policy says so |
//! | `saved.rs` | requests, kept over a restart |

mod arenas;
mod asking;
mod compile;
mod destroy;
mod explaining;
mod netlink;
mod plan;
pub mod process;
mod ranges;
pub mod request;
mod rules;
mod saved;
pub mod settings;
mod steering;
mod view;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tandem_protocol::Reason;
use tandem_protocol::assignment::{InterfaceName, NetworkName};
use tokio::sync::{Notify, broadcast};

use crate::broker::ClientId;
use crate::config::Networking;
use crate::registry::FamilyId;
use arenas::{Arenas, Cell};
use compile::Compiled;
use destroy::Doomed;
use plan::Plan;
use process::{Identity, Process};
use request::{Net, Request, Status};
use settings::{Existing, WhenGone};
use view::View;

pub use asking::{Asker, NetworkStatus, Source};
pub use explaining::Explanation;

/// Events that a watcher may be behind by.
const EVENTS: usize = 256;

pub struct Connections {
    settings: Networking,
    /// Whether rules and tables of our own are made.
    steers: bool,
    view: Rc<View>,
    /// Counts views: what was compiled from an older one is compiled again. 0: the network has not been looked at.
    view_number: u64,
    /// Interfaces with rules and tables of ours in force.
    steered: HashSet<u32>,
    compiled: HashMap<Pair, (u64, Compiled)>,
    /// What was served last by a network whose interfaces have gone, by class of users.
    last: HashMap<(Net, u32), (u32, Compiled)>,
    /// Boxed: thousands of processes, and a map has room for twice as many.
    members: HashMap<ClientId, Box<Member>>,
    requests: BTreeMap<u64, Request>,
    /// Requests by whose they are.
    owners: HashMap<Identity, Vec<u64>>,
    /// Tasks that end a request with its process.
    watchers: HashMap<u64, tokio::task::AbortHandle>,
    next_request: u64,
    /// Released, or about to be used: kept ready until then.
    kept: HashMap<Pair, Instant>,
    arenas: Arenas<Plan>,
    events: broadcast::Sender<(u32, Status)>,
    /// Something for the worker to do.
    pub work: Rc<Notify>,
    /// Connections that policy ends because their interface has gone.
    doomed: Vec<Doomed>,
    saved: PathBuf,
    unsaved: bool,
}

/// What is compiled by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Pair {
    net: Net,
    interface: u32,
    /// The first of the users that no rule of the kernel's tells apart: 0 where there are no rules by user.
    user: u32,
}

/// A process that has asked for its assignment.
struct Member {
    process: Process,
    family: FamilyId,
    /// From its environment.
    wish: Option<Net>,
    cell: Cell<Plan>,
    plan: Option<Plan>,
    why: Source,
    /// `Assign` has not been answered yet: its table is being compiled.
    waits: bool,
}

/// What policy says of a network.
struct Policy {
    interfaces: Vec<String>,
    destinations: Vec<IpNet>,
    mode: tandem_protocol::assignment::Mode,
    port_bind: tandem_protocol::assignment::PortBind,
    existing: Existing,
    when_gone: WhenGone,
    users: Vec<u32>,
}

/// What a joining process says of itself.
pub struct Joining {
    pub pid: u32,
    pub pidfd: Option<Arc<std::os::fd::OwnedFd>>,
    pub family: FamilyId,
    pub interface: InterfaceName,
    pub network: NetworkName,
}

/// What `Assign` is answered with.
pub struct Place {
    pub cell: u32,
    pub arena: Arc<std::os::fd::OwnedFd>,
}

impl Connections {
    pub fn new(settings: Networking, saved: PathBuf) -> Self {
        let steers = settings.autobind.rules.unwrap_or(settings.is_system);
        let mut connections = Self {
            settings,
            steers,
            view: Rc::default(),
            view_number: 0,
            steered: HashSet::new(),
            compiled: HashMap::new(),
            last: HashMap::new(),
            members: HashMap::new(),
            requests: BTreeMap::new(),
            owners: HashMap::new(),
            watchers: HashMap::new(),
            next_request: 1,
            kept: HashMap::new(),
            arenas: Arenas::default(),
            events: broadcast::channel(EVENTS).0,
            work: Rc::new(Notify::new()),
            doomed: Vec::new(),
            saved,
            unsaved: false,
        };
        connections.load();
        connections
    }

    /// A process asks for its cell. `Ok(None)`: the answer comes when its table is compiled.
    pub fn join(&mut self, client: ClientId, joining: Joining) -> Result<Option<Place>, Reason> {
        if self.members.contains_key(&client) {
            return Err(Reason::PolicydRefused);
        }
        let pidfd = joining.pidfd.ok_or(Reason::PolicydRefused)?;
        let process = Process::held(joining.pid, pidfd).ok_or(Reason::PolicydRefused)?;
        let cell = self.arenas.cell(process.facts.effective_uid).map_err(|_| Reason::NoMemory)?;
        let wish = if !joining.network.is_none() {
            Some(Net::Network(joining.network.as_str().to_owned()))
        } else {
            Some(Net::Interface(joining.interface.as_str().to_owned())).filter(|_| !joining.interface.is_none())
        };
        let member =
            Member { process, family: joining.family, wish, cell, plan: None, why: Source::Nothing, waits: true };
        self.members.insert(client, Box::new(member));
        self.settle_member(client);
        Ok(self.answer(client))
    }

    pub fn forget(&mut self, client: ClientId) {
        if let Some(member) = self.members.remove(&client)
            && member.plan.is_some()
            && !self.members.values().any(|other| other.plan == member.plan)
        {
            // The last with this plan: its rules go.
            self.work.notify_one();
        }
    }

    /// The answer that a process waits for, if it can be given now.
    fn answer(&mut self, client: ClientId) -> Option<Place> {
        let member = self.members.get_mut(&client)?;
        // Before the network was first looked at nobody can be told anything.
        let ready = self.view_number > 0 && member.plan.as_ref().is_none_or(|plan| plan.is_ready(&self.compiled));
        if !ready || !std::mem::replace(&mut member.waits, false) {
            return None;
        }
        Some(Place { cell: member.cell.index(), arena: member.cell.file() })
    }

    /// Another configuration is in force.
    pub fn reload(&mut self, settings: Networking) {
        self.steers = settings.autobind.rules.unwrap_or(settings.is_system);
        self.settings = settings;
        self.compiled.clear();
        let gone: Vec<_> =
            self.requests.values().filter(|r| self.policy(&r.net).is_none()).map(|r| (r.id, r.net.clone())).collect();
        for (id, net) in gone {
            self.end(id, &format!("the configuration has no {net} any more"));
        }
        self.work.notify_one();
    }

    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    pub fn watch(&self) -> broadcast::Receiver<(u32, Status)> {
        self.events.subscribe()
    }

    /// When the worker has something to do though nobody says so.
    fn next_deadline(&self) -> Option<Instant> {
        let lifetimes = self.requests.values().filter_map(|request| request.expires);
        lifetimes.chain(self.kept.values().copied()).min()
    }

    fn policy(&self, net: &Net) -> Option<Policy> {
        match net {
            Net::Network(name) => {
                let network = self.settings.networks.iter().find(|network| network.name.get_ref().0 == *name)?;
                Some(Policy {
                    interfaces: network.interfaces.iter().map(|name| name.0.clone()).collect(),
                    destinations: network.destinations.clone(),
                    mode: network.mode.into(),
                    port_bind: network.port_bind.into(),
                    existing: network.existing,
                    when_gone: network.when_gone,
                    users: network.users.iter().map(|user| user.0).collect(),
                })
            }
            Net::Interface(name) => Some(Policy {
                interfaces: vec![name.clone()],
                destinations: Vec::new(),
                mode: Default::default(),
                port_bind: Default::default(),
                existing: Default::default(),
                when_gone: WhenGone::default(),
                users: self.settings.autobind.interface_users.iter().map(|user| user.0).collect(),
            }),
        }
    }

    /// Whether this user may have this network.
    fn may_use(&self, net: &Net, uid: u32) -> bool {
        self.policy(net).is_some_and(|policy| uid == 0 || policy.users.is_empty() || policy.users.contains(&uid))
    }

    /// By this interface, for this user.
    fn pair(&self, net: &Net, interface: u32, uid: u32) -> Pair {
        Pair { net: net.clone(), interface, user: self.view.user_class(uid) }
    }

    /// Interfaces of ours that should have rules and tables.
    fn wanted_steering(&self, pairs: &BTreeSet<Pair>) -> BTreeSet<u32> {
        if self.steers { pairs.iter().map(|pair| pair.interface).collect() } else { BTreeSet::new() }
    }
}
