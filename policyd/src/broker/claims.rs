//! Claims: meets whose other end has not come yet, and for a while those whose other end never came.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use tandem_protocol::message::{Meet, SlotRef};
use tandem_protocol::{Addresses, Reason};

use super::ClientId;
use crate::kernel::Facts;
use crate::peers::HostId;

/// Grows with every claim: the smallest of a user is its oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(u64);

impl ClaimId {
    /// As peers name it.
    pub const fn number(self) -> u64 {
        self.0
    }

    pub const fn of(number: u64) -> Self {
        Self(number)
    }
}

#[derive(Clone, Debug)]
pub struct Claim {
    pub client: ClientId,
    pub uid: u32,
    pub meet: Meet,
    /// Its addresses as they are compared.
    pub key: Addresses,
    pub state: State,
    /// The other end is this peer's.
    pub far: Option<HostId>,
    /// And the peer has been told of it.
    pub announced: bool,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Parked,
    /// Parked, and the switch has been asked for the socket (or is about to be).
    Asked,
    /// Parked, and the switch has shown the socket, at that time.
    Shown(Instant, Facts),
    /// Refused; kept so that the other end is refused at once instead of waiting in vain.
    Remembered,
}

/// Five views of one set, always changed together.
#[derive(Default)]
pub struct Claims {
    next: u64,
    all: HashMap<ClaimId, Claim>,
    by_addresses: HashMap<Addresses, BTreeSet<ClaimId>>,
    by_slot: HashMap<(ClientId, u32), ClaimId>,
    by_uid: HashMap<u32, BTreeSet<ClaimId>>,
    by_client: HashMap<ClientId, BTreeSet<ClaimId>>,
    by_deadline: BTreeSet<(Instant, ClaimId)>,
    /// Gone, or remembered only, though a peer has been told of them.
    withdrawn: Vec<(HostId, ClaimId, Reason)>,
}

impl Claims {
    pub fn insert(
        &mut self,
        client: ClientId,
        uid: u32,
        meet: Meet,
        far: Option<HostId>,
        deadline: Instant,
    ) -> ClaimId {
        self.next += 1;
        let id = ClaimId(self.next);
        let key = meet.addresses.normalised();
        self.by_addresses.entry(key).or_default().insert(id);
        self.by_slot.insert((client, meet.slot.slot), id);
        self.by_uid.entry(uid).or_default().insert(id);
        self.by_client.entry(client).or_default().insert(id);
        self.by_deadline.insert((deadline, id));
        let (state, announced) = (State::Parked, false);
        self.all.insert(id, Claim { client, uid, meet, key, state, far, announced, deadline });
        id
    }

    pub fn remove(&mut self, id: ClaimId) -> Option<Claim> {
        let claim = self.all.remove(&id)?;
        take(&mut self.by_addresses, &claim.key, id);
        take(&mut self.by_uid, &claim.uid, id);
        take(&mut self.by_client, &claim.client, id);
        self.by_deadline.remove(&(claim.deadline, id));
        let slot = (claim.client, claim.meet.slot.slot);
        if self.by_slot.get(&slot) == Some(&id) {
            self.by_slot.remove(&slot);
        }
        if let Some(host) = claim.far.filter(|_| claim.announced) {
            self.withdrawn.push((host, id, Reason::Closed));
        }
        Some(claim)
    }

    pub fn set_announced(&mut self, id: ClaimId) {
        if let Some(claim) = self.all.get_mut(&id) {
            claim.announced = true;
        }
    }

    /// The peer does not keep it any more.
    pub fn unannounce(&mut self, id: ClaimId) {
        if let Some(claim) = self.all.get_mut(&id) {
            claim.announced = false;
        }
    }

    pub fn take_withdrawn(&mut self) -> Vec<(HostId, ClaimId, Reason)> {
        std::mem::take(&mut self.withdrawn)
    }

    /// Those whose other end is that peer's.
    pub fn of_host(&self, host: HostId) -> Vec<ClaimId> {
        self.all.iter().filter(|(_, claim)| claim.far == Some(host)).map(|(&id, _)| id).collect()
    }

    pub fn remove_client(&mut self, client: ClientId) {
        for id in self.by_client.remove(&client).unwrap_or_default() {
            self.remove(id);
        }
    }

    pub fn get(&self, id: ClaimId) -> Option<&Claim> {
        self.all.get(&id)
    }

