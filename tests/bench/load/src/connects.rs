//! Short connections: connect, some exchanges, close.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use anyhow::ensure;
use serde_json::Value;

use crate::orders::{Times, obey, outcome};
use crate::wire::{connected_to, read_whole};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    port: u16,
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long, default_value_t = 1)]
    exchanges: u64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut buffer = vec![b'x'; options.size];
    let mut host = 0;
    obey(|time| {
        let [mut whole, mut connecting, mut exchanging, mut closing] = [(); 4].map(|()| Times::new());
        let started = Instant::now();
        let mut before = started;
        while before - started < time {
            // Closed connections keep their ports for a minute. Another address of the loopback has ports of its own.
            host = host % 250 + 1;
            let mut stream = connected_to(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), options.port))?;
            let connected = Instant::now();
            for _ in 0..options.exchanges {
                stream.write_all(&buffer)?;
                ensure!(read_whole(&mut stream, &mut buffer)?, "the server has closed");
            }
            let exchanged = Instant::now();
            drop(stream);
            let after = Instant::now();
            connecting.note(connected - before);
            exchanging.note(exchanged - connected);
            closing.note(after - exchanged);
            whole.note(after - before);
            before = after;
        }
        let count = whole.count();
        let mut told = outcome(started, count, count * options.exchanges * 2 * options.size as u64, &whole);
        if let Value::Object(fields) = &mut told {
            connecting.tell("connect ", fields);
            exchanging.tell("exchange ", fields);
            closing.tell("close ", fields);
        }
        Ok(told)
    })
}
