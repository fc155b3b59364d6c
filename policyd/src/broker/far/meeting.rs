//! From a claim to a match. One side of a link decides: the one with role 0, which has both claims. Each policyd proves the
//! end of its own host; what it says of it is believed, for the addresses that the configuration gives it.

use std::time::{Duration, Instant};

use tandem_protocol::{Addresses, Reason};
use tracing::debug;

use super::companion::{Companion, Due};
use super::{Broker, HostId, Misbehaviour};
use crate::broker::claims::{Claim, State};
use crate::broker::proof::Proof;
use crate::broker::{ClaimId, random_id};
use crate::peers::wire::Wire;
use tandem_protocol::message::FarRef;

/// How long the other side may take to accept a match.
const ACCEPTANCE: Duration = Duration::from_secs(5);

impl Broker {
    /// A claim of ours is new, or has been shown: what comes next for it, now or when there is room.
    pub(in crate::broker) fn advance_far(&mut self, host: HostId, id: ClaimId) {
        if let Some(peer) = self.far.hosts.get_mut(&host) {
            peer.fresh.push_back(id);
        }
        self.link_has_room(host);
    }

    pub(super) fn process_fresh(&mut self, host: HostId, id: ClaimId) {
        let Some(claim) = self.claims.get(id).filter(|claim| claim.far == Some(host)).cloned() else { return };
        if claim.state == State::Remembered {
            return;
        }
        let Some(peer) = self.far.hosts.get(&host) else { return };
        if peer.role == 1 {
            match peer.matched.get(&id) {
                Some(&name) => self.accept(host, id, name),
                None => self.announce(host, id, &claim),
            }
        } else if let Some(reference) = peer.claims.at(&claim.key.mirrored()) {
            self.match_with(host, id, &claim, reference);
        }
    }

    /// Role 1: our end is true, so the peer hears of it.
    fn announce(&mut self, host: HostId, id: ClaimId, claim: &Claim) {
        if claim.announced || !self.is_proven(id, claim) {
            return;
        }
        self.claims.set_announced(id);
        if let Some(peer) = self.far.hosts.get(&host) {
            peer.say(Wire::Claim { reference: id.number(), addresses: claim.key });
        }
    }

    /// Whether the claim is true. If it is not it is dropped; if that can't be seen yet its switch is asked, and the claim
    /// comes again with the answer.
    fn is_proven(&mut self, id: ClaimId, claim: &Claim) -> bool {
        match self.prove(claim) {
            Proof::True(_) => return true,
            Proof::False(reason) => self.drop_claim(id, reason),
            Proof::Ask => self.ask(id),
        }
        false
    }

    /// Role 0: both ends are here.
    fn match_with(&mut self, host: HostId, id: ClaimId, claim: &Claim, reference: u64) {
        if !self.is_proven(id, claim) {
            return;
        }
        let refuse = |broker: &mut Self, reason| {
            if let Some(peer) = broker.far.hosts.get_mut(&host) {
                peer.claims.remove(reference);
                peer.say(Wire::Refuse { reference, reason });
            }
            broker.drop_claim(id, reason);
        };
        if !self.may_have_another(host, claim.uid) {
            return refuse(self, Reason::Quota);
        }
        let name = random_id();
        self.claims.remove(id);
        if let Some(peer) = self.far.hosts.get_mut(&host) {
            peer.claims.remove(reference);
            peer.say(Wire::Match { reference, id: name });
        }
        let far = FarRef { host, id: name };
        self.add_companion(far, claim, 0, false);
        self.far.proposals.push_back((Instant::now() + ACCEPTANCE, far));
    }

    /// Role 1: the peer has matched a claim of ours. It is looked at once more: it may have been true a while ago.
    fn accept(&mut self, host: HostId, id: ClaimId, name: u64) {
        let Some(claim) = self.claims.get(id).cloned() else { return };
        if !self.is_proven(id, &claim) {
            return;
        }
        if !self.may_have_another(host, claim.uid) {
            return self.drop_claim(id, Reason::Quota);
        }
        let far = FarRef { host, id: name };
        let Some(peer) = self.far.hosts.get_mut(&host) else { return };
        peer.matched.remove(&id);
        peer.say(Wire::Accept { id: name });
        // Matched: the peer keeps it no longer.
        self.claims.unannounce(id);
        self.claims.remove(id);
        self.add_companion(far, &claim, 1, true);
        self.introduce(far);
    }

    fn may_have_another(&self, host: HostId, uid: u32) -> bool {
        let of_user = self.far.by_uid.get(&uid).copied().unwrap_or(0) + self.pairs.usage(uid).companions;
        let peer = self.far.hosts.get(&host);
        of_user < self.quotas().companions && peer.is_some_and(|peer| peer.companions < peer.limits.companions)
    }

