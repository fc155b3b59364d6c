//! What the kernel says of a socket or a descriptor: the few calls that no crate of ours wraps.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use tandem_protocol::Addresses;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const SO_COOKIE: i32 = 57;
const SO_BINDTOIFINDEX: i32 = 62;
const SO_NETNS_COOKIE: i32 = 71;
const TCP_ESTABLISHED: u8 = 1;

/// A TCP socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub cookie: u64,
    pub netns_cookie: u64,
    /// v4-mapped addresses written as IPv4.
    pub addresses: Addresses,
    /// Interface it is bound to; 0: none.
    pub device: i32,
    pub transparent: bool,
    pub established: bool,
}

/// Reads what proves a claim, and closes the descriptor: it must not hold a connection open that its owner has closed.
/// `None`: not a connected TCP socket at all.
pub fn facts(socket: OwnedFd) -> Option<Facts> {
    let is_tcp = option::<i32>(&socket, libc::SOL_SOCKET, libc::SO_TYPE).ok()? == libc::SOCK_STREAM
        && option::<i32>(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok()? == libc::IPPROTO_TCP;
    let v6 = match option::<i32>(&socket, libc::SOL_SOCKET, libc::SO_DOMAIN).ok()? {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    if !is_tcp {
        return None;
    }
    let cookie = option(&socket, libc::SOL_SOCKET, SO_COOKIE).ok()?;
    let netns_cookie = option(&socket, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    let device = option(&socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX).ok()?;
    let transparent = if v6 {
        option::<i32>(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT).ok()? != 0
    } else {
        option::<i32>(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT).ok()? != 0
    };
    // The state is tcp_info's first byte.
    let state = option::<u8>(&socket, libc::IPPROTO_TCP, libc::TCP_INFO).ok()?;
    let stream = TcpStream::from(socket);
    let addresses = Addresses::new(stream.local_addr().ok()?, stream.peer_addr().ok()?)?.normalised();
    Some(Facts { cookie, netns_cookie, addresses, device, transparent, established: state == TCP_ESTABLISHED })
}

/// The network namespace that this process makes sockets in.
pub fn own_netns_cookie() -> io::Result<u64> {
    let probe = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::1]:0"))?;
    option(&probe, libc::SOL_SOCKET, SO_NETNS_COOKIE)
}

/// A descriptor of another process, by its number there.
pub fn take_descriptor(pidfd: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0) };
    owned(fd)
}

pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Whether the process has not ended yet.
pub fn lives(pidfd: &OwnedFd) -> bool {
    loop {
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which the kernel writes to; it does not wait.
        match unsafe { libc::poll(&raw mut poll, 1, 0) } {
            0 => return true,
            // A signal that is pending (`daemon::linger`) ends even a look.
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

/// Returns when the process is dead; never if it can't be watched.
pub async fn death(pidfd: Arc<OwnedFd>) {
    // SAFETY: the Arc keeps this very descriptor open for as long as the AsyncFd lives.
    match unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) } {
        // Not by readable(): that keeps a waiter of its own, and there may be thousands.
        Ok(process) => std::future::poll_fn(|context| process.poll_read_ready(context).map(drop)).await,
        Err(_) => std::future::pending().await,
    }
}

/// Bytes sent on a unix socket that its peer has not received yet.
pub fn unreceived(socket: &impl AsRawFd) -> io::Result<i32> {
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

pub fn is_eventfd(fd: &OwnedFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

/// Adds one to a client's eventfd. A plain write could be made to wait for ever by the client, which may fill it and let it block
/// at any time; what the kernel adds when a piece of AIO is done never waits. The piece reads no bytes of nothing.
pub fn ring(eventfd: &OwnedFd) -> io::Result<()> {
    const PREAD: u16 = 0;
    const RESULT_FD: u32 = 1;
    thread_local! {
        static CONTEXT: RefCell<Option<(libc::c_ulong, File)>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|known| {
        let (context, nothing) = match known {
            Some((context, nothing)) => (*context, nothing),
            None => {
                let nothing = File::open("/dev/null")?;
                let mut context: libc::c_ulong = 0;
                // SAFETY: a place for the context's number, zero before. It lasts as long as the process.
                done(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
                let (context, nothing) = known.insert((context, nothing));
                (*context, nothing)
            }
        };
        let mut none = [0u8; 1];
        let mut piece = Piece {
            opcode: PREAD,
            fd: nothing.as_raw_fd().cast_unsigned(),
            buffer: none.as_mut_ptr().addr() as u64,
            flags: RESULT_FD,
            result_fd: eventfd.as_raw_fd().cast_unsigned(),
            ..Piece::default()
        };
        let mut pieces = [&raw mut piece];
        let mut event = [0u64; 4];
        // SAFETY: one control block and one event's room on this frame; a read of no bytes is over when the call returns, and what
        // it leaves is taken out, so that there is room for the next.
        unsafe {
            done(libc::syscall(libc::SYS_io_submit, context, 1, pieces.as_mut_ptr()))?;
            done(libc::syscall(
                libc::SYS_io_getevents,
                context,
                1,
                1,
                event.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            ))
        }
    })
}

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Default)]
struct Piece {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One socket option of a plain integer type.
fn option<T: Integer>(socket: &impl AsRawFd, level: i32, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and any bytes are a valid integer.
    unsafe {
        if libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(value.assume_init())
    }
}

trait Integer: Copy {}
impl Integer for u8 {}
impl Integer for i32 {}
impl Integer for u64 {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_connected_socket_is_described() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let expected = Addresses::new(client.local_addr().unwrap(), client.peer_addr().unwrap()).unwrap();
        let one = facts(client.try_clone().unwrap().into()).unwrap();
        let other = facts(server.into()).unwrap();
        assert_eq!(one.addresses, expected);
        assert_eq!(one.addresses, other.addresses.mirrored());
        assert_eq!(one.netns_cookie, own_netns_cookie().unwrap());
        assert!(one.established && !one.transparent && one.device == 0);
        assert_ne!(one.cookie, other.cookie);
        assert!(facts(listener.into()).is_none());
    }

    #[test]
    fn an_eventfd_is_rung_without_waiting() {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        // One that blocks, and is nearly full: a write would wait for ever.
        let full = EventFd::from_value_and_flags(0, EfdFlags::empty()).unwrap();
        full.write(u64::MAX - 1).unwrap();
        let full = OwnedFd::from(full);
        for _ in 0..100 {
            ring(&full).unwrap();
        }
        let empty = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        let copy = empty.as_fd().try_clone_to_owned().unwrap();
        ring(&copy).unwrap();
        ring(&copy).unwrap();
        assert_eq!(empty.read().unwrap(), 2);
    }

    #[test]
    fn a_descriptor_is_taken_from_a_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = open_process(std::process::id()).unwrap();
        let copy = TcpListener::from(take_descriptor(&own, listener.as_raw_fd()).unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(take_descriptor(&own, 1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
