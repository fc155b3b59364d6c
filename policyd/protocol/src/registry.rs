//! A family's registry: what `tandem ss` and `tandem status` show. A memfd that the family's first process makes, every
//! process of the family writes, and policyd maps. Policyd writes `mail`, `examined` and `shown`, and believes nothing.
//!
//! A connection's row lives from the moment it is established until it is closed; [`Registry::retire`] then folds it into
//! the totals. What a host has carried is therefore: the totals that policyd kept of dead families, the headers' totals,
//! and the live rows.
//!
//! A row is a seqlock for its identity (who, which addresses). Provider, reason and byte counts are words of their own:
//! each is stored by itself while the row is live. A connection that may be over in a moment is announced by a process's
//! descriptor alone, so that the switch need not ask the kernel for its addresses; whoever shows the row finds them out.
//!
//! Policyd proves a claim by a copy of the socket's descriptor, and while it has the copy a close by the application would
//! return with the kernel's socket still open: FIN late, port not free. So a close never overtakes an examination:
//!
//! | switch, before a close | policyd |
//! |---|---|
//! | takes the claim out of the row ([`Registry::withdraw`]) | names the slot in `examined` ([`Registry::begin_examination`]) |
//! | full fence | full fence |
//! | waits while `examined` names the slot | only if the claim still stands in the row: copies, reads, closes the copy |
//! | closes | clears `examined` |
//!
//! One of the two at least sees the other. The switch's wait is bounded, policyd never waits. Where the switch must send
//! the descriptor itself, it says so in `shown` and looks at the claim once more before it sends; policyd clears the word
//! when it has closed what came.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::message::SlotRef;
use crate::reason::{REASON_SLOTS, Reason};

mod row;

use row::{ANNOUNCED, CONNECTED};
pub use row::{Identity, Provider, Row, SETTLED, Snapshot};

pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDR");
pub const VERSION: u32 = 4;
/// Rows; a switch uses its slot's index.
pub const ROWS: usize = 65_536;

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Registry {
    pub header: Header,
    rows: [Row; ROWS],
    /// By row: pages that no companion between hosts needed are never touched.
    natives: [Native; ROWS],
}

/// The provider's name, a space, and both ends of a row's companion in its own terms: text, ended by a zero byte where it is shorter. Of no
/// use to a switch.
#[derive(Debug)]
#[repr(C)]
struct Native([AtomicU64; Native::BYTES / 8]);

#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    magic: AtomicU32,
    version: AtomicU32,
    capacity: AtomicU32,
    /// Policyd adds one (release) after every packet it has sent to a process of the family.
    pub mail: AtomicU32,
    /// One past the highest row ever live: policyd looks no further, and never touches the pages behind it.
    rows_used: AtomicU32,
    _pad: AtomicU32,
    /// Policyd: the slot whose socket it has a copy of, as [`slot_word`]; 0: none. It examines one at a time.
    examined: AtomicU64,
    pub totals: Totals,
}

/// Sums over retired rows. `fail_backs` is counted as they happen.
#[derive(Debug)]
#[repr(C)]
pub struct Totals {
    pub connections: AtomicU64,
    pub carried: AtomicU64,
    pub tx_companion: AtomicU64,
    pub rx_companion: AtomicU64,
    pub fail_backs: AtomicU64,
    /// By [`Reason::code`], of connections that ended on TCP.
    pub reasons: [AtomicU64; REASON_SLOTS],
}

const _: () = assert!(size_of::<Header>() == 4_096);
const _: () = assert!(Registry::BYTES == 4_096 + ROWS * (128 + Native::BYTES));

impl Registry {
    pub const BYTES: usize = size_of::<Registry>();

    /// Seals that policyd demands: the size is fixed, so that reading it never faults.
    pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

    /// In fresh zeroed memory, before anybody else sees it.
    pub fn initialise(&self) {
        self.header.magic.store(MAGIC, Ordering::Relaxed);
        self.header.version.store(VERSION, Ordering::Relaxed);
        self.header.capacity.store(ROWS as u32, Ordering::Release);
    }

