//! One open device of one queue: its completions and receives, which all companions there share, kept from ever overrunning.
//!
//! The completion queue has an entry for every receive that is posted and for every request that is under way on any queue pair, for a
//! pair that fails tells the end of each, signalled or not. So requests are counted before they are posted, and a companion is given
//! its window of notifications out of the receives.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tandem_provider::kind;

use crate::companion::Companion;
use crate::errors::{Errno, Result};
use crate::host::{self, Level};
use crate::queue::{Queue, Sink};
use crate::verbs::context::{Event, Gid};
use crate::verbs::{BATCH, Channel, Completions, Context, Domain, Receives, Work};

/// Entries at first, and at most: doubled as companions come.
const FIRST_RECEIVES: u32 = 1024;
const FIRST_SENDS: u32 = 2048;
const MOST_RECEIVES: u32 = 32 << 10;
/// Notifications of a companion's that may be under way: a wide window is returned seldom, and the device's store is one for
/// all. So many while this share of the receives, in eighths, is left.
const WINDOWS: [(u32, u32); 4] = [(7, 128), (4, 32), (2, 16), (0, 4)];
/// Receives that were used up are posted anew together, so many at a time or before their peers are told.
const REFILL: u32 = 16;
/// Longest put of the boundary: what a device must be able to send as one message.
const MESSAGE: u32 = tandem_provider::PUT_BYTES;

pub struct Adapter {
    pub name: String,
    /// Its node below /dev/infiniband.
    pub node: String,
    pairs: RwLock<HashMap<u32, Arc<Companion>, BuildHasherDefault<PairHasher>>>,
    sends: AtomicU32,
    most_sends: AtomicU32,
    shares: Mutex<Shares>,
    armed: Mutex<bool>,
    /// Receives that were used up.
    used: AtomicU32,
    /// Companions that could not yet put what they owe the peer's provider.
    owing: Pending,
    /// Companions that have refused puts for want of room.
    refused: Pending,
    /// Companions whose pair has failed or gone: nothing of theirs must be left in the completion queue.
    draining: Pending,
    /// Not for new domains: the device has gone, or another user's rights are needed.
    closed: AtomicBool,
    // Destroyed in this order.
    completions: Completions,
    receives: Receives,
    _domain: Domain,
    channel: Channel,
    pub context: Context,
}

/// Pairs' numbers are the device's own choice, and spread enough.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How the receives are given out.
struct Shares {
    posted: u32,
    given: u32,
    most: u32,
}

#[derive(Default)]
struct Pending {
    any: AtomicBool,
    list: Mutex<Vec<Arc<Companion>>>,
}

impl Pending {
    fn add(&self, companion: Arc<Companion>) {
        let mut list = lock(&self.list);
        if !list.iter().any(|known| Arc::ptr_eq(known, &companion)) {
            list.push(companion);
        }
        self.any.store(true, Ordering::Release);
    }

    fn take(&self) -> Vec<Arc<Companion>> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut list = lock(&self.list);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut list)
    }
}

