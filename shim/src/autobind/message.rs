//! UDP message by message: an unconnected socket's message to a destination of the interface carries that interface in a control
//! message, as the application could have done it. The socket itself stays as it is, for messages to elsewhere and for replies.

use std::net::IpAddr;
use std::os::fd::RawFd;

use libc::{c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, msghdr, sockaddr, socklen_t, ssize_t};

use super::datagram::{self, Steer, Way};
use super::record::Record;
use crate::outcome::{self, Outcome};
use crate::real;

/// The application's own control data of a message, at most; one with more is left alone.
const OWN: usize = 256;
const SPACE: usize = OWN + 40;
/// Messages of one sendmmsg that are handed to the kernel at a time: their copies are on the stack.
const BATCH: usize = 8;

#[repr(C, align(8))]
struct Control([u8; SPACE]);

/// # Safety
/// The arguments of sendto.
pub unsafe fn sendto(
    record: &Record,
    fd: RawFd,
    buffer: *const c_void,
    size: usize,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> Outcome<ssize_t> {
    // SAFETY: by the caller.
    let steer_by = match unsafe { datagram::way(record, fd, address, length, flags) } {
        Way::Alone => return Outcome::Bypass,
        Way::Fail(errno) => return Outcome::Fail(errno),
        Way::Interface(by) => by,
    };
    let mut part = iovec { iov_base: buffer.cast_mut(), iov_len: size };
    let mut control = Control([0; SPACE]);
    // SAFETY: all-zero is a valid msghdr; what it points at is the application's and this frame's.
    unsafe {
        let mut message: msghdr = std::mem::zeroed();
        message.msg_name = address.cast_mut().cast();
        message.msg_namelen = length;
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        steer(&mut message, &mut control, &steer_by);
        settled(real::sendmsg(fd, &message, flags))
    }
}

/// # Safety
/// The arguments of sendmsg.
pub unsafe fn sendmsg(record: &Record, fd: RawFd, message: &msghdr, flags: c_int) -> Outcome<ssize_t> {
    let mut control = Control([0; SPACE]);
    // SAFETY: by the caller.
    match unsafe { steered(record, fd, message, flags, &mut control) } {
        Steered::Alone => Outcome::Bypass,
        Steered::Fail(errno) => Outcome::Fail(errno),
        // SAFETY: the application's message with other control data, which outlives the call.
        Steered::Message(message) => settled(unsafe { real::sendmsg(fd, &message, flags) }),
    }
}

/// # Safety
/// The arguments of sendmmsg.
pub unsafe fn sendmmsg(
    record: &Record,
    fd: RawFd,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> Outcome<c_int> {
    if messages.is_null() {
        return Outcome::Bypass;
    }
    let count = (count as usize).min(libc::UIO_MAXIOV as usize);
    // Where none of them is steered they all go in the application's own one call.
    let concerns = (0..count).any(|at| {
        // SAFETY: by the caller, `count` messages.
        let header = unsafe { &(*messages.add(at)).msg_hdr };
        // SAFETY: as above.
        let way = unsafe { datagram::way(record, fd, header.msg_name.cast(), header.msg_namelen, flags) };
        !matches!(way, Way::Alone)
    });
    if !concerns {
        return Outcome::Bypass;
    }
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(BATCH);
        // SAFETY: by the caller, `count` messages.
        let sent = unsafe { send_batch(record, fd, messages.add(done), wanted, flags) };
        match sent {
            Ok(n) => {
                done += n;
                if n < wanted {
                    break;
                }
            }
            // As the kernel does it: an error counts only when nothing was done before it.
            Err(errno) if done == 0 => return Outcome::Fail(errno),
            Err(_) => break,
        }
    }
    Outcome::Done(done as c_int)
}

/// # Safety
/// `count` messages, no more than `BATCH`.
unsafe fn send_batch(
    record: &Record,
    fd: RawFd,
    messages: *mut mmsghdr,
    count: usize,
    flags: c_int,
) -> Result<usize, c_int> {
    let mut controls = [const { Control([0; SPACE]) }; BATCH];
    // SAFETY: all-zero is a valid mmsghdr.
    let mut copies: [mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    let mut ready = 0;
    for (copy, control) in copies.iter_mut().zip(&mut controls).take(count) {
        // SAFETY: by the caller.
        unsafe {
            *copy = *messages.add(ready);
            match steered(record, fd, &copy.msg_hdr, flags, control) {
                Steered::Alone => {}
                Steered::Message(message) => copy.msg_hdr = message,
                Steered::Fail(errno) if ready == 0 => return Err(errno),
                Steered::Fail(_) => break,
            }
        }
        ready += 1;
    }
    // SAFETY: the application's messages, some with other control data, which outlives the call.
    let mut sent = unsafe { real::sendmmsg(fd, copies.as_mut_ptr(), ready as c_uint, flags) };
    if datagram::has_no_way(sent as isize) {
        // SAFETY: the application's own messages.
        sent = unsafe { real::sendmmsg(fd, messages, 1, flags) };
        return usize::try_from(sent).map_err(|_| outcome::errno());
    }
    let sent = usize::try_from(sent).map_err(|_| outcome::errno())?;
    for (at, copy) in copies.iter().enumerate().take(sent) {
        // SAFETY: by the caller.
        unsafe { (*messages.add(at)).msg_len = copy.msg_len };
    }
    Ok(sent)
}

enum Steered {
    Alone,
    Message(msghdr),
    Fail(c_int),
}

/// # Safety
/// A message that sendmsg would take; `control` must outlive what is returned.
unsafe fn steered(record: &Record, fd: RawFd, message: &msghdr, flags: c_int, control: &mut Control) -> Steered {
    // SAFETY: by the caller.
    match unsafe { datagram::way(record, fd, message.msg_name.cast(), message.msg_namelen, flags) } {
        Way::Alone => Steered::Alone,
        Way::Fail(errno) => Steered::Fail(errno),
        Way::Interface(by) => {
            let mut copy = *message;
            // SAFETY: by the caller.
            if unsafe { steer(&mut copy, control, &by) } { Steered::Message(copy) } else { Steered::Alone }
        }
    }
}

/// Adds the interface (and the source address) to a message's control data; false where the application says it itself, or there is no room.
///
/// # Safety
/// As [`steered`].
unsafe fn steer(message: &mut msghdr, control: &mut Control, by: &Steer) -> bool {
    let own = message.msg_controllen;
    // SAFETY: by the caller.
    if own > OWN || (own > 0 && message.msg_control.is_null()) || (own > 0 && unsafe { chooses_itself(message) }) {
        return false;
    }
    let start = own.next_multiple_of(align_of::<cmsghdr>());
    let (level, kind, bytes) = match by.source {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
    };
    // SAFETY: `own` bytes are readable; `start` and the largest of our two fit into SPACE, which starts aligned. Both structures
    // are plain numbers.
    unsafe {
        let at = control.0.as_mut_ptr();
        if own > 0 {
            at.copy_from_nonoverlapping(message.msg_control.cast(), own);
        }
        let header = at.add(start).cast::<cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
        let data = libc::CMSG_DATA(header);
        match by.source {
            IpAddr::V4(source) => {
                let mut info: libc::in_pktinfo = std::mem::zeroed();
                info.ipi_ifindex = by.index as c_int;
                info.ipi_spec_dst.s_addr = source.to_bits().to_be();
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
            }
            IpAddr::V6(source) => {
                let mut info: libc::in6_pktinfo = std::mem::zeroed();
                info.ipi6_ifindex = by.index;
                info.ipi6_addr.s6_addr = source.octets();
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
            }
        }
        message.msg_control = at.cast();
        message.msg_controllen = start + libc::CMSG_SPACE(bytes as u32) as usize;
    }
    true
}

/// IPV6_2292PKTINFO, the name of an older standard, still taken by the kernel.
const IPV6_2292PKTINFO: c_int = 2;

/// # Safety
/// A message that sendmsg would take.
unsafe fn chooses_itself(message: &msghdr) -> bool {
    // SAFETY: libc's macros stay inside msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if matches!(
                ((*header).cmsg_level, (*header).cmsg_type),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO | IPV6_2292PKTINFO)
            ) {
                return true;
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    false
}

/// The interface may have gone since policyd last wrote: then the application's own call is made.
fn settled(sent: ssize_t) -> Outcome<ssize_t> {
    if datagram::has_no_way(sent) { Outcome::Bypass } else { Outcome::of(sent) }
}

const _: () = assert!(SPACE >= OWN + 16 + size_of::<libc::in6_pktinfo>());
