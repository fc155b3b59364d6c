//! A companion: one queue pair, from create to close.
//!
//! Calls of the switch come from any thread and end at once; what may take its time (making, connecting, destroying the pair) is done
//! by the provider's thread, in the order in which it was asked for. One lock keeps the two apart, and is never held across anything
//! slow.
//!
//! Here what the switch asks for, but for bytes; `orders` what the provider's thread does for it, `told` what the completion queue and
//! the device say, `put` the switch's puts, `requests` how they and what the two providers owe each other are posted.

mod orders;
mod put;
mod requests;
mod told;

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tandem_provider::{Address, Blob, Completion};

use crate::adapter::lock;
use crate::addresses::canonical;
use crate::blob::Endpoint;
use crate::control::Slot;
use crate::domain::{Domain, Opened};
use crate::errors::{Errno, Result};
use crate::notes::{Heard, Sent};
use crate::options::Options;
use crate::send::SendQueue;
use crate::verbs::pair::{Pair, Path};
use crate::worker::Job;

pub struct Companion {
    pub domain: Arc<Domain>,
    cookie: u64,
    serial: u32,
    /// 0 until there is one.
    pair_number: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    New,
    Preparing,
    Ready,
    Connecting,
    Up,
    Dead,
    Closing,
}

struct Inner {
    life: Life,
    addresses: Option<(Address, Address)>,
    options: Options,
    own: Option<Endpoint>,
    source: Source,
    pair: Option<Arc<Pair>>,
    slot: Option<Slot>,
    window: u32,
    peer: Peer,
    sends: SendQueue,
    sent: Sent,
    heard: Heard,
    /// How many of our notifications the peer has had, as last seen.
    returned: u32,
    /// A notification that came before we were told to be connected.
    early: Option<u32>,
    opened: Option<Arc<Opened>>,
}

/// Where a pair's packets come from.
#[derive(Clone, Copy, Default)]
struct Source {
    port: u8,
    gid: [u8; 16],
    index: u8,
}

#[derive(Clone, Copy, Default)]
struct Peer {
    control: u64,
    control_key: u32,
    gid: [u8; 16],
    pair: u32,
    mtu: u32,
}

/// What a connect needs, all of it checked.
pub struct Way {
    path: Path,
    peer: Endpoint,
}

/// Requests that may be under way on one pair.
pub const DEPTH: u32 = 64;
/// Bytes that go with a request itself, if the device can do that; and what it must be able to.
pub const INLINE: (u32, u32) = (256, tandem_provider::IMMEDIATE_BYTES);
/// The wire's number for the code of an MTU of 256, and so on.
const SMALLEST_MTU: u32 = 128;

static SERIALS: AtomicU32 = AtomicU32::new(1);
/// Create, bind, set option, prepare, endpoint, connect, close: in the switch's threads.
impl Companion {
    pub fn create(domain: Arc<Domain>, cookie: u64) -> Result<Arc<Companion>> {
        domain.add_companion()?;
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            life: Life::New,
            addresses: None,
            options: Options::default(),
            own: None,
            source: Source::default(),
            pair: None,
            slot: None,
            window: 0,
            peer: Peer::default(),
            sends: SendQueue::new(DEPTH),
            sent: Sent::new(0),
            heard: Heard::new(0),
            returned: 0,
            early: None,
            opened: None,
        };
        let pair_number = AtomicU32::new(0);
        Ok(Arc::new(Companion { domain, cookie, serial, pair_number, inner: Mutex::new(inner) }))
    }

    pub fn bind(&self, local: &Address, remote: &Address) -> Result<()> {
        let mut inner = self.while_new(Errno(libc::EINVAL))?;
        if canonical(local) != canonical(&self.domain.local) {
            // Another address of the same port will do as well.
            let port = |address| crate::addresses::find(address).map(|served| (served.device, served.port));
            if port(local).is_err() || port(local) != port(&self.domain.local) {
                return Err(Errno(libc::EADDRNOTAVAIL));
            }
        }
        inner.addresses = Some((*local, *remote));
        Ok(())
    }

    pub fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        self.while_new(Errno(libc::EISCONN))?.options.set(level, name, value)
    }

    fn while_new(&self, otherwise: Errno) -> Result<std::sync::MutexGuard<'_, Inner>> {
        let inner = lock(&self.inner);
        if inner.life == Life::New { Ok(inner) } else { Err(otherwise) }
    }

    pub fn prepare(self: &Arc<Self>) -> Result<()> {
        let mut inner = self.while_new(Errno(libc::EALREADY))?;
        if inner.addresses.is_none() {
            return Err(Errno(libc::EINVAL));
        }
        inner.life = Life::Preparing;
        drop(inner);
        self.order(Job::Prepare(Arc::clone(self)))
    }

    pub fn endpoint(&self) -> Result<Blob> {
        lock(&self.inner).own.map(|own| own.encode()).ok_or(Errno(libc::EAGAIN))
    }

    pub fn connect(self: &Arc<Self>, blob: &Blob) -> Result<()> {
        let peer = Endpoint::decode(blob)?;
        let mut inner = lock(&self.inner);
        match inner.life {
            Life::Ready => {}
            Life::Dead => return Err(Errno(libc::EPIPE)),
            Life::New | Life::Preparing => return Err(Errno(libc::EAGAIN)),
            _ => return Err(Errno(libc::EALREADY)),
        }
        let (Some(own), Some((local, remote))) = (inner.own, inner.addresses) else { return Err(Errno(libc::EINVAL)) };
        if !peer.mirrors(&local, &remote) {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        if peer.ethernet != own.ethernet {
            return Err(Errno(libc::EPROTO));
        }
        let way = Way { path: orders::path(&inner, &own, &peer, (&local, &remote)), peer };
        inner.life = Life::Connecting;
        drop(inner);
        self.order(Job::Connect(Arc::clone(self), Box::new(way)))
    }

    /// Nothing is told of it any more, but that it is closed.
    pub fn close(self: Arc<Self>) -> Result<()> {
        let mut inner = lock(&self.inner);
        inner.life = Life::Closing;
        drop(inner);
        let job = Job::Close(Arc::clone(&self));
        self.order(job)
    }

    fn order(&self, job: Job) -> Result<()> {
        self.domain.worker().order(job)
    }

    pub fn describe(&self) -> String {
        let inner = lock(&self.inner);
        let mut text = String::new();
        let _ = match (&inner.opened, inner.pair.as_ref()) {
            (Some(opened), Some(pair)) => {
                let gid = std::net::Ipv6Addr::from(inner.source.gid);
                write!(text, "{}/{} {gid} qp {}", opened.adapter.name, inner.source.port, pair.number())
            }
            _ => write!(text, "no queue pair"),
        };
        if inner.peer.pair != 0 {
            let (gid, mtu) = (std::net::Ipv6Addr::from(inner.peer.gid), SMALLEST_MTU << inner.peer.mtu);
            let _ = write!(text, " > {gid} qp {}, mtu {mtu}", inner.peer.pair);
        }
        text
    }

    fn tell(&self, kind: u32, status: i32) {
        self.domain.queue.tell(kind, status, self.cookie);
    }

    fn completion(&self, kind: u32) -> Completion {
        Completion { kind, cookie: self.cookie, ..Completion::default() }
    }
}
