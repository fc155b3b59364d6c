//! Companions between hosts, on what a plug-in provides. The stream logic works on words and rings in this process's memory, as for
//! companions on one host; here they are made to travel.
//!
//! | file | what it owns |
//! |---|---|
//! | `layout.rs` | where things stand in memory, and records on their way |
//! | `push.rs` | what this end has stored goes to the other end |
//! | `dispatch.rs` | what the provider tells: words and notes that have landed become words of the image, sleepers are woken |
//! | `meeting.rs`, `ending.rs` | from policyd's word to a connection that is carried; its end |
//! | `words.rs` | words of the switch-over that go by the policyds |
//! | `stall.rs` | writers without room for too long |
//! | `domains.rs` | devices and registered memory |
//!
//! There is one [`Far`] a process, with one queue a provider ([`Driver`]). A connection is its provider's for life. Nobody but callers of the application's drives it: each data call and each wait
//! looks what there is ([`tend`]), each sleeper sleeps on the queue's descriptor and on policyd's channel too ([`arm`], [`descriptors`]).
//!
//! Locks, in this order: policyd's channel's (`meeting`, `domains`), a slot's, `polling` (`dispatch`), a connection's `push`. A
//! signal handler that interrupted a call into the provider makes none: [`enter`].

mod dispatch;
mod domains;
mod ending;
mod layout;
mod meeting;
mod push;
mod stall;
mod words;

use std::cell::{Cell, UnsafeCell};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::ProviderName;
use tandem_provider::{Companion, Provider, Queue};

use crate::lock::Lock;
use crate::provider::local::{self, Pair};
use crate::provider::plugin;
use crate::slot::SlotRef;
use crate::stream::{LocalPort, Place};
use crate::switch;
use crate::{meet, sys};

pub use layout::RING;

/// A provider that this process uses, and its queue there. Never freed.
pub(super) struct Driver {
    name: ProviderName,
    provider: &'static Provider,
    queue: *mut Queue,
    descriptor: RawFd,
}

/// This process's part in all companions between hosts.
pub struct Far {
    owner: u32,
    base: *mut u8,
    pair: AtomicPtr<Pair>,
    /// By the plug-in's number; null: not used yet.
    drivers: [AtomicPtr<Driver>; plugin::MOST],
    polling: Lock,
    /// Who spun has just seen what there is: the call that follows need not look once more.
    fresh: AtomicBool,
    /// Something was told that `meeting` is to see to.
    todo: AtomicBool,
    /// When a writer without room is to be looked at, 0 while there is none: see `stall.rs`.
    stall_at: AtomicU64,
    conns: Box<[Conn]>,
    /// What the provider has told of domains, and of chunks' memory: bits of [`told`].
    domains: [AtomicU32; domains::MOST],
    chunks: Box<[AtomicU32]>,
    /// Under the lock of policyd's channel.
    book: UnsafeCell<meeting::Book>,
}

// SAFETY: the provider's functions may be called from any thread; the memory is atomics, records that are copied out, and rings; the cells
// are reached under the locks that are named at them.
unsafe impl Sync for Far {}
// SAFETY: the same.
unsafe impl Send for Far {}

/// One companion.
#[derive(Default)]
struct Conn {
    host: AtomicU32,
    id: AtomicU64,
    role: AtomicU32,
    /// Whose it is: see [`identity`].
    slot: AtomicU64,
    /// Distinguishes it from those that had its number before.
    serial: AtomicU32,
    /// Puts may be made there; null before and afterwards.
    companion: AtomicPtr<Companion>,
    /// Its provider.
    driver: AtomicPtr<Driver>,
    /// What is there of the other end's memory.
    remote: AtomicU32,
    remote_at: AtomicU64,
    /// The numbers of our own registered memory.
    staging: AtomicU32,
    /// What the provider has told and nobody has seen to yet: bits of [`told`].
    told: AtomicU32,
    status: AtomicI32,
    push: Lock,
    /// Under `push`.
    pushed: UnsafeCell<push::Pushed>,
    /// What could not be pushed then is to be pushed by whoever holds `push`.
    again: AtomicBool,
    /// Under `polling`.
    seen: UnsafeCell<dispatch::Seen>,
    /// Words of this end's that go by the policyds, each an epoch + 1.
    ask: AtomicU64,
    void: AtomicU64,
    asked_at: AtomicU64,
    /// Since when its writer has no room, and what the reader had consumed then.
    full_since: AtomicU64,
    full_at: AtomicU64,
    /// In a forked child: what was asked back, an epoch + 1.
    left: AtomicU64,
}

mod told {
    pub const READY: u32 = 1;
    pub const CONNECTED: u32 = 2;
    /// Our ready record has landed: the way there is proven.
    pub const PROVEN: u32 = 4;
    /// The other end's has.
    pub const PEER_READY: u32 = 8;
    pub const DEAD: u32 = 16;
    pub const CLOSED: u32 = 32;
    pub const ROOM: u32 = 64;
    /// The application's socket is gone.
    pub const SLOT_GONE: u32 = 128;
    /// Of a chunk: the memory that we write is registered.
    pub const STAGING: u32 = 256;
    /// Of a chunk: it is released.
    pub const STAGING_CLOSED: u32 = 512;
}

