//! Where two switches meet. All of its state is here, in one thread; nothing in it waits, and everything is bounded.
//!
//! `claims.rs` keeps meets until the other end's comes, `proof.rs` asks the kernel whether a claim is true, `pairs.rs`
//! makes the memory between two processes and hands out its conns, `addresses.rs` knows which addresses are this host's,
//! `drain.rs` sends connections back to TCP, `far/` meets the ends of connections with other hosts, by their policyds.
//!
//! ```text
//! Meet ──> parked ──(mirror comes)──> both proven ──> Companion to both
//!            │                           └─ not true: Refused to that end, the other stays parked
//!            ├─ park time over: Refused peer-absent, remembered ──(mirror comes)──> Refused peer-absent to it
//!            ├─ one too many of that user: Refused quota
//!            └─ slot's next generation, socket closed, client gone: dropped
//! ```

mod addresses;
mod claims;
mod client;
mod drain;
pub mod far;
mod matching;
mod outbox;
mod pairs;
mod proof;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tandem_protocol::message::{CompanionRef, Meet, SlotRef};
use tandem_protocol::{Message, Reason};
use tracing::{debug, info};

use crate::config::{Quotas, Settings};
use crate::registry::{Families, Sums};
use addresses::LocalAddresses;
use claims::{ClaimId, Claims};
use client::Client;
use far::Far;
use pairs::Pairs;

pub use client::Admission;
pub use drain::Drained;
pub use outbox::{Inbox, Outgoing, queue};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

pub struct Broker {
    settings: Settings,
    /// Random, new at every start.
    pub instance: u64,
    /// policyd vouches for this namespace alone. `None`: the kernel has no such cookie, and nobody meets.
    own_netns: Option<u64>,
    addresses: LocalAddresses,
    pub families: Families,
    /// Boxed: there may be thousands, and a map has room for twice as many.
    clients: HashMap<ClientId, Box<Client>>,
    next_client: u64,
    claims: Claims,
    /// Sockets asked for, with the time by which they must have come. Each wait is as long, so they fall due in order.
    asked: VecDeque<(Instant, ClientId, ClaimId)>,
    pairs: Pairs,
    far: Far,
}

/// What `tandem status` counts.
#[derive(Clone, Debug)]
pub struct Census {
    pub clients: usize,
    pub pairs: usize,
    pub parked: usize,
    /// Companion ends with other hosts, and other hosts' claims that wait here; of all users.
    pub far: usize,
    pub far_parked: usize,
    pub retained: Sums,
}

impl Broker {
    pub fn new(settings: Settings) -> Self {
        let own_netns = crate::kernel::own_netns_cookie()
            .inspect_err(|error| info!("this kernel tells no namespace cookie ({error}): nobody can meet"))
            .ok();
        Self {
            settings,
            instance: random_id(),
            own_netns,
            addresses: LocalAddresses::new(),
            families: Families::default(),
            clients: HashMap::new(),
            next_client: 1,
            claims: Claims::default(),
            asked: VecDeque::new(),
            pairs: Pairs::default(),
            far: Far::default(),
        }
    }

    /// A switch has said Hello.
    pub fn admit(&mut self, admission: Admission) -> Result<ClientId, Reason> {
        let uid = admission.uid;
        if self.clients.values().filter(|client| client.uid == uid).count() >= self.quotas().clients {
            return Err(Reason::Quota);
        }
        let (client, registry) = admission.checked()?;
        let family = self.families.join(client.family_id, registry, uid, client.pid)?;
        client.outbox.set_family(family.clone());
        let id = ClientId(self.next_client);
        self.next_client += 1;
        info!(client = id.0, pid = client.pid, uid, "a switch came");
        self.clients.insert(id, Box::new(client.joined(family)));
        let version = policyd_version();
        self.send(id, Message::Welcome { policyd_version: version, instance: self.instance }, Vec::new());
        self.tell_table(id);
        Ok(id)
    }

    /// A message from a switch that has said Hello. `Err`: it misbehaves, and is to be dropped.
    pub fn on_message(&mut self, from: ClientId, message: Message, mut fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        if !self.clients.contains_key(&from) {
            return Err("it does not read its messages");
        }
        if fds.len() != message.descriptors() {
            return Err("a message with the wrong number of descriptors");
        }
        match message {
            Message::Meet(meet) => self.meet(from, meet),
            Message::Proof(slot) => {
                let socket = fds.pop().ok_or("a proof without a descriptor")?;
                self.on_proof(from, slot, Some(socket));
            }
            Message::NoProof(slot) => self.on_proof(from, slot, None),
            Message::Released(companion) => {
                self.release(from, companion);
            }
            Message::Unable { slot, companion } => self.unable(from, slot, companion),
            Message::FarEndpoint { .. }
            | Message::FarConfirmed(_)
            | Message::FarWord { .. }
            | Message::FarReleased(_)
            | Message::FarUnable(_) => self.on_far_message(from, message),
            Message::Hello { .. } => return Err("a second Hello"),
            _ => return Err("a message that only policyd sends"),
        }
        self.settle_withdrawn();
        Ok(())
    }

