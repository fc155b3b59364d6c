//! One peer, as the broker knows it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use tandem_protocol::{Addresses, san};
use tokio::sync::mpsc;

use super::Limits;
use crate::broker::ClaimId;
use crate::peers::HostId;
use crate::peers::settings::Peer;
use crate::peers::wire::Wire;
use tandem_protocol::message::FarRef;

/// Places of a link's queue that only answers to what the peer says may take.
const FOR_ANSWERS: usize = 64;

#[derive(Default)]
pub struct Host {
    addresses: Vec<IpNet>,
    /// Its addresses are this host's, too.
    pub same_host: bool,
    /// Ours. 0: we match; 1: the peer does, with the claims that we send it.
    pub role: u8,
    pub limits: Limits,
    pub link: Option<Link>,
    /// Of the peer's policyd, on the last link.
    pub instance: Option<u64>,
    /// Its addresses that a device serves there.
    pub served: BTreeSet<IpAddr>,
    /// On this link it has said which these are.
    pub has_told: bool,
    /// Its claims that wait for their other end (role 0).
    pub claims: TheirClaims,
    /// Our claims to be announced (role 1) or matched (role 0) when there is room.
    pub fresh: VecDeque<ClaimId>,
    /// What the peer has been told of and need no longer keep (role 1).
    pub withdrawn: VecDeque<u64>,
    /// Claims of ours that it has matched, and for which the switch has been asked for its socket (role 1).
    pub matched: HashMap<ClaimId, u64>,
    /// Companions about which the peer is to be told something.
    pub due: VecDeque<FarRef>,
    pub tell_served: bool,
    /// After a new link: what the peer says it still has. `None`: it has said all.
    pub holding: Option<HashSet<u64>>,
    pub companions: usize,
}

pub struct Link {
    pub number: u64,
    pub queue: mpsc::Sender<Wire>,
}

impl Host {
    pub fn configure(&mut self, peer: Peer, role: u8, limits: Limits) {
        self.addresses = peer.addresses;
        self.same_host = peer.same_host;
        self.role = role;
        self.limits = limits;
        let nets = &self.addresses;
        self.served.retain(|&ip| nets.iter().any(|net| net.contains(&ip)));
    }

    /// The length of the longest of its prefixes that has this address.
    pub fn longest(&self, address: IpAddr) -> Option<u8> {
        self.addresses.iter().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max()
    }

    pub fn prefixes(&self, host: HostId) -> impl Iterator<Item = san::Prefix> {
        let up = self.link.is_some();
        self.addresses.iter().map(move |net| san::Prefix {
            address: san::number(net.network()),
            length: net.prefix_len() + if net.network().is_ipv4() { 96 } else { 0 },
            host,
            up,
        })
    }

    pub fn has_room(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.queue.capacity() > FOR_ANSWERS)
    }

    /// What does not fit is not said: the caller has seen that there is room, or answers what was listened to because
    /// there was.
    pub fn say(&self, message: Wire) {
        if let Some(link) = &self.link {
            let _ = link.queue.try_send(message);
        }
    }
}

/// A peer's claims, by its names for them, by their addresses as the peer sees them, and by age.
#[derive(Default)]
pub struct TheirClaims {
    by_reference: HashMap<u64, Addresses>,
    by_addresses: HashMap<Addresses, u64>,
    /// Each waits as long; what has gone meanwhile is passed over.
    by_age: VecDeque<(Instant, u64, Addresses)>,
}

impl TheirClaims {
    pub fn len(&self) -> usize {
        self.by_reference.len()
    }

    pub fn insert(&mut self, reference: u64, addresses: Addresses, deadline: Instant) {
        self.remove(reference);
        if let Some(&older) = self.by_addresses.get(&addresses) {
            self.remove(older);
        }
        self.by_reference.insert(reference, addresses);
        self.by_addresses.insert(addresses, reference);
        self.by_age.push_back((deadline, reference, addresses));
    }

    pub fn remove(&mut self, reference: u64) {
        if let Some(addresses) = self.by_reference.remove(&reference) {
            self.by_addresses.remove(&addresses);
        }
        // Entries of claims that have gone are no memory to keep.
        if self.by_age.len() > 2 * self.by_reference.len() + 64 {
            let known = &self.by_reference;
            self.by_age.retain(|(_, reference, addresses)| known.get(reference) == Some(addresses));
        }
    }

    pub fn at(&self, addresses: &Addresses) -> Option<u64> {
        self.by_addresses.get(addresses).copied()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn oldest(&mut self) -> Option<u64> {
        self.forget_gone();
        self.by_age.front().map(|(_, reference, _)| *reference)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_age.front().map(|(deadline, ..)| *deadline)
    }

    pub fn expire(&mut self, now: Instant) {
        while let Some(&(_, reference, addresses)) = self.by_age.front().filter(|(deadline, ..)| *deadline <= now) {
            self.by_age.pop_front();
            if self.by_reference.get(&reference) == Some(&addresses) {
                self.by_reference.remove(&reference);
                self.by_addresses.remove(&addresses);
            }
        }
    }

    fn forget_gone(&mut self) {
        while let Some((_, reference, addresses)) = self.by_age.front() {
            if self.by_reference.get(reference) == Some(addresses) {
                return;
            }
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses(port: u16) -> Addresses {
        Addresses::new(([10, 0, 0, 2], port).into(), ([10, 0, 0, 1], 80).into()).unwrap()
    }

    #[test]
    fn a_claim_is_known_by_name_and_addresses_until_its_time_is_over() {
        let now = Instant::now();
        let mut claims = TheirClaims::default();
        claims.insert(1, addresses(1), now + Duration::from_secs(1));
        claims.insert(2, addresses(2), now + Duration::from_secs(2));
        // The same addresses again, and the same name again.
        claims.insert(3, addresses(1), now + Duration::from_secs(3));
        claims.insert(2, addresses(4), now + Duration::from_secs(4));
        assert_eq!(
            (claims.at(&addresses(1)), claims.at(&addresses(2)), claims.at(&addresses(4))),
            (Some(3), None, Some(2))
        );
        assert_eq!((claims.len(), claims.oldest()), (2, Some(3)));
        claims.expire(now + Duration::from_secs(3));
        assert_eq!((claims.len(), claims.at(&addresses(4))), (1, Some(2)));
        claims.remove(2);
        assert_eq!((claims.len(), claims.oldest(), claims.next_deadline()), (0, None, None));
    }

    #[test]
    fn claims_that_come_and_go_leave_nothing() {
        let mut claims = TheirClaims::default();
        for reference in 0..100_000u64 {
            claims.insert(reference, addresses(reference as u16), Instant::now());
            claims.remove(reference);
        }
        assert!(claims.by_age.len() <= 65 && claims.by_reference.is_empty() && claims.by_addresses.is_empty());
    }
}
