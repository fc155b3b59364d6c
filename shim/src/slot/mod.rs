//! Slots: the switch's own record of one TCP socket, in memory that forked children share.
//!
//! | field | moved by | under |
//! |---|---|---|
//! | `generation` | claim, free | odd = live; checked after every lock and every sleep |
//! | `stage` | any thread | compare-and-swap, only forwards: see [`Stage`] |
//! | `kernel_sends`, `kernel_reads` | whoever is inside a kernel call | counted up before looking at the phase, so that a switch-over sees it or it sees the switch-over |
//! | `send_phase`, `recv_phase` | switch-over, fail-back | the direction's lock |
//! | `sender` (writer state, its sleepers) | writers, fail-back | `send_lock` |
//! | `receiver` (reader state, its sleepers) | readers, readiness | `recv_lock` |
//!
//! Where both locks are needed the receiver's is taken first.

pub mod asleep;
mod holders;
#[cfg(all(test, loom))]
mod loom;
mod own;
mod sides;

use std::cell::UnsafeCell;
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tandem_protocol::Reason;

use crate::autobind::record::{self, Record};
use crate::family;
use crate::lock::Lock;
use crate::{fd_table, sys};

pub use own::MOST_SETS;
pub use sides::{RecvGuard, SendGuard};
use sides::{RecvSide, SendSide};

/// How far a connection has come. Only forwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u32)]
pub enum Stage {
    /// Made, not connected.
    New = 0,
    /// Connected, on TCP, counted; fewer data calls than asked for.
    Counting = 1,
    /// A meet is with policyd.
    Meeting = 2,
    /// A companion exists; each direction has its own phase.
    Attached = 3,
    /// On TCP for good: data calls go straight to the kernel.
    Settled = 4,
}

impl Stage {
    fn of(word: u32) -> Stage {
        match word {
            0 => Stage::New,
            1 => Stage::Counting,
            2 => Stage::Meeting,
            3 => Stage::Attached,
            _ => Stage::Settled,
        }
    }
}

/// Phases of a direction, as the kernel paths see them.
pub const IN_KERNEL: u32 = 0;
pub const THROUGH_SWITCH: u32 = 1;

pub mod flag {
    /// accept() made it: its SYN is not in its own byte count.
    pub const ACCEPTED: u32 = 1;
    /// An urgent byte was sent: it shifts offsets.
    pub const URGENT: u32 = 2;
    /// No offers any more, and both directions are to go back to TCP.
    pub const LEAVING: u32 = 4;
    /// SO_RCVLOWAT was set.
    pub const LOW_WATER: u32 = 8;
    /// shutdown(SHUT_WR) was called; shutdown(SHUT_RD).
    pub const SHUT_WR: u32 = 16;
    pub const SHUT_RD: u32 = 32;
    /// An option was set that has no row: no companion.
    pub const ODD_OPTION: u32 = 64;
    /// The row is written; it names the connection's addresses.
    pub const IN_REGISTRY: u32 = 128;
    pub const IDENTIFIED: u32 = 16384;
    /// Registered in more than one epoll set, or by more than one descriptor in one.
    pub const REGISTERED_TWICE: u32 = 512;
    /// More holders than the slot has room for.
    pub const MANY_HOLDERS: u32 = 1024;
    /// ECONNRESET has been told once: after it, EOF.
    pub const RESET_TOLD: u32 = 2048;
    /// SO_SNDBUF was set: the ring takes about what TCP would.
    pub const SEND_BUFFER: u32 = 8192;
    /// The peer's half of the words has been seen ready.
    pub const PEER_READY: u32 = 32768;
    /// It was to be the kernel's again, and could not be in time.
    pub const STUCK: u32 = 65536;
    /// When the kernel was last asked, the socket blocked. A hint: it is asked again before anybody sleeps or is told EAGAIN.
    pub const BLOCKS: u32 = 131_072;
    /// SO_RCVTIMEO or SO_SNDTIMEO was set, or may have been.
    pub const TIMED: u32 = 262_144;
    /// A companion with another host is there, or being made: `conn` is its number.
    pub const FAR: u32 = 524_288;
    /// A forked child gave it a number of its own: for the program that it is about to run, as far as can be known.
    pub const GIVEN: u32 = 2_097_152;
    /// The peer's FIN was not told to an epoll set, for on TCP it would wait behind what is unread.
    pub const FIN_WAITS: u32 = 1_048_576;
    /// The peer's FIN has been seen, whatever has come after it.
    pub const FIN_SEEN: u32 = 1 << 22;
    /// TCP_USER_TIMEOUT was set: no companion within this host.
    pub const USER_TIMEOUT: u32 = 1 << 23;
    /// It has been about to ask for its other end: more than the slot's first cache lines may have been written.
    pub const MET: u32 = 1 << 24;
}

const HOLDERS: usize = 8;

