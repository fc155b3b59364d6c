//! Messages about companions: taken from one side, kept as state, told to the other when it has room.

use std::time::Instant;

use tandem_protocol::message::{Blob, FarCompanion, FarRef, Word};
use tandem_protocol::{Message, Reason};
use tracing::debug;

use super::companion::{Companion, note_word};
use super::{Broker, HostId, Member, Misbehaviour};
use crate::broker::ClientId;
use crate::peers::wire::{MOST_SERVED, Wire};

/// Places of a client's queue that are kept for what is not about companions between hosts.
const FOR_OTHERS: usize = 64;

impl Broker {
    /// From a switch. What names no companion of its family is forgotten: the companion may just have gone.
    pub(in crate::broker) fn on_far_message(&mut self, from: ClientId, message: Message) {
        match message {
            Message::FarEndpoint { far, blob } => self.of_switch(from, far, |companion| {
                if companion.own_blob.is_none() && !companion.their_confirmed {
                    companion.own_blob = Some(Box::new(blob));
                    companion.to_peer.blob = companion.own_blob.clone();
                }
            }),
            Message::FarConfirmed(far) => self.of_switch(from, far, |companion| {
                companion.to_peer.confirmed |= !companion.own_confirmed;
                companion.own_confirmed = true;
            }),
            Message::FarWord { far, word } => self.of_switch(from, far, |companion| {
                if note_word(&mut companion.own_words, word) {
                    note_word(&mut companion.to_peer.words, word);
                }
            }),
            Message::FarReleased(far) if self.is_of(from, far) => self.let_go(far, Reason::Closed),
            Message::FarUnable(far) if self.is_of(from, far) => self.let_go(far, Reason::PeerUnable),
            _ => {}
        }
    }

    fn of_switch(&mut self, from: ClientId, far: FarRef, note: impl FnOnce(&mut Companion)) {
        if !self.is_of(from, far) {
            return;
        }
        if let Some(companion) = self.far.companions.get_mut(&far).filter(|c| c.open && c.theirs) {
            note(companion);
            self.tell_peer(far);
        }
    }

    /// Whether it is that switch's, or that of a process it was forked from or with.
    fn is_of(&self, from: ClientId, far: FarRef) -> bool {
        let owner = self.far.companions.get(&far).filter(|companion| companion.ours).map(|companion| companion.client);
        let family = |id: &ClientId| self.clients.get(id).map(|client| client.family_id);
        owner.is_some_and(|owner| owner == from || family(&owner).is_some_and(|id| Some(id) == family(&from)))
    }

    /// From a peer. Only what concerns this very link, and companions with this very peer.
    pub fn on_peer(&mut self, host: HostId, link: u64, message: Wire) -> Result<(), Misbehaviour> {
        let known = self.far.hosts.get(&host).and_then(|peer| peer.link.as_ref());
        if known.is_none_or(|known| known.number != link) {
            return Err(Misbehaviour("another link has taken this one's place"));
        }
        let named = |id| FarRef { host, id };
        match message {
            Wire::Served(addresses) => self.on_served(host, addresses),
            Wire::Claim { reference, addresses } => self.on_claim(host, reference, addresses)?,
            Wire::Unclaim { reference } => self.on_unclaim(host, reference),
            Wire::Refuse { reference, reason } => self.on_refuse(host, reference, reason),
            Wire::Match { reference, id } => self.on_match(host, reference, id)?,
            Wire::Accept { id } => self.on_accept(named(id))?,
            Wire::Gone { id, reason } => self.peer_let_go(named(id), reason),
            Wire::Endpoint { id, blob } => self.on_endpoint(named(id), blob),
            Wire::Confirmed { id } => self.on_confirmed(named(id)),
            Wire::Word { id, word } => self.on_word(named(id), word),
            Wire::Hold(ids) => self.on_hold(host, ids)?,
            Wire::HoldEnd => self.on_hold_end(host),
            Wire::Hello { .. } | Wire::Ping { .. } | Wire::Bye(_) => return Err(Misbehaviour("out of place")),
        }
        self.settle_withdrawn();
        Ok(())
    }

    /// Once: what comes again, after a link was lost, is the same.
    fn on_endpoint(&mut self, far: FarRef, blob: Box<Blob>) {
        self.of_peer(far, |companion| {
            if !std::mem::replace(&mut companion.their_blob, true) {
                companion.to_switch.blob = Some(blob);
            }
        });
    }

    fn on_confirmed(&mut self, far: FarRef) {
        self.of_peer(far, |companion| {
            if !std::mem::replace(&mut companion.their_confirmed, true) {
                companion.to_switch.confirmed = true;
                // It has connected, so it has had it.
                companion.own_blob = None;
            }
        });
    }

