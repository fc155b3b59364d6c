//! A stand-in for policyd that speaks its messages and says what a test tells it to: so the switch is tested against every answer, and
//! against none.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tandem_protocol::assignment::{Arena, Content, Mode, Name, PortBind, Range, State};
use tandem_protocol::registry::Registry;
use tandem_protocol::{MAX_MESSAGE, Message};
use tandem_tests::Scratch;
use tandem_tests::artifacts::artifacts;

/// What processes are assigned, as a test says it.
#[derive(Clone)]
pub struct Assigned {
    pub interface: &'static str,
    pub index: u32,
    pub state: State,
    pub mode: Mode,
    pub by_source: bool,
    pub needs_source: bool,
    pub port_bind: PortBind,
    pub v4: (Ipv4Addr, Vec<(&'static str, &'static str)>),
    pub v6: (Ipv6Addr, Vec<(&'static str, &'static str)>),
}

impl Assigned {
    /// An uplink of `network::Network`, for the far hosts and nothing else.
    pub fn uplink(interface: &'static str, index: u32) -> Self {
        let (v4, v6) = if interface == "eth0" { ("10.70.0.1", "fd70::1") } else { ("10.71.0.1", "fd71::1") };
        Self {
            interface,
            index,
            state: State::Active,
            mode: Mode::Auto,
            by_source: interface == "eth1",
            needs_source: false,
            port_bind: PortBind::Leave,
            v4: (v4.parse().expect("an address"), vec![("10.79.0.0", "10.79.255.255")]),
            v6: (v6.parse().expect("an address"), vec![("fd79::", "fd79:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]),
        }
    }

    fn write(&self, arena: &Arena, table: usize) {
        let parse = |text: &&str| text.parse().expect("an address");
        let v4: Vec<_> = self.v4.1.iter().map(|(a, b)| Range { first: parse(a), last: parse(b), source: 0 }).collect();
        let six = |text: &&str| text.parse().expect("an address");
        let v6: Vec<_> = self.v6.1.iter().map(|(a, b)| Range { first: six(a), last: six(b), source: 0 }).collect();
        arena.table(table).expect("a table").write(&Content {
            state: self.state,
            mode: self.mode,
            by_source: self.by_source,
            needs_source: self.needs_source,
            existing_fail: false,
            port_bind: self.port_bind,
            interface_index: self.index,
            interface: Name::new(self.interface.as_bytes()).expect("a name"),
            v4_sources: &[self.v4.0],
            v6_sources: &[self.v6.0],
            v4: &v4,
            v6: &v6,
        });
    }
}

/// How `Assign` is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    AtOnce,
    After(Duration),
    Never,
    Refuse,
    /// An arena that anybody could shorten.
    Unsealed,
}

#[derive(Default)]
struct Clients {
    /// Channels, registry (for its mail word), and the cell that a pid was given.
    channels: Vec<(OwnedFd, Option<usize>)>,
    cells: HashMap<i32, usize>,
    promised: HashMap<i32, usize>,
}

struct Shared {
    arena: &'static Arena,
    memory: OwnedFd,
    unsealed: OwnedFd,
    manner: Mutex<Manner>,
    table: Mutex<Option<usize>>,
    clients: Mutex<Clients>,
    asked: AtomicUsize,
    end: AtomicBool,
}

pub struct StandIn {
    folder: Scratch,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub fn start() -> Self {
        let folder = Scratch::new();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod of the scratch directory");
        let (memory, unsealed) = (memfd(), memfd());
        // SAFETY: a fresh mapping of an arena's size, kept until the test program ends; all its fields are atomics.
        let arena: &'static Arena = unsafe { &*map(memory.as_raw_fd(), Arena::BYTES).cast::<Arena>() };
        arena.initialise();
        // SAFETY: plain numbers.
        let sealed = unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, Arena::SEALS) };
        assert_eq!(sealed, 0, "sealing: {}", io::Error::last_os_error());
        let shared = Arc::new(Shared {
            arena,
            memory,
            unsealed,
            manner: Mutex::new(Manner::AtOnce),
            table: Mutex::new(None),
            clients: Mutex::default(),
            asked: AtomicUsize::new(0),
            end: AtomicBool::new(false),
        });
        let mut stand_in = Self { folder, shared, thread: None };
        stand_in.listen();
        stand_in
    }

    fn listen(&mut self) {
        let path = self.socket();
        let _ = fs::remove_file(&path);
        let listener = listen(&path);
        self.shared.end.store(false, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.thread = Some(thread::spawn(move || serve(&listener, &shared)));
    }

    fn socket(&self) -> PathBuf {
        self.folder.file("policyd.sock")
    }

    /// Of every process that asks or has asked, from this moment on.
    pub fn assign(&self, assigned: Option<&Assigned>) {
        let table = assigned.map(|assigned| {
            assigned.write(self.shared.arena, 0);
            0
        });
        *lock(&self.shared.table) = table;
        for &cell in lock(&self.shared.clients).cells.values() {
            self.shared.arena.assign(cell, table);
        }
    }

    /// Of one process, when it asks.
    pub fn promise(&self, pid: u32, table: usize, assigned: &Assigned) {
        assigned.write(self.shared.arena, table);
        lock(&self.shared.clients).promised.insert(pid as i32, table);
    }

    pub fn manner(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// How often an assignment was asked for.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// As if killed: nobody listens, every channel is closed.
    pub fn stop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the stand-in");
        }
        *lock(&self.shared.clients) = Clients::default();
    }