/// In the first two cache lines is all that a connection touches which is never carried; the rest is as it was at first until one has asked
/// for its other end ([`flag::MET`]).
#[repr(C, align(64))]
pub struct Slot {
    generation: AtomicU32,
    stage: AtomicU32,
    flags: AtomicU32,
    reason: AtomicU32,
    pub data_calls: AtomicU32,
    pub kernel_sends: AtomicU32,
    pub kernel_reads: AtomicU32,
    pub send_phase: AtomicU32,
    pub recv_phase: AtomicU32,
    /// The socket's error, where a call of ours took it from the kernel: owed to the application, once.
    pub untold: AtomicU32,
    /// Moves on when a holder joins them.
    joined: AtomicU32,
    /// Sends that found no room, the kernel's too, and shutdowns here: each is owed an edge when there is room (again), in every
    /// set that waits for it.
    pub no_space: AtomicU32,
    /// What AutoBind knows of the socket; its bits: see `autobind::record`.
    pub autobind: Record,
    /// Bytes that went by the kernel, since the connection began.
    pub tx_tcp: AtomicU64,

    pub rx_tcp: AtomicU64,
    holders: [AtomicU32; HOLDERS],
    tries: AtomicU32,
    /// Moves on when a direction comes back to the kernel: whoever watches looks anew.
    pub turns: AtomicU32,
    /// When policyd was asked for the other end.
    pub asked_at: AtomicU64,
    pub cookie: AtomicU64,

    /// The companion: which pair (family's index + 1), which connection in it, which end we are, and its id.
    pub pair: AtomicU32,
    pub conn: AtomicU32,
    pub role: AtomicU32,
    /// Small receives one after the other, with no send between: see `switch::at_once`.
    pub small_receives: AtomicU32,
    pub companion_id: AtomicU64,
    /// Bytes that went by the companion; with those that went by the kernel, the stream offset of each direction.
    pub tx_companion: AtomicU64,
    pub rx_companion: AtomicU64,
    /// What the anchor last said: see `switch::anchor`.
    pub anchor_tick: AtomicU64,
    pub anchor: AtomicU32,
    send_lock: Lock,
    recv_lock: Lock,
    /// Bytes the writer may have in flight.
    pub limit: AtomicU64,
    sender: UnsafeCell<SendSide>,
    receiver: UnsafeCell<RecvSide>,
}

const _: () = assert!(offset_of!(Slot, rx_tcp) == 64 && offset_of!(Slot, pair) == 128);

// SAFETY: the cells are reached only through the guards below, which hold the direction's lock.
unsafe impl Sync for Slot {}

/// A slot as one descriptor's owner knows it: valid while the generation is the same.
#[derive(Clone, Copy)]
pub struct SlotRef {
    pub index: u32,
    pub generation: u32,
    pub slot: &'static Slot,
}

impl PartialEq for SlotRef {
    fn eq(&self, other: &SlotRef) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}

impl std::ops::Deref for SlotRef {
    type Target = Slot;
    #[inline]
    fn deref(&self) -> &Slot {
        self.slot
    }
}

/// A fresh slot for a socket of this process; `None` when there is no memory or no slot left (the socket stays plain).
pub fn claim(fd: RawFd, stage: Stage, flags: u32) -> Option<SlotRef> {
    let family = family::get()?;
    let index = family.claim_slot()?;
    let slot = family.slot(index);
    slot.reset(index, stage, flags);
    let generation = slot.generation.fetch_add(1, Ordering::AcqRel) + 1;
    own::of(index).begin(fd);
    Some(SlotRef { index, generation, slot })
}

/// The slot behind an index out of the descriptor table.
#[inline]
pub fn at(index: u32) -> Option<SlotRef> {
    let slot = family::existing()?.slot(index);
    let generation = slot.generation.load(Ordering::Acquire);
    (generation & 1 == 1).then_some(SlotRef { index, generation, slot })
}

/// The slot that a descriptor shows, settled or not.
#[inline]
pub fn of(fd: RawFd) -> Option<SlotRef> {
    fd_table::socket(fd).and_then(at)
}

/// A forked child: what only its parent's threads keep open it has no descriptor of.
pub fn after_fork_in_child() {
    asleep::after_fork_in_child(used());
}

/// Slots that have ever been in use are the first so many.
pub fn used() -> u32 {
    family::existing().map_or(0, |family| family.shared.slots_used.load(Ordering::Acquire))
}

/// Every live slot that this process has a descriptor of.
pub fn mine() -> impl Iterator<Item = SlotRef> {
    own::first(used()).filter(|(_, own)| own.is_mine()).filter_map(|(index, _)| at(index))
}

