//! What the fuzzer has found to reach new code (`policyd/fuzz`), said to a real policyd: it answers others as before, and keeps nothing.

mod switch;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, sockopt};
use nix::sys::time::TimeVal;
use switch::*;
use tandem_policyd::control;
use tandem_protocol::{MAX_MESSAGE, Message};

fn corpus(of: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(of);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 10, "{} files in {}", files.len(), folder.display());
    files
}

fn descriptors(policyd: &Policyd) -> usize {
    fs::read_dir(format!("/proc/{}/fd", policyd.child.id())).unwrap().count()
}

/// The memory of assignments, once there is one, and the processes for which a request stands. Each file would leave more.
const KEPT: usize = 4;

/// Nothing of it is left, and others are served.
fn is_as_before(policyd: &Policyd, before: usize) {
    policyd.until("the clients have gone", |status| status.clients == 0 && status.pairs == 0 && status.parked == 0);
    let (now, until) = (|| descriptors(policyd), Instant::now() + Duration::from_secs(10));
    while now() > before + KEPT && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(now() <= before + KEPT, "{} descriptors, {before} before", now());
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);
}

#[test]
fn all_that_was_said_on_the_control_socket() {
    let policyd = Policyd::start(&[]);
    policyd.status();
    let before = descriptors(&policyd);
    for file in corpus("control") {
        let mut stream = UnixStream::connect(control::path(&policyd.socket)).unwrap();
        // A watch goes on until it is left.
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = stream.write_all(&fs::read(&file).unwrap());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        let ended = stream.read_to_end(&mut answers).is_ok();
        assert!(!ended || answers.is_empty() || answers.ends_with(b"\n"), "{}: half an answer", file.display());
    }
    is_as_before(&policyd, before);
}

#[test]
fn all_that_was_said_on_a_switchs_channel() {
    let policyd = Policyd::start(&[]);
    policyd.status();
    let before = descriptors(&policyd);
    for file in corpus("channel") {
        let family = Family::new();
        let wake = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
        let wake = OwnedFd::from(wake);
        let files = [family.registry_file.as_raw_fd(), family.board_file.as_raw_fd(), wake.as_raw_fd()];
        let channel = channel(&policyd.socket);
        socket::setsockopt(&channel, sockopt::ReceiveTimeout, &TimeVal::new(0, 2_000)).unwrap();
        let mut hello = [0; MAX_MESSAGE];
        let length = Message::Hello { family: family.id, mail: 0 }.encode(&mut hello);
        send_raw(&channel, &hello[..length], &files).unwrap();
        let bytes = fs::read(&file).unwrap();
        let mut rest = &bytes[..];
        // {how many descriptors come with it, length, bytes}, as the fuzzer's target reads it.
        while let [count, length, more @ ..] = rest {
            let (packet, more) = more.split_at(usize::from(*length).min(more.len()));
            let given: Vec<_> = files.iter().copied().cycle().take(usize::from(count % 5)).collect();
            // It may have closed the channel by now.
            let _ = send_raw(&channel, packet, &given);
            let mut answer = [0; MAX_MESSAGE];
            while socket::recv(channel.as_raw_fd(), &mut answer, socket::MsgFlags::empty()).is_ok_and(|n| n > 0) {}
            rest = more;
        }
    }
    is_as_before(&policyd, before);
}
