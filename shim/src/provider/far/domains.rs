//! Devices and registered memory: a domain for each peer host and address of ours, memory in chunks. All of it under the lock of policyd's
//! channel; what the provider tells is left in atomics until then.

use std::sync::atomic::Ordering;

use tandem_protocol::Reason;
use tandem_provider::{Address, Completion, Domain as Handle, PEER_PUTS, Share, kind};

use super::dispatch::Named;
use super::layout::{self, CHUNK, CHUNKS};
use super::{Driver, Far, told};

/// Domains a process has at most.
pub const MOST: usize = 64;

/// What the peers on one host may reach by one device.
pub struct Domain {
    host: u32,
    local: Address,
    driver: &'static Driver,
    handle: *mut Handle,
    conns: u32,
    /// It makes no companions any more.
    stale: bool,
    closing: bool,
    remotes: Vec<Remote>,
}

/// Another end's memory, as long as there are companions that put there.
struct Remote {
    share: Share,
    number: u32,
    bytes: u64,
    conns: u32,
}

/// Registered memory of some connections.
pub struct Chunk {
    domain: usize,
    /// A bit a connection.
    used: u32,
    landing: u32,
    staging: u32,
    /// Given back to the device.
    closing: bool,
}

#[derive(Default)]
pub struct Domains {
    domains: Vec<Option<Domain>>,
    chunks: Vec<Option<Chunk>>,
}

/// A place for a connection.
#[derive(Clone, Copy)]
pub struct Place {
    pub number: u32,
    pub domain: usize,
    pub driver: &'static Driver,
    pub handle: *mut Handle,
}

impl Far {
    /// From the provider: a domain, or a chunk's memory.
    pub(super) fn book_news(&self, named: Named, completion: &Completion) {
        let (word, ready, closed) = match named {
            Named::Domain(index) => (self.domains.get(index as usize), told::READY, told::CLOSED),
            Named::Landing(index) => (self.chunks.get(index as usize), told::READY, told::CLOSED),
            Named::Staging(index) => (self.chunks.get(index as usize), told::STAGING, told::STAGING_CLOSED),
            Named::Queue | Named::Conn { .. } => return,
        };
        let bits = match completion.kind {
            kind::READY if completion.status >= 0 => ready,
            kind::READY => {
                crate::log::info(format_args!("the provider's {named:?} fails: errno {}", -completion.status));
                told::DEAD
            }
            kind::CLOSED => closed,
            _ => return,
        };
        if let Some(word) = word {
            word.fetch_or(bits, Ordering::AcqRel);
            self.todo.store(true, Ordering::Release);
        }
    }

    fn domain_told(&self, index: usize) -> u32 {
        self.domains.get(index).map_or(told::DEAD, |word| word.load(Ordering::Acquire))
    }

    fn chunk_told(&self, index: usize) -> u32 {
        self.chunks.get(index).map_or(told::DEAD, |word| word.load(Ordering::Acquire))
    }

    /// No device has it any more: its pages go back to the system.
    fn forget_chunk(&self, index: usize) {
        for (at, bytes) in [
            (layout::landing_chunk(index), layout::LANDING_CHUNK),
            (layout::staging_chunk(index), layout::STAGING_CHUNK),
        ] {
            // SAFETY: whole pages of our mapping, of connections that are closed.
            unsafe { libc::madvise(self.base.wrapping_add(at).cast(), bytes, libc::MADV_REMOVE) };
        }
        if let Some(word) = self.chunks.get(index) {
            word.store(0, Ordering::Release);
        }
    }
}

impl Domain {
    /// One companion less puts there.
    fn forsake(&mut self, number: u32) {
        let Some(at) = self.remotes.iter().position(|known| known.number == number) else { return };
        let Some(known) = self.remotes.get_mut(at) else { return };
        known.conns -= 1;
        if known.conns == 0 {
            self.remotes.swap_remove(at);
            // SAFETY: a domain that is not closed, memory that no companion puts to any more.
            unsafe { (self.driver.provider.drop_share)(self.handle, number) };
        }
    }
}