impl Adapter {
    pub fn open(device: &str) -> Result<Adapter> {
        let context = Context::open(device)?;
        let abilities = context.abilities()?;
        if abilities.most_receives == 0 || abilities.fetches_in == 0 || abilities.fetches_out == 0 {
            host::log(Level::Warning, format_args!("{device} has no shared receive queues or RDMA READ: not used"));
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let channel = Channel::new(&context)?;
        let domain = Domain::new(&context)?;
        let most = MOST_RECEIVES.min(abilities.most_receives).min(abilities.most_completions / 2);
        let receives = FIRST_RECEIVES.min(most);
        let sends = FIRST_SENDS.min(abilities.most_completions - receives);
        let completions = Completions::new(&context, receives + sends, &channel)?;
        let queue = Receives::new(&domain, receives)?;
        let posted = queue.post(receives);
        Ok(Adapter {
            name: device.to_owned(),
            node: context.node.clone(),
            pairs: RwLock::default(),
            sends: AtomicU32::new(0),
            most_sends: AtomicU32::new(sends),
            shares: Mutex::new(Shares { posted, given: 0, most }),
            armed: Mutex::new(false),
            used: AtomicU32::new(0),
            owing: Pending::default(),
            refused: Pending::default(),
            draining: Pending::default(),
            closed: AtomicBool::new(false),
            completions,
            receives: queue,
            _domain: domain,
            channel,
            context,
        })
    }

    pub fn channel_descriptor(&self) -> i32 {
        self.channel.descriptor()
    }

    pub fn queues(&self) -> (&Completions, &Receives) {
        (&self.completions, &self.receives)
    }

    /// For new domains?
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// What companions take from the common store.
impl Adapter {
    /// A window of notifications for a new companion; makes the queues larger where that is needed and can be done.
    pub fn take_window(&self) -> Result<u32> {
        // What a companion that is gone had used up belongs to the next.
        if !self.refill() {
            return Err(Errno(libc::EIO));
        }
        let mut shares = lock(&self.shares);
        let left = shares.most - shares.given;
        let window =
            WINDOWS.iter().find(|(eighths, _)| left >= shares.most / 8 * eighths).map_or(0, |(_, window)| *window);
        if shares.given + window > shares.posted {
            self.grow(&mut shares)?;
        }
        if shares.given + window > shares.posted {
            return Err(Errno(libc::ENOBUFS));
        }
        shares.given += window;
        Ok(window)
    }

    /// On the provider's thread: the device may take its time.
    fn grow(&self, shares: &mut Shares) -> Result<()> {
        let receives = (shares.posted * 2).min(shares.most);
        let sends = receives * (FIRST_SENDS / FIRST_RECEIVES);
        let entries = (receives + sends).min(self.context.abilities()?.most_completions);
        if receives <= shares.posted {
            return Ok(());
        }
        // The completions first: there is never a receive without an entry.
        if self.completions.entries() < entries {
            self.completions.resize(entries)?;
        }
        self.receives.resize(receives)?;
        shares.posted += self.receives.post(receives - shares.posted);
        self.most_sends.store(self.completions.entries().min(entries) - receives, Ordering::Release);
        host::log(Level::Debug, format_args!("{}: {receives} receives, {entries} completions", self.name));
        Ok(())
    }

    pub fn give_window(&self, window: u32) {
        lock(&self.shares).given -= window;
    }

    /// Room in the completion queue for so many requests; false: there is none.
    #[inline]
    pub fn take_sends(&self, count: u32) -> bool {
        let taken = self.sends.fetch_add(count, Ordering::AcqRel);
        let fits = taken + count <= self.most_sends.load(Ordering::Acquire);
        if !fits {
            self.give_sends(count);
        }
        fits
    }

    #[inline]
    pub fn give_sends(&self, count: u32) {
        self.sends.fetch_sub(count, Ordering::AcqRel);
    }
}

/// The companions, by the numbers of their queue pairs.
impl Adapter {
    /// False: a pair of that number is there that the completion queue may still speak of.
    pub fn enter(&self, pair: u32, companion: &Arc<Companion>) -> bool {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        match pairs.entry(pair) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Arc::clone(companion));
                true
            }
        }
    }

    pub fn leave(&self, pair: u32) {
        self.pairs.write().unwrap_or_else(PoisonError::into_inner).remove(&pair);
    }

    fn companion(&self, pair: u32) -> Option<Arc<Companion>> {
        self.pairs.read().unwrap_or_else(PoisonError::into_inner).get(&pair).cloned()
    }

    fn companions(&self) -> Vec<Arc<Companion>> {
        self.pairs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// It has refused a put for want of room, and says when there is some again.
    pub fn refuse(&self, pair: u32) {
        if let Some(companion) = self.companion(pair) {
            self.refused.add(companion);
        }
    }

    /// Room in the completion queue for any list of puts.
    pub fn has_room(&self, count: u32) -> bool {
        self.sends.load(Ordering::Acquire) + count <= self.most_sends.load(Ordering::Acquire)
    }

    /// Once the completion queue is found empty, the provider's thread goes on with it.
    pub fn drain(&self, companion: Arc<Companion>) {
        self.draining.add(companion);
    }
}

/// Polling, one thread at a time.
impl Adapter {
    pub fn poll(&self, sink: &mut Sink) {
        let draining = self.draining.take();
        let mut owing = self.owing.take();
        let emptied = self.take_all(sink, &mut owing).is_break();
        // New receives before the peers are told that there are.
        if self.used.load(Ordering::Relaxed) >= if owing.is_empty() { REFILL } else { 1 } && !self.refill() {
            self.lose(sink.queue(), Errno(libc::EIO));
        }
        for companion in owing {
            if !companion.put_what_is_owed() {
                self.owing.add(companion);
            }
        }
        for companion in self.refused.take() {
            if !companion.has_room_again(sink) {
                self.refused.add(companion);
            }
        }
        for companion in draining {
            match emptied {
                true => companion.drained(),
                false => self.draining.add(companion),
            }
        }
    }

