//! What the provider's thread does for a companion.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tandem_provider::{Address, Completion, kind};

use super::{Companion, DEPTH, Inner, Life, Peer, Source, Way};
use crate::adapter::lock;
use crate::blob::Endpoint;
use crate::domain::Opened;
use crate::errors::{self, Errno, Result};
use crate::host;
use crate::notes::{Heard, Sent};
use crate::send::SendQueue;
use crate::verbs::pair::{Pair, Path};

/// Fetches under way at once, each way.
const FETCHES: u8 = 4;

impl Companion {
    pub fn do_prepare(self: &Arc<Self>) {
        let result = self.try_prepare();
        if result.is_err() {
            self.let_go();
        }
        let mut inner = lock(&self.inner);
        if inner.life != Life::Preparing {
            return; // closed meanwhile
        }
        inner.life = if result.is_ok() { Life::Ready } else { Life::Dead };
        self.tell(kind::READY, errors::status(&result));
    }

    fn try_prepare(self: &Arc<Self>) -> Result<()> {
        let opened = self.domain.opened()?;
        let adapter = &opened.adapter;
        if !adapter.is_open() {
            return Err(Errno(libc::ENODEV)); // another domain is needed
        }
        let (addresses, options) = {
            let inner = lock(&self.inner);
            (inner.addresses.ok_or(Errno(libc::EINVAL))?, inner.options)
        };
        let (local, remote) = addresses;
        let source = host::noted("finding the GID", opened.source(&local))?;
        let port = adapter.context.port(source.port)?;
        if !port.active {
            return Err(Errno(libc::ENETDOWN));
        }
        let abilities = adapter.context.abilities()?;
        let window = host::noted("making the queues larger", adapter.take_window())?;
        // From here on what was taken is given back by `finish`.
        {
            let mut inner = lock(&self.inner);
            inner.window = window;
            inner.opened = Some(Arc::clone(&opened));
        }
        let slot = host::noted("registering a control slot", opened.slot())?;
        let pair = Arc::new(self.enter_pair(&opened, source.port)?);
        let own = Endpoint {
            pair: pair.number(),
            sequence: random()? & 0x00ff_ffff,
            gid: source.gid,
            lid: port.lid,
            ethernet: !port.infiniband,
            mtu: u8::try_from(port.mtu).unwrap_or(1),
            window: window as u16,
            fetches_in: abilities.fetches_in.clamp(1, FETCHES),
            fetches_out: abilities.fetches_out.clamp(1, FETCHES),
            control: slot.address(),
            control_key: slot.remote_key(),
            local: Address { scope: 0, ..local },
            remote: Address { scope: 0, ..remote },
        };
        let mut inner = lock(&self.inner);
        inner.sends = SendQueue::new(pair.depth.min(DEPTH));
        inner.heard = Heard::new(window as u16);
        inner.source = Source { port: source.port, gid: source.gid, index: source.index };
        inner.options = options;
        (inner.pair, inner.slot, inner.own) = (Some(pair), Some(slot), Some(own));
        Ok(())
    }

    /// A pair whose number nobody in the completion queue still has.
    fn enter_pair(self: &Arc<Self>, opened: &Opened, port: u8) -> Result<Pair> {
        let mut aside = Vec::new();
        loop {
            let pair = host::noted("making a queue pair", opened.pair(port))?;
            if opened.adapter.enter(pair.number(), self) {
                self.pair_number.store(pair.number(), Ordering::Release);
                return Ok(pair);
            }
            aside.push(pair);
            if aside.len() > 64 {
                return Err(Errno(libc::EAGAIN));
            }
        }
    }

    pub fn do_connect(&self, way: &Way) {
        let Some(pair) = lock(&self.inner).pair.clone() else { return };
        let result = host::noted("connecting a queue pair", pair.connect(&way.path));
        let mut inner = lock(&self.inner);
        if inner.life != Life::Connecting {
            return; // closed, or killed by the device's events
        }
        inner.peer = Peer {
            control: way.peer.control,
            control_key: way.peer.control_key,
            gid: way.peer.gid,
            pair: way.peer.pair,
            mtu: way.path.mtu,
        };
        inner.sent = Sent::new(way.peer.window);
        inner.life = if result.is_ok() { Life::Up } else { Life::Dead };
        self.tell(kind::CONNECTED, errors::status(&result));
        if let (Some(note), Ok(())) = (inner.early.take(), result) {
            self.domain.queue.tell_all(Completion { note, ..self.completion(kind::NOTIFIED) });
        }
        drop(inner);
        if result.is_ok() {
            // The peer may have sent a whole window before.
            self.owe();
        }
    }

