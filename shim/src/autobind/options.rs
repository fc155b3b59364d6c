//! The application's own choices of address, device and route, and answers as if it had been alone.

use std::os::fd::RawFd;

use libc::{c_int, c_void, sockaddr, sockaddr_in, socklen_t};

use super::bind::{self, IP_UNICAST_IF, IPV6_UNICAST_IF, SO_BINDTOIFINDEX};
use super::record::{Record, is};
use super::{datagram, stream};
use crate::outcome::{Outcome, errno};
use crate::real;

/// # Safety
/// The arguments of bind.
pub unsafe fn bind(record: &Record, fd: RawFd, address: *const sockaddr, length: socklen_t) -> Outcome<c_int> {
    if record.has(is::OUR_ADDRESS) {
        bind::restore_no_port(record, fd);
    }
    // SAFETY: by the caller.
    let outcome = Outcome::of(unsafe { real::bind(fd, address, length) });
    if outcome == Outcome::Done(0) {
        record.lower(is::OUR_ADDRESS);
        // SAFETY: by the caller; the kernel has just read it.
        record.raise(unsafe { choice(record, address, length) });
    }
    outcome
}

/// As [`bind()`], inside libc and always to a port.
///
/// # Safety
/// The arguments of bindresvport.
pub unsafe fn bindresvport(record: &Record, fd: RawFd, address: *mut sockaddr_in) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let outcome = Outcome::of(unsafe { real::bindresvport(fd, address) });
    if outcome == Outcome::Done(0) {
        record.lower(is::OUR_ADDRESS);
        // SAFETY: by the caller; libc has written the address that it took.
        let chosen = if address.is_null() { is::PORT } else { unsafe { choice(record, address.cast(), V4) } };
        record.raise(chosen | is::PORT);
    }
    outcome
}

const V4: socklen_t = size_of::<sockaddr_in>() as socklen_t;

/// What an address that the kernel has taken says about the interface: everything, only a port, or (wildcard, any port) nothing,
/// which leaves a UDP socket as free as it was; a TCP socket has its port from then on.
///
/// # Safety
/// `length` readable bytes.
unsafe fn choice(record: &Record, address: *const sockaddr, length: socklen_t) -> u32 {
    // SAFETY: by the caller; all-zero is valid, and no more is copied than is there.
    let any = unsafe {
        let mut copy: libc::sockaddr_in6 = std::mem::zeroed();
        let known = (length as usize).min(size_of::<libc::sockaddr_in6>());
        (&raw mut copy).cast::<u8>().copy_from_nonoverlapping(address.cast(), known);
        match c_int::from(copy.sin6_family) {
            libc::AF_INET6 => copy.sin6_addr.s6_addr == [0; 16] && copy.sin6_scope_id == 0,
            _ => (*(&raw const copy).cast::<libc::sockaddr_in>()).sin_addr.s_addr == 0,
        }
        .then_some(copy.sin6_port)
    };
    match any {
        None => is::EXPLICIT,
        Some(0) if !record.has(is::STREAM) => 0,
        Some(_) => is::PORT,
    }
}

/// Makes the application's call, and remembers what it chose.
///
/// # Safety
/// The arguments of setsockopt.
pub unsafe fn set(
    record: &Record,
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> Outcome<c_int> {
    let steers = matches!(
        (level, name),
        (libc::IPPROTO_IP, IP_UNICAST_IF)
            | (libc::IPPROTO_IPV6, IPV6_UNICAST_IF)
            | (libc::SOL_SOCKET, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX)
    );
    if steers && record.has(is::OUR_UNICAST) {
        datagram::steer_no_more(record, fd);
    }
    // SAFETY: by the caller.
    let outcome = Outcome::of(unsafe { real::setsockopt(fd, level, name, value, length) });
    let is_device = level == libc::SOL_SOCKET && matches!(name, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX);
    match outcome {
        // SAFETY: by the caller; the kernel has taken it.
        Outcome::Done(_) => unsafe { note(record, level, name, value, length) },
        Outcome::Fail(libc::EPERM) if is_device && record.has(is::OUR_DEVICE) && !record.has(is::TOLD_DEVICE) => {
            // Unprivileged, a device can be chosen once, and we did. Alone it would have been allowed now.
            // SAFETY: by the caller.
            return unsafe { tell_device(record, fd, name, value, length) };
        }
        _ => {}
    }
    outcome
}

/// # Safety
/// Arguments of a setsockopt that succeeded.
unsafe fn note(record: &Record, level: c_int, name: c_int, value: *const c_void, length: socklen_t) {
    // SAFETY: by the caller.
    let number = || unsafe { number(value, length) };
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX) => {
            record.lower(is::OUR_DEVICE);
            record.raise(is::EXPLICIT);
        }
        (libc::SOL_SOCKET, libc::SO_MARK | libc::SO_DONTROUTE)
        | (libc::IPPROTO_IP, IP_UNICAST_IF)
        | (libc::IPPROTO_IPV6, IPV6_UNICAST_IF)
            if number() != 0 =>
        {
            record.raise(is::EXPLICIT);
        }
        // The sticky form of the control message.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            record.raise(is::EXPLICIT);
        }
        (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) if number() != 0 => {
            record.raise(is::NO_PORT);
        }
        (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) => record.lower(is::NO_PORT),
        _ => {}
    }
}

