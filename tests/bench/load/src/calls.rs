//! Single calls in one thread, on descriptors of several kinds: what a call costs that Tandem only passes on, and what
//! the two ends of a carried connection cost when nobody ever waits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::orders::{obey, say};
use crate::wire::read_whole;

#[derive(clap::Args)]
pub struct Options {
    #[arg(value_enum)]
    kind: Kind,
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Not for a time: so many pairs of calls, after a warm-up, for who counts instructions or system calls
    #[arg(long)]
    pairs: Option<u64>,
    /// With `--pairs`, for who traces memory: prints a marker's address and the mappings; writes the marker before,
    /// between and after the two calls
    #[arg(long)]
    mark: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// write to /dev/null, read of /dev/zero
    File,
    /// write and read of a pipe
    Pipe,
    /// send and recv on a pair of unix sockets
    Unix,
    /// send and recv on a TCP connection, both ends in this thread
    Tcp,
    /// poll of a TCP connection that has nothing, twice
    Poll,
}

/// Calls with pauses, in which a preloaded connection's two ends can find each other.
const WARM_UP: u32 = 20;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut pair = Pair::new(options.kind)?;
    let mut buffer = vec![b'x'; options.size];
    if !matches!(options.kind, Kind::File | Kind::Pipe) {
        for _ in 0..WARM_UP {
            pair.exchange(&mut buffer)?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if let Some(pairs) = options.pairs {
        if options.mark {
            say(&format!("marker {:x}", MARKER.as_ptr() as usize))?;
            say(&std::fs::read_to_string("/proc/self/maps")?)?;
        }
        for _ in 0..pairs {
            pair.exchange(&mut buffer)?;
        }
        return Ok(());
    }
    obey(|time| measured(&mut pair, &mut buffer, time))
}

fn measured(pair: &mut Pair, buffer: &mut [u8], time: Duration) -> anyhow::Result<Value> {
    const BATCH: u64 = 100;
    let (mut pairs, started) = (0, Instant::now());
    while started.elapsed() < time {
        for _ in 0..BATCH {
            pair.exchange(buffer)?;
        }
        pairs += BATCH;
    }
    let nanoseconds = started.elapsed().as_nanos() as f64 / (2 * pairs) as f64;
    Ok(json!({ "nanoseconds": nanoseconds, "bytes": pairs * buffer.len() as u64 }))
}

static MARKER: AtomicU8 = AtomicU8::new(0);

fn mark() {
    MARKER.store(1, Ordering::Release);
}

enum Pair {
    Streams(Box<dyn Write>, Box<dyn Read>),
    Polled(TcpStream, TcpStream),
}

impl Pair {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::File => {
                let null = File::options().write(true).open("/dev/null")?;
                Self::Streams(Box::new(null), Box::new(File::open("/dev/zero")?))
            }
            Kind::Pipe => {
                let (reader, writer) = io::pipe()?;
                Self::Streams(Box::new(writer), Box::new(reader))
            }
            Kind::Unix => {
                let (one, other) = UnixStream::pair()?;
                Self::Streams(Box::new(one), Box::new(other))
            }
            Kind::Tcp => {
                let (one, other) = tcp_pair()?;
                Self::Streams(Box::new(one), Box::new(other))
            }
            Kind::Poll => {
                let (mut one, mut other) = tcp_pair()?;
                // Where a companion is refused, that is known after some data calls, and they cost nothing more.
                for _ in 0..WARM_UP {
                    one.write_all(b"x")?;
                    other.read_exact(&mut [0])?;
                    other.write_all(b"x")?;
                    one.read_exact(&mut [0])?;
                }
                Self::Polled(one, other)
            }
        })
    }

    fn exchange(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        match self {
            Self::Streams(writer, reader) => {
                mark();
                writer.write_all(buffer)?;
                mark();
                read_whole(reader, buffer)?;
                mark();
            }
            Self::Polled(one, other) => {
                for stream in [one, other] {
                    let mut entry = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                    // SAFETY: one entry is passed, and there is one.
                    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
                    anyhow::ensure!(ready == 0, "poll said {ready} of an idle connection");
                }
            }
        }
        Ok(())
    }
}

fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}