impl Slot {
    /// A free slot begins a new life.
    fn reset(&self, index: u32, stage: Stage, flags: u32) {
        if self.has(flag::MET) {
            self.wipe(index);
        }
        for word in [
            &self.reason,
            &self.data_calls,
            &self.kernel_sends,
            &self.kernel_reads,
            &self.send_phase,
            &self.recv_phase,
            &self.untold,
            &self.no_space,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        self.tx_tcp.store(0, Ordering::Relaxed);
        self.rx_tcp.store(0, Ordering::Relaxed);
        let [first, others @ ..] = &self.holders;
        first.store(sys::pid(), Ordering::Relaxed);
        others.iter().for_each(|holder| holder.store(0, Ordering::Relaxed));
        // Whoever makes an unbound socket says so.
        self.autobind.begin(record::is::STREAM | record::is::EXPLICIT);
        self.flags.store(flags, Ordering::Relaxed);
        self.stage.store(stage as u32, Ordering::Relaxed);
    }

    /// What only a connection has written that asked for its other end.
    #[cold]
    fn wipe(&self, index: u32) {
        let words = [&self.tries, &self.turns, &self.pair, &self.conn, &self.role, &self.small_receives, &self.anchor];
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let words = [
            &self.asked_at,
            &self.cookie,
            &self.companion_id,
            &self.tx_companion,
            &self.rx_companion,
            &self.anchor_tick,
            &self.limit,
        ];
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        // SAFETY: the slot is not live: nobody else holds or takes its locks. All-zero is the sides' initial state.
        unsafe {
            self.sender.get().write_bytes(0, 1);
            self.receiver.get().write_bytes(0, 1);
        }
        if let Some(family) = family::existing() {
            family.registry.wipe(index as usize);
        }
    }

    #[inline]
    pub fn stage(&self) -> Stage {
        Stage::of(self.stage.load(Ordering::Acquire))
    }

    /// A companion is there.
    #[inline]
    pub fn is_attached(&self) -> bool {
        self.stage.load(Ordering::Acquire) == Stage::Attached as u32
    }

    /// It has not come so far yet.
    #[inline]
    pub fn is_before(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) < stage as u32
    }

    /// One step forwards; false when somebody else was first.
    pub fn advance(&self, from: Stage, to: Stage) -> bool {
        self.stage.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// A meet came to nothing and may be tried again.
    pub fn retreat(&self) -> bool {
        self.advance(Stage::Meeting, Stage::Counting)
    }

    /// How often policyd could not be reached for this connection.
    pub fn count_try(&self) -> u32 {
        self.tries.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The stream offset of the next byte to be accepted from the application.
    pub fn accepted(&self) -> u64 {
        self.tx_tcp.load(Ordering::Acquire) + self.tx_companion.load(Ordering::Acquire)
    }

    /// The stream offset of the next byte to be delivered to it.
    pub fn delivered(&self) -> u64 {
        self.rx_tcp.load(Ordering::Acquire) + self.rx_companion.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    /// Sets flags; true when they were not all set before.
    pub fn raise(&self, flags: u32) -> bool {
        self.flags.fetch_or(flags, Ordering::AcqRel) & flags != flags
    }

    pub fn lower(&self, flags: u32) {
        self.flags.fetch_and(!flags, Ordering::AcqRel);
    }

    /// The connection's error, where a call of ours took it from the kernel: for a receive that has nothing else to say. EPIPE
    /// is for writers alone: it comes after the peer's FIN.
    pub fn take_untold(&self) -> Option<i32> {
        let errno = self.untold.load(Ordering::Acquire);
        let taken =
            self.error_is_owed() && self.untold.compare_exchange(errno, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        taken.then(|| {
            self.raise(flag::RESET_TOLD);
            errno as i32
        })
    }

    /// There is such an error.
    #[inline]
    pub fn error_is_owed(&self) -> bool {
        !matches!(self.untold.load(Ordering::Acquire) as i32, 0 | libc::EPIPE)
    }

    pub fn inherited_flags(&self) -> u32 {
        let inherited = flag::LOW_WATER | flag::ODD_OPTION | flag::SEND_BUFFER | flag::TIMED | flag::USER_TIMEOUT;
        self.flags.load(Ordering::Relaxed) & inherited
    }

    pub fn reason(&self) -> Reason {
        Reason::from_code(self.reason.load(Ordering::Relaxed) as u16).unwrap_or(Reason::None)
    }

    /// The reason the connection is on TCP; the first one given for good stays.
    pub fn set_reason(&self, reason: Reason) {
        self.reason.store(reason as u32, Ordering::Relaxed);
    }
}

impl SlotRef {
    /// Still the connection it was?
    #[inline]
    pub fn current(&self) -> bool {
        self.slot.generation.load(Ordering::Acquire) == self.generation
    }

    /// Nobody else holds it, as far as can be seen without asking the kernel; asked behind a full fence.
    #[inline]
    pub fn is_mine_alone(&self) -> bool {
        let before = self.slot.joined.load(Ordering::Acquire);
        let [first, others @ ..] = &self.slot.holders;
        first.load(Ordering::Acquire) == sys::pid()
            && others.iter().all(|holder| holder.load(Ordering::Acquire) == 0)
            && family::existing().is_some_and(|family| family.shared.forks_pending.load(Ordering::Acquire) == 0)
            && !self.has(flag::MANY_HOLDERS)
            && self.slot.joined.load(Ordering::Acquire) == before
    }

    /// Ends the slot's life: afterwards every [`SlotRef`] to it is stale. True for the one caller that did it.
    pub fn end(&self) -> bool {
        let next = self.generation.wrapping_add(1);
        self.slot.generation.compare_exchange(self.generation, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
