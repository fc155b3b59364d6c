//! Ending connections whose interface has gone, where policy says so: TCP sockets of processes that had the assignment, with
//! one of its source addresses. The kernel ends them (SOCK_DESTROY, as `ss -K` does), also under a program that sleeps in
//! a read; calls on them then fail with ECONNABORTED.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::message::SockDiagMessage;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// The message type; the crate knows the question, not this order.
const SOCK_DESTROY: u16 = 21;
const TYPE_AT: std::ops::Range<usize> = 4..6;

/// Of this process, with one of these addresses.
#[derive(Clone, Debug)]
pub struct Doomed {
    pub pid: u32,
    pub sources: Vec<IpAddr>,
}

/// Returns how many have been ended. Blocks: not for the thread that serves.
pub fn destroy(doomed: &[Doomed]) -> io::Result<usize> {
    let mut ended = 0;
    for family in [AF_INET, AF_INET6] {
        let all = connections(family)?;
        for one in doomed {
            let theirs = sockets(one.pid);
            let fits = |socket: &&InetResponse| {
                let source = socket.header.socket_id.source_address;
                one.sources.contains(&canonical(source)) && theirs.contains(&u64::from(socket.header.inode))
            };
            for socket in all.iter().filter(fits) {
                ended += usize::from(end(family, &socket.header.socket_id)?);
            }
        }
    }
    Ok(ended)
}

/// A v4-mapped address is its IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Inodes of a process's sockets.
fn sockets(pid: u32) -> HashSet<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    targets.filter_map(inode).collect()
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn packet(family: u8, flags: u16, id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    // A listener has no connection to lose.
    let states = StateFlags::all() - StateFlags::LISTEN;
    let extensions = ExtensionFlags::empty();
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id: id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut packet = vec![0; message.buffer_len()];
    message.serialize(&mut packet);
    packet
}

fn connections(family: u8) -> io::Result<Vec<InetResponse>> {
    let socket = open()?;
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket.send(&packet(family, NLM_F_REQUEST | NLM_F_DUMP, any), 0)?;
    let mut found = Vec::new();
    let mut bytes = vec![0u8; 64 << 10];
    loop {
        let length = socket.recv(&mut &mut bytes[..], 0)?;
        let mut rest = bytes.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = <NetlinkMessage<SockDiagMessage>>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => found.push(*response),
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let step = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(step..).unwrap_or_default();
        }
    }
}

/// `Ok(false)`: it is gone already.
fn end(family: u8, id: &SocketId) -> io::Result<bool> {
    let socket = open()?;
    let mut order = packet(family, NLM_F_REQUEST | NLM_F_ACK, id.clone());
    if let Some(kind) = order.get_mut(TYPE_AT) {
        kind.copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    }
    socket.send(&order, 0)?;
    let mut bytes = [0u8; 4_096];
    let length = socket.recv(&mut &mut bytes[..], 0)?;
    let reply = bytes.get(..length).unwrap_or_default();
    let reply = <NetlinkMessage<SockDiagMessage>>::deserialize(reply).map_err(io::Error::other)?;
    match reply.payload {
        // The raw code: rustc 1.95, optimizing, forgets that `code.map_or(0, …)` can be 0, and an order that was carried out
        // is an error then.
        NetlinkPayload::Error(error) => match error.raw_code().abs() {
            0 => Ok(true),
            libc::ENOENT | libc::ESTALE => Ok(false),
            code => Err(io::Error::from_raw_os_error(code)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn every_connection_of_the_address_is_ended_and_no_other() {
        let connect = |listener: &TcpListener| TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (doomed, other) in [("127.7.7.7:0", "127.0.0.1:0"), ("[::1]:0", "127.0.0.1:0")] {
            let [listener, bystander] = [doomed, other].map(|at| TcpListener::bind(at).unwrap());
            let source = listener.local_addr().unwrap().ip();
            let ends: Vec<_> = (0..5).map(|_| (connect(&listener), listener.accept().unwrap().0)).collect();
            let (near, _far) = (connect(&bystander), bystander.accept().unwrap());
            let doomed = Doomed { pid: std::process::id(), sources: vec![source] };
            match destroy(&[doomed]) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => return println!("NOT RUN: needs root"),
                // Of two ends that are both ours the second one may have been reset by the first.
                ended => assert!(ended.unwrap() >= 5, "{other}"),
            }
            for (near, far) in ends {
                for mut end in [near, far] {
                    end.set_nonblocking(true).unwrap();
                    let error = end.read(&mut [0]).unwrap_err().raw_os_error();
                    assert!(matches!(error, Some(libc::ECONNABORTED | libc::ECONNRESET)), "{error:?}");
                }
            }
            near.set_nonblocking(true).unwrap();
            assert_eq!((&near).read(&mut [0]).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        }
    }
}
