//! AutoBind: a socket that the application bound to nothing gets the interface that policyd assigned to its process, at its
//! first connect or send, if its destination is one that the interface serves.
//!
//! | room | what it owns |
//! |---|---|
//! | `assignment` | the arena that policyd writes and this process maps; its first fetch, which waits 20 ms at most |
//! | `destination` | a sockaddr, as a destination |
//! | `record` | what is known of one socket: what the application chose, what was done for it |
//! | `datagrams` | the records of UDP sockets (TCP's stand in their slots) |
//! | `bind` | the system calls that bind, steer, and undo it |
//! | `stream`, `datagram`, `message` | TCP before its connect; UDP at connect; UDP message by message |
//! | `options` | bind, setsockopt, getsockopt: the application's own choices, and answers as if it had been alone |
//!
//! No message, no lock and no look-up by system call is on the path once the arena is mapped: a decision is one binary search in
//! memory that policyd keeps current. Whatever cannot be read or done leaves the socket to the routing table.

pub mod assignment;
mod bind;
pub mod datagram;
pub mod datagrams;
mod destination;
pub mod message;
pub mod options;
pub mod record;
pub mod stream;