impl Domains {
    /// Room for a companion with that host, by the device that serves `local`: a domain and memory are ordered if need be.
    pub fn claim(&mut self, far: &Far, driver: &'static Driver, host: u32, local: Address) -> Option<Place> {
        let index = self.domain(far, driver, host, local)?;
        let free = |chunk: &Chunk| chunk.domain == index && !chunk.closing && chunk.used != (1 << CHUNK) - 1;
        let healthy = |at: usize| far.chunk_told(at) & told::DEAD == 0;
        let known = self.chunks.iter().enumerate().find(|(at, chunk)| chunk.as_ref().is_some_and(free) && healthy(*at));
        let at = match known.map(|(at, _)| at) {
            Some(at) => at,
            None => self.new_chunk(far, index)?,
        };
        let chunk = self.chunks.get_mut(at)?.as_mut()?;
        let bit = chunk.used.trailing_ones();
        chunk.used |= 1 << bit;
        let domain = self.domains.get_mut(index)?.as_mut()?;
        domain.conns += 1;
        Some(Place { number: at as u32 * CHUNK as u32 + bit, domain: index, driver, handle: domain.handle })
    }

    /// The companion there is closed, which has put to that memory of the other end's.
    pub fn give_back(&mut self, far: &Far, place: Place, remote: Option<u32>) {
        let (at, bit) = (place.number as usize / CHUNK, place.number as usize % CHUNK);
        if let Some(Some(chunk)) = self.chunks.get_mut(at) {
            chunk.used &= !(1 << bit);
        }
        if let Some(Some(domain)) = self.domains.get_mut(place.domain) {
            domain.conns -= 1;
            if let Some(number) = remote {
                domain.forsake(number);
            }
        }
        self.tidy(far);
    }

    /// A companion has died in a way that says that its device is of no use any more.
    pub fn spoil(&mut self, index: usize) {
        if let Some(Some(domain)) = self.domains.get_mut(index) {
            domain.stale = true;
        }
    }

    /// The memory of the chunk in which a connection is. `None`: not registered yet. An error: it never will be.
    pub fn memory(&self, far: &Far, number: u32) -> Result<Option<(u32, u32)>, Reason> {
        let at = number as usize / CHUNK;
        let Some(Some(chunk)) = self.chunks.get(at) else { return Err(Reason::NoMemory) };
        let bits = far.chunk_told(at);
        if far.domain_told(chunk.domain) & told::DEAD != 0 {
            return Err(Reason::NoDevice);
        }
        if bits & told::DEAD != 0 {
            return Err(Reason::NoMemory);
        }
        let both = told::READY | told::STAGING;
        Ok((bits & both == both).then_some((chunk.landing, chunk.staging)))
    }

    /// The number of the other end's memory, and its size.
    pub fn adopt(&mut self, index: usize, share: &Share) -> Option<(u32, u64)> {
        let domain = self.domains.get_mut(index)?.as_mut()?;
        if let Some(known) = domain.remotes.iter_mut().find(|known| known.share == *share) {
            known.conns += 1;
            return Some((known.number, known.bytes));
        }
        let (mut number, mut bytes) = (0, 0);
        // SAFETY: a domain that is open, places of this frame.
        let code = unsafe { (domain.driver.provider.adopt_share)(domain.handle, share, &mut number, &mut bytes) };
        if code < 0 {
            return None;
        }
        domain.remotes.push(Remote { share: *share, number, bytes, conns: 1 });
        Some((number, bytes))
    }

    /// Lets go of what is of no use any more.
    pub fn tidy(&mut self, far: &Far) {
        for (index, place) in self.domains.iter_mut().enumerate() {
            let Some(domain) = place else { continue };
            let bits = far.domain_told(index);
            if domain.closing && bits & told::CLOSED != 0 {
                *place = None;
                for (at, chunk) in self.chunks.iter_mut().enumerate() {
                    if chunk.as_ref().is_some_and(|chunk| chunk.domain == index) {
                        *chunk = None;
                        far.forget_chunk(at);
                    }
                }
                if let Some(word) = far.domains.get(index) {
                    word.store(0, Ordering::Release);
                }
                continue;
            }
            domain.stale |= bits & told::DEAD != 0;
            if domain.stale && domain.conns == 0 && !domain.closing {
                // SAFETY: a domain without companions, not used again.
                domain.closing = unsafe { (domain.driver.provider.close_domain)(domain.handle) } >= 0;
            }
        }
        self.tidy_chunks(far);
    }

