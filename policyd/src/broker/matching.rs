//! From a claim to a companion: parking, finding the mirror, proof of both ends.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tandem_protocol::message::{Companion, CompanionRef, Meet, SlotRef};
use tandem_protocol::{Message, Reason};
use tracing::debug;

use super::claims::{Claim, ClaimId, State};
use super::client::Asked;
use super::pairs::End;
use super::proof::{Proof, judge, prove};
use super::{Broker, ClientId, random_id};
use crate::kernel::{self, Facts};
use crate::peers::HostId;

/// How long a switch may take to show a socket.
const PROOF_TIME: Duration = Duration::from_secs(1);

impl Broker {
    /// `far`: the peer whose the other end is.
    pub(super) fn park(&mut self, from: ClientId, meet: Meet, far: Option<HostId>, now: Instant) {
        let uid = self.uid(from);
        self.supersede(from, uid, &meet);
        if self.claims.of_user(uid) >= self.quotas().parked
            && let Some(oldest) = self.claims.oldest_of_user(uid)
        {
            self.drop_claim(oldest, Reason::Quota);
        }
        let id = self.claims.insert(from, uid, meet, far, now + self.settings.park);
        debug!(client = from.0, slot = meet.slot.slot, addresses = ?meet.addresses, "meet");
        self.try_match(id);
    }

    /// Older claims that the new one makes void: of the same slot, and of the same addresses by the same user (a
    /// connection that ended, or the same one held by a forked child).
    fn supersede(&mut self, from: ClientId, uid: u32, meet: &Meet) {
        if let Some(old) = self.claims.of_slot(from, meet.slot.slot) {
            self.claims.remove(old);
        }
        for id in self.claims.at(&meet.addresses.normalised()) {
            let Some(old) = self.claims.get(id).filter(|old| old.uid == uid) else { continue };
            let reason = if old.meet.cookie == meet.cookie { Reason::Forked } else { Reason::CookieMismatch };
            self.drop_claim(id, reason);
        }
    }

    /// Looks for the other end; if both are true, they get their companion.
    fn try_match(&mut self, id: ClaimId) {
        let Some(claim) = self.claims.get(id).cloned() else { return };
        if let Some(host) = claim.far {
            return self.advance_far(host, id);
        }
        for other_id in self.claims.at(&claim.key.mirrored()) {
            let Some(other) = self.claims.get(other_id).filter(|other| other.far.is_none()).cloned() else { continue };
            let theirs = self.prove(&other);
            if other.state == State::Remembered {
                self.claims.remove(other_id);
                // Still the same connection: its other end was refused for good, and so is this one.
                if matches!(theirs, Proof::True(_)) {
                    self.drop_claim(id, Reason::PeerAbsent);
                    return;
                }
                continue;
            }
            if let Proof::False(reason) = theirs {
                self.drop_claim(other_id, reason);
                continue;
            }
            let mine = self.prove(&claim);
            if let Proof::False(reason) = mine {
                self.drop_claim(id, reason);
                return;
            }
            if let (Proof::True(mine), Proof::True(theirs)) = (&mine, &theirs) {
                self.join((id, &claim, mine), (other_id, &other, theirs));
                return;
            }
            if matches!(mine, Proof::Ask) {
                self.ask(id);
            }
            if matches!(theirs, Proof::Ask) {
                self.ask(other_id);
            }
        }
    }

    pub(super) fn prove(&self, claim: &Claim) -> Proof {
        prove(claim, self.clients.get(&claim.client).map(|client| &**client), self.own_netns)
    }

    /// Two true claims that mirror each other: one connection, unless its sockets are bound to different devices.
    fn join(&mut self, one: (ClaimId, &Claim, &Facts), other: (ClaimId, &Claim, &Facts)) {
        let reason = if one.2.cookie == other.2.cookie {
            Some(Reason::SelfConnect)
        } else if one.2.device != other.2.device {
            Some(Reason::DifferentDevice)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.drop_claim(one.0, reason);
            self.drop_claim(other.0, reason);
            return;
        }
        self.claims.remove(one.0);
        self.claims.remove(other.0);
        let ends = [end(one.1), end(other.1)];
        if let Err(reason) = self.give_companion(ends) {
            for End { client, slot, .. } in ends {
                self.refuse(client, slot, reason);
            }
        }
    }