    /// First half: nothing moves any more. The second comes when the completion queue has been emptied of it.
    pub fn do_close(self: &Arc<Self>) {
        let (pair, opened) = {
            let inner = lock(&self.inner);
            (inner.pair.clone(), inner.opened.clone())
        };
        match (pair, opened) {
            (Some(pair), Some(opened)) => {
                let _ = pair.fail();
                drop(pair);
                opened.adapter.drain(Arc::clone(self));
                self.domain.queue.call();
            }
            _ => self.finish(),
        }
    }

    /// Second half, twice: the pair goes, and once what it left has been polled away, all the rest.
    pub fn do_close_drained(self: &Arc<Self>) {
        let (pair, opened) = {
            let mut inner = lock(&self.inner);
            (inner.pair.take(), inner.opened.clone())
        };
        match (pair, opened) {
            (Some(pair), Some(opened)) => {
                drop(pair);
                opened.adapter.drain(Arc::clone(self));
                self.domain.queue.call();
            }
            _ => self.finish(),
        }
    }

    fn finish(&self) {
        self.let_go();
        self.domain.remove_companion();
        self.tell(kind::CLOSED, 0);
    }
}

pub(super) fn path(inner: &Inner, own: &Endpoint, peer: &Endpoint, addresses: (&Address, &Address)) -> Path {
    let (timeout, retries) = inner.options.timeout();
    Path {
        port: inner.source.port,
        gid_index: inner.source.index,
        peer_gid: peer.gid,
        peer_lid: peer.lid,
        global: is_global(own, peer),
        mtu: u32::from(own.mtu.min(peer.mtu)),
        peer_pair: peer.pair,
        own_sequence: own.sequence,
        peer_sequence: peer.sequence,
        traffic_class: inner.options.traffic_class,
        hop_limit: inner.options.hop_limit,
        flow_label: flow_label(addresses),
        timeout,
        retries,
        fetches_out: own.fetches_out.min(peer.fetches_in),
        fetches_in: own.fetches_in.min(peer.fetches_out),
    }
}

/// By GID: always on Ethernet; on InfiniBand where a router leads to another subnet (the first half of a GID), and where a port has no LID.
fn is_global(own: &Endpoint, peer: &Endpoint) -> bool {
    let same_subnet = own.gid.first_chunk::<8>() == peer.gid.first_chunk::<8>();
    own.ethernet || !same_subnet || own.lid == 0 || peer.lid == 0
}

/// The connection's ports, as far as RDMA has something like them: devices make the UDP source port of it, by which networks
/// spread flows over their ways.
fn flow_label((local, remote): (&Address, &Address)) -> u32 {
    let ports = u32::from(u16::from_be(local.port)) << 16 | u32::from(u16::from_be(remote.port));
    let mixed = ports.wrapping_mul(0x9e37_79b1);
    (mixed >> 12).max(1)
}

fn random() -> Result<u32> {
    let mut bytes = [0u8; 4];
    // SAFETY: four bytes of this frame.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 4 { Ok(u32::from_ne_bytes(bytes)) } else { Err(errors::last()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(gid: &str, lid: u16, ethernet: bool) -> Endpoint {
        let none = Address::default();
        let gid = gid.parse::<std::net::Ipv6Addr>().unwrap().octets();
        Endpoint {
            pair: 17,
            sequence: 1,
            gid,
            lid,
            ethernet,
            mtu: 5,
            window: 8,
            fetches_in: 1,
            fetches_out: 1,
            control: 4096,
            control_key: 7,
            local: none,
            remote: none,
        }
    }

    #[test]
    fn within_an_infiniband_subnet_the_way_is_by_lid() {
        let own = end("fe80::2:c903:0:1491", 4, false);
        assert!(!is_global(&own, &end("fe80::2:c903:0:1492", 9, false)));
        assert!(is_global(&own, &end("fec0:0:0:1:2:c903:0:1492", 9, false)), "another subnet");
        assert!(is_global(&own, &end("fe80::2:c903:0:1492", 0, false)), "no LID");
        assert!(is_global(&end("::ffff:10.0.0.1", 0, true), &end("::ffff:10.0.0.2", 0, true)), "Ethernet");
    }
}