    /// A packet from another part of policyd.
    pub fn post(&mut self, to: ClientId, message: Message, fds: Vec<Arc<OwnedFd>>) {
        self.send(to, message, fds);
    }

    /// Another configuration is in force. Who has more than he may now keeps it.
    pub fn reload(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A channel is closed or its process is dead: nothing of it is kept but its totals.
    pub fn forget(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.claims.remove_client(id);
        self.pairs.remove_client(id);
        self.forget_far_client(id);
        self.settle_withdrawn();
        self.families.leave(&client.family, client.pid);
        info!(client = id.0, pid = client.pid, "a switch went");
    }

    /// When [`Broker::expire`] is next of use.
    pub fn next_deadline(&self) -> Option<Instant> {
        let proof = self.asked.front().map(|(deadline, ..)| *deadline);
        self.claims.next_deadline().into_iter().chain(proof).chain(self.next_far_deadline()).min()
    }

    pub fn census(&self, uid: Option<u32>) -> Census {
        let seen = |owner: u32| uid.is_none_or(|uid| uid == owner);
        let (far, far_parked) = self.far_census();
        Census {
            clients: self.clients.values().filter(|client| seen(client.uid)).count(),
            pairs: self.pairs.count(|id| self.clients.get(&id).is_some_and(|client| seen(client.uid))),
            parked: self.claims.parked(uid),
            far,
            far_parked,
            retained: self.families.retained(uid),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    fn quotas(&self) -> &Quotas {
        &self.settings.quotas
    }

    fn uid(&self, id: ClientId) -> u32 {
        self.clients.get(&id).map_or(u32::MAX, |client| client.uid)
    }

    /// Queues a packet. A client that lets its queue fill up is dropped: its task sees that the queue is closed.
    fn send(&mut self, to: ClientId, message: Message, fds: Vec<Arc<OwnedFd>>) {
        let Some(client) = self.clients.get(&to) else { return };
        if client.outbox.send(Outgoing { message, fds }).is_err() {
            debug!(client = to.0, "does not read its messages: dropped");
            self.forget(to);
        }
    }

    fn refuse(&mut self, to: ClientId, slot: SlotRef, reason: Reason) {
        debug!(client = to.0, slot = slot.slot, %reason, "refused");
        self.send(to, Message::Refused { slot, reason }, Vec::new());
    }

    /// This end has let go. Any process of the family may say so: a forked child may have been the last to hold it.
    fn release(&mut self, from: ClientId, companion: CompanionRef) -> Option<pairs::OtherEnd> {
        let family = self.clients.get(&from)?.family_id;
        let member = self.pairs.member(companion)?;
        if member != from && self.clients.get(&member)?.family_id != family {
            return None;
        }
        self.pairs.release(companion)
    }

    fn unable(&mut self, from: ClientId, slot: SlotRef, companion: CompanionRef) {
        debug!(client = from.0, slot = slot.slot, "could not take its companion");
        if let Some(other) = self.release(from, companion) {
            self.refuse(other.client, other.slot, Reason::PeerUnable);
        }
    }

    fn meet(&mut self, from: ClientId, meet: Meet) {
        let key = meet.addresses.normalised();
        let (local, remote) = (key.local_address().ip(), key.remote_address().ip());
        let met = if self.own_netns != Some(meet.netns_cookie) {
            Err(Reason::NotLocal)
        } else if key.local == key.remote {
            Err(Reason::SelfConnect)
        } else if !self.addresses.contains(local) {
            Err(Reason::NotLocal)
        } else if self.addresses.contains(remote) && !self.far.is_beside(remote) {
            Ok(None)
        } else if let Some(host) = self.far.host_of(remote) {
            self.far_obstacle(host, &key, meet.verbs).map_or(Ok(Some(host)), Err)
        } else {
            Err(Reason::NotLocal)
        };
        match met {
            Err(reason) => self.refuse(from, meet.slot, reason),
            Ok(far) => self.park(from, meet, far, Instant::now()),
        }
    }
}

/// major << 16 | minor << 8 | patch
fn policyd_version() -> u32 {
    let part = |text: &str| text.parse::<u32>().unwrap_or(0) & 0xff;
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}

/// Never zero. The kernel always has random bytes for a process that has started.
fn random_id() -> u64 {
    getrandom::u64().map_or(1, |id| id.max(1))
}
