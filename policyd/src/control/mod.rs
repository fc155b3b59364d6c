//! The control socket, `SOCKET.control`: what `tandem` and other programs ask policyd. A stream unix socket, JSON lines:
//! one object a line, each request answered by one line, in order. Version 1:
//!
//! ```text
//! -> {"version":1,"request":"ss"}
//! <- {"version":1,"ss":[{"pid":71,"program":"redis-server","local":"127.0.0.1:6379","remote":"127.0.0.1:40112",
//!        "provider":"local","reason":null,"tx_tcp":5,"rx_tcp":93,"tx_companion":41000,"rx_companion":92000,
//!        "native":null}]}
//! -> {"version":1,"request":"status"}
//! <- {"version":1,"status":{"connections":3,"carried":2,"tx_companion":82000,"rx_companion":184000,"fail_backs":0,
//!        "reasons":{"few-calls":1},"clients":2,"pairs":1,"parked":0,"far":0,"far_parked":0,"instance":"91f2…","version":"0.1.0",
//!        "socket":"/run/tandem/policyd.sock"}}
//! -> {"version":1,"request":"hold"}
//! <- {"version":1,"held":true}
//! -> {"version":1,"request":"networks"}
//! <- {"version":1,"networks":[{"name":"backup","interface":"eth1","reason":null,"interfaces":[…],"destinations":[],
//!        "requests":1,"allowed":true}]}
//! -> {"version":1,"request":{"open":{"network":"backup","pid":71,"priority":"high","exclusive":true}}}
//! <- {"version":1,"opened":{"id":3,"pid":71,"program":"rsync","network":"backup","interface":"eth1","sources":[],
//!        "state":"connecting","reason":"eth1 is being prepared","priority":"high","exclusive":true,"required":false,
//!        "expires_in_seconds":null}}
//! -> {"version":1,"request":{"watch":{"id":3}}}
//! <- {"version":1,"requests":[{"id":3,…,"state":"connecting",…}]}
//! <- {"version":1,"event":{"id":3,…,"state":"connected",…}}    (and so on, until the client closes)
//! -> {"version":1,"request":{"release":{"id":3}}}
//! <- {"version":1,"released":{"id":3,…,"state":"disconnected","reason":"released",…}}
//! -> {"version":1,"request":{"explain":{"pid":71}}}
//! <- {"version":1,"explanation":{"pid":71,"interface":"eth1","why":"request 3 (connected: by eth1)",…}}
//! -> {"version":1,"request":{"drain":{"pid":71}}}
//! <- {"version":1,"draining":{"switches":2}}
//! -> {"version":1,"request":"peers"}
//! <- {"version":1,"peers":{"public_key":"…","listen":"10.0.0.1:7470","served":[{"address":"10.0.0.1","device":"rxe0",
//!        "port":1}],"peers":[{"name":"east","up":true,"seconds":71,"companions":3,"served":["10.0.0.2"],…}],…}}
//! -> {"version":1,"request":"reload"}
//! <- {"version":1,"reloaded":true}
//! <- {"version":1,"error":"unknown variant `sss`, …"}          (to anything else)
//! ```
//!
//! | request | meaning |
//! |---|---|
//! | `ss` | connection ends that switches know, at most 200,000 |
//! | `status` | totals since policyd started, those of connections and processes that are gone included |
//! | `hold` | a policyd that leaves when it has no client stays for as long as the asking process lives |
//! | `networks` | what the configuration names, and what is up |
//! | `open` | a request: `network`, `interface` or `destination`; `pid` (else the asking process); `priority` (`background`, `low`, `normal`, `high`, `critical`), `exclusive`, `required`, `max_cost`, `min_bandwidth_mbit`, `lifetime_seconds`, `dry_run`. It ends with its process |
//! | `release` | its end |
//! | `requests` | all that the asking user may see |
//! | `watch` | what becomes of one request, or without `id` of all; the connection takes no other question then. A reader that is far behind is told `"missed"`, and `requests` anew |
//! | `prepare` | may a program have this `network` or `interface`, and let it be ready at once |
//! | `explain` | which interface a process's sockets get, and why |
//! | `drain` | a process's connections (`pid`), or those with an `address` at either end, go back to TCP; what the process connects later stays there, until `undo`. Answered when the switches have been told: `ss` says what has become of it |
//! | `peers` | other hosts' policyds: their links, served addresses, companions; for root and policyd's own user |
//! | `reload` | the configuration is read again; an error says what is wrong with it. For root and policyd's own user |
//!
//! A request is `waiting-for-resource` (no interface of the network can be used, or another request has it), `connecting`,
//! `connected`, `suspended` (its interface has gone, or a higher priority has taken it) or `disconnected` (released, its
//! process or its lifetime has ended); `reason` says more.
//!
//! `reasons` counts connections that are or ended on TCP, by reason. Root and the user that policyd runs as see
//! everything; everybody else what is theirs. A line is at most 4,096 bytes; a connection that is silent for 30 s, or
//! does not read its answer for so long, is closed.

