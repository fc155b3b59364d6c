//! A domain: what one peer process may reach, on one device. Memory of ours, memory of the peer's, and the companions between.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tandem_provider::{Address, PEER_FETCHES, PEER_PUTS, Share, kind};

use crate::adapter::{Adapter, lock};
use crate::addresses;
use crate::blob::Shared;
use crate::companion::{DEPTH, INLINE};
use crate::control::{Block, Slot};
use crate::errors::{self, Errno, Result};
use crate::host::{self, Level};
use crate::queue::Queue;
use crate::verbs::pair::Pair;
use crate::verbs::{Access, Region};
use crate::worker::{Job, Worker};
use crate::{provider, verbs};

pub struct Domain {
    pub queue: Arc<Queue>,
    pub local: Address,
    cookie: u64,
    state: Mutex<State>,
    memories: RwLock<Vec<Option<Memory>>>,
    remotes: RwLock<Vec<Option<Shared>>>,
    companions: AtomicUsize,
}

enum State {
    Opening,
    Open(Arc<Opened>),
    Failed(Errno),
    Closing,
}

/// Ours, for the device to read and perhaps for the peer to write.
struct Memory {
    base: u64,
    bytes: u64,
    rights: u32,
    cookie: u64,
    region: Option<Region>,
    closing: bool,
}

/// What the device has of it.
pub struct Opened {
    served: addresses::Served,
    blocks: Mutex<Vec<Arc<Block>>>,
    /// Pairs made ahead: making one takes longer than all else of a connection.
    spare: Mutex<Vec<(u8, Pair)>>,
    domain: verbs::Domain,
    pub adapter: Arc<Adapter>,
}

/// Where a companion's packets come from.
pub struct Source {
    pub port: u8,
    pub gid: [u8; 16],
    pub index: u8,
}

/// How many memories and shares a domain has at most: numbers come from outside.
const MOST: usize = 4096;
const SPARE: usize = 2;

/// In the switch's threads.
impl Domain {
    pub fn open(queue: Arc<Queue>, local: &Address, cookie: u64) -> Result<Arc<Domain>> {
        queue.add_domain();
        let domain = Arc::new(Domain {
            queue,
            local: *local,
            cookie,
            state: Mutex::new(State::Opening),
            memories: RwLock::default(),
            remotes: RwLock::default(),
            companions: AtomicUsize::new(0),
        });
        let ordered = domain.worker().order(Job::OpenDomain(Arc::clone(&domain)));
        if ordered.is_err() {
            domain.queue.remove_domain();
        }
        ordered.map(|()| domain)
    }

    pub fn close(self: Arc<Self>) -> Result<()> {
        if self.companions.load(Ordering::Acquire) > 0 {
            return Err(Errno(libc::EBUSY));
        }
        let job = Job::CloseDomain(Arc::clone(&self));
        self.worker().order(job)
    }

