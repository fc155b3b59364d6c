//! One end of one connection: greeting, ping-pongs, then both directions at once.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::plan::{Dice, Direction, Plan};
use crate::reader::{self, Got};
use crate::socket::{self, Call};
use crate::{reassembly, spawn, writer};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Client,
    Server,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

#[derive(Default)]
pub struct Traffic {
    pub bytes: u64,
    pub cut_short: bool,
}

pub fn greet(stream: &TcpStream, index: u64) -> io::Result<()> {
    send_all(stream.as_raw_fd(), &index.to_le_bytes())
}

pub fn greeted(stream: &TcpStream) -> io::Result<u64> {
    let mut index = [0; 8];
    receive_all(stream.as_raw_fd(), &mut index)?;
    Ok(u64::from_le_bytes(index))
}

pub fn run(stream: TcpStream, end: End, plan: &Plan, peer_may_die: bool) -> Result<Traffic, String> {
    stream.set_nodelay(plan.no_delay).map_err(|e| format!("nodelay: {e}"))?;
    let fd = stream.as_raw_fd();
    if let Err(e) = ping_pongs(fd, end, plan) {
        return cut_short(peer_may_die, &format!("ping-pong: {e}"), 0);
    }
    if plan.nonblocking[usize::from(end == End::Server)] {
        stream.set_nonblocking(true).map_err(|e| format!("nonblocking: {e}"))?;
    }
    let (outgoing, incoming) = match end {
        End::Client => (&plan.directions[0], &plan.directions[1]),
        End::Server => (&plan.directions[1], &plan.directions[0]),
    };

    let left = Arc::new(AtomicUsize::new(outgoing.quotas.len()));
    let fin_by_close = plan.fin_by_close && end == End::Server;
    let writers: Vec<_> = (0..outgoing.quotas.len())
        .map(|number| {
            let (direction, left) = (outgoing.clone(), left.clone());
            spawn(move || write(fd, &direction, number, &left, fin_by_close))
        })
        .collect();
    let readers: Vec<_> = (1..incoming.readers)
        .map(|number| {
            let direction = incoming.clone();
            spawn(move || reader::read(fd, &direction, number))
        })
        .collect();
    let mut got = vec![reader::read(fd, incoming, 0)];
    got.extend(readers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a reader panicked".into()))));
    let written = writers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panic"))));
    let written: Vec<io::Result<u64>> = written.collect();
    drop(stream);

    judge(got, written, incoming, peer_may_die)
}

fn write(fd: RawFd, direction: &Direction, number: usize, left: &AtomicUsize, fin_by_close: bool) -> io::Result<u64> {
    let result = writer::write(fd, direction, number);
    if left.fetch_sub(1, Ordering::SeqCst) == 1 && !fin_by_close {
        match socket::shutdown_writing(fd) {
            // The peer's RST came first; the writers know.
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {}
            other => other?,
        }
    }
    result
}

fn judge(
    got: Vec<Result<Got, String>>,
    written: Vec<io::Result<u64>>,
    incoming: &Direction,
    peer_may_die: bool,
) -> Result<Traffic, String> {
    let got = got.into_iter().collect::<Result<Vec<Got>, String>>()?;
    let positions = if got.len() == 1 { got[0].positions } else { reassembly::reassemble(&got, incoming.key)? };
    let mut bytes: u64 = positions.0.iter().sum();
    let short = incoming.quotas.iter().zip(positions.0).any(|(&quota, position)| position < quota);
    let long =
        positions.0.iter().enumerate().any(|(at, &position)| position > incoming.quotas.get(at).copied().unwrap_or(0));
    if long {
        return Err(format!("more bytes than were written: {positions:?}"));
    }
    let mut trouble = String::new();
    for failed in got.iter().filter_map(|got| got.failed.as_ref()) {
        trouble = format!("read: {failed} at {positions:?}");
    }
    for result in written {
        match result {
            Ok(count) => bytes += count,
            Err(e) => trouble = format!("write: {e}"),
        }
    }
    if short && trouble.is_empty() {
        trouble = format!("the end came early: {positions:?} of {:?} ({} bytes)", incoming.quotas, incoming.total());
    }
    if trouble.is_empty() {
        return Ok(Traffic { bytes, cut_short: false });
    }
    cut_short(peer_may_die, &trouble, bytes)
}

fn cut_short(peer_may_die: bool, trouble: &str, bytes: u64) -> Result<Traffic, String> {
    let as_of_a_death =
        ["early", "reset", "Broken pipe", "end of file", "filled"].iter().any(|word| trouble.contains(word));
    if peer_may_die && as_of_a_death { Ok(Traffic { bytes, cut_short: true }) } else { Err(trouble.into()) }
}

fn ping_pongs(fd: RawFd, end: End, plan: &Plan) -> io::Result<()> {
    let mut dice = Dice::new(plan.directions[0].key ^ plan.directions[1].key);
    for _ in 0..plan.pings {
        let bytes: Vec<u8> = (0..dice.size(300)).map(|_| dice.next() as u8).collect();
        let mut came = vec![0; bytes.len()];
        if end == End::Client {
            send_all(fd, &bytes)?;
        }
        receive_all(fd, &mut came)?;
        if came != bytes {
            return Err(io::Error::other("wrong bytes"));
        }
        if end == End::Server {
            send_all(fd, &bytes)?;
        }
        if end == End::Client && plan.ping_pause_us > 0 {
            thread::sleep(Duration::from_micros(plan.ping_pause_us));
        }
    }
    Ok(())
}

fn send_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[socket::send(fd, bytes, Call::Send, 0)?..];
    }
    Ok(())
}

fn receive_all(fd: RawFd, bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match socket::receive(fd, &mut bytes[done..], Call::Send, 0)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}