static FAR: AtomicPtr<Far> = AtomicPtr::new(std::ptr::null_mut());

/// Where a direction's words are, and its ring. `None`: no such connection.
pub fn place(number: u32, inward: bool) -> Option<(usize, Place)> {
    let ring = if inward { layout::read_ring(number) } else { layout::write_ring(number) };
    ((number as usize) < layout::CONNS).then_some((layout::words(number, inward), ring))
}

/// This process's, if it has had to do with other hosts; in a forked child, until it has one of its own, its parent's, which it may only
/// read.
#[inline]
pub fn existing() -> Option<&'static Far> {
    // SAFETY: null, or leaked and never freed.
    unsafe { FAR.load(Ordering::Acquire).as_ref() }
}

/// With this provider: made, and opened, now if need be. Under the lock of policyd's channel.
fn get(name: ProviderName) -> Option<(&'static Far, &'static Driver)> {
    let (number, provider) = plugin::get(name)?;
    let ours = existing().filter(|far| far.is_ours());
    if let Some(far) = ours
        && let Some(driver) = far.driver(number)
    {
        return Some((far, driver));
    }
    let mut queue = std::ptr::null_mut();
    // SAFETY: the provider's own context, a place of this frame.
    let opened = unsafe { (provider.open_queue)(provider.context, 0, &mut queue) };
    if opened < 0 {
        crate::log::warn(format_args!("the queue of {name} cannot be opened: errno {}", -opened));
        return None;
    }
    // SAFETY: a queue that was just opened.
    let descriptor = unsafe { (provider.wake)(queue) };
    let far = if descriptor >= 0 { ours.or_else(make) } else { None };
    let Some(far) = far else {
        // SAFETY: a queue without domains, which nobody knows.
        unsafe { (provider.close_queue)(queue) };
        return None;
    };
    let driver: &Driver = Box::leak(Box::new(Driver { name, provider, queue, descriptor }));
    far.drivers.get(number)?.store(std::ptr::from_ref(driver).cast_mut(), Ordering::Release);
    Some((far, driver))
}

fn make() -> Option<&'static Far> {
    let base = sys::map_shared(None, layout::BYTES, true)?;
    let far = Box::into_raw(Box::new(Far {
        owner: sys::pid(),
        base,
        pair: AtomicPtr::new(std::ptr::null_mut()),
        drivers: [const { AtomicPtr::new(std::ptr::null_mut()) }; plugin::MOST],
        polling: Lock::new(),
        fresh: AtomicBool::new(false),
        todo: AtomicBool::new(false),
        stall_at: AtomicU64::new(0),
        domains: [const { AtomicU32::new(0) }; domains::MOST],
        chunks: (0..layout::CHUNKS).map(|_| AtomicU32::new(0)).collect(),
        conns: (0..layout::CONNS).map(|_| Conn::default()).collect(),
        book: UnsafeCell::default(),
    }));
    let Some(pair) = local::enlist_far(far, base, base.wrapping_add(layout::news())) else {
        // SAFETY: just made, and published nowhere.
        unsafe {
            drop(Box::from_raw(far));
            sys::unmap(base, layout::BYTES);
        }
        return None;
    };
    // SAFETY: just leaked.
    let far = unsafe { &*far };
    far.pair.store(std::ptr::from_ref(pair).cast_mut(), Ordering::Release);
    FAR.store(std::ptr::from_ref(far).cast_mut(), Ordering::Release);
    Some(far)
}

/// In a forked child: what there is is the parent's. Connections that the child has too fail back when it uses them.
pub fn after_fork_in_child() {
    plugin::after_fork_in_child();
    INSIDE.set(false);
}

