//! A policyd of the test's own, and switches that are played: what a preloaded program would say, said by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{IoSlice, IoSliceMut};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::*;
use nix::sys::time::TimeVal;
use tandem_policyd::control::client::Control;
use tandem_policyd::control::{self, Answer, Ask, Status};
use tandem_policyd::registry::SsRow;
use tandem_protocol::board::Board;
use tandem_protocol::message::{Companion, CompanionRef, Meet, SlotRef};
use tandem_protocol::registry::Registry;
use tandem_protocol::{Addresses, MAX_MESSAGE, Message, Reason};

pub const DAEMON: &str = env!("CARGO_BIN_EXE_tandem-policyd");
pub const TANDEM: &str = env!("CARGO_BIN_EXE_tandem");
const PATIENCE: Duration = Duration::from_secs(3);
/// What comes by another host's policyd has farther to go.
pub const FAR: Duration = Duration::from_secs(30);

pub struct Policyd {
    pub child: Child,
    pub socket: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Policyd {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_as(arguments, None, "")
    }

    /// With a configuration file, and as another user if asked.
    pub fn start_as(arguments: &[&str], uid: Option<u32>, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), uid, uid).unwrap();
        let file = folder.path().join("policyd.toml");
        std::fs::write(&file, config).unwrap();
        let socket = folder.path().join("policyd.sock");
        let mut command = daemon(&socket);
        command.arg("--config").arg(&file).args(arguments);
        if let Some(uid) = uid {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
        }
        Self { child: wait_until_it_serves(command.spawn().unwrap(), &socket), socket, _folder: Some(folder) }
    }

    /// Again at the same place.
    pub fn restart(&mut self) {
        self.child = wait_until_it_serves(daemon(&self.socket).spawn().unwrap(), &self.socket);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn status(&self) -> Status {
        let Answer::Status(status) = ask(&self.socket, Ask::Status) else { panic!("no status") };
        status
    }

    pub fn ss(&self) -> Vec<SsRow> {
        let Answer::Ss(rows) = ask(&self.socket, Ask::Ss) else { panic!("no rows") };
        rows
    }

    /// Waits until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        eventually(what, || wanted(&self.status()));
    }
}

impl Drop for Policyd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn daemon(socket: &Path) -> Command {
    let mut command = Command::new(DAEMON);
    command.arg("--socket").arg(socket).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TANDEM_")) {
        command.env_remove(name);
    }
    command
}

