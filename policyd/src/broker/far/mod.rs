//! Companions between hosts: what this policyd and other hosts' say to each other about them. All state is here, in the
//! broker's one thread; nothing in it waits. What a switch or a peer is to be told waits as state of what it is about, in
//! its newest form, until there is room in that one's queue: so a flood from one side fills nobody's memory and nobody's
//! queue.
//!
//! | file | what it owns |
//! |---|---|
//! | `host.rs` | one peer: its addresses, link, served addresses, claims that wait here |
//! | `meeting.rs` | from a claim to a match, on either side of a link |
//! | `companion.rs` | one companion end: what both sides have said, and what each is still to be told |
//! | `relay.rs` | messages about companions, from switches and from peers; their end |
//! | `links.rs` | links that come and go, and what both ends then agree on |
//! | `table.rs` | the SAN subnet table that switches read |

mod companion;
mod host;
mod links;
mod meeting;
mod relay;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use tandem_protocol::message::FarRef;
use tandem_protocol::{Addresses, Message, ProviderName, Reason, san};
use tracing::warn;

use super::{Broker, ClientId};
use crate::peers::hosts::Served;
use crate::peers::settings::Peer;
use crate::peers::{HostId, PeersStatus};
use companion::Companion;
use host::Host;
use table::Table;

#[derive(Default)]
pub struct Far {
    hosts: BTreeMap<HostId, Host>,
    companions: HashMap<FarRef, Companion>,
    clients: HashMap<ClientId, Member>,
    /// Companion ends by user.
    by_uid: HashMap<u32, usize>,
    /// Matches that the other side has not accepted yet. Each wait is as long.
    proposals: VecDeque<(Instant, FarRef)>,
    /// This host's addresses that a device serves.
    served: Vec<Served>,
    table: Option<Table>,
}

/// A client that has companions, and what it is to be told of them.
#[derive(Default)]
struct Member {
    companions: BTreeSet<FarRef>,
    due: VecDeque<FarRef>,
    links: Vec<(HostId, bool)>,
}

/// A peer says what no policyd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misbehaviour(pub &'static str);

impl Broker {
    /// Other peers are configured, or the same ones otherwise. With each: our role towards it.
    pub fn set_peers(&mut self, peers: Vec<(HostId, Peer, u8)>, limits: Limits) {
        let gone: Vec<_> =
            self.far.hosts.keys().copied().filter(|id| peers.iter().all(|(known, ..)| known != id)).collect();
        for host in gone {
            self.forget_host(host);
        }
        for (id, peer, role) in peers {
            let host = self.far.hosts.entry(id).or_default();
            host.configure(peer, role, limits);
        }
        self.publish();
    }

    /// Devices and addresses are as given now.
    pub fn set_served(&mut self, mut served: Vec<Served>) {
        // Devices of other network namespaces may be seen here too.
        served.retain(|served| self.addresses.contains(served.address));
        if self.far.served == served {
            return;
        }
        self.far.served = served;
        let troubled: Vec<_> =
            self.far.companions.iter().filter(|(_, c)| !self.far.serves(c.local)).map(|(&far, _)| far).collect();
        for far in troubled {
            self.trouble(far, Reason::NoDevice);
        }
        let hosts: Vec<_> = self.far.hosts.keys().copied().collect();
        for host in hosts {
            if let Some(host) = self.far.hosts.get_mut(&host) {
                host.tell_served = true;
            }
            self.link_has_room(host);
        }
        self.publish();
    }

    /// Why a connection between this host and a listed peer has no companion, if that can be said at once.
    pub(super) fn far_obstacle(&self, host: HostId, key: &Addresses, verbs: bool) -> Option<Reason> {
        let peer = self.far.hosts.get(&host)?;
        if !self.far.serves(key.local_address().ip()) {
            Some(Reason::NoDevice)
        } else if peer.link.is_none() {
            // It may be coming: who has a provider waits as for any other end.
            (!verbs).then_some(Reason::PeerUnreachable)
        } else if peer.has_told && !peer.served.contains(&key.remote_address().ip()) {
            Some(Reason::PeerNoDevice)
        } else {
            (!verbs).then_some(Reason::NoProvider)
        }
    }

    pub(super) fn is_linked(&self, host: HostId) -> bool {
        self.far.hosts.get(&host).is_some_and(|host| host.link.is_some())
    }

    /// What `tandem peer list` shows of a host: its served addresses, companions and parked claims.
    pub fn host_status(&self, host: HostId) -> (Vec<IpAddr>, usize, usize) {
        self.far.hosts.get(&host).map_or_else(Default::default, |host| {
            (host.served.iter().copied().collect(), host.companions, host.claims.len())
        })
    }

    pub fn peers_status(&self, peers: &crate::peers::Peers) -> PeersStatus {
        peers.status(self.far.served.clone(), |host| self.host_status(host))
    }

    /// Companion ends with other hosts, and claims of theirs that wait here.
    pub(super) fn far_census(&self) -> (usize, usize) {
        (self.far.companions.len(), self.far.hosts.values().map(|host| host.claims.len()).sum())
    }

    /// Switches are told where addresses that devices serve stand, and it is written there.
    fn publish(&mut self) {
        if self.far.table.is_none() {
            if self.far.hosts.is_empty() {
                return;
            }
            match Table::new() {
                Ok(table) => self.far.table = Some(table),
                Err(error) => {
                    warn!("cannot make the table of served addresses: {error}");
                    return;
                }
            }
            let all: Vec<_> = self.clients.keys().copied().collect();
            all.into_iter().for_each(|client| self.tell_table(client));
        }
        self.far.write_table();
    }

    /// To a switch that has just been welcomed, or to all when there is a table at last.
    pub(super) fn tell_table(&mut self, client: ClientId) {
        if let Some(file) = self.far.table.as_ref().map(Table::file) {
            self.send(client, Message::San, vec![file]);
        }
    }
}

/// What each peer may have here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub companions: usize,
    pub parked: usize,
}

impl Far {
    fn serves(&self, address: IpAddr) -> bool {
        self.served.iter().any(|served| served.address == address)
    }

    /// The peer to whom the longest prefix gives this address.
    pub(super) fn host_of(&self, address: IpAddr) -> Option<HostId> {
        let length = |host: &Host| host.longest(address);
        let found = self.hosts.iter().filter_map(|(&id, host)| Some((length(host)?, id)));
        found.max_by_key(|(length, _)| *length).map(|(_, id)| id)
    }

    /// This host's own address, given to another policyd here.
    pub(super) fn is_beside(&self, address: IpAddr) -> bool {
        self.host_of(address).and_then(|id| self.hosts.get(&id)).is_some_and(|host| host.same_host)
    }

    fn write_table(&self) {
        let Some(table) = &self.table else { return };
        let named = |served: &Served| Some((san::number(served.address), ProviderName::new(&served.provider)?));
        let mut local: Vec<_> = self.served.iter().filter_map(named).collect();
        local.sort_unstable();
        local.dedup_by_key(|(address, _)| *address);
        let prefixes: Vec<_> = self.hosts.iter().flat_map(|(&id, host)| host.prefixes(id)).collect();
        let served = |(&id, host): (&HostId, &Host)| {
            let all: Vec<_> = host.served.iter().map(|&ip| (san::number(ip), id)).collect();
            all
        };
        let mut remote: Vec<(u128, u32)> = self.hosts.iter().flat_map(served).collect();
        remote.sort_unstable();
        table.write(&san::Content { local: &local, prefixes: &prefixes, remote: &remote });
    }
}
