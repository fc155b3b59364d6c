//! What is known of each peer's link. No input or output happens here.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::settings::{KEY_FILE, Peer, Settings};
use super::wire::Farewell;
use super::{HostId, Keypair, PublicKey};

/// Handshakes that one peer's addresses may begin: so many at once, and then so many a second.
const BURST: f64 = 16.0;
const A_SECOND: f64 = 4.0;
/// Handshakes under way, of all.
const MOST_HANDSHAKES: usize = 64;

pub struct Peers {
    pub settings: Settings,
    pub own: Option<Rc<Keypair>>,
    /// Why no link can be.
    fault: Option<String>,
    hosts: BTreeMap<HostId, Host>,
    /// Of every key that was ever listed since policyd started.
    numbers: HashMap<PublicKey, HostId>,
    next_link: u64,
    pub handshakes: usize,
    /// The settings are others.
    pub changed: Rc<Notify>,
    is_system: bool,
    /// Where devices are looked for.
    pub sysfs: PathBuf,
}

impl Served {
    /// As in `10.0.0.1 by rxe0`.
    pub fn by(&self) -> &str {
        if self.device.is_empty() { &self.provider } else { &self.device }
    }
}

struct Host {
    peer: Peer,
    since: Instant,
    error: Option<String>,
    current: Option<Current>,
    /// There is no link any more.
    wake: Rc<Notify>,
    dialler: Option<AbortHandle>,
    credit: f64,
    credited: Instant,
}

struct Current {
    number: u64,
    dialled: bool,
    instance: u64,
    address: SocketAddr,
    stop: Rc<Stop>,
}

/// How a link's tasks are told to end, or to see whether the other end is still there.
#[derive(Default)]
pub struct Stop {
    pub why: std::cell::Cell<Option<Farewell>>,
    pub told: Notify,
    pub probe: Notify,
}

/// A link that has just said Hello.
pub struct Candidate {
    pub host: HostId,
    pub dialled: bool,
    pub instance: u64,
    pub address: SocketAddr,
}

pub enum Adoption {
    Adopted { number: u64, stop: Rc<Stop> },
    Refused(Farewell),
}

/// `tandem peer list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersStatus {
    /// This host's.
    pub public_key: Option<String>,
    pub key_file: Option<PathBuf>,
    pub listen: Option<String>,
    /// Where `tandem peer add` writes to.
    pub folder: Option<PathBuf>,
    /// Why no link can be.
    pub fault: Option<String>,
    /// This host's addresses that a device serves: `10.0.0.1 by rxe0`.
    pub served: Vec<Served>,
    pub peers: Vec<PeerStatus>,
}

/// One of this host's addresses, and what serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Served {
    pub address: IpAddr,
    /// Empty where that is its provider's affair.
    pub device: String,
    pub port: u32,
    pub provider: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub name: String,
    /// This policyd's number for it, as switches name it.
    pub host: HostId,
    pub public_key: String,
    pub endpoint: Option<String>,
    pub addresses: Vec<String>,
    pub up: bool,
    /// The other end of the link.
    pub linked_to: Option<String>,
    /// For how long it has been up, or down.
    pub seconds: u64,
    /// What ended the last link, or kept it from coming.
    pub error: Option<String>,
    /// The peer's addresses that a device serves there.
    pub served: Vec<IpAddr>,
    pub companions: usize,
    /// Its claims that wait for their other end here.
    pub parked: usize,
}

impl Peers {
    pub fn new(settings: Settings, sysfs: PathBuf) -> Self {
        let mut peers = Self {
            settings: Settings { peers: Vec::new(), ..settings.clone() },
            own: None,
            fault: None,
            hosts: BTreeMap::new(),
            numbers: HashMap::new(),
            next_link: 1,
            handshakes: 0,
            changed: Rc::new(Notify::new()),
            is_system: nix::unistd::geteuid().is_root(),
            sysfs,
        };
        peers.configure(settings);
        peers
    }

    /// Another configuration is in force. Links of peers that stay as they were stay.
    pub fn configure(&mut self, settings: Settings) {
        self.read_key(&settings);
        let mut old = std::mem::take(&mut self.hosts);
        if self.fault.is_none() {
            for peer in &settings.peers {
                let next = self.numbers.len() as HostId + 1;
                let id = *self.numbers.entry(peer.public_key).or_insert(next);
                let kept = old.remove(&id).filter(|host| host.peer == *peer);
                self.hosts.insert(id, kept.unwrap_or_else(|| Host::new(peer.clone())));
            }
        }
        for host in old.into_values() {
            host.end();
        }
        self.settings = settings;
        self.changed.notify_one();
    }

