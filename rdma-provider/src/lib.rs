//! libtandem_rdma.so: the SAN provider for RDMA queue pairs, which the switch loads where a device serves a connection's address.
//!
//! The boundary is `tandem_provider` (`boundary/`, `include/tandem_provider.h`); how a stream lies above it is said in
//! `tandem_provider::stream`. This crate's rooms:
//!
//! | file | owns |
//! |---|---|
//! | `exports` | the table of functions, and the edge that no panic, errno or cancellation passes |
//! | `provider`, `process`, `host`, `real` | the process's state, forks, the switch's table, libc's own functions |
//! | `queue`, `adapter` | what is polled, armed and slept on; one open device, and its bounds |
//! | `domain`, `companion` | a peer process's memory; one queue pair's life, and what is posted on it |
//! | `send`, `notes`, `control` | what is under way; notifications, and the slots they need at the other end |
//! | `blob`, `options`, `addresses`, `nodes`, `check` | what peers tell each other; socket options; which address is whose; devices that go |
//! | `worker` | the one thread |
//! | `verbs`, `errors` | libibverbs, and its two error conventions |

mod adapter;
mod addresses;
mod blob;
mod check;
mod companion;
mod control;
mod domain;
mod errors;
mod exports;
mod host;
mod nodes;
mod notes;
mod options;
mod process;
mod provider;
mod queue;
mod real;
mod send;
mod verbs;
mod worker;
