//! SAN providers: what makes companions. `local` (shared memory between two processes of one host) is built in; a
//! provider for queue pairs is a plug-in library behind the C ABI of the `tandem-provider` crate.

pub mod local;