    fn add_companion(&mut self, far: FarRef, claim: &Claim, role: u8, open: bool) {
        let Some(peer) = self.far.hosts.get_mut(&far.host) else { return };
        peer.companions += 1;
        let born = peer.link.as_ref().map_or(0, |link| link.number);
        *self.far.by_uid.entry(claim.uid).or_default() += 1;
        self.far.clients.entry(claim.client).or_default().companions.insert(far);
        let companion = Companion {
            client: claim.client,
            uid: claim.uid,
            slot: claim.meet.slot,
            role,
            local: claim.key.local_address().ip(),
            remote: claim.key.remote_address().ip(),
            open,
            born,
            ours: true,
            theirs: true,
            own_blob: None,
            own_confirmed: false,
            own_words: Vec::new(),
            their_blob: false,
            their_confirmed: false,
            their_words: Vec::new(),
            to_switch: Due::default(),
            to_peer: Due::default(),
        };
        debug!(?far, client = claim.client.0, slot = claim.meet.slot.slot, "matched");
        self.far.companions.insert(far, companion);
    }

    /// Role 0: a claim of the peer's.
    pub(super) fn on_claim(&mut self, host: HostId, reference: u64, theirs: Addresses) -> Result<(), Misbehaviour> {
        let now = Instant::now();
        let (park, role) = (self.settings.park, self.far.hosts.get(&host).map_or(1, |peer| peer.role));
        if role != 0 {
            return Err(Misbehaviour("a claim, although it is the one that matches"));
        }
        let ours = theirs.mirrored();
        let refused = if self.far.host_of(ours.remote_address().ip()) != Some(host) {
            debug!(host, address = %ours.remote_address(), "claims an address that the configuration does not give it");
            Some(Reason::AddressMismatch)
        } else if !self.addresses.contains(ours.local_address().ip()) || ours.local_address().ip().is_loopback() {
            Some(Reason::NotLocal)
        } else if !self.far.serves(ours.local_address().ip()) {
            Some(Reason::PeerNoDevice)
        } else {
            None
        };
        let Some(peer) = self.far.hosts.get_mut(&host) else { return Ok(()) };
        if let Some(reason) = refused {
            peer.say(Wire::Refuse { reference, reason });
            return Ok(());
        }
        if peer.claims.len() >= peer.limits.parked
            && let Some(oldest) = peer.claims.oldest()
        {
            peer.claims.remove(oldest);
            peer.say(Wire::Refuse { reference: oldest, reason: Reason::Quota });
        }
        peer.claims.insert(reference, theirs, now + park);
        for id in self.claims.at(&ours) {
            let Some(claim) = self.claims.get(id).filter(|claim| claim.far == Some(host)).cloned() else { continue };
            if claim.state == State::Remembered {
                // Still the same connection: this end was refused for good, and so is that one.
                let same = matches!(self.prove(&claim), Proof::True(_));
                self.claims.remove(id);
                if let Some(peer) = self.far.hosts.get_mut(&host).filter(|_| same) {
                    peer.claims.remove(reference);
                    peer.say(Wire::Refuse { reference, reason: Reason::PeerAbsent });
                }
            } else {
                self.advance_far(host, id);
            }
        }
        Ok(())
    }

    pub(super) fn on_unclaim(&mut self, host: HostId, reference: u64) {
        if let Some(peer) = self.far.hosts.get_mut(&host) {
            peer.claims.remove(reference);
        }
    }

    /// Role 1: nothing comes of a claim of ours.
    pub(super) fn on_refuse(&mut self, host: HostId, reference: u64, reason: Reason) {
        let id = ClaimId::of(reference);
        if self.claims.get(id).is_some_and(|claim| claim.far == Some(host) && claim.announced) {
            self.claims.unannounce(id);
            self.drop_claim(id, reason);
        }
    }

    /// Role 1: the peer has found the other end of a claim of ours.
    pub(super) fn on_match(&mut self, host: HostId, reference: u64, name: u64) -> Result<(), Misbehaviour> {
        let Some(peer) = self.far.hosts.get_mut(&host) else { return Ok(()) };
        let id = ClaimId::of(reference);
        if peer.role != 1 || self.far.companions.contains_key(&FarRef { host, id: name }) {
            return Err(Misbehaviour("a match that can't be"));
        }
        let waits = |claim: &Claim| claim.far == Some(host) && claim.announced && claim.state != State::Remembered;
        if !self.claims.get(id).is_some_and(waits) {
            // Its connection has ended meanwhile.
            peer.say(Wire::Gone { id: name, reason: Reason::Closed });
            return Ok(());
        }
        if peer.matched.insert(id, name).is_some() {
            return Err(Misbehaviour("a second match of one claim"));
        }
        self.accept(host, id, name);
        Ok(())
    }

    /// Role 0: the other end is proven too.
    pub(super) fn on_accept(&mut self, far: FarRef) -> Result<(), Misbehaviour> {
        match self.far.companions.get_mut(&far) {
            Some(companion) if companion.open || companion.role != 0 => {
                Err(Misbehaviour("an acceptance that can't be"))
            }
            Some(companion) => {
                companion.open = true;
                self.introduce(far);
                Ok(())
            }
            // Our end has gone, and the peer is being told.
            None => Ok(()),
        }
    }

    /// Claims of ours that have gone: who was told of them, or has matched them, is told that too.
    pub(in crate::broker) fn settle_withdrawn(&mut self) {
        for (host, id, reason) in self.claims.take_withdrawn() {
            let Some(peer) = self.far.hosts.get_mut(&host) else { continue };
            match peer.matched.remove(&id) {
                Some(name) => peer.say(Wire::Gone { id: name, reason }),
                None => peer.withdrawn.push_back(id.number()),
            }
            self.link_has_room(host);
        }
    }
}