    fn on_word(&mut self, far: FarRef, word: Word) {
        self.of_peer(far, |companion| {
            if note_word(&mut companion.their_words, word) {
                note_word(&mut companion.to_switch.words, word);
            }
        });
    }

    fn of_peer(&mut self, far: FarRef, note: impl FnOnce(&mut Companion)) {
        if let Some(companion) = self.far.companions.get_mut(&far).filter(|c| c.open && c.ours && c.theirs) {
            note(companion);
            self.tell_switch(far);
        }
    }

    pub(super) fn introduce(&mut self, far: FarRef) {
        if let Some(companion) = self.far.companions.get_mut(&far) {
            companion.to_switch.introduction = true;
            self.tell_switch(far);
        }
    }

    pub(super) fn trouble(&mut self, far: FarRef, reason: Reason) {
        if let Some(companion) = self.far.companions.get_mut(&far).filter(|c| c.open && c.ours) {
            companion.to_switch.trouble = Some(reason);
            self.tell_switch(far);
        }
    }

    /// Our end has gone. The peer is told; over a link that is down by what it finds missing when it is up again.
    pub(super) fn let_go(&mut self, far: FarRef, reason: Reason) {
        let linked = self.far.hosts.get(&far.host).is_some_and(|peer| peer.link.is_some());
        let Some(companion) = self.far.companions.get_mut(&far) else { return };
        companion.ours = false;
        companion.to_switch.clear();
        companion.to_peer.clear();
        if linked {
            companion.to_peer.gone = Some(reason);
        }
        if let Some(member) = self.far.clients.get_mut(&companion.client) {
            member.companions.remove(&far);
        }
        self.tell_peer(far);
        self.drop_if_over(far);
    }

    /// The other end has gone.
    pub(super) fn peer_let_go(&mut self, far: FarRef, reason: Reason) {
        let Some(companion) = self.far.companions.get_mut(&far) else { return };
        companion.theirs = false;
        companion.to_peer.clear();
        if companion.ours && !companion.to_switch.introduction && companion.open {
            companion.to_switch.gone = Some(reason);
            self.tell_switch(far);
        } else if companion.ours {
            // The switch has not heard of it yet: its claim has failed, and that is all.
            let (client, slot) = (companion.client, companion.slot);
            companion.ours = false;
            self.refuse(client, slot, reason);
        }
        self.drop_if_over(far);
    }

    pub(super) fn drop_if_over(&mut self, far: FarRef) {
        if !self.far.companions.get(&far).is_some_and(Companion::is_over) {
            return;
        }
        let Some(companion) = self.far.companions.remove(&far) else { return };
        debug!(?far, "over");
        if let Some(member) = self.far.clients.get_mut(&companion.client) {
            member.companions.remove(&far);
            self.far.forget_member(companion.client);
        }
        if let Some(count) = self.far.by_uid.get_mut(&companion.uid) {
            *count -= 1;
            if *count == 0 {
                self.far.by_uid.remove(&companion.uid);
            }
        }
        if let Some(peer) = self.far.hosts.get_mut(&far.host) {
            peer.companions -= 1;
        }
    }

    /// A client has gone, with every end it had.
    pub(in crate::broker) fn forget_far_client(&mut self, client: ClientId) {
        let Some(member) = self.far.clients.remove(&client) else { return };
        for far in member.companions {
            self.let_go(far, Reason::PeerGone);
        }
    }

    fn tell_switch(&mut self, far: FarRef) {
        let Some(companion) = self.far.companions.get_mut(&far).filter(|companion| companion.ours) else { return };
        let client = companion.client;
        if !std::mem::replace(&mut companion.to_switch.queued, true) {
            self.far.clients.entry(client).or_default().due.push_back(far);
        }
        self.client_has_room(client);
    }

    pub(super) fn tell_link(&mut self, client: ClientId, host: HostId, up: bool) {
        let member = self.far.clients.entry(client).or_default();
        member.links.retain(|(known, _)| *known != host);
        member.links.push((host, up));
        self.client_has_room(client);
    }

    /// Tells a switch what waits for it, as far as its queue has room.
    pub fn client_has_room(&mut self, client: ClientId) {
        while let Some(member) = self.far.clients.get_mut(&client) {
            let Some(known) = self.clients.get(&client) else { return };
            if known.outbox.room() <= FOR_OTHERS {
                return;
            }
            if let Some((host, up)) = member.links.pop() {
                self.send(client, Message::PeerLink { host, up }, Vec::new());
                continue;
            }
            let Some(&far) = member.due.front() else {
                self.far.forget_member(client);
                return;
            };
            let next =
                self.far.companions.get_mut(&far).filter(|companion| companion.ours && companion.client == client);
            match next.and_then(|companion| for_switch(far, companion)) {
                Some(message) => {
                    self.send(client, message, Vec::new());
                    self.drop_if_over(far);
                }
                None => {
                    if let Some(member) = self.far.clients.get_mut(&client) {
                        member.due.pop_front();
                    }
                    if let Some(companion) = self.far.companions.get_mut(&far) {
                        companion.to_switch.queued = false;
                    }
                }
            }
        }
    }

