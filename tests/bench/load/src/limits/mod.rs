//! What the machine could do: two processes, the same loop as the sockets' loads, and the least between them.
//!
//! `round_trips`: by spinning, a futex, an eventfd in epoll, a pair of unix sockets. `stream`: a ring of shared memory,
//! one copy in and one out. `shared`: memory and processes.

mod round_trips;
mod shared;
mod stream;

use clap::ValueEnum;

use crate::orders::obey;

#[derive(clap::Args)]
pub struct Options {
    #[arg(value_enum)]
    kind: Kind,
    /// Of a message, or of a chunk
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The cores of the one end and the other
    #[arg(long, value_delimiter = ',', num_args = 0..=2)]
    cores: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Shared memory; who waits spins
    Spin,
    /// Shared memory; who waits sleeps in a futex
    Futex,
    /// Shared memory; who waits sleeps in epoll, on an eventfd
    Eventfd,
    /// A pair of unix sockets, blocking
    Unix,
    /// A stream by a ring in shared memory; who waits spins
    Ring,
    /// A stream by a pair of unix sockets
    UnixStream,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    shared::pin(options.cores.first().copied())?;
    let (size, core) = (options.size, options.cores.get(1).copied());
    match options.kind {
        Kind::Ring => {
            let mut ring = stream::Ring::start(size, core)?;
            obey(|time| ring.run(time))
        }
        Kind::UnixStream => {
            let mut pair = stream::UnixPair::start(size, core)?;
            obey(|time| pair.run(time))
        }
        Kind::Spin => round_trips::run::<round_trips::Spin>(size, core),
        Kind::Futex => round_trips::run::<round_trips::Futex>(size, core),
        Kind::Eventfd => round_trips::run::<round_trips::Eventfd>(size, core),
        Kind::Unix => round_trips::run_unix(size, core),
    }
}
