//! Other hosts' policyds: who they are, and the one link to each.
//!
//! | file | what it owns |
//! |---|---|
//! | `settings.rs` | `[peers]`, `[[peer]]`, the folder that `tandem peer add` writes to |
//! | `key.rs` | this host's key pair, and other hosts' public keys |
//! | `session.rs` | the handshake, and frames that are sealed |
//! | `wire.rs` | what is said in a frame |
//! | `filter.rs` | nothing is sent to who is not listed |
//! | `hosts.rs` | what is known of each peer's link, and which of two links stays |
//! | `run.rs` | the tasks: listening, dialling, a link's life |
//!
//! What the messages mean for connections is the broker's: `broker/far/`.
//!
//! **Why snow.** A link has two ends, each with one static key that the other has been told: that is Noise's XK as it is
//! written, and keys of 32 bytes that WireGuard's users know how to make, print and compare. rustls would bring
//! certificates, names, lifetimes and a clock for what is a list of keys here, a second TLS implementation's worth of code
//! with assembler, and it says more before it knows who asks. snow is maintained, small, follows the specification to the
//! letter, and leaves every byte on the wire to us.

pub mod filter;
pub mod hosts;
mod key;
pub mod run;
pub mod session;
pub mod settings;
pub mod wire;

pub use hosts::{PeerStatus, Peers, PeersStatus};
pub use key::{Keypair, PublicKey};

/// This policyd's number for another host; it stays for as long as policyd runs.
pub type HostId = u32;