    /// Whether it is a registry of this version.
    pub fn is_sound(&self) -> bool {
        self.header.capacity.load(Ordering::Acquire) == ROWS as u32
            && self.header.magic.load(Ordering::Relaxed) == MAGIC
            && self.header.version.load(Ordering::Relaxed) == VERSION
    }

    /// Indices wrap, so that this is total.
    #[inline]
    pub fn row(&self, index: usize) -> &Row {
        &self.rows[index % ROWS]
    }

    /// Switch: the connection is established. Starts on TCP with no bytes.
    pub fn publish(&self, index: usize, identity: &Identity, reason: Reason) {
        self.wipe(index);
        self.row(index).publish(reason, |row| row.describe(identity));
        self.use_row(index);
    }

    /// Switch: the free row's last connection may have been carried. (Done for those alone, for an announcement stays within one cache line.)
    pub fn wipe(&self, index: usize) {
        self.row(index).tx_companion.store(0, Ordering::Relaxed);
        self.row(index).rx_companion.store(0, Ordering::Relaxed);
    }

    /// Switch: as [`Registry::publish`], of the connection that descriptor `fd` of process `pid` shows.
    pub fn announce(&self, index: usize, (pid, fd): (u32, i32), connected: bool, reason: Reason) {
        self.row(index).publish(reason, |row| {
            row.pid.store(pid, Ordering::Relaxed);
            row.addr_family.store(ANNOUNCED, Ordering::Relaxed);
            row.ports.store(fd.cast_unsigned(), Ordering::Relaxed);
            row.flags.store(if connected { CONNECTED } else { 0 }, Ordering::Relaxed);
        });
        self.use_row(index);
    }

    /// Switch: who an announced connection is. One caller, once a connection.
    pub fn identify(&self, index: usize, identity: &Identity) {
        self.row(index).rewrite(|row| row.describe(identity));
    }

    /// Switch, before it says that the provider carries the row: what the provider calls both ends. Cut where it is too long.
    pub fn set_native(&self, index: usize, text: &str) {
        self.natives[index % ROWS].store(text.as_bytes());
    }

    /// Policyd, of a row that a provider carries: without what does not belong into a line.
    pub fn native(&self, index: usize) -> String {
        self.natives[index % ROWS].load()
    }

    fn use_row(&self, index: usize) {
        let used = (index % ROWS) as u32 + 1;
        if self.header.rows_used.load(Ordering::Relaxed) < used {
            self.header.rows_used.fetch_max(used, Ordering::Release);
        }
    }

    /// Switch: the connection is closed. Frees the row and adds it to the totals; a second call does nothing.
    pub fn retire(&self, index: usize) {
        let row = self.row(index);
        if row.sequence.swap(0, Ordering::AcqRel) != 0 {
            // The row has no other user until the slot is given back, which the caller does later.
            self.header.totals.add(row);
        }
    }