pub fn ask(socket: &Path, ask: Ask) -> Answer {
    Control::connect(socket, PATIENCE).unwrap().ask(ask).unwrap()
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_until_it_serves(child: Child, socket: &Path) -> Child {
    eventually("policyd serves", || std::os::unix::net::UnixStream::connect(control::path(socket)).is_ok());
    child
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub struct Switch {
    pub channel: OwnedFd,
    pub wake: EventFd,
    pub instance: u64,
    family: Family,
}

#[derive(Clone)]
pub struct Family {
    pub id: [u8; 16],
    pub registry_file: std::rc::Rc<OwnedFd>,
    pub board_file: std::rc::Rc<OwnedFd>,
    map: std::rc::Rc<MmapRaw>,
}

impl Family {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut id = [7; 16];
        id[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let registry_file = memory(Registry::BYTES, Registry::SEALS);
        let map = MmapOptions::new().len(Registry::BYTES).map_raw(&registry_file).unwrap();
        let family = Self {
            id,
            registry_file: registry_file.into(),
            board_file: memory(Board::BYTES, Board::SEALS).into(),
            map: map.into(),
        };
        family.registry().initialise();
        family
    }

    pub fn registry(&self) -> &Registry {
        // SAFETY: a mapping of a Registry's size, page-aligned, of atomics alone, as old as `self`.
        unsafe { &*self.map.as_ptr().cast::<Registry>() }
    }
}

/// What came with a Companion.
#[derive(Debug)]
pub struct Taken {
    pub companion: CompanionRef,
    pub slot: SlotRef,
    pub peer_pid: u32,
    pub fds: Vec<OwnedFd>,
}

impl Switch {
    pub fn connect(socket: &Path) -> Self {
        Self::of_family(socket, Family::new())
    }

    pub fn of_family(socket: &Path, family: Family) -> Self {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
        let mut switch = Self { channel: channel(socket), wake, instance: 0, family };
        switch.hello();
        match switch.receive() {
            Some((Message::Welcome { instance, .. }, _)) => switch.instance = instance,
            other => panic!("no welcome: {other:?}"),
        }
        switch
    }

    fn hello(&self) {
        let fds = [self.family.registry_file.as_raw_fd(), self.family.board_file.as_raw_fd(), self.wake_fd()];
        self.send(&Message::Hello { family: self.family.id, mail: 0 }, &fds);
    }

    fn wake_fd(&self) -> RawFd {
        std::os::fd::AsFd::as_fd(&self.wake).as_raw_fd()
    }

    pub fn registry(&self) -> &Registry {
        self.family.registry()
    }

    pub fn family(&self) -> Family {
        self.family.clone()
    }

    pub fn mail(&self) -> u32 {
        self.registry().header.mail.load(Ordering::Acquire)
    }

    /// A Meet is preceded by its claim in the registry, as every switch has it.
    pub fn send(&self, message: &Message, fds: &[RawFd]) {
        if let Message::Meet(meet) = message {
            self.registry().claim(meet.slot, meet.fd, std::process::id());
        }
        let mut packet = [0; MAX_MESSAGE];
        let length = message.encode(&mut packet);
        send_raw(&self.channel, &packet[..length], fds).unwrap();
    }

    /// `None`: policyd has closed the channel.
    pub fn receive(&self) -> Option<(Message, Vec<OwnedFd>)> {
        receive(&self.channel)
    }

    pub fn meet(&self, slot: u32, stream: &TcpStream) {
        self.send(&Message::Meet(claim(slot, stream)), &[]);
    }

    /// For what comes from far.
    pub fn patient(self) -> Self {
        setsockopt(&self.channel, sockopt::ReceiveTimeout, &TimeVal::new(FAR.as_secs() as i64, 0)).unwrap();
        self
    }

    pub fn companion(&self) -> Taken {
        match self.receive() {
            Some((Message::Companion(Companion { slot, companion, peer_pid }), fds)) => {
                Taken { companion, slot, peer_pid, fds }
            }
            other => panic!("no companion: {other:?}"),
        }
    }

    /// The slot and the reason of the next Refused.
    pub fn refused(&self) -> (u32, Reason) {
        match self.next() {
            Message::Refused { slot, reason } => (slot.slot, reason),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The next message, but for the table of served addresses, which comes when it comes.
    pub fn next(&self) -> Message {
        loop {
            match self.receive() {
                Some((Message::San, _)) => {}
                Some((message, _)) => return message,
                None => panic!("the channel is closed"),
            }
        }
    }

    /// Passes over the news of links that has come by now.
    pub fn settle(&self) {
        self.send(&Message::Meet(Meet { netns_cookie: 0, ..probe() }), &[]);
        while let Message::PeerLink { .. } = self.next() {}
    }

    /// Nothing comes: what was said before has been looked at when the next Refused is for this probe.
    pub fn assert_quiet(&self) {
        self.send(&Message::Meet(Meet { netns_cookie: 0, ..probe() }), &[]);
        assert_eq!(self.refused(), (probe().slot.slot, Reason::NotLocal), "something else came first");
    }
}

/// A claim that no policyd takes.
fn probe() -> Meet {
    let addresses = Addresses::new(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()).unwrap();
    Meet { slot: SlotRef { slot: 999_999, generation: 1 }, fd: 0, addresses, cookie: 0, netns_cookie: 0, verbs: false }
}

/// A true claim of a socket.
pub fn claim(slot: u32, stream: &TcpStream) -> Meet {
    let facts = tandem_policyd::kernel::facts(stream.try_clone().unwrap().into()).unwrap();
    let addresses = Addresses::new(stream.local_addr().unwrap(), stream.peer_addr().unwrap()).unwrap();
    Meet {
        slot: SlotRef { slot, generation: 1 },
        fd: stream.as_raw_fd(),
        addresses,
        cookie: facts.cookie,
        netns_cookie: facts.netns_cookie,
        verbs: true,
    }
}

/// The connecting end and the accepting end.
pub fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

pub fn memory(bytes: usize, seals: i32) -> OwnedFd {
    let file = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&file, bytes as i64).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).unwrap();
    file
}

pub fn channel(path: &Path) -> OwnedFd {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0)).unwrap();
    socket
}

pub fn send_raw(channel: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let ancillary = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(bytes)], ancillary, MsgFlags::MSG_NOSIGNAL, None)
}

pub fn receive(channel: &OwnedFd) -> Option<(Message, Vec<OwnedFd>)> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    // Another thread's test may fork or stop something.
    let ready = || {
        let mut entry = nix::libc::pollfd { fd: channel.as_raw_fd(), events: nix::libc::POLLIN, revents: 0 };
        // SAFETY: one entry of this frame.
        unsafe { nix::libc::poll(&raw mut entry, 1, FAR.as_millis() as i32) }
    };
    while ready() < 0 {}
    let received = recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let received = match received {
        Err(nix::Error::ECONNRESET) => return None,
        received => received.expect("nothing came in time"),
    };
    let mut fds = Vec::new();
    for part in received.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: just received, and owned by nobody else.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = received.bytes;
    (length > 0).then(|| (Message::decode(&bytes[..length]).unwrap(), fds))
}
