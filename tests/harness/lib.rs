//! Runs one program or a pair natively and under Tandem, compares the complete outcomes, and asks the registry for
//! witnesses that Tandem really carried what it should have carried.
//!
//! - `artifacts`, `programs`: what is run (the built library and daemon; the C test programs, compiled once)
//! - `process`, `policyd`: one running program; a policyd of the test's own
//! - `ways`, `pair`, `page`: which ends are preloaded; two-ended programs and their hand-shake page
//! - `apps`: a real server and its real clients, every way
//! - `nginx`: nginx and curl, wherever they are
//! - `namespace`, `patience`: a network of the test's own; waiting for what others do
//! - `host`, `between`: the hosts that `scripts/vm` has made for a test that runs inside; two of them with their policyds
//! - `proof`: what a test says that it has proved

pub mod apps;
pub mod artifacts;
pub mod between;
pub mod host;
pub mod namespace;
pub mod nginx;
pub mod page;
pub mod pair;
pub mod patience;
pub mod policyd;
pub mod process;
pub mod programs;
pub mod proof;
pub mod ways;

pub use host::Host;
pub use page::Page;
pub use pair::{Carried, Pair};
pub use policyd::Policyd;
pub use process::{End, Launch, Outcome, Running, Scratch};
pub use proof::Proof;
pub use ways::Way;