pub mod client;
pub mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tandem_protocol::socket_path::CONTROL_SUFFIX;

use crate::connection::request::{self, Net, Spec};
use crate::connection::{Explanation, NetworkStatus};
use crate::peers::PeersStatus;
use crate::registry::SsRow;

pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub version: u32,
    pub request: Ask,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    Ss,
    Status,
    Hold,
    Networks,
    Requests,
    Open(Spec),
    Release(OfRequest),
    Watch(Watched),
    Prepare(Net),
    Explain(OfProcess),
    Drain(Drain),
    Peers,
    Reload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfRequest {
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfProcess {
    pub pid: u32,
}

/// One of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Of a process: what it connects from now on may be carried again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// That have been told: the processes themselves, and those at the other ends.
    pub switches: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watched {
    /// `None`: all that may be seen.
    pub id: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub version: u32,
    #[serde(flatten)]
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ss(Vec<SsRow>),
    Status(Status),
    Held(bool),
    Networks(Vec<NetworkStatus>),
    Requests(Vec<request::Status>),
    Opened(request::Status),
    Released(request::Status),
    Event(request::Status),
    /// Events that a watcher was too slow for.
    Missed(u64),
    /// The interface.
    Prepared(String),
    Explanation(Explanation),
    Draining(Draining),
    Peers(PeersStatus),
    Reloaded(bool),
    Error(String),
}

/// `tandem status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub connections: u64,
    pub carried: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
    pub fail_backs: u64,
    pub reasons: BTreeMap<String, u64>,
    pub clients: usize,
    pub pairs: usize,
    /// Meets that wait for their other end.
    pub parked: usize,
    /// Companion ends with other hosts, and other hosts' meets that wait here; of all users, to who may see them.
    #[serde(default)]
    pub far: usize,
    #[serde(default)]
    pub far_parked: usize,
    /// Random, new at every start of policyd.
    pub instance: String,
    pub version: String,
    pub socket: String,
}

/// The control socket beside a switches' socket.
pub fn path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(CONTROL_SUFFIX);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_as_documented() {
        let request = Request { version: 1, request: Ask::Ss };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"version":1,"request":"ss"}"#);
        let reply = Reply { version: 1, answer: Answer::Held(true) };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"version":1,"held":true}"#);
        let reply = Reply { version: 1, answer: Answer::Ss(vec![]) };
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(text, r#"{"version":1,"ss":[]}"#);
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        let open = Ask::Open(Spec { network: Some("backup".to_owned()), ..Spec::default() });
        let written = r#"{"version":1,"request":{"open":{"network":"backup"}}}"#;
        assert_eq!(serde_json::from_str::<Request>(written).unwrap(), Request { version: 1, request: open });
        let watch = r#"{"version":1,"request":{"watch":{}}}"#;
        let all = Ask::Watch(Watched { id: None });
        assert_eq!(serde_json::from_str::<Request>(watch).unwrap(), Request { version: 1, request: all });
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"request":{"open":{"netwrok":"x"}}}"#).is_err());
    }
}
