//! What an intercepted call means: Rust in, `Outcome` out. A handler has the arguments of its libc call; the hooks ask it only
//! about calls that may concern the switch (see the table in `exports`).

pub mod at_once;
pub mod connect;
mod environment;
pub mod lifecycle;
pub mod options;
pub mod process;
pub mod programs;
pub mod readiness;
pub mod signal;
pub mod transfer;
