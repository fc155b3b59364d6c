//! Which addresses devices serve, here and at peers: a table that policyd writes and we map to read. Whether a connection
//! may have a companion on another host is a look-up in memory.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use tandem_protocol::san::{San, Way};
use tandem_protocol::{Addresses, ProviderName};

use crate::{real, sys};

/// Once mapped it stays at its place; that of a policyd that was started anew replaces it there.
static TABLE: AtomicPtr<San> = AtomicPtr::new(std::ptr::null_mut());
/// What stands there is kept current.
static CURRENT: AtomicBool = AtomicBool::new(false);

/// Whether devices serve both ends: some loads. Without a table nobody is a peer.
pub fn way(addresses: &Addresses) -> Way {
    if !CURRENT.load(Ordering::Acquire) {
        return Way::NotAPeer;
    }
    let key = addresses.normalised();
    // SAFETY: null, or a mapping of a San's size that is never unmapped; all in it are atomics.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref() };
    table.map_or(Way::NotAPeer, |table| table.way(key.local_address().ip(), key.remote_address().ip()))
}

/// What serves this end's address. `None`: nothing, as far as is known.
pub fn provider(addresses: &Addresses) -> Option<ProviderName> {
    if !CURRENT.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: as in `way`.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref() };
    table.and_then(|table| table.provider(addresses.normalised().local_address().ip()))
}

/// Policyd's table, under the channel's lock. The descriptor is closed here.
pub fn arrived(file: RawFd) {
    CURRENT.store(false, Ordering::Release);
    let mapped = sys::is_sealed(file, San::BYTES, San::SEALS) && map(file);
    // SAFETY: received for us, and not used any more.
    unsafe { real::close(file) };
    CURRENT.store(mapped, Ordering::Release);
    if !mapped {
        crate::log::warn(format_args!("policyd's table of served addresses cannot be mapped: nobody is a peer"));
    }
}

/// The channel is gone, and nobody keeps the table current.
pub fn lost() {
    CURRENT.store(false, Ordering::Release);
}

fn map(file: RawFd) -> bool {
    let old = TABLE.load(Ordering::Acquire);
    let place = if old.is_null() { 0 } else { libc::MAP_FIXED };
    // SAFETY: a fresh mapping where the kernel chooses, or in place of our own one of the same size, whose readers can bear
    // any values.
    let at = unsafe { libc::mmap(old.cast(), San::BYTES, libc::PROT_READ, libc::MAP_SHARED | place, file, 0) };
    if at == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: just mapped. Ours to leave out of core files.
    unsafe { libc::madvise(at, San::BYTES, libc::MADV_DONTDUMP) };
    TABLE.store(at.cast(), Ordering::Release);
    // SAFETY: a mapping of a San's size, of atomics.
    unsafe { (*at.cast::<San>()).is_sound() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tandem_protocol::san::{Content, Prefix, number};

    use super::*;

    fn file(bytes: usize, seals: i32) -> RawFd {
        // SAFETY: a name that ends, and a descriptor of our own.
        unsafe {
            let file = libc::memfd_create(c"san".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            assert!(file >= 0 && libc::ftruncate(file, bytes as i64) == 0);
            assert_eq!(real::fcntl(file, libc::F_ADD_SEALS, seals as usize), 0);
            file
        }
    }

    /// One test, for the table is one.
    #[test]
    fn a_table_is_read_until_the_channel_is_lost() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let addresses = Addresses::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()).unwrap();
        assert_eq!(way(&addresses), Way::NotAPeer);
        arrived(file(San::BYTES, 0));
        assert_eq!(way(&addresses), Way::NotAPeer, "one that could become shorter is not mapped");
        arrived(file(4_096, San::SEALS));
        assert_eq!(way(&addresses), Way::NotAPeer, "nor one that is too short");

        let memfd = file(San::BYTES, 0);
        // SAFETY: a fresh mapping of our own file.
        let written = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), San::BYTES, prot, libc::MAP_SHARED, memfd, 0);
            assert_ne!(at, libc::MAP_FAILED);
            assert_eq!(real::fcntl(memfd, libc::F_ADD_SEALS, San::SEALS as usize), 0);
            &*at.cast::<San>()
        };
        written.initialise();
        let prefixes = [Prefix { address: number(ip("10.0.0.2")), length: 128, host: 5, up: true }];
        let remote = [(number(ip("10.0.0.2")), 5)];
        arrived(memfd);
        assert_eq!(way(&addresses), Way::NotAPeer);
        let mine = ProviderName::new("mine").unwrap();
        written.write(&Content { local: &[(number(ip("10.0.0.1")), mine)], prefixes: &prefixes, remote: &remote });
        assert_eq!((way(&addresses), provider(&addresses)), (Way::Served { host: 5 }, Some(mine)));
        lost();
        assert_eq!((way(&addresses), provider(&addresses)), (Way::NotAPeer, None));
    }
}
