//! Which connection a process's descriptor shows, for rows that were only announced: by the socket's inode, as /proc has it.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use tandem_protocol::Addresses;

/// Reads a network namespace's sockets once, when one of them is first asked for.
#[derive(Default)]
pub struct Sockets {
    /// By the namespace's inode, then the socket's.
    namespaces: HashMap<u64, HashMap<u64, Addresses>>,
}

impl Sockets {
    /// `None`: it shows none (any more), or may not be looked at.
    pub fn of(&mut self, pid: u32, fd: i32) -> Option<Addresses> {
        let shown = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        let inode = shown.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        self.namespaces.entry(namespace).or_insert_with(|| sockets(pid)).get(&inode).copied()
    }
}

fn sockets(pid: u32) -> HashMap<u64, Addresses> {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(socket)).collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn socket(line: &str) -> Option<(u64, Addresses)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (endpoint(words.next()?)?, endpoint(words.next()?)?);
    let inode = words.nth(6)?.parse().ok()?;
    Some((inode, Addresses::new(local, remote)?))
}

/// The address in words of 32 bits, each printed as this machine reads it.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(8 * at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_found_with_its_addresses() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let found = Sockets::default().of(std::process::id(), client.as_raw_fd());
            assert_eq!(found, Addresses::new(client.local_addr().unwrap(), client.peer_addr().unwrap()), "{at}");
        }
    }

    #[test]
    fn what_is_no_tcp_socket_is_none() {
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(Sockets::default().of(std::process::id(), file.as_raw_fd()), None);
        assert_eq!(Sockets::default().of(std::process::id(), -1), None);
    }
}
