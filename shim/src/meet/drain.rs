//! `tandem drain`: what policyd wants back on TCP.
//!
//! Whoever collects the message does it, for all connections that are meant. One whose lock this thread holds already (a signal
//! handler runs) goes back by its next call, for it is marked.

use std::sync::atomic::{AtomicBool, Ordering};

use tandem_protocol::Reason;
use tandem_protocol::message::Drain;

use super::settle;
use crate::provider::local;
use crate::slot::{self, SlotRef, Stage};
use crate::switch;

/// This process, and the children that it forks from now on.
static DRAINED: AtomicBool = AtomicBool::new(false);

/// What is connected now stays on TCP.
pub fn is_drained() -> bool {
    DRAINED.load(Ordering::Relaxed)
}

/// Under the channel's lock.
pub fn drain(instance: u64, what: Drain) {
    crate::log::info(format_args!("policyd drains: {what:?}"));
    match what {
        Drain::Undo => DRAINED.store(false, Ordering::Relaxed),
        Drain::All => {
            DRAINED.store(true, Ordering::Relaxed);
            slot::mine().for_each(go_back);
        }
        Drain::Pair(id) => slot::mine().filter(|slot| is_of_pair(*slot, instance, id)).for_each(go_back),
        Drain::Slot { slot, cookie } => {
            let meant = slot::at(slot).filter(|slot| slot.is_mine() && slot.cookie.load(Ordering::Relaxed) == cookie);
            meant.into_iter().for_each(go_back);
        }
    }
}

fn is_of_pair(slot: SlotRef, instance: u64, id: u32) -> bool {
    let pair = local::pair(slot.pair.load(Ordering::Acquire).wrapping_sub(1));
    slot.is_attached() && pair.is_some_and(|pair| !pair.is_far() && pair.is(instance, id))
}

fn go_back(slot: SlotRef) {
    match slot.stage() {
        Stage::Attached => switch::leave(slot, slot.descriptor(), Reason::Drained),
        Stage::Meeting => settle(slot, Reason::Drained),
        // Others ask for nothing while the process is drained.
        _ => {}
    }
}