    pub fn worker(&self) -> &'static Worker {
        provider::worker()
    }

    pub fn register(self: &Arc<Self>, base: *mut c_void, bytes: u64, rights: u32, cookie: u64) -> Result<u32> {
        let page = 4096;
        let (base, end) = (base.addr() as u64, (base.addr() as u64).checked_add(bytes));
        let whole = base > 0 && bytes > 0 && end.is_some() && base.is_multiple_of(page) && bytes.is_multiple_of(page);
        if !whole || rights & !(PEER_PUTS | PEER_FETCHES) != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let memory = Memory { base, bytes, rights, cookie, region: None, closing: false };
        let number = insert(&mut *write(&self.memories), memory)?;
        self.worker().order(Job::Register(Arc::clone(self), number))?;
        Ok(number)
    }

    pub fn release(self: &Arc<Self>, number: u32) -> Result<()> {
        let mut memories = write(&self.memories);
        let memory = memories.get_mut(number as usize).and_then(Option::as_mut);
        let Some(memory) = memory.filter(|memory| !memory.closing) else { return Err(Errno(libc::EINVAL)) };
        memory.closing = true;
        drop(memories);
        self.worker().order(Job::Release(Arc::clone(self), number))
    }

    pub fn share(&self, number: u32) -> Result<Share> {
        let memories = read(&self.memories);
        let memory = memories.get(number as usize).and_then(Option::as_ref).ok_or(Errno(libc::EINVAL))?;
        let region = memory.region.as_ref().ok_or(Errno(libc::EAGAIN))?;
        let Memory { base, bytes, rights, .. } = *memory;
        Ok(Shared { base, bytes, key: region.remote_key(), rights }.encode())
    }

    pub fn adopt(&self, share: &Share) -> Result<(u32, u64)> {
        let shared = Shared::decode(share)?;
        Ok((insert(&mut *write(&self.remotes), shared)?, shared.bytes))
    }

    pub fn forget(&self, number: u32) -> Result<()> {
        let mut remotes = write(&self.remotes);
        let place = remotes.get_mut(number as usize).ok_or(Errno(libc::EINVAL))?;
        place.take().map(drop).ok_or(Errno(libc::EINVAL))
    }

    /// Address and key of so many of our bytes.
    #[inline]
    pub fn local(&self, number: u32, offset: u64, bytes: u32) -> Result<(u64, u32)> {
        let memories = read(&self.memories);
        let memory = memories.get(number as usize).and_then(Option::as_ref);
        // Nothing is taken from memory that is not named.
        let Some(memory) = memory else { return if bytes == 0 { Ok((0, 0)) } else { Err(Errno(libc::EINVAL)) } };
        let inside = offset.checked_add(u64::from(bytes)).is_some_and(|end| end <= memory.bytes);
        match &memory.region {
            Some(region) if inside => Ok((memory.base + offset, region.local_key())),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Address and key of so many of the peer's.
    #[inline]
    pub fn remote(&self, number: u32, offset: u64, bytes: u32) -> Result<(u64, u32)> {
        let remotes = read(&self.remotes);
        let shared = remotes.get(number as usize).and_then(Option::as_ref).ok_or(Errno(libc::EINVAL))?;
        Ok((shared.place(offset, bytes)?, shared.key))
    }

    pub fn add_companion(&self) -> Result<()> {
        match &*lock(&self.state) {
            State::Failed(why) => return Err(*why),
            State::Closing => return Err(Errno(libc::EINVAL)),
            State::Opening | State::Open(_) => {}
        }
        self.companions.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    pub fn remove_companion(&self) {
        self.companions.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn opened(&self) -> Result<Arc<Opened>> {
        match &*lock(&self.state) {
            State::Open(opened) => Ok(Arc::clone(opened)),
            State::Failed(why) => Err(*why),
            State::Opening | State::Closing => Err(Errno(libc::EAGAIN)),
        }
    }
}

/// On the provider's thread.
impl Domain {
    pub fn do_open(self: &Arc<Self>) {
        let result = self.try_open();
        if let Err(Errno(errno)) = result {
            host::log(Level::Warning, format_args!("no device for {:?}: errno {errno}", self.local));
        }
        let status = errors::status(&result.as_ref().map(drop).map_err(|why| *why));
        *lock(&self.state) = match result {
            Ok(opened) => State::Open(Arc::new(opened)),
            Err(why) => State::Failed(why),
        };
        self.queue.domain_is_open(self);
        self.queue.tell(kind::READY, status, self.cookie);
    }

    fn try_open(&self) -> Result<Opened> {
        if !verbs::context::forks_are_harmless() {
            host::log(
                Level::Warning,
                format_args!("this kernel is older than 5.12: a fork would break registered memory"),
            );
            return Err(Errno(libc::EOPNOTSUPP));
        }
        addresses::forget();
        let served = addresses::find(&self.local)?;
        let adapter = self.queue.adapter(&served.device)?;
        if !Adapter::carries(adapter.context.port(served.port)?.most_bytes) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let domain = verbs::Domain::new(&adapter.context)?;
        Ok(Opened { served, blocks: Mutex::default(), spare: Mutex::default(), domain, adapter })
    }

    pub fn do_register(&self, number: u32) {
        let found = read(&self.memories).get(number as usize).and_then(Option::as_ref).map(|memory| {
            let rights = |right: u32| memory.rights & right != 0;
            let access = Access {
                // Fetches of ours land anywhere in it.
                local_write: true,
                remote_write: rights(PEER_PUTS),
                remote_read: rights(PEER_FETCHES),
            };
            (memory.base, memory.bytes, access, memory.cookie)
        });
        let Some((base, bytes, access, cookie)) = found else { return };
        // SAFETY: the switch keeps it mapped until it is told that it is released, as the boundary says.
        let register =
            |opened: Arc<Opened>| unsafe { opened.domain.register(base as *mut c_void, bytes as usize, access) };
        let region = self.opened().and_then(register);
        let status = errors::status(&region.as_ref().map(drop).map_err(|why| *why));
        if let Some(memory) = write(&self.memories).get_mut(number as usize).and_then(Option::as_mut) {
            memory.region = region.ok();
        }
        self.queue.tell(kind::READY, status, cookie);
    }

    pub fn do_release(&self, number: u32) {
        let memory = write(&self.memories).get_mut(number as usize).and_then(Option::take);
        if let Some(Memory { region, cookie, .. }) = memory {
            drop(region);
            self.queue.tell(kind::CLOSED, 0, cookie);
        }
    }

    /// Its device has gone, and with it all that it had there.
    pub fn lose(&self, adapter: &Arc<Adapter>, why: Errno) {
        let mut state = lock(&self.state);
        match &*state {
            State::Open(opened) if Arc::ptr_eq(&opened.adapter, adapter) => {}
            _ => return,
        }
        let opened = std::mem::replace(&mut *state, State::Failed(why));
        drop(state);
        let regions: Vec<_> = write(&self.memories).iter_mut().flatten().map(|memory| memory.region.take()).collect();
        // Regions before their domain.
        drop(regions);
        drop(opened);
        self.queue.tell(kind::READY, errors::status(&Err(why)), self.cookie);
    }

    pub fn do_close(&self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Closing);
        // Regions before their domain.
        write(&self.memories).clear();
        drop(state);
        self.queue.release_unused(false);
        self.queue.remove_domain();
        self.queue.tell(kind::CLOSED, 0, self.cookie);
    }
}

impl Opened {
    /// The port and the GID's index for a local address, as they are now: an address that went and came back has another.
    pub fn source(&self, local: &Address) -> Result<Source> {
        let served = match addresses::canonical(local) == self.served.address {
            true => self.served.clone(),
            false => addresses::find(local)?,
        };
        let gids = self.adapter.context.gids()?;
        let same = |gid: &&verbs::context::Gid| gid.bytes == served.gid && gid.port == u32::from(served.port);
        // On Ethernet only routed RoCE's: the same value stands there once more for the older kind, which does not cross routers.
        let found = gids.iter().filter(same).find(|gid| gid.routed_ethernet).or(gids.iter().find(same));
        let gid = found.ok_or(Errno(libc::EADDRNOTAVAIL))?;
        let index = u8::try_from(gid.index).map_err(|_| Errno(libc::EADDRNOTAVAIL))?;
        Ok(Source { port: served.port, gid: served.gid, index })
    }

    pub fn slot(&self) -> Result<Slot> {
        let mut blocks = lock(&self.blocks);
        if let Some(slot) = blocks.iter().find_map(Block::take) {
            return Ok(slot);
        }
        let block = Block::new(&self.domain)?;
        let slot = block.take().ok_or(Errno(libc::ENOMEM))?;
        blocks.push(block);
        Ok(slot)
    }

    /// Pages without a slot that is used, but one for the next companions.
    pub fn tidy_slots(&self) {
        let mut blocks = lock(&self.blocks);
        let mut kept = false;
        blocks.retain(|block| !block.is_unused() || !std::mem::replace(&mut kept, true));
    }

    pub fn pair(&self, port: u8) -> Result<Pair> {
        let mut spare = lock(&self.spare);
        if let Some(at) = spare.iter().position(|(known, _)| *known == port) {
            return Ok(spare.swap_remove(at).1);
        }
        drop(spare);
        self.new_pair(port)
    }

    fn new_pair(&self, port: u8) -> Result<Pair> {
        let (completions, receives) = self.adapter.queues();
        Pair::new(&self.domain, completions, receives, DEPTH, INLINE, port)
    }

    /// Makes a pair for the next companion, while nothing else is to be done.
    pub fn make_ahead(&self, port: u8) {
        if self.adapter.is_open()
            && lock(&self.spare).len() < SPARE
            && let Ok(pair) = self.new_pair(port)
        {
            lock(&self.spare).push((port, pair));
        }
    }
}

fn insert<T>(list: &mut Vec<Option<T>>, item: T) -> Result<u32> {
    let at = list.iter().position(Option::is_none).unwrap_or(list.len());
    match list.get_mut(at) {
        Some(place) => *place = Some(item),
        None if at < MOST => list.push(Some(item)),
        None => return Err(Errno(libc::ENOBUFS)),
    }
    Ok(at as u32)
}

fn read<T>(list: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    list.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(list: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    list.write().unwrap_or_else(PoisonError::into_inner)
}
