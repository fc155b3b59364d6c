//! A memcached's client: nine gets to a set, by its text protocol.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::connection::{Connection, Turn};
use crate::event_loop::{EventLoop, Wait};
use crate::orders::{Times, obey, outcome};
use crate::round_trips::{PAUSE, WARM_UP};
use crate::wire::{Server, read_whole};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 100)]
    size: usize,
}

const STORED: &[u8] = b"STORED\r\n";
const GETS_TO_A_SET: u64 = 9;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut client = Client::new(options)?;
    obey(|time| client.run(time))
}

struct Client {
    connections: Vec<Connection>,
    events: EventLoop,
    turns: Vec<u64>,
    set: Vec<u8>,
    get: Vec<u8>,
    found: Vec<u8>,
}

impl Client {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let value = "v".repeat(options.size);
        let set = format!("set tandem 0 0 {}\r\n{value}\r\n", options.size).into_bytes();
        let found = format!("VALUE tandem 0 {}\r\n{value}\r\nEND\r\n", options.size).into_bytes();
        let mut client = Self {
            connections: Vec::new(),
            events: EventLoop::new(Wait::EpollLt)?,
            turns: vec![0; options.connections],
            set,
            get: b"get tandem\r\n".to_vec(),
            found,
        };
        for token in 0..options.connections {
            let mut stream = options.server.connected()?;
            stream.write_all(&client.set)?;
            let mut answer = [0; STORED.len()];
            ensure!(read_whole(&mut stream, &mut answer)? && answer == STORED, "memcached has not stored the value");
            client.events.watch(stream.as_raw_fd(), token)?;
            client.connections.push(Connection::new(stream, Vec::new(), 0)?);
        }
        for _ in 0..WARM_UP {
            client.run(Duration::ZERO)?;
            sleep(PAUSE);
        }
        Ok(client)
    }

    fn run(&mut self, time: Duration) -> anyhow::Result<Value> {
        let mut times = Times::new();
        let (mut news, mut bytes) = (Vec::new(), 0);
        let started = Instant::now();
        let mut under_way = self.connections.len();
        for token in 0..under_way {
            bytes += self.ask(token, started)?;
        }
        while under_way > 0 {
            self.events.wait(&mut news)?;
            for event in &news {
                let connection = &mut self.connections[event.token];
                match connection.listen(false)? {
                    Turn::Waiting => continue,
                    Turn::Ended => bail!("memcached has closed"),
                    Turn::Message => {}
                }
                let wanted = if asks_to_set(self.turns[event.token]) { STORED } else { &self.found[..] };
                ensure!(connection.message() == wanted, "memcached answered something else");
                let now = Instant::now();
                times.note(now - connection.begun);
                self.turns[event.token] += 1;
                if now - started < time {
                    bytes += self.ask(event.token, now)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(outcome(started, times.count(), bytes, &times))
    }

    /// The bytes of question and answer.
    fn ask(&mut self, token: usize, now: Instant) -> anyhow::Result<u64> {
        let (question, answer) = match asks_to_set(self.turns[token]) {
            true => (&self.set, STORED.len()),
            false => (&self.get, self.found.len()),
        };
        let connection = &mut self.connections[token];
        connection.script(question);
        connection.expect(answer);
        connection.begun = now;
        ensure!(connection.say()?, "the socket has no room for {} bytes", question.len());
        Ok((question.len() + answer) as u64)
    }
}

fn asks_to_set(turn: u64) -> bool {
    turn.is_multiple_of(GETS_TO_A_SET + 1)
}
