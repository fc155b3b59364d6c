//! What client and server agree on: how a connection's load is named, and how blocking ends read and write.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

/// The first bytes of a connection, from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub load: Asked,
    /// Of a message, or of a chunk.
    pub size: usize,
    /// How long the server is to send (`Down`, `Both`).
    pub time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Every message of `size` comes back.
    Echo,
    /// The client sends until it shuts down; the server answers with its count.
    Up,
    /// The server sends for `time`, then shuts down.
    Down,
    /// Both at once.
    Both,
}

pub const REQUEST_BYTES: usize = 24;

impl Request {
    pub fn echo(size: usize) -> Self {
        Self { load: Asked::Echo, size, time: Duration::ZERO }
    }

    pub fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..8].copy_from_slice(&(self.load as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.size as u64).to_le_bytes());
        bytes[16..].copy_from_slice(&(self.time.as_nanos() as u64).to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> io::Result<Self> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let loads = [Asked::Echo, Asked::Up, Asked::Down, Asked::Both];
        let load = loads.into_iter().find(|load| *load as u64 == word(0));
        let load = load.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request for no known load"))?;
        Ok(Self { load, size: word(8) as usize, time: Duration::from_nanos(word(16)) })
    }
}

/// Where the server is.
#[derive(clap::Args)]
pub struct Server {
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,
    #[arg(long)]
    pub port: u16,
}

impl Server {
    pub fn connected(&self) -> io::Result<TcpStream> {
        connected_to(SocketAddrV4::new(self.address, self.port))
    }
}

pub fn connected_to(address: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Fills `buffer`; false: the other end had closed before its first byte.
pub fn read_whole(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut have = 0;
    while have < buffer.len() {
        match stream.read(&mut buffer[have..]) {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Writes chunks until the time is over; how many bytes that were.
pub fn pour(stream: &mut impl Write, chunk: &[u8], time: Duration) -> io::Result<u64> {
    let (started, mut total) = (Instant::now(), 0);
    // The clock is read once every 64 KiB: its own cost must not be the load.
    let writes_a_look = (65_536 / chunk.len()).max(1);
    while started.elapsed() < time {
        for _ in 0..writes_a_look {
            stream.write_all(chunk)?;
        }
        total += (writes_a_look * chunk.len()) as u64;
    }
    Ok(total)
}

/// Reads until the end; how many bytes that were.
pub fn drain(stream: &mut impl Read, chunk: usize) -> io::Result<u64> {
    // Who expects small messages still reads as much as there is, as real servers do.
    let mut buffer = vec![0; chunk.max(65_536)];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => total += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
