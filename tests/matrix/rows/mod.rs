//! The table: one row a program, or a kind of program.
//!
//! - `stores`: databases; `web`: servers, proxies and clients of HTTP and TLS; `shells`: logins, files, forking relays
//! - `measures`: what measures networks; `python`, `languages`: run-time systems, by small programs in `../programs`

pub mod languages;
pub mod measures;
pub mod python;
pub mod shells;
pub mod stores;
pub mod web;
