//! Asking policyd, from a command: blocking, with a time limit.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Answer, Ask, Reply, Request, VERSION};

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
        let mut line = serde_json::to_string(&Request { version: VERSION, request: ask })?;
        line.push('\n');
        self.stream.write_all(line.as_bytes()).context("policyd does not take the question")?;
        let mut answer = String::new();
        BufReader::new(&self.stream).read_line(&mut answer).context("policyd does not answer")?;
        if answer.is_empty() {
            bail!("policyd closed the connection without an answer");
        }
        let reply: Reply = serde_json::from_str(&answer).context("policyd's answer is not understood")?;
        match reply.answer {
            Answer::Error(error) => bail!("policyd says: {error}"),
            answer => Ok(answer),
        }
    }
}
