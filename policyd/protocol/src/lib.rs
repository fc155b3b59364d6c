//! What switches and policyd say to each other: the messages on their socket, the memory they share, and where the
//! socket is found.
//!
//! This crate is linked into preloaded programs. It makes no system call but the look at a socket path's folder, starts
//! nothing, allocates nothing, and panics nowhere.
//!
//! | module | what it owns |
//! |---|---|
//! | [`message`] | one packet each: [`Message`], encoded and decoded without allocation |
//! | [`assignment`] | which interface a process's sockets get, written by policyd, read by the switch |
//! | [`address`] | the two addresses of a TCP connection, as they are compared |
//! | [`reason`] | why a connection is on TCP: one list for the switch, policyd and `tandem ss` |
//! | [`registry`] | a family's counters and rows, written by the switch, read by policyd |
//! | [`board`] | a family's wake words, read by its peers |
//! | [`provider_name`] | what a provider is called |
//! | [`san`] | which addresses devices serve, here and at peers: written by policyd, read by the switch |
//! | [`pair`] | the memory between two processes: control words and rings |
//! | [`socket_path`] | which policyd a process talks to |

pub mod address;
pub mod assignment;
pub mod board;
pub mod message;
pub mod pair;
pub mod provider_name;
pub mod reason;
pub mod registry;
pub mod san;
pub mod socket_path;

pub use address::{Addresses, Endpoint, IpFamily};
pub use message::{MAX_MESSAGE, Malformed, Message};
pub use provider_name::ProviderName;
pub use reason::Reason;

/// Spoken on the switches' socket. A policyd refuses a switch of another version by name, and that switch stays on TCP. One
/// more for every change of what is said, and of the layout of what is shared.
pub const PROTOCOL_VERSION: u16 = 4;
