//! What this host and process have and lack for RDMA, each with its remedy, for `tandem check`.

use std::path::Path;

use crate::addresses;
use crate::verbs::context::{Context, forks_are_harmless};

/// Memory that one connection locks at least, both rings and both stagings.
const USEFUL_MEMLOCK: u64 = 8 << 20;

/// Says a line each; returns how many speak of something that is wanting.
pub fn check(say: impl Fn(&str)) -> i32 {
    let mut wanting = 0;
    let mut report = |fine: bool, text: String| {
        wanting += i32::from(!fine);
        say(&text);
    };
    if !forks_are_harmless() {
        report(false, "kernel: older than 5.12, where a fork breaks registered memory; RDMA is not used".into());
    }
    let (soft, unlimited) = memlock();
    if !unlimited && soft < USEFUL_MEMLOCK {
        let text = format!("RLIMIT_MEMLOCK: {} KiB; raise it (ulimit -l, LimitMEMLOCK=) to 64 MiB or more", soft >> 10);
        report(false, text);
    }
    let devices = addresses::devices();
    if devices.is_empty() {
        let remedy = if Path::new("/sys/module/ib_uverbs").exists() {
            "make one: rdma link add rxe0 type rxe netdev eth0"
        } else {
            "modprobe ib_uverbs; for SoftRoCE: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0"
        };
        report(false, format!("no RDMA device; {remedy}"));
    }
    for device in devices {
        match Context::open(&device) {
            Ok(_) => report(true, format!("{device}: can be opened")),
            Err(why) => {
                let remedy = match why.0 {
                    libc::EACCES | libc::EPERM => "; give this user access to /dev/infiniband/uverbs*",
                    libc::ENODEV | libc::ENOSYS => "; install the driver's library (Debian: ibverbs-providers)",
                    _ => "",
                };
                report(
                    false,
                    format!("{device}: cannot be opened, {}{remedy}", std::io::Error::from_raw_os_error(why.0)),
                );
            }
        }
    }
    for served in addresses::list() {
        let address = match i32::from(served.address.family) {
            libc::AF_INET6 => std::net::IpAddr::from(served.address.bytes),
            _ => std::net::IpAddr::from(*served.address.bytes.first_chunk::<4>().unwrap_or(&[0; 4])),
        };
        let state = if served.active { "active" } else { "down" };
        report(served.active, format!("{}/{}: serves {address}, port {state}", served.device, served.port));
    }
    wanting
}

fn memlock() -> (u64, bool) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place on this frame.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    (limit.rlim_cur, !known || limit.rlim_cur == libc::RLIM_INFINITY)
}
