//! The options of the TCP socket, replayed on a queue pair: a row for each that has a meaning here, or is known to need none.

use std::ffi::{c_int, c_void};

use crate::errors::{Errno, Result};

/// What the options have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub traffic_class: u8,
    pub hop_limit: u8,
    /// TCP_USER_TIMEOUT; 0 is none.
    pub patience_ms: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { traffic_class: 0, hop_limit: 64, patience_ms: 0 }
    }
}

/// A try takes 4.096 us x 2^exponent; 7 retries would be for ever on some devices, so there is one try and 6 more.
const RETRIES: u8 = 6;
const TRIES: u64 = RETRIES as u64 + 1;
/// 67 ms a try, half a second in all: after that TCP takes over, which is more patient.
const MOST_EXPONENT: u8 = 14;
/// 1 ms a try.
const LEAST_EXPONENT: u8 = 8;

impl Options {
    /// As for setsockopt. ENOPROTOOPT: no row.
    pub fn set(&mut self, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
        match (level, name) {
            // The two lowest bits are the network's own, for TCP as here.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.traffic_class = number(value)?.clamp(0, 255) as u8 & !3;
            }
            // -1 is "the default".
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                self.hop_limit = match number(value)? {
                    hops @ 1..=255 => hops as u8,
                    _ => Options::default().hop_limit,
                };
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => self.patience_ms = number(value)?.max(0) as u32,
            _ if means_nothing_here(level, name) => {}
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        Ok(())
    }

    /// The exponent of a try's time, and how many tries follow the first: half the application's patience at most, so that TCP has the other
    /// half.
    pub fn timeout(&self) -> (u8, u8) {
        if self.patience_ms == 0 {
            return (MOST_EXPONENT, RETRIES);
        }
        let half_ns = u64::from(self.patience_ms) * 500_000;
        let fits = |exponent: &u8| (4_096u64 << exponent) * TRIES <= half_ns;
        let exponent = (LEAST_EXPONENT..=MOST_EXPONENT).rev().find(fits).unwrap_or(LEAST_EXPONENT);
        (exponent, RETRIES)
    }
}

/// What shapes the anchor's own segments, its buffers or its end, or what the switch itself sees to.
fn means_nothing_here(level: c_int, name: c_int) -> bool {
    match level {
        libc::SOL_SOCKET => matches!(
            name,
            libc::SO_RCVLOWAT
                | libc::SO_SNDBUF
                | libc::SO_SNDBUFFORCE
                | libc::SO_RCVBUF
                | libc::SO_RCVBUFFORCE
                | libc::SO_RCVTIMEO
                | libc::SO_SNDTIMEO
                | libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_KEEPALIVE
                | libc::SO_LINGER
                | libc::SO_PRIORITY
                | libc::SO_BROADCAST
                | libc::SO_INCOMING_CPU
                | libc::SO_BUSY_POLL
        ),
        libc::IPPROTO_TCP => matches!(
            name,
            libc::TCP_NODELAY
                | libc::TCP_CORK
                | libc::TCP_QUICKACK
                | libc::TCP_MAXSEG
                | libc::TCP_KEEPIDLE
                | libc::TCP_KEEPINTVL
                | libc::TCP_KEEPCNT
                | libc::TCP_SYNCNT
                | libc::TCP_LINGER2
                | libc::TCP_DEFER_ACCEPT
                | libc::TCP_WINDOW_CLAMP
                | libc::TCP_CONGESTION
                | libc::TCP_FASTOPEN
                | libc::TCP_FASTOPEN_CONNECT
                | libc::TCP_NOTSENT_LOWAT
                | libc::TCP_THIN_LINEAR_TIMEOUTS
                | libc::TCP_THIN_DUPACK
        ),
        libc::IPPROTO_IP => matches!(name, libc::IP_BIND_ADDRESS_NO_PORT | libc::IP_MTU_DISCOVER),
        libc::IPPROTO_IPV6 => name == libc::IPV6_V6ONLY,
        _ => false,
    }
}

/// An int, or as the kernel takes IP options too, one byte.
fn number(value: &[u8]) -> Result<c_int> {
    match (value.first_chunk(), value) {
        (Some(int), _) => Ok(c_int::from_ne_bytes(*int)),
        (None, [byte, ..]) => Ok(c_int::from(*byte)),
        (None, []) => Err(Errno(libc::EINVAL)),
    }
}

/// # Safety
/// `bytes` bytes can be read at `value`, or it is null.
pub unsafe fn value<'a>(value: *const c_void, bytes: u32) -> &'a [u8] {
    if value.is_null() {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(value.cast(), bytes as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_a_meaning_have_it() {
        let mut options = Options::default();
        options.set(libc::IPPROTO_IP, libc::IP_TOS, &0xb9i32.to_ne_bytes()).unwrap();
        options.set(libc::IPPROTO_IP, libc::IP_TTL, &[9]).unwrap();
        options.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &100i32.to_ne_bytes()).unwrap();
        assert_eq!(options, Options { traffic_class: 0xb8, hop_limit: 9, patience_ms: 100 });
        options.set(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &(-1i32).to_ne_bytes()).unwrap();
        assert_eq!(options.hop_limit, 64);
    }

    #[test]
    fn an_option_without_a_row_is_refused() {
        let mut options = Options::default();
        for (level, name) in [(libc::SOL_SOCKET, libc::SO_MARK), (libc::SOL_SOCKET, libc::SO_BINDTODEVICE), (99, 1)] {
            assert_eq!(options.set(level, name, &[0; 4]), Err(Errno(libc::ENOPROTOOPT)));
        }
        assert_eq!(options.set(libc::IPPROTO_IP, libc::IP_TOS, &[]), Err(Errno(libc::EINVAL)));
        assert_eq!(options.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &[1, 0, 0, 0]), Ok(()));
    }

    #[test]
    fn a_queue_pair_gives_up_before_the_application_does() {
        let timeout = |patience_ms| Options { patience_ms, ..Options::default() }.timeout();
        assert_eq!(timeout(0), (14, 6));
        assert_eq!(timeout(60_000), (14, 6));
        for patience in [20u32, 50, 100, 300, 900] {
            let (exponent, retries) = timeout(patience);
            let all_ns = (4_096u64 << exponent) * (u64::from(retries) + 1);
            assert!(all_ns <= u64::from(patience) * 500_000, "{patience} ms: {exponent}");
        }
        assert_eq!(timeout(1), (LEAST_EXPONENT, 6), "not below what a wire needs");
    }
}
