//! The other process: this program once more, running the same test in the other role. What the switches and policyds would
//! carry between the two goes by a pair of unix sockets.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use tandem_provider::{BLOB_BYTES, Blob, SHARE_BYTES, Share};

use crate::end::{End, FIRST, Stream, address};

const ROLE: &str = "TANDEM_RDMA_OTHER";
const CHANNEL: i32 = 77;

pub struct Other {
    pub channel: UnixStream,
    /// In the first role.
    pub child: Option<Child>,
    pub own: IpAddr,
    pub peer: IpAddr,
}

/// The addresses of the two hosts, as scripts/vm says.
pub fn addresses() -> [IpAddr; 2] {
    ["TANDEM_VM_ADDRESS", "TANDEM_VM_PEER"].map(|name| said(name).parse().unwrap())
}

pub fn said(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("no {name}: run by scripts/vm"))
}

impl Other {
    /// In the first process starts the second one, which comes here too. `test` is this very test's name.
    pub fn meet(test: &str) -> Other {
        Other::meet_by(test, addresses(), Command::new(std::env::current_exe().unwrap()))
    }

    /// The second process by this command.
    pub fn meet_as(test: &str, command: Command) -> Other {
        Other::meet_by(test, addresses(), command)
    }

    pub fn is_second() -> bool {
        std::env::var_os(ROLE).is_some()
    }

    /// By IPv6.
    pub fn meet_by_six(test: &str) -> Other {
        let addresses = ["TANDEM_VM_ADDRESS6", "TANDEM_VM_PEER6"].map(|name| said(name).parse().unwrap());
        Other::meet_by(test, addresses, Command::new(std::env::current_exe().unwrap()))
    }

    /// The second process is in a network namespace that has no RDMA interface.
    pub fn meet_in_namespace(test: &str) -> Other {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", said("TANDEM_VM_HOSTS").split_whitespace().nth(1).unwrap()]);
        command.arg(std::env::current_exe().unwrap());
        Other::meet_by(test, addresses(), command)
    }

    fn meet_by(test: &str, [first, second]: [IpAddr; 2], mut command: Command) -> Other {
        if std::env::var_os(ROLE).is_some() {
            // SAFETY: the descriptor that the first process gave.
            let channel = unsafe { UnixStream::from(OwnedFd::from_raw_fd(CHANNEL)) };
            return Other { channel, child: None, own: second, peer: first };
        }
        let (channel, theirs) = UnixStream::pair().unwrap();
        command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        let fd = theirs.as_raw_fd();
        // SAFETY: only dup2, which may be called there.
        unsafe {
            command.pre_exec(
                move || {
                    if libc::dup2(fd, CHANNEL) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
                },
            );
        }
        // What it says of tests is this process's to say; what it says of itself goes to stderr.
        let child = Some(command.stdout(std::process::Stdio::null()).spawn().unwrap());
        Other { channel, child, own: first, peer: second }
    }

    pub fn first(&self) -> bool {
        self.child.is_some()
    }

    pub fn tell(&mut self, bytes: &[u8]) {
        self.channel.write_all(bytes).unwrap();
    }

    pub fn hear<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.channel.read_exact(&mut bytes).expect("the other process speaks");
        bytes
    }

    /// Both are here.
    pub fn step(&mut self, number: u8) {
        self.tell(&[number]);
        assert_eq!(self.hear::<1>(), [number], "the two are not at the same step");
    }

    pub fn swap_share(&mut self, own: &Share) -> Share {
        self.tell(&own.bytes);
        Share { bytes: self.hear::<SHARE_BYTES>() }
    }

    pub fn swap_blob(&mut self, own: &Blob) -> Blob {
        self.tell(&own.used.to_ne_bytes());
        self.tell(&own.bytes);
        let used = u32::from_ne_bytes(self.hear());
        Blob { used, reserved: 0, bytes: self.hear::<BLOB_BYTES>() }
    }

    /// An end with one stream, connected.
    pub fn stream(&mut self, ring: u64) -> (End, Stream) {
        let mut end = End::open(self.own, ring);
        let theirs = self.swap_share(&end.share(end.landing.number));
        let (remote, bytes) = end.adopt(&theirs);
        assert_eq!(bytes, end.landing.bytes);
        let stream = self.join(&mut end, FIRST, remote, ring);
        (end, stream)
    }

    /// One more companion, by the ports that the cookie says.
    pub fn join(&mut self, end: &mut End, cookie: u64, remote: u32, ring: u64) -> Stream {
        let (own, peer) = if self.first() { (7000, 8000) } else { (8000, 7000) };
        let local = address(self.own, own + (cookie % 1000) as u16);
        let theirs = address(self.peer, peer + (cookie % 1000) as u16);
        let (companion, blob) = end.prepare(cookie, &local, &theirs);
        let blob = self.swap_blob(&blob);
        end.connect(companion, cookie, &blob);
        self.step(b'c');
        Stream::new(companion, cookie, remote, ring)
    }

    /// The second process has succeeded, too.
    pub fn part(mut self) {
        if let Some(child) = &mut self.child {
            assert!(child.wait().unwrap().success(), "the other process failed");
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
