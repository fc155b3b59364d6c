//! The two addresses of one TCP connection, as one end sees them and as they are compared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IpFamily {
    V4 = 4,
    V6 = 6,
}

impl IpFamily {
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// An address and port. IPv4 stands in the first four bytes, network order, the rest zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub ip: [u8; 16],
    pub port: u16,
}

/// Local and remote address of a TCP socket, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    pub family: IpFamily,
    pub local: Endpoint,
    pub remote: Endpoint,
}

impl Addresses {
    /// `None` when the two are of different families.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Option<Self> {
        let family = match (local, remote) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => IpFamily::V4,
            (SocketAddr::V6(_), SocketAddr::V6(_)) => IpFamily::V6,
            _ => return None,
        };
        Some(Self { family, local: endpoint(local), remote: endpoint(remote) })
    }

    /// The same connection with v4-mapped IPv6 written as IPv4: one end may be a v6 socket and the other a v4 one.
    pub fn normalised(self) -> Self {
        match (self.family, mapped(self.local), mapped(self.remote)) {
            (IpFamily::V6, Some(local), Some(remote)) => Self { family: IpFamily::V4, local, remote },
            (IpFamily::V6, _, _) => self,
            (IpFamily::V4, _, _) => {
                Self { family: IpFamily::V4, local: only_v4(self.local), remote: only_v4(self.remote) }
            }
        }
    }

    /// As the other end sees it.
    pub fn mirrored(self) -> Self {
        Self { family: self.family, local: self.remote, remote: self.local }
    }

    pub fn local_address(&self) -> SocketAddr {
        socket_address(self.family, self.local)
    }

    pub fn remote_address(&self) -> SocketAddr {
        socket_address(self.family, self.remote)
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let mut ip = [0; 16];
    match address.ip() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            ip = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        }
        IpAddr::V6(v6) => ip.copy_from_slice(&v6.octets()),
    }
    Endpoint { ip, port: address.port() }
}

fn socket_address(family: IpFamily, end: Endpoint) -> SocketAddr {
    let [a, b, c, d, ..] = end.ip;
    let ip = match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::from(end.ip)),
    };
    SocketAddr::new(ip, end.port)
}

fn mapped(end: Endpoint) -> Option<Endpoint> {
    let [a, b, c, d] = Ipv6Addr::from(end.ip).to_ipv4_mapped()?.octets();
    Some(Endpoint { ip: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], port: end.port })
}

fn only_v4(end: Endpoint) -> Endpoint {
    let [a, b, c, d, ..] = end.ip;
    Endpoint { ip: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], port: end.port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(local: &str, remote: &str) -> Addresses {
        Addresses::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_mapped_end_meets_a_plain_one() {
        let v6 = pair("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.2]:4000");
        let v4 = pair("127.0.0.2:4000", "127.0.0.1:80");
        assert_eq!(v6.normalised(), v4.mirrored());
        assert_eq!(v6.normalised().local_address(), "127.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn plain_v6_stays() {
        let v6 = pair("[::1]:80", "[::1]:4000");
        assert_eq!(v6.normalised(), v6);
        assert_eq!(v6.mirrored().mirrored(), v6);
    }

    #[test]
    fn families_do_not_mix() {
        assert!(Addresses::new("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()).is_none());
    }
}