    fn give_companion(&mut self, mut ends: [End; 2]) -> Result<(), Reason> {
        // The role in a pair belongs to the process, whichever of the two asked first.
        ends.sort_by_key(|end| end.client);
        let clients = ends.map(|end| end.client);
        let new_pair = !self.pairs.exists(clients);
        for end in ends {
            let usage = self.pairs.usage(end.uid);
            let takes = self.clients.get(&end.client).is_some_and(|client| client.outbox.takes_descriptors());
            if usage.companions >= self.quotas().companions
                || new_pair && (usage.pairs >= self.quotas().pairs || !takes)
            {
                return Err(Reason::Quota);
            }
        }
        let id = random_id();
        let granted = self.pairs.take_conn(ends, id)?;
        let mut introductions = granted.introductions.into_iter();
        for (role, end) in (0u8..).zip(ends) {
            let fds = match introductions.next() {
                Some(intro) => {
                    let peer = clients.get(usize::from(role ^ 1)).and_then(|id| self.clients.get(id));
                    let Some(peer) = peer else { continue };
                    vec![intro.memory, peer.board.clone(), peer.wake.clone(), intro.channel]
                }
                None => Vec::new(),
            };
            let peer_pid = ends.get(usize::from(role ^ 1)).and_then(|end| self.clients.get(&end.client)).map(|c| c.pid);
            let companion = CompanionRef { pair: granted.pair, conn: granted.conn, role, id };
            let message = Companion { slot: end.slot, companion, peer_pid: peer_pid.unwrap_or(0) };
            self.send(end.client, Message::Companion(message), fds);
        }
        Ok(())
    }

    /// Asks the switch for the socket itself, once and one at a time.
    pub(super) fn ask(&mut self, id: ClaimId) {
        let Some(claim) = self.claims.get(id) else { return };
        if claim.state == State::Asked {
            return;
        }
        let client = claim.client;
        self.claims.set_state(id, State::Asked);
        if let Some(client) = self.clients.get_mut(&client) {
            client.to_prove.push_back(id);
        }
        self.ask_next(client);
    }

    fn ask_next(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.proving.is_none()) else { return };
        while let Some(next) = client.to_prove.pop_front() {
            if let Some(claim) = self.claims.get(next) {
                let slot = claim.meet.slot;
                client.proving = Some(Asked { claim: next, slot });
                self.asked.push_back((Instant::now() + PROOF_TIME, id, next));
                self.send(id, Message::Prove(slot), Vec::new());
                return;
            }
        }
    }

    /// The answer to Prove, with the socket or without. What was not asked for is closed and forgotten.
    pub(super) fn on_proof(&mut self, from: ClientId, slot: SlotRef, socket: Option<OwnedFd>) {
        // Before anything else: the descriptor is not to outlive the look, and a close may be waiting for that.
        let shown = socket.map(kernel::facts);
        let Some(client) = self.clients.get_mut(&from) else { return };
        if shown.is_some() {
            client.family.closed_what_was_shown(slot);
        }
        let Some(asked) = client.proving.take_if(|asked| asked.slot == slot) else { return };
        // It may have been superseded meanwhile.
        if let Some(claim) = self.claims.get(asked.claim).filter(|_| self.claims.of(from, slot) == Some(asked.claim)) {
            let proof = match shown {
                Some(Some(facts)) => judge(claim, facts, self.own_netns),
                Some(None) => Proof::False(Reason::UnsupportedSocket),
                None => Proof::False(Reason::Closed),
            };
            match proof {
                Proof::True(facts) => {
                    self.claims.set_state(asked.claim, State::Shown(Instant::now(), facts));
                    self.try_match(asked.claim);
                }
                Proof::False(reason) => self.drop_claim(asked.claim, reason),
                Proof::Ask => {}
            }
        }
        self.ask_next(from);
    }

    /// Does what has fallen due.
    pub fn expire(&mut self, now: Instant) {
        while let Some(id) = self.claims.due(now) {
            let Some(claim) = self.claims.get(id) else { return };
            if claim.state == State::Remembered {
                self.claims.remove(id);
                continue;
            }
            let (client, slot) = (claim.client, claim.meet.slot);
            let reason = if claim.far.is_some_and(|host| !self.is_linked(host)) {
                Reason::PeerUnreachable
            } else {
                Reason::PeerAbsent
            };
            self.claims.remember(id, now + self.settings.remember);
            self.refuse(client, slot, reason);
        }
        while let Some(&(_, client, claim)) = self.asked.front().filter(|(deadline, ..)| *deadline <= now) {
            self.asked.pop_front();
            let waiting = self.clients.get_mut(&client).and_then(|c| c.proving.take_if(|asked| asked.claim == claim));
            if waiting.is_some() {
                self.drop_claim(claim, Reason::NoProof);
                self.ask_next(client);
            }
        }
        self.expire_far(now);
        self.settle_withdrawn();
    }

    /// The claim is void; its switch is told, unless it has been already.
    pub(super) fn drop_claim(&mut self, id: ClaimId, reason: Reason) {
        if let Some(claim) = self.claims.remove(id)
            && claim.state != State::Remembered
        {
            self.refuse(claim.client, claim.meet.slot, reason);
        }
    }
}

fn end(claim: &Claim) -> End {
    End { client: claim.client, uid: claim.uid, slot: claim.meet.slot }
}
