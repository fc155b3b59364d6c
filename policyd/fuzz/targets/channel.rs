//! Any packets on a switch's channel, after a Hello that is right: policyd drops who misbehaves, and nothing is left.
//!
//! The input: packets, each {how many descriptors come with it: u8, length: u8, bytes}.

#![no_main]

mod daemon;

use std::cell::OnceCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use daemon::Daemon;
use libfuzzer_sys::fuzz_target;
use tandem_policyd::channel;
use tandem_protocol::board::Board;
use tandem_protocol::registry::Registry;
use tandem_protocol::{MAX_MESSAGE, Message};
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::AncillaryMessageWriter;

thread_local! {
    static DAEMON: OnceCell<(Daemon, [OwnedFd; 3])> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    DAEMON.with(|known| {
        let (daemon, files) = known.get_or_init(|| (Daemon::new(), files()));
        let shared = daemon.shared.clone();
        daemon.run(async move {
            let (near, far) = UnixSeqpacket::pair().expect("a pair");
            let server = tokio::task::spawn_local(channel::serve(far, shared.clone()));
            let mut hello = [0; MAX_MESSAGE];
            let length = Message::Hello { family: [7; 16], mail: 0 }.encode(&mut hello);
            send(&near, &hello[..length], files).await;
            let mut rest = bytes;
            while let [count, length, more @ ..] = rest {
                let (packet, more) = more.split_at(usize::from(*length).min(more.len()));
                send(&near, packet, files.iter().cycle().take(usize::from(count % 5))).await;
                take(&near).await;
                rest = more;
            }
            near.shutdown(std::net::Shutdown::Write).expect("half a close");
            let ended = tokio::time::timeout(Duration::from_secs(20), server).await;
            ended.expect("the channel ends").expect("no panic");
            assert!(shared.broker.borrow().is_idle(), "a client is left");
        });
    });
});

fn files() -> [OwnedFd; 3] {
    let memory = |bytes: usize, seals: i32| {
        // SAFETY: a new file, of this size, sealed as policyd wants it.
        unsafe {
            let fd = OwnedFd::from_raw_fd(libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING));
            assert_eq!(libc::ftruncate(fd.as_raw_fd(), bytes as i64), 0);
            assert_eq!(libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals), 0);
            fd
        }
    };
    let registry = memory(Registry::BYTES, Registry::SEALS);
    // SAFETY: a mapping of the file's size, of atomics alone; it stays.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), Registry::BYTES, protection, libc::MAP_SHARED, registry.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        (*at.cast::<Registry>()).initialise();
    }
    // SAFETY: a new descriptor.
    let wake = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) };
    [registry, memory(Board::BYTES, Board::SEALS), wake]
}

/// Policyd may have closed the channel by now.
async fn send<'a>(near: &UnixSeqpacket, packet: &[u8], fds: impl IntoIterator<Item = &'a OwnedFd>) {
    let mut room = [0; 256];
    let mut ancillary = AncillaryMessageWriter::new(&mut room);
    let fds: Vec<_> = fds.into_iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        ancillary.add_fds(&fds).expect("room for the descriptors");
    }
    let _ = near.send_vectored_with_ancillary(&[IoSlice::new(packet)], &mut ancillary).await;
}

/// What has been answered by now.
async fn take(near: &UnixSeqpacket) {
    let mut answer = [0; MAX_MESSAGE];
    let mut room = [0; 256];
    loop {
        let mut parts = [IoSliceMut::new(&mut answer)];
        let answered = near.recv_vectored_with_ancillary(&mut parts, &mut room);
        match tokio::time::timeout(Duration::from_micros(200), answered).await {
            Ok(Ok((info, _))) if info.bytes_read() > 0 => {}
            _ => return,
        }
    }
}
