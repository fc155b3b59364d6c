//! The queue: what has happened in a process, to be polled, armed and slept on.
//!
//! Completions come from two places: the devices' completion queues, and news that this provider itself has (an order done, a companion
//! dead). The descriptor to sleep on is an epoll set of the devices' channels and of a bell that is rung for news.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tandem_provider::{Completion, kind};

use crate::adapter::{Adapter, lock};
use crate::domain::Domain;
use crate::errors::{Errno, Result, called};
use crate::real;
use crate::verbs::BATCH;
use crate::verbs::context::{close_noted, hide_noted};

pub struct Queue {
    pub cookie: u64,
    set: Hidden,
    bell: Hidden,
    any: AtomicBool,
    news: Mutex<News>,
    polling: Mutex<()>,
    adapters: RwLock<Vec<Arc<Adapter>>>,
    domains: AtomicUsize,
    /// Those that have a device.
    open: Mutex<Vec<Weak<Domain>>>,
}

#[derive(Default)]
struct News {
    list: VecDeque<Completion>,
    rung: bool,
}

/// A hidden descriptor, closed when dropped.
pub struct Hidden(pub c_int);

impl Drop for Hidden {
    fn drop(&mut self) {
        close_noted(self.0);
    }
}

impl Queue {
    pub fn new(cookie: u64) -> Result<Queue> {
        // SAFETY: new descriptors of ours.
        let set = Hidden(hide_noted(unsafe { real::epoll_create1(libc::EPOLL_CLOEXEC) })?);
        let bell = bell()?;
        watch(&set, bell.0)?;
        Ok(Queue {
            cookie,
            set,
            bell,
            any: AtomicBool::new(false),
            news: Mutex::default(),
            polling: Mutex::new(()),
            adapters: RwLock::default(),
            domains: AtomicUsize::new(0),
            open: Mutex::default(),
        })
    }

    pub fn descriptor(&self) -> c_int {
        self.set.0
    }

    /// Writes at most as many as there is room for. What this provider's own thread is about to make news is waited for: with less
    /// than there is room for, all that had happened before the call is told.
    pub fn poll(&self, room: &mut [Completion]) -> usize {
        let _polling = lock(&self.polling);
        let mut sink = Sink { queue: self, room, count: 0 };
        self.take_news(&mut sink);
        for adapter in self.adapters.read().unwrap_or_else(PoisonError::into_inner).iter() {
            adapter.poll(&mut sink);
        }
        sink.count
    }

    /// Nobody polls, and companions that are closed wait for it: what there is becomes news, in its order.
    pub fn sweep(&self) {
        let Ok(_polling) = self.polling.try_lock() else { return };
        self.adapters().iter().filter(|adapter| adapter.is_draining()).for_each(|adapter| self.empty(adapter));
    }

    /// While nobody else polls.
    fn empty(&self, adapter: &Adapter) {
        let mut room = [Completion::default(); BATCH];
        loop {
            let mut sink = Sink { queue: self, room: &mut room, count: 0 };
            adapter.poll(&mut sink);
            let count = sink.count;
            room.iter().take(count).for_each(|completion| self.tell_all(*completion));
            if count < room.len() {
                break;
            }
        }
    }

    pub fn arm(&self) -> Result<()> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner).iter().try_for_each(|adapter| adapter.arm())
    }

    /// News for whoever polls next, and a ring of the bell for whoever sleeps.
    pub fn tell(&self, kind: u32, status: i32, cookie: u64) {
        self.tell_all(Completion { kind, status, cookie, ..Completion::default() });
    }

    pub fn tell_all(&self, completion: Completion) {
        let mut news = lock(&self.news);
        let known = completion.kind == kind::CHANGED && news.list.contains(&completion);
        if !known {
            news.list.push_back(completion);
        }
        self.any.store(true, Ordering::Release);
        self.ring(&mut news);
    }

    /// Somebody should poll, though there is nothing to be told: a completion queue is to be emptied.
    pub fn call(&self) {
        let mut news = lock(&self.news);
        self.any.store(true, Ordering::Release);
        self.ring(&mut news);
    }

    fn ring(&self, news: &mut News) {
        if !std::mem::replace(&mut news.rung, true) {
            ring(self.bell.0);
        }
    }

    fn take_news(&self, sink: &mut Sink) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut news = lock(&self.news);
        while sink.room() > 0
            && let Some(completion) = news.list.pop_front()
        {
            sink.push(completion);
        }
        if news.list.is_empty() {
            self.any.store(false, Ordering::Release);
            if std::mem::replace(&mut news.rung, false) {
                hush(self.bell.0);
            }
        }
    }
}