    fn read_key(&mut self, settings: &Settings) {
        self.fault = None;
        if settings.peers.is_empty() && settings.listen.is_none() {
            self.own = None;
            return;
        }
        let before = self.own.take();
        let read = match key_file(settings) {
            _ if !self.is_system => Err("only root's policyd speaks to other hosts".to_owned()),
            None => Err("there is no configuration file: name the key by peers.key".to_owned()),
            Some(path) => Keypair::read(&path).map_err(|error| format!("{error:#}")),
        };
        match read {
            Ok(pair) => {
                if settings.peers.iter().any(|peer| peer.public_key == pair.public) {
                    self.fault = Some(format!("{} is listed as a peer's key and is this host's own", pair.public));
                }
                if before.as_ref().is_some_and(|before| before.public != pair.public) {
                    // Whoever knows us knows us by the old one.
                    std::mem::take(&mut self.hosts).into_values().for_each(Host::end);
                }
                self.own = Some(Rc::new(pair));
            }
            Err(fault) => self.fault = Some(fault),
        }
        if let Some(fault) = &self.fault {
            tracing::error!("no link to other hosts: {fault}");
        }
    }

    /// Every peer that there is, with our role towards it.
    pub fn listed(&self) -> Vec<(HostId, Peer, u8)> {
        let Some(own) = &self.own else { return Vec::new() };
        let role = |peer: &Peer| u8::from(own.public > peer.public_key);
        self.hosts.iter().map(|(&id, host)| (id, host.peer.clone(), role(&host.peer))).collect()
    }

    pub fn peer(&self, id: HostId) -> Option<&Peer> {
        self.hosts.get(&id).map(|host| &host.peer)
    }

    pub fn of_key(&self, key: PublicKey) -> Option<HostId> {
        self.numbers.get(&key).copied().filter(|id| self.hosts.contains_key(id))
    }

    /// Peers to dial that nobody dials yet.
    pub fn undialled(&self) -> Vec<HostId> {
        let wants = |host: &Host| host.peer.endpoint.is_some() && host.dialler.is_none();
        self.hosts.iter().filter(|(_, host)| wants(host)).map(|(&id, _)| id).collect()
    }

    pub fn dials(&mut self, id: HostId, task: AbortHandle) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.dialler = Some(task);
        }
    }

    /// What to wait for while there is a link. `None`: there is none, or the peer is not listed any more.
    pub fn while_linked(&self, id: HostId) -> Option<Rc<Notify>> {
        self.hosts.get(&id).filter(|host| host.current.is_some()).map(|host| host.wake.clone())
    }

    /// Where links may come from.
    pub fn sources(&self) -> Vec<IpNet> {
        self.hosts.values().flat_map(|host| sources(&host.peer)).collect()
    }

    /// Whether a handshake with who connected from there may begin.
    pub fn may_begin(&mut self, from: IpAddr, now: Instant) -> bool {
        let from = from.to_canonical();
        let mut matching = self.hosts.values_mut().filter(|host| comes_from(&host.peer, from));
        self.handshakes < MOST_HANDSHAKES && matching.any(|host| host.takes_credit(now))
    }

    /// Whether this peer may come from there.
    pub fn may_come(&self, id: HostId, from: IpAddr) -> bool {
        self.peer(id).is_some_and(|peer| comes_from(peer, from.to_canonical()))
    }

    /// Which of two links stays, decided alike at both ends: one that was dialled by the end with the smaller key, the newer
    /// of two that one end has dialled, and the one to a policyd that has been started since.
    pub fn adopt(&mut self, candidate: &Candidate) -> Adoption {
        let Some(own) = self.own.as_ref().map(|pair| pair.public) else { return Adoption::Refused(Farewell::Removed) };
        let Some(host) = self.hosts.get_mut(&candidate.host) else { return Adoption::Refused(Farewell::Removed) };
        if let Some(current) = &host.current {
            let by_smaller = candidate.dialled == (own < host.peer.public_key);
            let same_end = candidate.dialled == current.dialled;
            if !same_end && !by_smaller && candidate.instance == current.instance {
                // It may have lost what we still believe in.
                current.stop.probe.notify_one();
                return Adoption::Refused(Farewell::Duplicate);
            }
            current.stop.end(Farewell::Duplicate);
        } else {
            host.since = Instant::now();
        }
        let number = self.next_link;
        self.next_link += 1;
        let stop = Rc::new(Stop::default());
        let &Candidate { dialled, instance, address, .. } = candidate;
        host.current = Some(Current { number, dialled, instance, address, stop: stop.clone() });
        host.error = None;
        Adoption::Adopted { number, stop }
    }

    /// False: another link has taken its place.
    pub fn ended(&mut self, id: HostId, number: u64, why: &str) -> bool {
        let Some(host) = self.hosts.get_mut(&id) else { return false };
        if host.current.as_ref().is_none_or(|current| current.number != number) {
            return false;
        }
        host.current = None;
        host.since = Instant::now();
        host.error = Some(why.to_owned());
        host.wake.notify_one();
        true
    }

    /// A link that did not come to be.
    pub fn failed(&mut self, id: HostId, why: String) {
        if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.current.is_none()) {
            host.error = Some(why);
        }
    }

    /// policyd leaves.
    pub fn leave(&mut self) {
        for host in self.hosts.values() {
            if let Some(current) = &host.current {
                current.stop.end(Farewell::Leaving);
            }
        }
    }

    pub fn is_linked(&self) -> bool {
        self.hosts.values().any(|host| host.current.is_some())
    }

    /// What `tells` says of a host, beside what is known here: its served addresses, companions, and parked claims.
    pub fn status(&self, served: Vec<Served>, tells: impl Fn(HostId) -> (Vec<IpAddr>, usize, usize)) -> PeersStatus {
        let peers = self.hosts.iter().map(|(&id, host)| {
            let (served, companions, parked) = tells(id);
            host.status(id, served, companions, parked)
        });
        PeersStatus {
            public_key: self.own.as_ref().map(|pair| pair.public.to_string()),
            key_file: key_file(&self.settings),
            listen: self.settings.listen.map(|address| address.to_string()),
            folder: self.settings.folder.clone(),
            fault: self.fault.clone(),
            served,
            peers: peers.collect(),
        }
    }
}

