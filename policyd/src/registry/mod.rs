//! What is accelerated, what not, and why not: the registries of all families, believed in nothing.
//!
//! `family.rs` knows and forgets them, `sums.rs` adds up what they carried, `rows.rs` lists connections for `tandem ss`,
//! `kernel_bytes.rs` asks the kernel for the bytes that the switch no longer counts, `sockets.rs` for the addresses that it
//! did not ask for.

mod family;
mod kernel_bytes;
mod rows;
mod sockets;
mod sums;

pub use family::{Families, Family, FamilyId, check_file};
pub use rows::{Listing, SsRow, list};
pub use sums::Sums;
