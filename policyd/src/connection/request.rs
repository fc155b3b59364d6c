//! What a process asks for, what became of it, and who gets which interface when they can't all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::process::Identity;

/// `{"open": …}` on the control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// A configured network; or `interface`; or else `destination` chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The network must serve this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// For whom: the asking process itself if it isn't said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    pub priority: Priority,
    /// Nobody else's request has the interface meanwhile.
    pub exclusive: bool,
    /// While it isn't connected, connecting fails with ENETDOWN rather than take another way.
    pub required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bandwidth_mbit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u32>,
    /// Only say what would become of it.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Background,
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    WaitingForResource,
    Connecting,
    Connected,
    Suspended,
    Disconnected,
}

impl Priority {
    pub fn text(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl State {
    pub fn text(self) -> &'static str {
        match self {
            Self::WaitingForResource => "waiting-for-resource",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Suspended => "suspended",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A network by its name, or an interface as a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    Network(String),
    Interface(String),
}

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(name) => write!(f, "network {name}"),
            Self::Interface(name) => write!(f, "interface {name}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub spec: Spec,
    pub net: Net,
    /// Whose it is: who made it, or on whose behalf.
    pub owner: Identity,
    /// Of who made it: may watch and release it.
    pub uid: u32,
    pub state: State,
    pub reason: String,
    /// While connecting and connected.
    pub interface: Option<u32>,
    pub expires: Option<Instant>,
}

/// As the control socket says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// 0: of a dry run.
    pub id: u64,
    pub pid: u32,
    pub program: Option<String>,
    pub network: Option<String>,
    pub interface: Option<String>,
    pub sources: Vec<IpAddr>,
    pub state: State,
    pub reason: String,
    pub priority: Priority,
    pub exclusive: bool,
    pub required: bool,
    pub expires_in_seconds: Option<u64>,
}

/// What a request competes with.
#[derive(Clone, Debug)]
pub struct Claim {
    pub id: u64,
    pub owner: Identity,
    pub priority: Priority,
    pub exclusive: bool,
    /// Interfaces that would do, best first.
    pub candidates: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// None of the interfaces can be used.
    NoInterface,
    /// That request has it for itself.
    Held(u64),
    /// It wants for itself what that request uses.
    InUse(u64),
}

/// Who gets what: higher priority first, then who came first.
pub fn allocate(mut claims: Vec<Claim>) -> BTreeMap<u64, Result<u32, Blocked>> {
    claims.sort_by_key(|claim| (std::cmp::Reverse(claim.priority), claim.id));
    let mut holders: HashMap<u32, Vec<&Claim>> = HashMap::new();
    let mut granted = BTreeMap::new();
    for claim in &claims {
        let mut outcome = Err(Blocked::NoInterface);
        for &interface in &claim.candidates {
            // A process doesn't stand in its own way.
            let others = holders.get(&interface).into_iter().flatten().filter(|other| other.owner != claim.owner);
            let blocked = others.into_iter().find_map(|other| match (other.exclusive, claim.exclusive) {
                (true, _) => Some(Blocked::Held(other.id)),
                (false, true) => Some(Blocked::InUse(other.id)),
                (false, false) => None,
            });
            match blocked {
                None => {
                    holders.entry(interface).or_default().push(claim);
                    outcome = Ok(interface);
                    break;
                }
                Some(blocked) if outcome == Err(Blocked::NoInterface) => outcome = Err(blocked),
                Some(_) => {}
            }
        }
        granted.insert(claim.id, outcome);
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: u64, priority: Priority, exclusive: bool, candidates: &[u32]) -> Claim {
        let owner = Identity { pid: id as u32, started: 0 };
        Claim { id, owner, priority, exclusive, candidates: candidates.to_vec() }
    }

    #[test]
    fn a_higher_priority_takes_an_exclusive_interface() {
        let low = claim(1, Priority::Low, true, &[7]);
        let high = claim(2, Priority::High, true, &[7]);
        let granted = allocate(vec![low.clone(), high]);
        assert_eq!(granted[&2], Ok(7));
        assert_eq!(granted[&1], Err(Blocked::Held(2)));
        assert_eq!(allocate(vec![low])[&1], Ok(7));
    }

    #[test]
    fn of_equals_the_first_stays_and_the_next_best_interface_is_taken() {
        let granted = allocate(vec![
            claim(1, Priority::Normal, false, &[7, 8]),
            claim(2, Priority::Normal, true, &[7, 8]),
            claim(3, Priority::Normal, false, &[8]),
            claim(4, Priority::Normal, false, &[8, 7]),
            claim(5, Priority::Normal, true, &[7]),
            claim(6, Priority::Critical, false, &[]),
        ]);
        assert_eq!(granted[&1], Ok(7));
        assert_eq!(granted[&2], Ok(8));
        assert_eq!(granted[&3], Err(Blocked::Held(2)));
        assert_eq!(granted[&4], Ok(7));
        assert_eq!(granted[&5], Err(Blocked::InUse(1)));
        assert_eq!(granted[&6], Err(Blocked::NoInterface));
    }

    #[test]
    fn a_process_does_not_stand_in_its_own_way() {
        let mut second = claim(2, Priority::Normal, false, &[7]);
        second.owner = Identity { pid: 1, started: 0 };
        let granted = allocate(vec![claim(1, Priority::Normal, true, &[7]), second]);
        assert_eq!(granted[&2], Ok(7));
    }
}
