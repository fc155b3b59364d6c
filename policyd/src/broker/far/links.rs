//! Links that come and go. Companions outlive a link: both sides keep them, and when it is there again each says which it
//! still has. They do not outlive a policyd.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use tandem_protocol::Reason;
use tandem_protocol::message::FarRef;
use tokio::sync::mpsc;
use tracing::debug;

use super::host::Link;
use super::{Broker, HostId, Misbehaviour};
use crate::broker::ClientId;
use crate::peers::wire::{MOST_HELD, Wire};

impl Broker {
    /// Returns what the peer hears first.
    pub fn link_up(&mut self, host: HostId, number: u64, instance: u64, queue: mpsc::Sender<Wire>) -> Vec<Wire> {
        self.unlink(host);
        let Some(peer) = self.far.hosts.get_mut(&host) else { return Vec::new() };
        let restarted = peer.instance.replace(instance).is_some_and(|before| before != instance);
        peer.link = Some(Link { number, queue });
        peer.holding = Some(HashSet::new());
        peer.tell_served = true;
        if restarted {
            self.peer_has_lost(host, |_| true);
        }
        let held = self.resume(host);
        let mut first: Vec<_> = held.chunks(MOST_HELD).map(|ids| Wire::Hold(ids.to_vec())).collect();
        first.push(Wire::HoldEnd);
        self.tell_clients(host, true);
        let claims = self.claims.of_host(host);
        if let Some(peer) = self.far.hosts.get_mut(&host) {
            peer.fresh = claims.into();
        }
        self.link_has_room(host);
        self.publish();
        first
    }

    /// What is to be said again on a new link, for it may have been lost with the old; returns the names of what is held.
    fn resume(&mut self, host: HostId) -> Vec<u64> {
        let mut held = Vec::new();
        let mut again = Vec::new();
        for (&far, companion) in self.far.companions.iter_mut().filter(|(far, c)| far.host == host && c.ours && c.open)
        {
            held.push(far.id);
            if !companion.their_confirmed {
                companion.to_peer.blob = companion.own_blob.clone();
            }
            companion.to_peer.confirmed = companion.own_confirmed;
            companion.to_peer.words.clone_from(&companion.own_words);
            again.push(far);
        }
        again.into_iter().for_each(|far| self.tell_peer(far));
        held
    }

    pub fn link_down(&mut self, host: HostId, number: u64) {
        let known = self.far.hosts.get(&host).and_then(|peer| peer.link.as_ref());
        if known.is_some_and(|known| known.number == number) {
            self.unlink(host);
            self.publish();
        }
    }

    fn unlink(&mut self, host: HostId) {
        let Some(peer) = self.far.hosts.get_mut(&host).filter(|peer| peer.link.is_some()) else { return };
        peer.link = None;
        peer.served.clear();
        peer.has_told = false;
        peer.claims.clear();
        peer.fresh.clear();
        peer.withdrawn.clear();
        peer.matched.clear();
        peer.holding = None;
        // Announced to nobody now.
        for id in self.claims.of_host(host) {
            self.claims.unannounce(id);
        }
        // What both had not agreed on yet has not been.
        let half: Vec<_> =
            self.far.companions.iter().filter(|(far, c)| far.host == host && !c.open).map(|(&far, _)| far).collect();
        for far in half {
            self.peer_let_go(far, Reason::PeerUnreachable);
        }
        // Who has let go need not be told: it will be missing in what we hold.
        let gone: Vec<_> =
            self.far.companions.iter().filter(|(far, c)| far.host == host && !c.ours).map(|(&far, _)| far).collect();
        for far in gone {
            if let Some(companion) = self.far.companions.get_mut(&far) {
                companion.to_peer.clear();
            }
            self.drop_if_over(far);
        }
        self.tell_clients(host, false);
    }

    fn tell_clients(&mut self, host: HostId, up: bool) {
        let of_host = self.far.companions.iter().filter(|(far, companion)| far.host == host && companion.ours);
        let clients: BTreeSet<ClientId> = of_host.map(|(_, companion)| companion.client).collect();
        for client in clients {
            self.tell_link(client, host, up);
        }
    }

    pub(super) fn on_served(&mut self, host: HostId, addresses: Vec<IpAddr>) {
        let (own, foreign): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|&address| self.far.host_of(address) == Some(host));
        if !foreign.is_empty() {
            debug!(host, ?foreign, "served there, and not given to it by the configuration: passed over");
        }
        let Some(peer) = self.far.hosts.get_mut(&host) else { return };
        peer.served = own.into_iter().collect();
        peer.has_told = true;
        let lost: Vec<_> = self
            .far
            .companions
            .iter()
            .filter(|(far, companion)| {
                far.host == host
                    && !self.far.hosts.get(&host).is_some_and(|peer| peer.served.contains(&companion.remote))
            })
            .map(|(&far, _)| far)
            .collect();
        for far in lost {
            self.trouble(far, Reason::PeerNoDevice);
        }
        self.publish();
    }

    pub(super) fn on_hold(&mut self, host: HostId, ids: Vec<u64>) -> Result<(), Misbehaviour> {
        let Some(peer) = self.far.hosts.get_mut(&host) else { return Ok(()) };
        let most = peer.limits.companions;
        let Some(holding) = &mut peer.holding else { return Err(Misbehaviour("names companions out of turn")) };
        holding.extend(ids);
        if holding.len() > most { Err(Misbehaviour("names more companions than it may have")) } else { Ok(()) }
    }

    /// What it has not named it has lost.
    pub(super) fn on_hold_end(&mut self, host: HostId) {
        let Some(peer) = self.far.hosts.get_mut(&host) else { return };
        let link = peer.link.as_ref().map_or(0, |link| link.number);
        let Some(held) = peer.holding.take() else { return };
        self.peer_has_lost(host, |(far, born)| born < link && !held.contains(&far.id));
    }

    fn peer_has_lost(&mut self, host: HostId, lost: impl Fn((FarRef, u64)) -> bool) {
        let of_host = self.far.companions.iter().filter(|(far, companion)| far.host == host && companion.theirs);
        let all: Vec<_> =
            of_host.filter(|(far, companion)| lost((**far, companion.born))).map(|(&far, _)| far).collect();
        debug!(host, "{} companions are not known there any more", all.len());
        for far in all {
            self.peer_let_go(far, Reason::PeerGone);
        }
    }

    /// A peer is no longer listed.
    pub(super) fn forget_host(&mut self, host: HostId) {
        self.unlink(host);
        self.peer_has_lost(host, |_| true);
        for id in self.claims.of_host(host) {
            self.claims.unannounce(id);
            self.drop_claim(id, Reason::NotLocal);
        }
        self.far.hosts.remove(&host);
    }
}
