//! SAN providers: what makes companions. `local` (shared memory between two processes of one host) is built in. Others are plug-in
//! libraries behind the C ABI of the `tandem-provider` crate: `plugin` loads one, `far` drives it, for companions between hosts.

pub mod far;
pub mod local;
pub mod plugin;
