//! epoll over connections that have companions.
//!
//! `set` is the record of one epoll set of the application: which of its entries are *adopted* (taken out of the kernel's
//! set, because the kernel alone cannot answer for them) and how each stands; `wait` is epoll_wait. Nothing of ours ever
//! enters the application's set: a wait collects from the adopted entries and from the kernel's set, and where both are
//! quiet it sleeps on an *outer* epoll {the application's set, our wake, the adopted anchors}, all edge-triggered, one a
//! process and set.
//!
//! Locks: a set's own lock may be held while a slot's is taken, never the other way round.

mod collect;
mod set;
mod wait;

pub use set::{
    Hold, adopt, after_fork_in_child, before_exec, before_fork, closed, control, create, duplicate, forget, hold, rouse,
};
pub use wait::{any_ready, fall_asleep_on, outer_of, readable, wait};