    /// One empty chunk of each domain is kept for the next connections: the others' memory is locked for nobody.
    fn tidy_chunks(&mut self, far: &Far) {
        const BOTH: u32 = told::CLOSED | told::STAGING_CLOSED;
        let mut kept = [false; MOST];
        for (at, place) in self.chunks.iter_mut().enumerate() {
            let Some(chunk) = place else { continue };
            let bits = far.chunk_told(at);
            if chunk.closing && bits & BOTH == BOTH {
                *place = None;
                far.forget_chunk(at);
                continue;
            }
            let Some(Some(domain)) = self.domains.get(chunk.domain) else { continue };
            let Some(kept) = kept.get_mut(chunk.domain).filter(|_| chunk.used == 0 && !chunk.closing) else { continue };
            if (bits & told::DEAD == 0 && !std::mem::replace(kept, true)) || domain.closing {
                continue;
            }
            chunk.closing = true;
            for number in [chunk.landing, chunk.staging] {
                // SAFETY: a domain that is open, memory of its that no companion has any more.
                unsafe { (domain.driver.provider.release_memory)(domain.handle, number) };
            }
        }
    }

    fn domain(&mut self, far: &Far, driver: &'static Driver, host: u32, local: Address) -> Option<usize> {
        self.tidy(far);
        let same = |domain: &Domain| {
            let way = domain.host == host && domain.local == local && std::ptr::eq(domain.driver, driver);
            way && !domain.stale && !domain.closing
        };
        if let Some(index) = self.domains.iter().position(|domain| domain.as_ref().is_some_and(same)) {
            return Some(index);
        }
        let index = self.domains.iter().position(Option::is_none).unwrap_or(self.domains.len());
        if index >= MOST {
            return None;
        }
        let cookie = Named::Domain(index as u32).cookie();
        let mut handle = std::ptr::null_mut();
        // SAFETY: this process's queue, an address and a place of this frame.
        let code = unsafe { (driver.provider.open_domain)(driver.queue, &local, cookie, &mut handle) };
        if code < 0 {
            return None;
        }
        let fresh = Domain { host, local, driver, handle, conns: 0, stale: false, closing: false, remotes: Vec::new() };
        match self.domains.get_mut(index) {
            Some(place) => *place = Some(fresh),
            None => self.domains.push(Some(fresh)),
        }
        Some(index)
    }

    fn new_chunk(&mut self, far: &Far, domain: usize) -> Option<usize> {
        let at = self.chunks.iter().position(Option::is_none).unwrap_or(self.chunks.len());
        let &Domain { handle, driver, .. } = self.domains.get(domain)?.as_ref()?;
        if at >= CHUNKS {
            return None;
        }
        let register = |from: usize, bytes: usize, rights: u32, named: Named| {
            let mut number = 0;
            let base = far.base.wrapping_add(from);
            // SAFETY: memory of ours, mapped for ever; a place of this frame.
            let code = unsafe {
                (driver.provider.register_memory)(
                    handle,
                    base.cast(),
                    bytes as u64,
                    rights,
                    named.cookie(),
                    &mut number,
                )
            };
            (code >= 0).then_some(number)
        };
        let (landing, staging) = (layout::landing_chunk(at), layout::staging_chunk(at));
        let landing = register(landing, layout::LANDING_CHUNK, PEER_PUTS, Named::Landing(at as u32))?;
        let staging = register(staging, layout::STAGING_CHUNK, 0, Named::Staging(at as u32));
        // Half of one goes with its domain.
        let closing = staging.is_none();
        let fresh = Chunk { domain, used: 0, landing, staging: staging.unwrap_or(0), closing };
        match self.chunks.get_mut(at) {
            Some(place) => *place = Some(fresh),
            None => self.chunks.push(Some(fresh)),
        }
        if staging.is_none() {
            self.spoil(domain);
            return None;
        }
        Some(at)
    }
}
