//! One non-blocking connection on which messages of known length take turns.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

pub struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    have: usize,
    /// When the message under way was begun.
    pub begun: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A whole message has come.
    Message,
    /// More is to come.
    Waiting,
    /// The other end has closed.
    Ended,
}

impl Connection {
    /// `out` is what is said by `say`, `expect` the length of what comes.
    pub fn new(stream: TcpStream, out: Vec<u8>, expect: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, sent: out.len(), out, input: vec![0; expect], have: 0, begun: Instant::now() })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn expect(&mut self, length: usize) {
        self.input.resize(length, 0);
        self.have = 0;
    }

    pub fn message(&self) -> &[u8] {
        &self.input
    }

    /// Begins to send `out`, whole; true once all of it is sent.
    pub fn say(&mut self) -> io::Result<bool> {
        self.sent = 0;
        self.go_on_sending()
    }

    /// Begins to send back what has come.
    pub fn echo(&mut self) -> io::Result<bool> {
        std::mem::swap(&mut self.out, &mut self.input);
        self.input.resize(self.out.len(), 0);
        self.say()
    }

    /// Says this from now on.
    pub fn script(&mut self, out: &[u8]) {
        self.out.clear();
        self.out.extend_from_slice(out);
        self.sent = self.out.len();
    }

    pub fn go_on_sending(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what there is. `until_dry`: until the kernel says so, as edge-triggered programs must.
    pub fn listen(&mut self, until_dry: bool) -> io::Result<Turn> {
        loop {
            let full = self.have == self.input.len();
            if full && !until_dry {
                return Ok(self.whole());
            }
            let mut spare = [0];
            let room = if full { &mut spare[..] } else { &mut self.input[self.have..] };
            match self.stream.read(room) {
                Ok(0) => return Ok(Turn::Ended),
                Ok(_) if full => return Err(io::Error::new(ErrorKind::InvalidData, "more came than was asked for")),
                Ok(read) => self.have += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock && full => return Ok(self.whole()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waiting),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Turn::Ended),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !until_dry && self.have < self.input.len() {
                return Ok(Turn::Waiting);
            }
        }
    }

    fn whole(&mut self) -> Turn {
        self.have = 0;
        Turn::Message
    }
}
