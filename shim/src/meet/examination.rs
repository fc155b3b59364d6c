//! A close never overtakes an examination: while policyd has a copy of a socket's descriptor, the kernel's socket would
//! stay open behind the application's close. How the two find out about each other stands in `tandem_protocol::registry`.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use tandem_protocol::Reason;
use tandem_protocol::message::SlotRef as Named;
use tandem_protocol::registry::Registry;

use super::name;
use crate::slot::{SlotRef, flag};
use crate::{family, fd_table, sys};

/// An examination takes some microseconds if policyd is not interrupted in it.
const SPINS: u32 = 100;
const PAUSE_NS: u64 = 20_000;
/// policyd may be stopped, or dead, in the middle of one: a close does not hang on it.
const PATIENCE_NS: u64 = 50_000_000;

/// From now on policyd may examine this descriptor. False when it is being closed at this moment.
pub fn permit(slot: SlotRef, fd: RawFd) -> bool {
    let Some(family) = family::existing() else { return false };
    family.registry.claim(name(slot), fd, sys::pid());
    let open = slot.current() && fd_table::socket(fd) == Some(slot.index);
    if !open {
        family.registry.withdraw(name(slot));
    }
    open
}

/// `fd` is about to show this slot no more: its number may mean another socket next. (The table says so already.) True: the claim was by it.
pub fn before_close(slot: SlotRef, fd: RawFd) -> bool {
    end_if(slot, |claim| claim == (fd, sys::pid()))
}

/// This process is about to end or to change its program. True: the claim was its own.
pub fn before_exit(slot: SlotRef) -> bool {
    end_if(slot, |(_, claimant)| claimant == sys::pid())
}

/// Nothing comes of a claim that has ended: who has the socket by another number, or in another process (the child that it was accepted
/// for, say), asks anew.
pub fn leave_to_others(slot: SlotRef) {
    if !slot.has(flag::FAR) && slot.retreat() {
        super::explain(slot, Reason::FewCalls);
    }
}

/// The slot has ended, and its last descriptor is about to be closed, whoever claimed it.
pub fn before_last_close(slot: SlotRef) {
    end_if(slot, |_| true);
}

/// policyd may examine it, or be about to. Asked behind a full fence.
#[inline]
pub fn is_claimed(slot: SlotRef) -> bool {
    slot.has(flag::IN_REGISTRY)
        && family::existing().is_some_and(|family| family.registry.claimed(name(slot)).is_some())
}

/// Where the slot has such a claim (true): nothing of it is examined when this returns, or policyd does not run.
fn end_if(slot: SlotRef, concerns: impl FnOnce((RawFd, u32)) -> bool) -> bool {
    // Without a row there was no meet.
    let Some(family) = family::existing().filter(|_| slot.has(flag::IN_REGISTRY)) else { return false };
    // What `permit` looks at is stored by now: of a thread in there and this one, one sees the other.
    fence(Ordering::SeqCst);
    let ended = family.registry.claimed(name(slot)).is_some_and(concerns);
    if ended {
        family.registry.withdraw(name(slot));
        wait(family.registry, name(slot));
    }
    ended
}

fn wait(registry: &Registry, slot: Named) {
    for _ in 0..SPINS {
        if !registry.is_examined(slot) {
            return;
        }
        std::hint::spin_loop();
    }
    let deadline = sys::now_ns() + PATIENCE_NS;
    while registry.is_examined(slot) {
        if sys::now_ns() > deadline {
            crate::log::warn(format_args!("slot {}: closed although policyd still looks at it", slot.slot));
            return;
        }
        sys::pause(PAUSE_NS);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fd_table::Entry;
    use crate::slot::{self, Stage};

    /// A connection that has a meet, and policyd's word.
    fn met(fd: RawFd) -> (SlotRef, &'static Registry) {
        let slot = slot::claim(fd, Stage::New, flag::IN_REGISTRY).unwrap();
        fd_table::set(fd, Entry::Socket(slot.index));
        assert!(permit(slot, fd));
        (slot, family::existing().unwrap().registry)
    }

    fn took<R>(close: impl FnOnce() -> R) -> Duration {
        let begun = Instant::now();
        close();
        begun.elapsed()
    }

    /// One test, for policyd's word is one.
    #[test]
    fn a_close_waits_for_its_own_examination_alone_and_not_for_ever() {
        let (slot, registry) = met(2_001);
        registry.begin_examination(Named { slot: slot.index, generation: slot.generation + 2 });
        before_close(slot, 2_002);
        assert!(claimed(slot).is_some(), "another descriptor than the claimed one");
        let quick = took(|| before_close(slot, 2_001));
        assert!(claimed(slot).is_none() && quick < Duration::from_nanos(PATIENCE_NS), "{quick:?}");

        let (slot, registry) = met(2_001);
        registry.begin_examination(name(slot));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                registry.end_examination();
            });
            let waited = took(|| before_close(slot, 2_001));
            assert!(waited >= Duration::from_millis(9), "{waited:?}");
        });

        let (slot, registry) = met(2_001);
        registry.begin_examination(name(slot));
        let stopped = took(|| before_last_close(slot));
        registry.end_examination();
        assert!(stopped >= Duration::from_nanos(PATIENCE_NS) && stopped < Duration::from_secs(5), "{stopped:?}");

        let (slot, registry) = met(2_001);
        assert_eq!(registry.show(name(slot)), Some((2_001, sys::pid())));
        let sent = took(|| before_exit(slot));
        registry.unshow(name(slot));
        assert!(sent >= Duration::from_nanos(PATIENCE_NS), "{sent:?}");
    }

    #[test]
    fn a_descriptor_that_is_being_closed_is_not_claimed() {
        let (slot, _) = met(2_003);
        fd_table::clear(2_003);
        assert!(!permit(slot, 2_003));
        assert!(claimed(slot).is_none());
        fd_table::set(2_003, Entry::Socket(slot.index));
        assert!(permit(slot, 2_003));
        assert!(slot.end());
        assert!(!permit(slot, 2_003));
        before_last_close(slot);
    }

    fn claimed(slot: SlotRef) -> Option<(RawFd, u32)> {
        family::existing()?.registry.claimed(name(slot))
    }
}
