//! A sockaddr, as AutoBind sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::{sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    Ip(IpAddr),
    /// AF_UNSPEC: an association is dissolved.
    Unspecified,
    /// Nothing that AutoBind decides about: no address, another family, too short, or an address with a scope.
    Other,
}

/// A sockaddr_in6 without its scope is as short as this.
const SHORTEST_V6: usize = 24;

impl Destination {
    /// # Safety
    /// Null, or `length` readable bytes.
    pub unsafe fn of(address: *const sockaddr, length: socklen_t) -> Self {
        let length = length as usize;
        if address.is_null() || length < size_of::<sa_family_t>() {
            return Self::Other;
        }
        // SAFETY: by the caller; each structure is read only where it is there to its end, and need not be aligned.
        unsafe {
            match i32::from(address.cast::<sa_family_t>().read_unaligned()) {
                libc::AF_UNSPEC => Self::Unspecified,
                libc::AF_INET if length >= size_of::<sockaddr_in>() => {
                    let v4 = address.cast::<sockaddr_in>().read_unaligned();
                    Self::Ip(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
                }
                libc::AF_INET6 if length >= SHORTEST_V6 => {
                    let mut v6: sockaddr_in6 = std::mem::zeroed();
                    let known = length.min(size_of::<sockaddr_in6>());
                    (&raw mut v6).cast::<u8>().copy_from_nonoverlapping(address.cast(), known);
                    Self::v6(Ipv6Addr::from(v6.sin6_addr.s6_addr), v6.sin6_scope_id)
                }
                _ => Self::Other,
            }
        }
    }

    fn v6(ip: Ipv6Addr, scope: u32) -> Self {
        match ip.to_ipv4_mapped() {
            Some(v4) => Self::Ip(IpAddr::V4(v4)),
            None if scope != 0 => Self::Other,
            None => Self::Ip(IpAddr::V6(ip)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(ip: &str, scope: u32) -> sockaddr_in6 {
        // SAFETY: all-zero is valid.
        let mut address: sockaddr_in6 = unsafe { std::mem::zeroed() };
        address.sin6_family = libc::AF_INET6 as sa_family_t;
        address.sin6_addr.s6_addr = ip.parse::<Ipv6Addr>().unwrap().octets();
        address.sin6_scope_id = scope;
        address
    }

    fn of<T>(address: &T, length: usize) -> Destination {
        // SAFETY: a whole address.
        unsafe { Destination::of((&raw const *address).cast(), length as socklen_t) }
    }

    #[test]
    fn every_family() {
        // SAFETY: all-zero is valid.
        let mut v4: sockaddr_in = unsafe { std::mem::zeroed() };
        assert_eq!(of(&v4, 16), Destination::Unspecified);
        v4.sin_family = libc::AF_INET as sa_family_t;
        v4.sin_addr.s_addr = u32::from(Ipv4Addr::new(10, 1, 2, 3)).to_be();
        assert_eq!(of(&v4, 16), Destination::Ip("10.1.2.3".parse().unwrap()));
        assert_eq!(of(&v4, 15), Destination::Other);
        assert_eq!(of(&v4, 1), Destination::Other);
        assert_eq!(of(&v6("fd01::1", 0), 28), Destination::Ip("fd01::1".parse().unwrap()));
        assert_eq!(of(&v6("fd01::1", 7), 24), Destination::Ip("fd01::1".parse().unwrap()));
        assert_eq!(of(&v6("fd01::1", 7), 28), Destination::Other);
        assert_eq!(of(&v6("::ffff:10.1.2.3", 0), 28), Destination::Ip("10.1.2.3".parse().unwrap()));
        assert_eq!(of(&v6("fd01::1", 0), 23), Destination::Other);
        // SAFETY: null is allowed.
        assert_eq!(unsafe { Destination::of(std::ptr::null(), 28) }, Destination::Other);
    }
}
