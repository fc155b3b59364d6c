//! One direction of a connection, at both ends: ring, credit, switch-over, fail-back, FIN. No libc, no descriptors.
//!
//! `words` what the ends share, `geometry` where the ring stands, `record` the fail-back's; `writer` (with `room`) and `reader` (with
//! `receive` and `look`) the two ends' states, `tcp` what they need of the anchor, `sleepers` who is to be woken.
//! Beside them, of a whole connection: `news` and `mail`, by which an epoll set learns what to look at.
//!
//! # States
//!
//! | end | state | left by | next |
//! |---|---|---|---|
//! | [`Writer`], send lock | `Tcp` | `consider`: READY of the next epoch, the facts allow it, the kernel agrees on N | `Ring` |
//! | | `Tcp` | `consider`: LEAVE of the next epoch (which is void then); `finish` | `Tcp`; `End` |
//! | | `Ring` | `consider`: own wish, LEAVE, HOLD, the reader gone or about to be silent | `FailBack` |
//! | | `Ring` | `finish`: W, then the caller's FIN | `End` |
//! | | `FailBack` | `pump`: record (none after HOLD) and all of [R, E) are in the kernel | `Tcp` |
//! | [`Reader`], receive lock | `Plain` | `offer`: nobody is in a kernel read or poll | `Offered` |
//! | | `Offered` | any look: TAKEN, or VOID | `Ring`, or `Plain` |
//! | | `Ring` | any look at TCP beyond N: the record | `Rejoin` |
//! | | `Rejoin` | TCP has come to E | `Plain` |
//! | | `Offered`, `Ring` | `hold`: who reads next has no switch | `Offered`, `Held` |
//! | | `Held` | RETURNED; or a record that was on its way already | `Plain`; `Rejoin` |
//!
//! *Handing over.* A reader without a switch knows no record. So the reader stops (HOLD: what it has consumed is final), and the
//! writer, instead of a record, says RETURNED and sends on TCP what comes after max(consumed, N): behind TCP's rest that is the
//! plain stream. A record that was begun before HOLD stays; the writer then says PROMISED: it will not end with bytes owed.
//! A reader that finds PROMISED, or the writer's end, with bytes before it that only the switch can read, gives up.
//!
//! FIN, errors and nonsense end a reader in `End`, once what is due was delivered; nonsense makes a writer `Broken`.
//!
//! *Words that travel.* Between hosts a word is stored in this end's image and arrives in the other's later, in order, or never. So a
//! writer is `Proposed` between `Tcp` and `Ring`, until `Landed` says that N has arrived; where nobody can know that any more, it asks
//! the reader by the policyds. HOLD is answered by a record. A reader takes the kernel's FIN for the end only with `End`.
//!
//! # What the caller does
//!
//! - *Locks.* Every method of [`Writer`] under the send lock, of [`Reader`] and [`sleepers::Sleepers`] under their direction's;
//!   they may live in memory that forked processes share. State changes last in a method, so that a holder that is killed
//!   leaves a state from which the next one goes on; only bytes in a kernel call at that moment go uncounted.
//! - *Fences.* None in the two ends' states: after `commit`, after receiving from the companion, after `Took`, `Voided`,
//!   `offer` and `leave`, call [`sleepers::whom`] (or `called`, where epoll sets sleep too), which has the fence, and wake. A
//!   sleeper names itself, makes its counter odd, puts the fence, looks again, and only then sleeps.
//! - *Every data call and every wait* of a writer begins with `consider`, and pumps while `owed()`.
//! - *Counts.* In `Tcp` and `Plain` the caller counts the stream's bytes; what it gives to `consider` and `offer` goes on from
//!   `written()` and `consumed()`. `kernel_offset` says what the kernel's own counter must be there.
//! - *The words are zero, or were made so by their own side,* before the other end looks at them.
//! - *Readiness.* TCP polled, then `attend`, then `readable() || wants_tcp() && TCP was readable`. Look again after `attend` when
//!   the state was `Offered`: a take in between makes the bytes the record's.

mod fail_back;
mod faults;
mod geometry;
mod look;
#[cfg(all(test, loom))]
#[path = "tests/loom.rs"]
mod loom;
pub mod mail;
pub mod news;
mod reader;
mod receive;
mod record;
mod room;
pub mod sleepers;
mod sync;
mod tcp;
#[cfg(all(test, not(loom)))]
mod tests;
mod words;
mod writer;

pub use look::{Attended, tcp_may_have};
pub use reader::{RState, Reader, Source, Take};
pub use record::Record;
pub use tcp::{TcpPut, TcpReceive, TcpSend, TcpTake};
pub use words::{FOR_GOOD, LocalPort, Place, Port, Slots, WORDS, Word, Words, stamped};
pub use writer::{Pumped, Region, TRAVELLING_STRIDE, WState, Writer, WriterEvent, WriterFacts};
