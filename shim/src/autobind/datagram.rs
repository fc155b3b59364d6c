//! UDP at connect: the interface is set just before it (afterwards it would have no effect on the flow), per connect and not for
//! good, for a socket that is bound to a device loses what comes from elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use libc::{c_int, sockaddr, socklen_t};
use tandem_protocol::assignment::{Binding, Decision, Mode};

use super::destination::Destination;
use super::record::{Record, is};
use super::{assignment, bind, stream};
use crate::outcome::{self, Outcome};
use crate::real;

/// # Safety
/// The arguments of connect.
pub unsafe fn connect(record: &Record, fd: RawFd, address: *const sockaddr, length: socklen_t) -> Outcome<c_int> {
    assignment::occasion();
    // SAFETY: by the caller, here and below.
    let native = || Outcome::of(unsafe { real::connect(fd, address, length) });
    // SAFETY: by the caller.
    let outcome = match unsafe { Destination::of(address, length) } {
        Destination::Ip(ip) => {
            if let Err(errno) = before_connect(record, fd, ip) {
                return Outcome::Fail(errno);
            }
            match native() {
                Outcome::Fail(errno) if record.has(is::OUR_UNICAST) && stream::NO_WAY.contains(&errno) => {
                    steer_no_more(record, fd);
                    native()
                }
                outcome => outcome,
            }
        }
        Destination::Unspecified => {
            let outcome = native();
            if outcome == Outcome::Done(0) {
                steer_no_more(record, fd);
                record.lower(is::CONNECTED);
            }
            return outcome;
        }
        Destination::Other => native(),
    };
    if outcome == Outcome::Done(0) {
        record.raise(is::CONNECTED);
    }
    outcome
}

fn before_connect(record: &Record, fd: RawFd, destination: IpAddr) -> Result<(), c_int> {
    // Connected by the routing table's choice, it has that source address already, and keeps it.
    if record.has(is::EXPLICIT | is::DECIDED) || (record.has(is::CONNECTED) && !record.has(is::OUR_UNICAST)) {
        return Ok(());
    }
    match assignment::look_up(destination) {
        Decision::Bind(binding) if bind::allowed(record, &binding) => prepare(record, fd, destination, &binding),
        Decision::NetDown if !record.has(is::OUR_UNICAST) => return Err(libc::ENETDOWN),
        Decision::NetDown => {}
        _ => dissolve(record, fd),
    }
    Ok(())
}

fn prepare(record: &Record, fd: RawFd, destination: IpAddr, binding: &Binding) {
    if binding.mode != Mode::Auto {
        return once(record, fd, binding);
    }
    let (v6, ours) = match destination {
        IpAddr::V4(_) => (false, is::OUR_UNICAST_V4),
        IpAddr::V6(_) => (true, is::OUR_UNICAST_V6),
    };
    if binding.needs_source && !record.has(is::OUR_ADDRESS | is::PORT) {
        // It stays, as a UDP socket's address does once it has a port: who has it may go anywhere.
        bind::to_address(record, fd, binding.source);
    }
    if !record.has(ours) && bind::unicast_interface(fd, v6, binding.interface_index) {
        record.raise(ours);
    }
}

/// Policy wants one way only: the socket is bound for good.
pub fn once(record: &Record, fd: RawFd, binding: &Binding) {
    if record.raise(is::DECIDED) {
        bind::by_policy(record, fd, binding);
    }
}

/// A flow that we steered ends, for the next destination is none of the interface's: its source address goes with it.
fn dissolve(record: &Record, fd: RawFd) {
    if !record.has(is::OUR_UNICAST) {
        return;
    }
    // SAFETY: all-zero is AF_UNSPEC.
    unsafe {
        let nobody: sockaddr = std::mem::zeroed();
        real::connect(fd, &nobody, size_of::<sockaddr>() as socklen_t);
    }
    steer_no_more(record, fd);
    record.lower(is::CONNECTED);
}

/// The interface is the routing table's choice again; a connected flow keeps its way.
pub fn steer_no_more(record: &Record, fd: RawFd) {
    for (ours, v6) in [(is::OUR_UNICAST_V4, false), (is::OUR_UNICAST_V6, true)] {
        if record.has(ours) && bind::unicast_interface(fd, v6, 0) {
            record.lower(ours);
        }
    }
}

/// The interface that a message carries, and the source address, which is unspecified where the interface is enough.
pub struct Steer {
    pub index: u32,
    pub source: IpAddr,
}

/// What one message to an address gets.
pub enum Way {
    /// The application's own call, as it is.
    Alone,
    Interface(Steer),
    Fail(c_int),
}

/// # Safety
/// Null, or `length` readable bytes.
pub unsafe fn way(record: &Record, fd: RawFd, address: *const sockaddr, length: socklen_t, flags: c_int) -> Way {
    if record.has(is::EXPLICIT | is::DECIDED) || flags & libc::MSG_DONTROUTE != 0 {
        return Way::Alone;
    }
    // SAFETY: by the caller.
    let Destination::Ip(destination) = (unsafe { Destination::of(address, length) }) else { return Way::Alone };
    let decision = assignment::look_up(destination);
    if record.has(is::CONNECTED) {
        // The flow's own way was decided at its connect. What we set for it must not lose a message to elsewhere.
        if record.has(is::OUR_UNICAST) && !matches!(decision, Decision::Bind(_)) {
            steer_no_more(record, fd);
        }
        return Way::Alone;
    }
    match decision {
        Decision::Bind(binding) if bind::allowed(record, &binding) => {
            if binding.mode == Mode::Auto {
                let source = match binding.source {
                    source if binding.needs_source => source,
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                return Way::Interface(Steer { index: binding.interface_index, source });
            }
            once(record, fd, &binding);
            Way::Alone
        }
        Decision::NetDown => Way::Fail(libc::ENETDOWN),
        _ => Way::Alone,
    }
}

/// Whether a send that we steered failed because the interface has just gone: then it goes as natively.
pub fn has_no_way(sent: isize) -> bool {
    sent < 0 && stream::NO_WAY.contains(&outcome::errno())
}
