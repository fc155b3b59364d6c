//! Planted faults: each leaves out one rule of the protocol, so that the tests can show that they would notice.
//! Outside of tests there are none.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Fault {
    /// `produced` is stored before the bytes are there.
    ProducedFirst,
    /// R is `consumed` as read, though the reader may not have come to N.
    FromWithoutMax,
    /// After the kernel's FIN the ring is not looked at again.
    FinWithoutLook,
    /// What came from TCP while the direction was taken is delivered unseen.
    NoRecheck,
    /// READY is withdrawn without waiting for the writer's answer.
    Withdrawn,
    /// N is stored after the stamp that makes it valid.
    StampFirst,
    /// The geometry is loaded before `produced`.
    GeometryFirst,
    /// A geometry is published although the reader has not come to the present one.
    GrowthUnasked,
    /// Bytes go to the ring before N has arrived.
    NotAwaited,
    /// Nobody knows whether N has arrived: it is taken for not arrived, or for arrived.
    GuessedVoid,
    GuessedTaken,
    /// Where words travel, the kernel's FIN is taken for the end.
    EndUnseen,
    /// A reader that says it has stopped reads on.
    HoldReads,
    /// No full fence between a publishing store and the look at who sleeps.
    NoFence,
    /// No full fence between setting a bit of news and the look at who sleeps.
    UnfencedNews,
    /// A bit of news is cleared after the look that it asks for.
    ClearedLate,
    /// An epoll set looks for news before it says that it sleeps.
    LookedEarly,
    /// Whom to wake was read before the bit of news was there, and is not read again.
    NameNotReread,
    /// Whoever leaves the list does not name the next.
    StaleName,
    /// No full fence between naming the next and the look at how far the direction has come.
    UnfencedLeave,
    /// The others are not told that the direction has moved.
    OthersUntold,
    /// It is forgotten that they were.
    ToldForgotten,
    /// No full fence between a change and the look whether a letter about it lies there.
    UnfencedPost,
    /// No full fence between taking the letters and the look that they ask for.
    UnfencedTake,
    /// That there is mail is taken back after the letters, not before.
    FlagLast,
}

#[cfg(not(test))]
#[inline(always)]
pub(super) const fn planted(_: Fault) -> bool {
    false
}

#[cfg(test)]
#[cfg_attr(loom, allow(unused_imports))]
pub(super) use in_tests::{any, planted, with};

#[cfg(test)]
#[cfg_attr(loom, allow(dead_code))]
mod in_tests {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    pub fn any() -> bool {
        PLANTED.get().is_some()
    }

    /// Runs `test` with the fault in place: on this thread, where loom and shuttle run all of theirs.
    pub fn with(fault: Fault, test: impl FnOnce()) {
        struct Dig;
        impl Drop for Dig {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        let _dig = Dig;
        PLANTED.set(Some(fault));
        test();
    }
}
