//! Bytes one way, or both, on one connection.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::orders::obey;
use crate::wire::{Asked, Request, Server, drain, pour, read_whole};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    server: Server,
    /// Of each write
    #[arg(long, default_value_t = 65_536)]
    chunk: usize,
    #[arg(long, value_enum, default_value = "up")]
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// From the client to the server
    Up,
    Down,
    Both,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let chunk = vec![b'x'; options.chunk];
    obey(|time| match options.way {
        Way::Up => up(&options.server, &chunk, time),
        Way::Down => down(&options.server, &chunk, time),
        Way::Both => both(&options.server, &chunk, time),
    })
}

/// Until the server says that it has read the last byte.
fn up(server: &Server, chunk: &[u8], time: Duration) -> anyhow::Result<Value> {
    let (mut stream, started) = (ask(server, Asked::Up, chunk.len(), time)?, Instant::now());
    let total = pour(&mut stream, chunk, time)?;
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    ensure!(read_whole(&mut stream, &mut count)?, "the server has closed");
    let count = u64::from_le_bytes(count);
    ensure!(count == total, "{total} bytes were sent, the server read {count}");
    Ok(told(total, chunk.len(), started))
}

fn down(server: &Server, chunk: &[u8], time: Duration) -> anyhow::Result<Value> {
    let (mut stream, started) = (ask(server, Asked::Down, chunk.len(), time)?, Instant::now());
    let total = drain(&mut stream, chunk.len())?;
    Ok(told(total, chunk.len(), started))
}

fn both(server: &Server, chunk: &[u8], time: Duration) -> anyhow::Result<Value> {
    let (mut stream, started) = (ask(server, Asked::Both, chunk.len(), time)?, Instant::now());
    let mut reader = stream.try_clone()?;
    let size = chunk.len();
    let down = thread::spawn(move || drain(&mut reader, size));
    let up = pour(&mut stream, chunk, time)?;
    stream.shutdown(Shutdown::Write)?;
    let down = down.join().map_err(|_| anyhow!("the reading thread panicked"))??;
    Ok(told(up + down, size, started))
}

fn ask(server: &Server, load: Asked, size: usize, time: Duration) -> anyhow::Result<TcpStream> {
    let mut stream = server.connected()?;
    stream.write_all(&Request { load, size, time }.to_bytes())?;
    Ok(stream)
}

fn told(total: u64, chunk: usize, started: Instant) -> Value {
    let seconds = started.elapsed().as_secs_f64();
    json!({ "megabytes": total as f64 / seconds / 1e6, "rate": (total / chunk as u64) as f64 / seconds, "bytes": total })
}
