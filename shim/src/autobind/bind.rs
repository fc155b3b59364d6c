//! The system calls that bind, steer, and undo it. Each answers whether the kernel did it; errno is nobody's business.

use std::net::IpAddr;
use std::os::fd::RawFd;

use libc::{c_int, c_void, sockaddr_in, sockaddr_in6, socklen_t};
use tandem_protocol::assignment::{Binding, Mode, PortBind};

use super::destination::Destination;
use super::record::{Record, is};
use crate::real;

pub const SO_BINDTOIFINDEX: c_int = 62;
pub const IP_UNICAST_IF: c_int = 50;
pub const IPV6_UNICAST_IF: c_int = 76;

/// Whether policy lets this socket be touched: one that the application bound to a port may be by policy only.
pub fn allowed(record: &Record, binding: &Binding) -> bool {
    !record.has(is::PORT) || (binding.port_bind == PortBind::Device && binding.mode != Mode::Address)
}

/// Binds for good: by source address where that steers, else by device (and address).
pub fn by_policy(record: &Record, fd: RawFd, binding: &Binding) {
    let port = record.has(is::PORT);
    let (device, address) = match binding.mode {
        Mode::Device => (true, false),
        Mode::Address => (false, true),
        // A socket that has a port can be bound to no address any more.
        Mode::Auto => (port || !binding.by_source, !port),
    };
    if device && !to_device(record, fd, binding.interface_index) {
        return;
    }
    if address {
        to_address(record, fd, binding.source);
    }
}

fn to_device(record: &Record, fd: RawFd, index: u32) -> bool {
    let done = record.has(is::OUR_DEVICE) || set(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, index as c_int);
    if done {
        record.raise(is::OUR_DEVICE);
    }
    done
}

pub fn to_address(record: &Record, fd: RawFd, source: IpAddr) {
    // The port is chosen at connect, as for an unbound socket. (UDP has no such choice, and needs none.)
    if record.has(is::STREAM) && !record.has(is::NO_PORT) {
        set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
    }
    if name(fd, record.has(is::V6), source) {
        record.raise(is::OUR_ADDRESS);
    } else {
        restore_no_port(record, fd);
    }
}

/// Back to the wildcard, which the kernel allows as long as the socket has no port: before a connect, and after a failed one.
pub fn undo(record: &Record, fd: RawFd) {
    if record.has(is::OUR_ADDRESS) {
        let any = if record.has(is::V6) { IpAddr::V6([0; 16].into()) } else { IpAddr::V4([0; 4].into()) };
        if !name(fd, record.has(is::V6), any) {
            return;
        }
        record.lower(is::OUR_ADDRESS);
        restore_no_port(record, fd);
    }
    // Only a privileged process can.
    if record.has(is::OUR_DEVICE) && set(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, 0) {
        record.lower(is::OUR_DEVICE);
    }
}

/// The application's next bind finds the option as it left it.
pub fn restore_no_port(record: &Record, fd: RawFd) {
    if record.has(is::STREAM) && !record.has(is::NO_PORT) {
        set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0);
    }
}

/// UDP: destinations of this family leave by that interface; 0: as the routing table says.
pub fn unicast_interface(fd: RawFd, v6: bool, index: u32) -> bool {
    let value = index.to_be() as c_int;
    if v6 {
        set(fd, libc::IPPROTO_IPV6, IPV6_UNICAST_IF, value)
    } else {
        // On an IPv6 socket too: v4-mapped destinations obey this one.
        set(fd, libc::IPPROTO_IP, IP_UNICAST_IF, value)
    }
}

fn set(fd: RawFd, level: c_int, name: c_int, value: c_int) -> bool {
    let at = (&raw const value).cast::<c_void>();
    // SAFETY: an int of its size.
    unsafe { real::setsockopt(fd, level, name, at, size_of::<c_int>() as socklen_t) == 0 }
}

/// Binds to an address and to no port.
fn name(fd: RawFd, v6: bool, source: IpAddr) -> bool {
    // SAFETY: all-zero is valid for both; bind reads as many bytes as it is told.
    unsafe {
        if v6 {
            let mut address: sockaddr_in6 = std::mem::zeroed();
            address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            address.sin6_addr.s6_addr = match source {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            };
            return real::bind(fd, (&raw const address).cast(), size_of::<sockaddr_in6>() as socklen_t) == 0;
        }
        let IpAddr::V4(v4) = source else { return false };
        let mut address: sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = v4.to_bits().to_be();
        real::bind(fd, (&raw const address).cast(), size_of::<sockaddr_in>() as socklen_t) == 0
    }
}

/// The address that the socket has.
pub fn own_address(fd: RawFd) -> Option<IpAddr> {
    // SAFETY: all-zero is valid; getsockname writes no more than it is told there is room for.
    unsafe {
        let mut address: libc::sockaddr_storage = std::mem::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as socklen_t;
        if real::getsockname(fd, (&raw mut address).cast(), &mut length) != 0 {
            return None;
        }
        match Destination::of((&raw const address).cast(), length) {
            Destination::Ip(ip) => Some(ip),
            _ => None,
        }
    }
}
