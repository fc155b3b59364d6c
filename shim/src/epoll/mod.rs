//! epoll over connections that have companions.
//!
//! Some entries of an epoll set of the application are *adopted*: taken out of the kernel's set, because the kernel alone
//! cannot answer for them. Nothing of ours ever enters the application's set: a wait collects from the adopted entries and
//! from the kernel's set, and where both are quiet it sleeps on an *outer* epoll {the application's set, our wake, the
//! adopted anchors}, all edge-triggered, one a process and set.
//!
//! - `set`: the record of one set and the table of them; a set's making, descriptors and end, and fork
//! - `at_once`: epoll_ctl and epoll_wait while nothing is adopted
//! - `control`: epoll_ctl, and the close of a registered socket
//! - `adopt`: when entries may be adopted, adopting them and giving them back; `armed`: one-shot entries that have fired before;
//!   `stir`: what makes a set look anew, and whom the peer is to wake for it
//! - `outer`: the outer epoll
//! - `nested`: sets inside sets; `common`: sets that more than one process uses
//! - `wait`: epoll_wait, and poll on a set; `due`: which adopted entries are to be looked at; `collect`: what they report
//!
//! Locks: a set's own lock may be held while a slot's is taken, never the other way round.

mod adopt;
mod armed;
pub mod at_once;
mod collect;
mod common;
mod control;
mod due;
mod nested;
mod outer;
mod set;
mod stir;
mod wait;

pub use adopt::{Hold, adopt, before_exec, hold, retire};
pub use common::Common;
pub use control::{control, forget, number_closes};
pub use set::{after_fork_in_child, before_fork, closed, create, duplicate};
pub use stir::{ask_all_anew, ask_anew, note_arrivals, rouse};
pub use wait::{Limit, any_ready, fall_asleep_on, outer_of, pass_on, readable, wait};
