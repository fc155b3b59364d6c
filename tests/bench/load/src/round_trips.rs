//! A message there, one of the same size back: one connection or many, by blocking calls or an event loop.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::connection::{Connection, Turn};
use crate::event_loop::{EventLoop, Wait};
use crate::orders::{Times, obey, outcome};
use crate::wire::{Request, Server, read_whole};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
    #[arg(long, value_enum, default_value = "blocking")]
    wait: Wait,
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// So many of the connections have a message under way at any time; blocking: one, picked at random
    #[arg(long, default_value_t = 1)]
    active: usize,
}

/// Every connection exchanges so many messages before the first measurement, with pauses in which two preloaded ends
/// can find each other, however many connections there are.
pub const WARM_UP: usize = 8;
pub const PAUSE: Duration = Duration::from_millis(20);

pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!((1..=options.connections).contains(&options.active), "--active is 1 to --connections");
    if options.wait == Wait::Blocking {
        let mut client = Blocking::new(options)?;
        return obey(|time| client.run(time));
    }
    let mut client = Looping::new(options)?;
    obey(|time| client.run(time))
}

struct Blocking {
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
    random: u64,
}

impl Blocking {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let (request, buffer) = (Request::echo(options.size).to_bytes(), vec![b'x'; options.size]);
        let mut client = Self { streams: Vec::new(), buffer, random: 0x9E37_79B9_7F4A_7C15 };
        for _ in 0..options.connections {
            let mut stream = options.server.connected()?;
            stream.write_all(&request)?;
            client.streams.push(stream);
        }
        for _ in 0..WARM_UP {
            for at in 0..client.streams.len() {
                client.exchange(at)?;
            }
            sleep(PAUSE);
        }
        Ok(client)
    }

    fn run(&mut self, time: Duration) -> anyhow::Result<Value> {
        let mut times = Times::new();
        let started = Instant::now();
        let mut before = started;
        while before - started < time {
            let at = self.pick();
            self.exchange(at)?;
            let after = Instant::now();
            times.note(after - before);
            before = after;
        }
        let count = times.count();
        Ok(outcome(started, count, count * 2 * self.buffer.len() as u64, &times))
    }

    fn exchange(&mut self, at: usize) -> anyhow::Result<()> {
        let stream = &mut self.streams[at];
        stream.write_all(&self.buffer)?;
        ensure!(read_whole(stream, &mut self.buffer)?, "the server has closed");
        Ok(())
    }

    /// By xorshift.
    fn pick(&mut self) -> usize {
        if self.streams.len() == 1 {
            return 0;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as usize % self.streams.len()
    }
}

struct Looping {
    connections: Vec<Connection>,
    events: EventLoop,
    active: usize,
    size: usize,
}

impl Looping {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let request = Request::echo(options.size).to_bytes();
        let events = EventLoop::new(options.wait)?;
        let mut client = Self { connections: Vec::new(), events, active: options.active, size: options.size };
        for token in 0..options.connections {
            let mut stream = options.server.connected()?;
            stream.write_all(&request)?;
            client.events.watch(stream.as_raw_fd(), token)?;
            client.connections.push(Connection::new(stream, vec![b'x'; options.size], options.size)?);
        }
        let all: Vec<usize> = (0..options.connections).collect();
        for _ in 0..WARM_UP {
            // Few at a time, so that the server's own turn is as short as later.
            for some in all.chunks(options.active) {
                client.exchange(some, Duration::ZERO, &mut Times::new())?;
            }
            sleep(PAUSE);
        }
        Ok(client)
    }

    fn run(&mut self, time: Duration) -> anyhow::Result<Value> {
        let (all, active) = (self.connections.len(), self.active);
        let chosen: Vec<usize> = (0..active).map(|index| index * all / active).collect();
        let mut times = Times::new();
        let started = Instant::now();
        self.exchange(&chosen, time, &mut times)?;
        let count = times.count();
        Ok(outcome(started, count, count * 2 * self.size as u64, &times))
    }

    /// On each of these at once: exchanges until the time is over, one at least, and none is left under way.
    fn exchange(&mut self, which: &[usize], time: Duration, times: &mut Times) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut under_way = which.len();
        let mut news = Vec::new();
        for &token in which {
            self.say(token, started)?;
        }
        while under_way > 0 {
            self.events.wait(&mut news)?;
            for event in &news {
                let connection = &mut self.connections[event.token];
                if event.writable && connection.go_on_sending()? {
                    self.events.want_room(connection.stream().as_raw_fd(), event.token, false)?;
                }
                match connection.listen(self.events.edge())? {
                    Turn::Waiting => continue,
                    Turn::Ended => bail!("the server has closed"),
                    Turn::Message => {}
                }
                let now = Instant::now();
                times.note(now - connection.begun);
                if now - started < time {
                    self.say(event.token, now)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }

    fn say(&mut self, token: usize, now: Instant) -> anyhow::Result<()> {
        let connection = &mut self.connections[token];
        connection.begun = now;
        if !connection.say()? {
            self.events.want_room(connection.stream().as_raw_fd(), token, true)?;
        }
        Ok(())
    }
}