    pub fn set_state(&mut self, id: ClaimId, state: State) {
        if let Some(claim) = self.all.get_mut(&id) {
            claim.state = state;
        }
    }

    /// From waiting to being remembered until `deadline`.
    pub fn remember(&mut self, id: ClaimId, deadline: Instant) {
        if let Some(claim) = self.all.get_mut(&id) {
            self.by_deadline.remove(&(claim.deadline, id));
            claim.deadline = deadline;
            claim.state = State::Remembered;
            self.by_deadline.insert((deadline, id));
            if let Some(host) = claim.far.filter(|_| std::mem::take(&mut claim.announced)) {
                self.withdrawn.push((host, id, Reason::PeerAbsent));
            }
        }
    }

    /// The claim of a slot, whatever its generation.
    pub fn of_slot(&self, client: ClientId, slot: u32) -> Option<ClaimId> {
        self.by_slot.get(&(client, slot)).copied()
    }

    /// The claim that this very slot and generation has parked.
    pub fn of(&self, client: ClientId, slot: SlotRef) -> Option<ClaimId> {
        let id = self.of_slot(client, slot.slot)?;
        (self.all.get(&id)?.meet.slot == slot).then_some(id)
    }

    /// Claims of exactly these addresses, oldest first.
    pub fn at(&self, key: &Addresses) -> Vec<ClaimId> {
        self.by_addresses.get(key).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    pub fn of_user(&self, uid: u32) -> usize {
        self.by_uid.get(&uid).map_or(0, BTreeSet::len)
    }

    pub fn oldest_of_user(&self, uid: u32) -> Option<ClaimId> {
        self.by_uid.get(&uid)?.first().copied()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// One whose time is over.
    pub fn due(&self, now: Instant) -> Option<ClaimId> {
        self.by_deadline.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    /// How many still wait.
    pub fn parked(&self, uid: Option<u32>) -> usize {
        let seen = |claim: &&Claim| uid.is_none_or(|uid| uid == claim.uid);
        self.all.values().filter(seen).filter(|claim| claim.state != State::Remembered).count()
    }
}

fn take<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<ClaimId>>, key: &K, id: ClaimId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tandem_protocol::Addresses;

    use super::*;

    fn meet(slot: u32, port: u16) -> Meet {
        let addresses = Addresses::new(([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 80).into()).unwrap();
        Meet { slot: SlotRef { slot, generation: 1 }, fd: 3, addresses, cookie: 1, netns_cookie: 1, verbs: false }
    }

    #[test]
    fn every_view_forgets_what_is_removed() {
        let mut claims = Claims::default();
        let now = Instant::now();
        let (one, other) = (ClientId(1), ClientId(2));
        let first = claims.insert(one, 7, meet(1, 1_000), None, now);
        let second = claims.insert(one, 7, meet(2, 1_000), None, now + Duration::from_secs(1));
        let third = claims.insert(other, 8, meet(1, 1_001), None, now + Duration::from_secs(2));
        assert_eq!(claims.at(&meet(1, 1_000).addresses), [first, second]);
        assert_eq!(claims.oldest_of_user(7), Some(first));
        assert_eq!(claims.due(now), Some(first));
        claims.remember(first, now + Duration::from_secs(9));
        assert_eq!(claims.due(now), None);
        assert_eq!((claims.parked(None), claims.parked(Some(7)), claims.of_user(7)), (2, 1, 2));
        claims.remove_client(one);
        assert!(claims.at(&meet(1, 1_000).addresses).is_empty());
        assert_eq!(claims.of_user(7), 0);
        assert_eq!(claims.next_deadline(), Some(now + Duration::from_secs(2)));
        claims.remove(third);
        let Claims { all, by_addresses, by_slot, by_uid, by_client, by_deadline, .. } = claims;
        assert!(all.is_empty() && by_addresses.is_empty() && by_slot.is_empty());
        assert!(by_uid.is_empty() && by_client.is_empty() && by_deadline.is_empty());
    }

    #[test]
    fn a_slot_is_known_by_its_generation() {
        let mut claims = Claims::default();
        let id = claims.insert(ClientId(1), 7, meet(1, 1_000), None, Instant::now());
        assert_eq!(claims.of(ClientId(1), SlotRef { slot: 1, generation: 1 }), Some(id));
        assert_eq!(claims.of(ClientId(1), SlotRef { slot: 1, generation: 2 }), None);
        assert_eq!(claims.of_slot(ClientId(1), 1), Some(id));
    }
}