/// # Safety
/// `length` readable bytes that the kernel has taken.
unsafe fn number(value: *const c_void, length: socklen_t) -> c_int {
    // SAFETY: by the caller.
    unsafe {
        match length as usize {
            0 => 0,
            n if n < size_of::<c_int>() => c_int::from(value.cast::<u8>().read()),
            _ => value.cast::<c_int>().read_unaligned(),
        }
    }
}

/// The application asks for a device where ours is already, and cannot be changed: it is told yes, if there is such a device,
/// and reads its own choice back. The socket's packets keep to ours.
///
/// # Safety
/// The arguments of setsockopt(SO_BINDTODEVICE or SO_BINDTOIFINDEX) that the kernel answered with EPERM.
unsafe fn tell_device(
    record: &Record,
    fd: RawFd,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> Outcome<c_int> {
    let index = if name == SO_BINDTOIFINDEX {
        // SAFETY: by the caller.
        unsafe { number(value, length) }
    } else {
        // SAFETY: by the caller; all-zero is a valid ifreq, and the name in it keeps its ending zero.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            let text = (&raw mut request.ifr_name).cast::<u8>();
            text.copy_from_nonoverlapping(value.cast(), (length as usize).min(libc::IFNAMSIZ - 1));
            if *text == 0 {
                0
            } else if real::ioctl(fd, libc::SIOCGIFINDEX as _, (&raw mut request) as usize) == 0 {
                request.ifr_ifru.ifru_ifindex
            } else {
                return Outcome::Fail(errno());
            }
        }
    };
    if index != 0 {
        record.tell_device(index as u32);
    }
    Outcome::Done(0)
}

/// Answers where the kernel would tell of our doing.
///
/// # Safety
/// The arguments of getsockopt.
pub unsafe fn get(
    record: &Record,
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> Outcome<c_int> {
    let answer = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX) if record.has(is::OUR_DEVICE) => {
            if name == libc::SO_BINDTODEVICE && record.has(is::TOLD_DEVICE) {
                // SAFETY: by the caller.
                return unsafe { told_name(record, fd, value, length) };
            }
            record.told_device() as c_int
        }
        (libc::SOL_SOCKET, libc::SO_ERROR) if record.has(is::FAILS) => {
            // SAFETY: by the caller.
            return unsafe { error(record, fd, value, length) };
        }
        (libc::IPPROTO_IP, IP_UNICAST_IF) if record.has(is::OUR_UNICAST_V4) => 0,
        (libc::IPPROTO_IPV6, IPV6_UNICAST_IF) if record.has(is::OUR_UNICAST_V6) => 0,
        (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) if record.has(is::OUR_ADDRESS) => {
            c_int::from(record.has(is::NO_PORT))
        }
        _ => return Outcome::Bypass,
    };
    if value.is_null() || length.is_null() {
        return Outcome::Bypass;
    }
    // SAFETY: by the caller, `length` bytes at `value`.
    unsafe {
        let room = *length as usize;
        if name == libc::SO_BINDTODEVICE && level == libc::SOL_SOCKET {
            *length = 0;
            return Outcome::Done(0);
        }
        if (*length).cast_signed() < 0 {
            return Outcome::Bypass;
        }
        let bytes = answer.to_ne_bytes();
        let given = room.min(bytes.len());
        value.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), given);
        *length = given as socklen_t;
    }
    Outcome::Done(0)
}

/// # Safety
/// The arguments of getsockopt(SO_ERROR).
unsafe fn error(record: &Record, fd: RawFd, value: *mut c_void, length: *mut socklen_t) -> Outcome<c_int> {
    // SAFETY: by the caller.
    let outcome = Outcome::of(unsafe { real::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value, length) });
    // SAFETY: the kernel has written that many bytes there.
    unsafe {
        if outcome == Outcome::Done(0) && *length as usize == size_of::<c_int>() {
            let value = value.cast::<c_int>();
            value.write_unaligned(stream::ended(record, fd, value.read_unaligned()));
        }
    }
    outcome
}

/// # Safety
/// The arguments of getsockopt(SO_BINDTODEVICE).
unsafe fn told_name(record: &Record, fd: RawFd, value: *mut c_void, length: *mut socklen_t) -> Outcome<c_int> {
    // SAFETY: by the caller; all-zero is a valid ifreq.
    unsafe {
        if value.is_null() || length.is_null() || (*length as usize) < libc::IFNAMSIZ {
            return Outcome::Fail(libc::EINVAL);
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_ifru.ifru_ifindex = record.told_device() as c_int;
        if real::ioctl(fd, libc::SIOCGIFNAME as _, (&raw mut request) as usize) != 0 {
            return Outcome::Fail(errno());
        }
        let name = (&raw const request.ifr_name).cast::<u8>();
        let size = (0..libc::IFNAMSIZ - 1).find(|&at| *name.add(at) == 0).unwrap_or(libc::IFNAMSIZ - 1) + 1;
        value.cast::<u8>().copy_from_nonoverlapping(name, size);
        *length = size as socklen_t;
    }
    Outcome::Done(0)
}
