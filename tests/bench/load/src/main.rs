//! The loads of scripts/bench: socket programs that know nothing of Tandem, and the physical limits, written to the
//! same rules. It is preloaded from outside, like any program.
//!
//! Every load but `serve` is told on stdin when to run: a line with seconds, answered by a line of JSON with what was
//! measured. So that one process, and its connections, can be measured in turns with another. It ends with its stdin.
//!
//! Rooms: `wire` what client and server agree on; `connection` and `event_loop` a program's non-blocking half;
//! `serve` the server; `round_trips`, `stream`, `connects`, `memcached` the clients; `calls` single calls in one thread;
//! `limits` what the machine could do without sockets; `spawn` the start of a program.

mod calls;
mod connection;
mod connects;
mod event_loop;
mod limits;
mod memcached;
mod orders;
mod round_trips;
mod serve;
mod spawn;
mod stream;
mod wire;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "tandem-load", about = "The loads and the limits that scripts/bench measures")]
struct Words {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Serves the other loads on 127.0.0.0/8; prints its port, then nothing; ends with its stdin
    Serve(serve::Options),
    /// Sends a message and waits for the answer of the same size, on one connection or many
    RoundTrips(round_trips::Options),
    /// Moves bytes one way, or both
    Stream(stream::Options),
    /// Connects, exchanges some messages, closes, again and again
    Connects(connects::Options),
    /// Asks a memcached: nine gets to a set
    Memcached(memcached::Options),
    /// Single calls in one thread, on descriptors of several kinds
    Calls(calls::Options),
    /// What the machine could do without sockets
    Limit(limits::Options),
    /// Starts a program that ends at once, again and again
    Spawn(spawn::Options),
}

fn main() -> anyhow::Result<()> {
    match Words::parse().load {
        Load::Serve(options) => serve::run(&options),
        Load::RoundTrips(options) => round_trips::run(&options),
        Load::Stream(options) => stream::run(&options),
        Load::Connects(options) => connects::run(&options),
        Load::Memcached(options) => memcached::run(&options),
        Load::Calls(options) => calls::run(&options),
        Load::Limit(options) => limits::run(&options),
        Load::Spawn(options) => spawn::run(&options),
    }
}
