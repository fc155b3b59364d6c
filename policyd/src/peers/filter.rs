//! To a host that is not listed nothing is sent, not even a SYN's answer: a socket filter on the listening socket drops
//! what comes from elsewhere before TCP sees it. Classic BPF; accepted sockets inherit it.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;

/// Where the filter finds the network header (`SKF_NET_OFF`); the packet itself begins at TCP's.
const NETWORK: u32 = (-0x0010_0000_i32) as u32;
const IPV4_SOURCE: u32 = NETWORK + 12;
const IPV6_SOURCE: u32 = NETWORK + 8;
/// The kernel takes no longer program.
const MOST: usize = 4_096;

const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALWAYS: u16 = 0x05;

/// Lets through what comes from these. False: too many for one filter, and there is none; each source is then looked at
/// when it has connected.
pub fn attach(socket: &impl AsRawFd, sources: &[IpNet]) -> io::Result<bool> {
    let mut program = program(sources);
    if program.len() > MOST {
        return Ok(false);
    }
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from `program`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

/// `v4-mapped` peers of a v6 listener come as IPv4 packets, so the version is read from the packet.
fn program(sources: &[IpNet]) -> Vec<libc::sock_filter> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for net in sources {
        match (net.trunc().addr(), net.netmask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => {
                accept(&mut v4, IPV4_SOURCE, &[(address.to_bits(), mask.to_bits())]);
            }
            (IpAddr::V6(address), IpAddr::V6(mask)) => {
                let words = |bits: u128| [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
                let pairs: Vec<_> = words(address.to_bits()).into_iter().zip(words(mask.to_bits())).collect();
                accept(&mut v6, IPV6_SOURCE, &pairs);
            }
            _ => {}
        }
    }
    v4.push(statement(RETURN, 0));
    v6.push(statement(RETURN, 0));
    let mut program = vec![statement(LOAD_BYTE, NETWORK), statement(AND, 0xf0)];
    // Over the jump to the v6 part, whose distance no conditional jump could name.
    program.push(jump(EQUAL, 0x40, 1, 0));
    program.push(statement(ALWAYS, v4.len() as u32));
    program.extend(v4);
    program.extend(v6);
    program
}

/// Accepts a source of which each word, masked, is as given; else goes on behind.
fn accept(program: &mut Vec<libc::sock_filter>, at: u32, words: &[(u32, u32)]) {
    let compared: Vec<_> = (0u32..).zip(words).filter(|(_, (_, mask))| *mask != 0).collect();
    let mut left = compared.len() as u8;
    for (index, &(value, mask)) in compared {
        left -= 1;
        program.push(statement(LOAD_WORD, at + 4 * index));
        program.push(statement(AND, mask));
        // Unequal: over the rest of this one's comparisons, three instructions each, and the acceptance.
        program.push(jump(EQUAL, value, 0, 3 * left + 1));
    }
    program.push(statement(RETURN, u32::MAX));
}

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Whether a connection to a listener with this filter is made, from the address that it is made to.
    fn connects(listener: &str, to: &str, sources: &[&str]) -> bool {
        let listener = TcpListener::bind(listener).unwrap();
        assert!(attach(&listener, &nets(sources)).unwrap());
        let to = std::net::SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
        TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()
    }

    #[test]
    fn only_listed_sources_are_answered() {
        assert!(connects("127.0.0.1:0", "127.0.0.1", &["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"]));
        assert!(connects("127.0.0.1:0", "127.0.0.1", &["127.0.0.0/8"]));
        assert!(connects("127.0.0.1:0", "127.0.0.1", &["0.0.0.0/0"]));
        assert!(!connects("127.0.0.1:0", "127.0.0.1", &["10.0.0.0/8", "::/0", "::1/128"]));
        assert!(!connects("127.0.0.1:0", "127.0.0.1", &[]));
        assert!(connects("[::1]:0", "::1", &["fd00::/8", "::1/128"]));
        assert!(connects("[::1]:0", "::1", &["::/0"]));
        assert!(!connects("[::1]:0", "::1", &["fd00::/8", "::2/128", "0.0.0.0/0"]));
        // IPv4 on a listener of both.
        assert!(connects("[::]:0", "127.0.0.1", &["fd00::/8", "127.0.0.1/32"]));
        assert!(!connects("[::]:0", "127.0.0.1", &["::1/128", "127.0.0.2/32"]));
    }

    #[test]
    fn hundreds_of_sources_fit() {
        let many: Vec<String> = (0..300).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(!connects("127.0.0.1:0", "127.0.0.1", &many));
        many.push("127.0.0.1/32");
        assert!(connects("127.0.0.1:0", "127.0.0.1", &many));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let all = vec!["10.0.0.0/8".parse().unwrap(); 2_000];
        assert!(!attach(&listener, &all).unwrap(), "too many for one filter");
    }
}