pub fn key_file(settings: &Settings) -> Option<PathBuf> {
    settings.key.clone().or_else(|| Some(settings.folder.as_ref()?.parent()?.join(KEY_FILE)))
}

impl Host {
    fn new(peer: Peer) -> Self {
        let now = Instant::now();
        Self {
            peer,
            since: now,
            error: None,
            current: None,
            wake: Rc::new(Notify::new()),
            dialler: None,
            credit: BURST,
            credited: now,
        }
    }

    fn end(self) {
        if let Some(task) = self.dialler {
            task.abort();
        }
        if let Some(current) = self.current {
            current.stop.end(Farewell::Removed);
        }
    }

    fn takes_credit(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.credited).as_secs_f64() * A_SECOND;
        self.credit = (self.credit + gained).min(BURST);
        self.credited = now;
        let enough = self.credit >= 1.0;
        if enough {
            self.credit -= 1.0;
        }
        enough
    }

    fn status(&self, host: HostId, served: Vec<IpAddr>, companions: usize, parked: usize) -> PeerStatus {
        PeerStatus {
            name: self.peer.name.0.clone(),
            host,
            public_key: self.peer.public_key.to_string(),
            endpoint: self.peer.endpoint.map(|endpoint| endpoint.to_string()),
            addresses: self.peer.addresses.iter().map(ToString::to_string).collect(),
            up: self.current.is_some(),
            linked_to: self.current.as_ref().map(|current| current.address.to_string()),
            seconds: self.since.elapsed().as_secs(),
            error: self.error.clone(),
            served,
            companions,
            parked,
        }
    }
}

impl Stop {
    fn end(&self, why: Farewell) {
        self.why.set(Some(why));
        self.told.notify_one();
    }
}

fn sources(peer: &Peer) -> impl Iterator<Item = IpNet> {
    peer.addresses.iter().copied().chain(peer.endpoint.map(|endpoint| endpoint.ip().to_canonical().into()))
}

fn comes_from(peer: &Peer, from: IpAddr) -> bool {
    sources(peer).any(|net| net.contains(&from))
}

/// Between two attempts: from `least` doubling up to `most`, each spread over half to one and a half of it, so that hosts
/// that lost each other at one moment don't dial at one moment again and again.
#[derive(Debug)]
pub struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: Self::LEAST }
    }
}

impl BackOff {
    const LEAST: Duration = Duration::from_millis(200);
    const MOST: Duration = Duration::from_secs(15);

    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::MOST);
        let part = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        pause.mul_f64(0.5 + part)
    }
}

#[cfg(test)]
mod tests;