    pub(super) fn tell_peer(&mut self, far: FarRef) {
        let (Some(companion), Some(peer)) = (self.far.companions.get_mut(&far), self.far.hosts.get_mut(&far.host))
        else {
            return;
        };
        if !std::mem::replace(&mut companion.to_peer.queued, true) {
            peer.due.push_back(far);
        }
        self.link_has_room(far.host);
    }

    /// Tells a peer what waits for it, as far as its queue has room.
    pub fn link_has_room(&mut self, host: HostId) {
        while let Some(peer) = self.far.hosts.get_mut(&host).filter(|peer| peer.has_room()) {
            if std::mem::take(&mut peer.tell_served) {
                let served = self.far.served.iter().map(|served| served.address).take(MOST_SERVED).collect();
                peer.say(Wire::Served(served));
            } else if let Some(reference) = peer.withdrawn.pop_front() {
                peer.say(Wire::Unclaim { reference });
            } else if let Some(&far) = peer.due.front() {
                let next = self.far.companions.get_mut(&far).filter(|companion| companion.theirs);
                match next.and_then(|companion| for_peer(far, companion)) {
                    Some(message) => {
                        peer.say(message);
                        self.drop_if_over(far);
                    }
                    None => {
                        peer.due.pop_front();
                        if let Some(companion) = self.far.companions.get_mut(&far) {
                            companion.to_peer.queued = false;
                        }
                    }
                }
            } else if let Some(id) = peer.fresh.pop_front() {
                self.process_fresh(host, id);
            } else {
                return;
            }
        }
    }

    /// Matches that were not accepted in time.
    pub(in crate::broker) fn expire_far(&mut self, now: Instant) {
        while let Some(&(_, far)) = self.far.proposals.front().filter(|(deadline, _)| *deadline <= now) {
            self.far.proposals.pop_front();
            if let Some(companion) = self.far.companions.get(&far).filter(|companion| !companion.open && companion.ours)
            {
                let (client, slot) = (companion.client, companion.slot);
                self.refuse(client, slot, Reason::PeerAbsent);
                self.let_go(far, Reason::PeerAbsent);
            }
        }
        for host in self.far.hosts.values_mut() {
            host.claims.expire(now);
        }
    }

    pub(in crate::broker) fn next_far_deadline(&self) -> Option<Instant> {
        let proposal = self.far.proposals.front().map(|(deadline, _)| *deadline);
        self.far.hosts.values().filter_map(|host| host.claims.next_deadline()).chain(proposal).min()
    }
}

impl super::Far {
    /// Nothing is kept of a client of which there is nothing to say.
    fn forget_member(&mut self, client: ClientId) {
        let empty = |member: &Member| member.companions.is_empty() && member.due.is_empty() && member.links.is_empty();
        if self.clients.get(&client).is_some_and(empty) {
            self.clients.remove(&client);
        }
    }
}

fn for_switch(far: FarRef, companion: &mut Companion) -> Option<Message> {
    let due = &mut companion.to_switch;
    if std::mem::take(&mut due.introduction) {
        return Some(Message::FarCompanion(FarCompanion { slot: companion.slot, far, role: companion.role }));
    }
    if let Some(blob) = due.blob.take() {
        return Some(Message::FarEndpoint { far, blob: *blob });
    }
    if std::mem::take(&mut due.confirmed) {
        return Some(Message::FarConfirmed(far));
    }
    if !due.words.is_empty() {
        return Some(Message::FarWord { far, word: due.words.remove(0) });
    }
    if let Some(reason) = due.trouble.take() {
        return Some(Message::FarTrouble { far, reason });
    }
    due.gone.take().map(|reason| Message::FarGone { far, reason })
}

fn for_peer(far: FarRef, companion: &mut Companion) -> Option<Wire> {
    let (id, due) = (far.id, &mut companion.to_peer);
    if let Some(blob) = due.blob.take() {
        return Some(Wire::Endpoint { id, blob });
    }
    if std::mem::take(&mut due.confirmed) {
        return Some(Wire::Confirmed { id });
    }
    if !due.words.is_empty() {
        return Some(Wire::Word { id, word: due.words.remove(0) });
    }
    due.gone.take().map(|reason| Wire::Gone { id, reason })
}