    /// A closed companion waits for somebody to poll.
    pub fn is_draining(&self) -> bool {
        self.draining.any.load(Ordering::Acquire)
    }

    /// Break: the completion queue was empty at some moment of it.
    fn take_all(&self, sink: &mut Sink, owing: &mut Vec<Arc<Companion>>) -> ControlFlow<()> {
        let mut last: Option<Arc<Companion>> = None;
        loop {
            let wish = sink.room().min(BATCH);
            if wish == 0 {
                return ControlFlow::Continue(());
            }
            let mut received = 0u32;
            let taken = self.completions.take(wish, |work| {
                received += u32::from(work.note.is_some());
                if last.as_ref().is_none_or(|companion| companion.pair_number() != work.pair) {
                    last = self.companion(work.pair);
                }
                // Nobody's: a pair that is gone.
                let Some(companion) = &last else { return };
                if companion.ended(&work, sink) && !owing.iter().any(|known| Arc::ptr_eq(known, companion)) {
                    owing.push(Arc::clone(companion));
                }
            });
            if received > 0 {
                self.used.fetch_add(received, Ordering::Relaxed);
            }
            let Ok(taken) = taken else {
                self.lose(sink.queue(), Errno(libc::EIO));
                return ControlFlow::Break(());
            };
            if taken < wish {
                return ControlFlow::Break(());
            }
        }
    }

    /// False: receives are refused.
    fn refill(&self) -> bool {
        let used = self.used.swap(0, Ordering::Relaxed);
        let fine = self.receives.post(used) == used;
        if !fine {
            host::log(Level::Error, format_args!("{}: receives are refused", self.name));
        }
        fine
    }

    /// The next completion raises the channel's descriptor.
    pub fn arm(&self) -> Result<()> {
        let mut armed = lock(&self.armed);
        if *armed && !self.channel.take_event() {
            return Ok(()); // nothing has come since
        }
        self.completions.arm()?;
        *armed = true;
        Ok(())
    }
}

/// What the device tells.
impl Adapter {
    /// True: it has gone.
    pub fn handle_events(&self, queue: &Queue) -> bool {
        let mut gone = false;
        while let Some(event) = self.context.take_event() {
            host::log(Level::Info, format_args!("{}: {event:?}", self.name));
            match event {
                Event::PortDown(port) => self.kill(queue, Errno(libc::ENETDOWN), |companion| companion.port() == port),
                Event::Addresses(port) => self.addresses_changed(queue, port),
                Event::DeviceGone => gone = true,
                Event::QueueLost => self.lose(queue, Errno(libc::EIO)),
                Event::PairLost(pair) => {
                    self.kill(queue, Errno(libc::EIO), |companion| companion.pair_number() == pair)
                }
                Event::PortUp(_) | Event::Other(_) => {}
            }
            crate::addresses::forget();
            queue.tell(kind::CHANGED, 0, queue.cookie);
        }
        gone
    }

    fn addresses_changed(&self, queue: &Queue, port: u8) {
        let Ok(gids) = self.context.gids() else { return };
        let there = |companion: &Companion| {
            let (number, gid, index) = companion.source();
            let same = |entry: &Gid| entry.bytes == gid && entry.index == u32::from(index);
            number != port || gids.iter().any(same)
        };
        self.kill(queue, Errno(libc::EADDRNOTAVAIL), |companion| !there(companion));
    }

    /// No companion here can go on, and none will be made.
    pub fn lose(&self, queue: &Queue, why: Errno) {
        self.close();
        self.kill(queue, why, |_| true);
    }

    /// Its companions, which are dead, keep nothing of it. Those that were to be polled away have been.
    pub fn let_go(&self) {
        self.companions().iter().for_each(|companion| companion.let_go());
        self.draining.take().iter().for_each(Companion::drained);
        drop((self.owing.take(), self.refused.take()));
    }

    fn kill(&self, queue: &Queue, why: Errno, which: impl Fn(&Companion) -> bool) {
        for companion in self.companions().iter().filter(|companion| which(companion)) {
            companion.kill(queue, why);
        }
    }

    /// Whether a port can carry what the boundary promises.
    pub fn carries(bytes: u32) -> bool {
        bytes >= MESSAGE
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that a companion's requests bear, so that what is left of an earlier pair of the same number is not taken for its own.
pub fn request(serial: u32, number: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(number)
}

impl Work {
    /// Serial and number, as [`request`] made them.
    pub fn request(&self) -> (u32, u32) {
        ((self.id >> 32) as u32, self.id as u32)
    }
}
