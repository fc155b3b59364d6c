//! Whether an address is this host's. Kept fresh without a timer: the kernel's notices of changes wait in a netlink
//! socket and are looked at when a question comes.

use std::collections::HashSet;
use std::net::IpAddr;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::ifaddrs::getifaddrs;
use tracing::warn;

const IPV4_ADDRESSES: u32 = 5;
const IPV6_ADDRESSES: u32 = 9;

pub struct LocalAddresses {
    /// `None`: no notices to be had, every question asks the kernel anew.
    notices: Option<Socket>,
    known: HashSet<IpAddr>,
}

impl LocalAddresses {
    pub fn new() -> Self {
        let notices = subscribe().inspect_err(|error| warn!("no netlink notices of address changes: {error}")).ok();
        let mut addresses = Self { notices, known: HashSet::new() };
        addresses.read();
        addresses
    }

    pub fn contains(&mut self, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return true;
        }
        if self.changed() {
            self.read();
        }
        self.known.contains(&ip)
    }

    fn changed(&mut self) -> bool {
        let Some(notices) = &self.notices else { return true };
        let mut changed = false;
        let mut scratch = [0u8; 4096];
        // Bounded: whatever is left over is found by the next question. An overrun (ENOBUFS) is a change too.
        for _ in 0..64 {
            match notices.recv(&mut &mut scratch[..], libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                _ => changed = true,
            }
        }
        changed
    }

    fn read(&mut self) {
        match getifaddrs() {
            Ok(list) => {
                self.known = list
                    .filter_map(|entry| entry.address)
                    .filter_map(|address| {
                        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
                    })
                    .collect();
            }
            // Nothing but loopback is then known to be ours: TCP for the rest.
            Err(error) => {
                warn!("cannot list this host's addresses: {error}");
                self.known.clear();
            }
        }
    }
}

fn subscribe() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.add_membership(IPV4_ADDRESSES)?;
    socket.add_membership(IPV6_ADDRESSES)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_a_documentation_address_is_not() {
        let mut addresses = LocalAddresses::new();
        assert!(addresses.contains("127.0.0.1".parse().unwrap()));
        assert!(addresses.contains("127.9.9.9".parse().unwrap()));
        assert!(addresses.contains("::1".parse().unwrap()));
        assert!(!addresses.contains("192.0.2.1".parse().unwrap()));
        for entry in getifaddrs().unwrap() {
            if let Some(v4) = entry.address.as_ref().and_then(|a| a.as_sockaddr_in()) {
                assert!(addresses.contains(v4.ip().into()));
            }
        }
    }
}
