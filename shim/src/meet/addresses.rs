//! Which connection a socket is, as the kernel says.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use tandem_protocol::Addresses;

use crate::real;

/// Local and remote address; `None` while not connected.
pub fn of(fd: RawFd) -> Option<Addresses> {
    let local = address(|at, length| {
        // SAFETY: `at` has room for `length` bytes.
        unsafe { real::getsockname(fd, at, length) }
    })?;
    let remote = address(|at, length| {
        // SAFETY: as above.
        unsafe { real::getpeername(fd, at, length) }
    })?;
    Addresses::new(local, remote)
}

fn address(ask: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> i32) -> Option<SocketAddr> {
    // SAFETY: all-zero is a valid sockaddr_in6, the larger of the two.
    let mut storage: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    if ask((&raw mut storage).cast(), &mut length) != 0 {
        return None;
    }
    match i32::from(storage.sin6_family) {
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(storage.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(storage.sin6_port)))
        }
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, which is the smaller of the two.
            let v4 = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        _ => None,
    }
}