    /// Switch, before it sends a Meet: policyd may examine descriptor `fd` of process `pid`. The caller looks afterwards
    /// whether `fd` still shows the slot, and withdraws if not: a close that was first has seen no claim.
    pub fn claim(&self, slot: SlotRef, fd: i32, pid: u32) {
        let row = self.row(slot.slot as usize);
        row.claimant.store(pid, Ordering::Relaxed);
        row.claim.store(claim_word(slot.generation, fd), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Switch: the descriptor that policyd may examine, and whose it is.
    pub fn claimed(&self, slot: SlotRef) -> Option<(i32, u32)> {
        let row = self.row(slot.slot as usize);
        let word = row.claim.load(Ordering::Acquire);
        ((word >> 32) as u32 == slot.generation).then(|| (word as i32, row.claimant.load(Ordering::Relaxed)))
    }

    /// Switch, before a close: no examination of this slot begins any more. One that has begun is seen by
    /// [`Registry::is_examined`].
    pub fn withdraw(&self, slot: SlotRef) {
        let claim = &self.row(slot.slot as usize).claim;
        let word = claim.load(Ordering::Relaxed);
        if (word >> 32) as u32 == slot.generation {
            // It fails only where another thread withdraws it, or the slot has a new life.
            let _ = claim.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Switch: policyd has a copy of this slot's descriptor, or one is on its way to it.
    pub fn is_examined(&self, slot: SlotRef) -> bool {
        self.header.examined.load(Ordering::Acquire) == slot_word(slot)
            || self.row(slot.slot as usize).shown.load(Ordering::Acquire) == slot.generation
    }

    /// Switch, before it sends the claimed descriptor: which one that is, and whose. `None`: it is being closed.
    pub fn show(&self, slot: SlotRef) -> Option<(i32, u32)> {
        self.row(slot.slot as usize).shown.store(slot.generation, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.claimed(slot)
    }

    /// Switch: it was not sent. Policyd: what came is closed.
    pub fn unshow(&self, slot: SlotRef) {
        let shown = &self.row(slot.slot as usize).shown;
        let _ = shown.compare_exchange(slot.generation, 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Policyd, before it takes a copy: it looks afterwards whether the claim still stands in the row.
    pub fn begin_examination(&self, slot: SlotRef) {
        self.header.examined.store(slot_word(slot), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Policyd: the copy is closed.
    pub fn end_examination(&self) {
        self.header.examined.store(0, Ordering::Release);
    }

    /// Where in the file the claim of a slot stands: policyd reads it there without a page of the row being allocated.
    pub const fn claim_offset(slot: u32) -> usize {
        offset_of!(Registry, rows) + slot as usize % ROWS * size_of::<Row>() + offset_of!(Row, claim)
    }

    /// As above, of `shown`.
    pub const fn shown_offset(slot: u32) -> usize {
        offset_of!(Registry, rows) + slot as usize % ROWS * size_of::<Row>() + offset_of!(Row, shown)
    }

    /// Rows worth looking at, whatever the header claims.
    pub fn used_rows(&self) -> &[Row] {
        let used = self.header.rows_used.load(Ordering::Acquire) as usize;
        self.rows.get(..used).unwrap_or(&self.rows)
    }
}

/// Generations of live slots are odd, so neither word of a live slot is ever 0.
const fn slot_word(slot: SlotRef) -> u64 {
    (slot.slot as u64) << 32 | slot.generation as u64
}

/// What stands in `claim` while policyd may examine descriptor `fd` as that generation's.
pub const fn claim_word(generation: u32, fd: i32) -> u64 {
    (generation as u64) << 32 | fd as u32 as u64
}

impl Native {
    const BYTES: usize = 192;

    fn store(&self, text: &[u8]) {
        for (at, word) in self.0.iter().enumerate() {
            let rest = text.get(at * 8..).unwrap_or(&[]);
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn load(&self) -> String {
        let bytes = self.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let text: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&text).replace(char::is_control, "?")
    }
}

impl Totals {
    /// What a row that has just been retired counts for.
    fn add(&self, row: &Row) {
        let Some(provider) = Provider::from_word(row.provider.load(Ordering::Relaxed)) else { return };
        self.connections.fetch_add(1, Ordering::Relaxed);
        let [tx, rx] = [&row.tx_companion, &row.rx_companion].map(|count| count.load(Ordering::Relaxed));
        let carried = provider != Provider::Tcp || tx != 0 || rx != 0;
        if carried {
            self.carried.fetch_add(1, Ordering::Relaxed);
            self.tx_companion.fetch_add(tx, Ordering::Relaxed);
            self.rx_companion.fetch_add(rx, Ordering::Relaxed);
        }
        let reason = row.known_reason().filter(|&reason| provider == Provider::Tcp && reason != Reason::None);
        if let Some(counter) = reason.and_then(|reason| self.reasons.get(reason.code() as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
