//! Asking policyd, from a command or another program: blocking, with a time limit.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use tandem_policyd::connection::request::{Spec, State};
//! use tandem_policyd::control::client::{Control, Watching};
//! use tandem_policyd::control::Watched;
//!
//! # fn main() -> anyhow::Result<()> {
//! let socket = Path::new("/run/tandem/policyd.sock");
//! let spec = Spec { network: Some("backup".to_owned()), ..Spec::default() };
//! let request = Control::connect(socket, Duration::from_secs(2))?.open(spec)?;
//! for status in Watching::new(socket.to_owned(), Watched { id: Some(request.id) }) {
//!     if status?.state == State::Connected {
//!         break; // from now on this process's sockets leave by the network
//!     }
//! }
//! # Ok(()) }
//! ```

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Answer, Ask, OfRequest, Reply, Request, VERSION, Watched};
use crate::connection::request::{Spec, State, Status};

pub struct Control {
    stream: UnixStream,
}

impl Control {
    /// `socket` is the switches' socket.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let path = super::path(socket);
        let stream = UnixStream::connect(&path).with_context(|| format!("no policyd answers at {}", path.display()))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self { stream })
    }

    pub fn ask(&mut self, ask: Ask) -> Result<Answer> {
        self.say(ask)?;
        read(&mut BufReader::new(&self.stream))
    }

    /// Asks for an interface; ends with the process that it is for.
    pub fn open(&mut self, spec: Spec) -> Result<Status> {
        match self.ask(Ask::Open(spec))? {
            Answer::Opened(status) => Ok(status),
            other => bail!("policyd answered something else: {other:?}"),
        }
    }

    pub fn release(&mut self, id: u64) -> Result<Status> {
        match self.ask(Ask::Release(OfRequest { id }))? {
            Answer::Released(status) => Ok(status),
            other => bail!("policyd answered something else: {other:?}"),
        }
    }

    fn say(&mut self, ask: Ask) -> Result<()> {
        let mut line = serde_json::to_string(&Request { version: VERSION, request: ask })?;
        line.push('\n');
        self.stream.write_all(line.as_bytes()).context("policyd does not take the question")
    }
}

fn read(from: &mut impl BufRead) -> Result<Answer> {
    let mut answer = String::new();
    from.read_line(&mut answer).context("policyd does not answer")?;
    if answer.is_empty() {
        bail!("policyd closed the connection without an answer");
    }
    let reply: Reply = serde_json::from_str(&answer).context("policyd's answer is not understood")?;
    match reply.answer {
        Answer::Error(error) => Err(Refused(error).into()),
        answer => Ok(answer),
    }
}

/// Policyd has understood, and says no.
#[derive(Debug)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "policyd says: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// What becomes of requests, as it happens: first what they are, then each change. A policyd that goes is waited for, and
/// asked again. Ends when the one request that is watched is over.
pub struct Watching {
    socket: PathBuf,
    watched: Watched,
    stream: Option<BufReader<UnixStream>>,
    /// Seen at least once: if it is missing later, it is over.
    last: Option<Status>,
    waiting: VecDeque<Status>,
    pause: Duration,
    over: bool,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Watching {
    pub fn new(socket: PathBuf, watched: Watched) -> Self {
        let waiting = VecDeque::new();
        Self { socket, watched, stream: None, last: None, waiting, pause: FIRST_PAUSE, over: false }
    }

    fn receive(&mut self) -> Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let mut control = Control::connect(&self.socket, LONGEST_PAUSE)?;
                control.say(Ask::Watch(self.watched))?;
                // Events may be hours apart.
                control.stream.set_read_timeout(None)?;
                self.stream.insert(BufReader::new(control.stream))
            }
        };
        read(stream)
    }

    /// All that is watched, after a first or a new connection.
    fn listed(&mut self, all: Vec<Status>) {
        if self.watched.id.is_some() && all.is_empty() {
            self.over = true;
            if let Some(mut last) = self.last.take() {
                (last.state, last.reason, last.interface) = (State::Disconnected, "it is over".to_owned(), None);
                self.waiting.push_back(last);
            }
        }
        self.waiting.extend(all);
    }
}

impl Iterator for Watching {
    type Item = Result<Status>;

    fn next(&mut self) -> Option<Result<Status>> {
        loop {
            if let Some(status) = self.waiting.pop_front() {
                if self.watched.id.is_some() {
                    self.over |= status.state == State::Disconnected;
                    self.last = Some(status.clone());
                }
                return Some(Ok(status));
            }
            if self.over {
                return None;
            }
            match self.receive() {
                Ok(answer) => {
                    self.pause = FIRST_PAUSE;
                    match answer {
                        Answer::Requests(all) => self.listed(all),
                        Answer::Event(status) => self.waiting.push_back(status),
                        _ => {}
                    }
                }
                Err(error) if error.is::<Refused>() => {
                    self.over = true;
                    return Some(Err(error));
                }
                Err(_) => {
                    self.stream = None;
                    std::thread::sleep(self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
