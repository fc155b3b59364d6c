//! The policy daemon and the `tandem` command.
//!
//! | module | what it owns |
//! |---|---|
//! | [`broker`] | where two switches meet: claims, proof, pairs, conns, quotas |
//! | [`connection`] | which interface a process's sockets get: networks, requests, rules |
//! | [`peers`] | other hosts' policyds: keys, links, what is said on them |
//! | [`san`] | which of this host's addresses a device serves |
//! | [`registry`] | what is accelerated, what not, and why not |
//! | [`channel`] | one switch's connection: packets, credentials, descriptors |
//! | [`control`] | the JSON socket that commands ask |
//! | [`daemon`] | the process: its one place, its main loop, its ends |
//! | [`config`] | the configuration file and its defaults |
//! | [`cli`] | the `tandem` command |
//! | [`kernel`] | what the kernel says of a socket |

pub mod broker;
pub mod channel;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod daemon;
pub mod kernel;
pub mod log;
pub mod peers;
pub mod registry;
pub mod san;

use std::path::PathBuf;

use tandem_protocol::socket_path::{Search, SocketPath};

/// Where policyd may be found, by this process's environment.
pub fn search(explicit: Option<&std::path::Path>) -> Vec<SocketPath> {
    use std::os::unix::ffi::OsStrExt;
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    let uid = nix::unistd::geteuid().as_raw();
    let search = Search {
        explicit: explicit.map(|path| path.as_os_str().as_bytes()),
        runtime_dir: runtime_dir.as_ref().map(|dir| dir.as_bytes()),
        uid,
    };
    search.candidates().collect()
}

pub fn path_of(socket: &SocketPath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(socket.as_bytes()).into()
}

/// The folder that a socket stands in.
pub fn folder_of(socket: &SocketPath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(socket.folder()).into()
}