thread_local! {
    // const-initialised and without Drop: safe in a signal handler.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is inside the provider while it lives.
struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// `None` in a signal handler that interrupted this thread there.
fn enter() -> Option<Inside> {
    (!INSIDE.replace(true)).then_some(Inside)
}

/// Sees to what has been told, if anything was. No lock of a slot or a set is held.
#[inline]
pub fn tend() {
    if let Some(far) = existing() {
        far.tend();
    }
}

/// Before a sleep: what comes from now on makes the descriptors readable, what came before is seen to.
pub fn arm() {
    let Some(far) = existing() else { return };
    if let Some(_inside) = enter().filter(|_| far.is_ours()) {
        far.arm();
    }
    far.fresh.store(false, Ordering::Relaxed);
    far.tend();
}

/// Places in what [`descriptors`] gives.
pub const DESCRIPTORS: usize = plugin::MOST + 1;

/// What sleepers sleep on, beside their own: the queues' descriptors, and last policyd's channel; -1 where there is none.
pub fn descriptors() -> [RawFd; DESCRIPTORS] {
    let mut all = [-1; DESCRIPTORS];
    if let Some(far) = existing().filter(|far| far.is_ours()) {
        all.iter_mut().zip(far.drivers()).for_each(|(place, driver)| *place = driver.descriptor);
        if let Some(last) = all.last_mut() {
            *last = meet::channel_descriptor();
        }
    }
    all
}

/// The providers' threads end, for a call that wants a process without a second one; they start again afterwards.
pub fn without_thread<R>(call: impl FnOnce() -> R) -> R {
    let Some(far) = existing().filter(|far| far.is_ours()) else { return call() };
    for driver in far.drivers() {
        // SAFETY: the provider's own context.
        unsafe { (driver.provider.stop)(driver.provider.context) };
    }
    let result = call();
    for driver in far.drivers() {
        // SAFETY: as above.
        unsafe { (driver.provider.start)(driver.provider.context) };
    }
    result
}

fn identity(slot: SlotRef) -> u64 {
    u64::from(slot.index) << 32 | u64::from(slot.generation)
}

impl Far {
    #[cold]
    #[inline(never)]
    pub fn tend(&self) {
        if self.fresh.load(Ordering::Relaxed) {
            self.fresh.store(false, Ordering::Relaxed);
        } else {
            self.poll();
        }
        self.note_stall();
        if self.todo.load(Ordering::Acquire) {
            meet::tend_far();
        }
    }

    pub fn glance(&self) {
        if self.poll() {
            self.fresh.store(true, Ordering::Relaxed);
        }
    }

    /// The process that made it runs this: children that it forked may read its memory, and no more.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.owner == sys::pid()
    }

    fn driver(&self, number: usize) -> Option<&'static Driver> {
        // SAFETY: null, or leaked.
        unsafe { self.drivers.get(number)?.load(Ordering::Acquire).as_ref() }
    }

    /// Those that are used.
    #[inline]
    fn drivers(&self) -> impl Iterator<Item = &'static Driver> {
        // SAFETY: null, or leaked.
        self.drivers.iter().filter_map(|driver| unsafe { driver.load(Ordering::Acquire).as_ref() })
    }

    /// This thread is inside.
    fn arm(&self) {
        for driver in self.drivers() {
            // SAFETY: this process's queue.
            unsafe { (driver.provider.arm)(driver.queue) };
        }
    }

    fn pair(&self) -> Option<&'static Pair> {
        // SAFETY: null, or never freed.
        unsafe { self.pair.load(Ordering::Acquire).as_ref() }
    }

    fn conn(&self, number: u32) -> Option<&Conn> {
        self.conns.get(number as usize)
    }

    /// The direction that we write, and that which we read.
    fn ports(&self, number: u32) -> Option<[LocalPort<'static>; 2]> {
        let pair = self.pair()?;
        Some([pair.port(number, 0)?, pair.port(number, 1)?])
    }

    fn records(&self, number: u32) -> *mut u8 {
        self.base.wrapping_add(layout::records(number))
    }

    fn tell(&self, conn: &Conn, bits: u32) {
        conn.told.fetch_or(bits, Ordering::AcqRel);
        self.todo.store(true, Ordering::Release);
    }

    /// The application's last descriptor of a connection is about to go.
    pub fn slot_ended(&self, slot: SlotRef) {
        // One whose companion came to nothing still has its number, which may be another's by now.
        let its = |conn: &&Conn| self.is_ours() && conn.slot.load(Ordering::Relaxed) == identity(slot);
        if let Some(conn) = self.conn(slot.conn.load(Ordering::Relaxed)).filter(its) {
            self.tell(conn, told::SLOT_GONE);
            self.tend();
        }
    }
}

pub use meeting::{advance, hear};
pub use stall::{bound, is_stalled, no_room};

/// A word that goes by the policyds, for the queue pair is dead. True while an answer may be waited for.
pub fn ask(conn: &switch::Conn, epoch: u64) -> bool {
    /// As long as a host may take to find its peer again.
    const PATIENCE_NS: u64 = 15_000_000_000;
    let Some((far, own)) = conn.pair.far().and_then(|far| Some((far, far.conn(conn.number)?))) else { return false };
    let now = sys::now_ns();
    if own.ask.swap(epoch + 1, Ordering::AcqRel) != epoch + 1 {
        own.asked_at.store(now, Ordering::Relaxed);
        far.todo.store(true, Ordering::Release);
    }
    now.saturating_sub(own.asked_at.load(Ordering::Relaxed)) < PATIENCE_NS
}

/// This epoch is never taken.
pub fn void(conn: &switch::Conn, epoch: u64) {
    if let Some((far, own)) = conn.pair.far().and_then(|far| Some((far, far.conn(conn.number)?))) {
        own.void.store(epoch + 1, Ordering::Release);
        far.todo.store(true, Ordering::Release);
    }
}

/// For who spins.
#[inline]
pub fn glance() {
    if let Some(far) = existing() {
        far.glance();
    }
}
