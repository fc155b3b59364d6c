//! libtandem.so: the switch.

// A test binary has no hooks, and so no caller for what they call.
#![cfg_attr(test, allow(dead_code))]
// Nothing of ours may end the program it was loaded into.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::exit
    )
)]

mod calls;
mod exports;
mod fd_table;
mod guard;
mod outcome;
mod real;
mod startup;

mod config;
mod debug;
mod family;
mod filter;
mod hidden;
mod lock;
mod log;
mod quota;
mod signals;
mod slot;
mod stranger;
mod sys;
mod wake;

mod autobind;
mod epoll;
mod meet;
mod provider;
mod switch;

pub mod stream;