/// Devices and domains.
impl Queue {
    /// The device of this name, opened where it is not yet. On the provider's thread.
    pub fn adapter(&self, device: &str) -> Result<Arc<Adapter>> {
        let open = |adapter: &&Arc<Adapter>| adapter.name == device && adapter.is_open();
        if let Some(adapter) = self.adapters().iter().find(open) {
            return Ok(Arc::clone(adapter));
        }
        let adapter = Arc::new(Adapter::open(device)?);
        watch(&self.set, adapter.channel_descriptor())?;
        self.adapters.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&adapter));
        Ok(adapter)
    }

    pub fn adapters(&self) -> Vec<Arc<Adapter>> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A device has gone, and the kernel waits until nobody has it open: all that there is on it is let go of at once, whatever the
    /// application's threads do meanwhile. What had been notified becomes news first. On the provider's thread.
    pub fn lose(&self, adapter: Arc<Adapter>, why: Errno) {
        {
            let _polling = lock(&self.polling);
            self.empty(&adapter);
            adapter.lose(self, why);
            // What the failed pairs still tell.
            self.empty(&adapter);
            adapter.let_go();
        }
        let domains: Vec<_> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        domains.iter().for_each(|domain| domain.lose(&adapter, why));
        drop((adapter, domains));
        self.release_unused(false);
    }

    /// Lets go of devices that nobody will use again. On the provider's thread.
    pub fn release_unused(&self, all: bool) {
        let unused = |adapter: &Arc<Adapter>| (all || !adapter.is_open()) && Arc::strong_count(adapter) == 1;
        let mut gone = Vec::new();
        {
            let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
            let mut at = 0;
            while at < adapters.len() {
                if adapters.get(at).is_some_and(unused) {
                    gone.push(adapters.swap_remove(at));
                } else {
                    at += 1;
                }
            }
        }
        for adapter in &gone {
            unwatch(&self.set, adapter.channel_descriptor());
        }
    }

    /// It has a device.
    pub fn domain_is_open(&self, domain: &Arc<Domain>) {
        let mut open = lock(&self.open);
        open.retain(|domain| domain.strong_count() > 0);
        open.push(Arc::downgrade(domain));
    }

    pub fn add_domain(&self) {
        self.domains.fetch_add(1, Ordering::AcqRel);
    }

    pub fn remove_domain(&self) {
        self.domains.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn has_domains(&self) -> bool {
        self.domains.load(Ordering::Acquire) > 0
    }
}

/// Where completions are written.
pub struct Sink<'a> {
    queue: &'a Queue,
    room: &'a mut [Completion],
    count: usize,
}

impl Sink<'_> {
    pub fn queue(&self) -> &Queue {
        self.queue
    }

    pub fn room(&self) -> usize {
        self.room.len() - self.count
    }

    /// Without room it becomes news: nothing is lost.
    pub fn push(&mut self, completion: Completion) {
        match self.room.get_mut(self.count) {
            Some(place) => {
                *place = completion;
                self.count += 1;
            }
            None => self.queue.tell_all(completion),
        }
    }
}

pub fn bell() -> Result<Hidden> {
    // SAFETY: a new descriptor of ours.
    hide_noted(unsafe { real::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Hidden)
}

pub fn ring(bell: c_int) {
    let one = 1u64;
    // SAFETY: eight bytes of this frame; a full counter is a ring that is due already.
    unsafe { real::write(bell, (&raw const one).cast(), 8) };
}

pub fn hush(bell: c_int) {
    let mut count = 0u64;
    // SAFETY: eight bytes of this frame; the descriptor does not block.
    unsafe { real::read(bell, (&raw mut count).cast(), 8) };
}

fn watch(set: &Hidden, fd: c_int) -> Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: two descriptors of ours, an event on this frame.
    called(unsafe { real::epoll_ctl(set.0, libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
}

fn unwatch(set: &Hidden, fd: c_int) {
    // SAFETY: as above.
    unsafe { real::epoll_ctl(set.0, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
}