    pub fn start_again(&mut self) {
        self.listen();
    }

    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("LD_PRELOAD", artifacts().library.clone()), ("TANDEM_POLICYD", self.socket())]
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(listener: &OwnedFd, shared: &Shared) {
    while !shared.end.load(Ordering::SeqCst) {
        let mut entries = vec![entry(listener.as_raw_fd())];
        entries.extend(lock(&shared.clients).channels.iter().map(|(channel, _)| entry(channel.as_raw_fd())));
        // SAFETY: as many entries as said.
        unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, 2) };
        if entries[0].revents != 0 {
            // SAFETY: a new descriptor of ours, or -1.
            let channel = unsafe {
                libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
            };
            if channel >= 0 {
                // SAFETY: just accepted.
                lock(&shared.clients).channels.push((unsafe { OwnedFd::from_raw_fd(channel) }, None));
            }
        }
        for ready in entries.iter().skip(1).filter(|entry| entry.revents != 0) {
            if !hear(shared, ready.fd) {
                lock(&shared.clients).channels.retain(|(channel, _)| channel.as_raw_fd() != ready.fd);
            }
        }
    }
}

fn entry(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// False when the channel is over.
fn hear(shared: &Shared, channel: RawFd) -> bool {
    let Some((message, pid, fds)) = receive(channel) else { return false };
    match message {
        Message::Hello { .. } => {
            let registry = fds.first().map(|fd| map(fd.as_raw_fd(), Registry::BYTES) as usize);
            for (known, its) in &mut lock(&shared.clients).channels {
                if known.as_raw_fd() == channel {
                    *its = registry;
                }
            }
            say(shared, channel, &Message::Welcome { policyd_version: 1, instance: 7 }, None);
        }
        Message::Assign { .. } => {
            shared.asked.fetch_add(1, Ordering::SeqCst);
            answer(shared, channel, pid);
        }
        _ => {}
    }
    true
}

fn answer(shared: &Shared, channel: RawFd, pid: i32) {
    let (cell, promised) = {
        let mut clients = lock(&shared.clients);
        let next = clients.cells.len();
        (*clients.cells.entry(pid).or_insert(next), clients.promised.get(&pid).copied())
    };
    shared.arena.assign(cell, promised.or(*lock(&shared.table)));
    let assignment = Message::Assignment { cell: cell as u32 };
    let manner = *lock(&shared.manner);
    match manner {
        Manner::AtOnce => say(shared, channel, &assignment, Some(&shared.memory)),
        Manner::After(delay) => {
            thread::sleep(delay);
            say(shared, channel, &assignment, Some(&shared.memory));
        }
        Manner::Never => {}
        Manner::Refuse => {
            say(shared, channel, &Message::Unassigned { reason: tandem_protocol::Reason::Quota }, None);
        }
        Manner::Unsealed => say(shared, channel, &assignment, Some(&shared.unsealed)),
    }
}

/// A message, and the word that says that there is one.
fn say(shared: &Shared, channel: RawFd, message: &Message, fd: Option<&OwnedFd>) {
    let mut text = [0u8; MAX_MESSAGE];
    let length = message.encode(&mut text);
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: length };
    let mut control = [0u64; 4];
    // SAFETY: zeroes are a valid msghdr; all it points at stands on this frame.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if let Some(fd) = fd {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
        libc::sendmsg(channel, &header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    }
    let clients = lock(&shared.clients);
    let registry = clients.channels.iter().find(|(known, _)| known.as_raw_fd() == channel).and_then(|(_, its)| *its);
    if let Some(registry) = registry {
        // SAFETY: a mapping of a registry's size, kept until the test program ends.
        unsafe { (*(registry as *const Registry)).header.mail.fetch_add(1, Ordering::Release) };
    }
}

fn receive(channel: RawFd) -> Option<(Message, i32, Vec<OwnedFd>)> {
    let mut text = [0u8; MAX_MESSAGE];
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    let mut control = [0u64; 16];
    let mut fds = Vec::new();
    // SAFETY: zeroes are valid; all that is pointed at stands on this frame; descriptors that come are ours.
    unsafe {
        let mut credentials: libc::ucred = std::mem::zeroed();
        let mut size = size_of::<libc::ucred>() as libc::socklen_t;
        libc::getsockopt(channel, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut credentials).cast(), &mut size);
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(channel, &mut header, libc::MSG_CMSG_CLOEXEC);
        let mut cmsg = libc::CMSG_FIRSTHDR(&header);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*cmsg).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(cmsg).cast::<RawFd>();
                fds.extend((0..count).map(|at| OwnedFd::from_raw_fd(data.add(at).read_unaligned())));
            }
            cmsg = libc::CMSG_NXTHDR(&header, cmsg);
        }
        let length = usize::try_from(length).ok().filter(|&n| n > 0)?;
        Some((Message::decode(&text[..length]).ok()?, credentials.pid, fds))
    }
}

fn listen(path: &std::path::Path) -> OwnedFd {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: zeroes are a valid address; the descriptor is ours.
    unsafe {
        let listener = OwnedFd::from_raw_fd(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0));
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, &from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
            *to = from as libc::c_char;
        }
        let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        assert_eq!(libc::bind(listener.as_raw_fd(), (&raw const address).cast(), size), 0, "{path:?}");
        assert_eq!(libc::listen(listener.as_raw_fd(), 64), 0);
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod of the socket");
        listener
    }
}

fn memfd() -> OwnedFd {
    // SAFETY: a name that ends in NUL; the descriptor is ours.
    unsafe {
        let fd = libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert_eq!(libc::ftruncate(fd, Arena::BYTES as libc::off_t), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn map(fd: RawFd, bytes: usize) -> *mut u8 {
    // SAFETY: a fresh mapping where the kernel chooses.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mapping: {}", io::Error::last_os_error());
    at.cast()
}
