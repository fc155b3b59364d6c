//! policyd's own log.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// `LEVEL`, to stderr, or `LEVEL=FILE`.
pub fn start(what: &str) -> Result<()> {
    let (level, file) = what.split_once('=').map_or((what, None), |(level, file)| (level, Some(file)));
    let level = match level {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => bail!("log = {what}: give off, error, warn, info, debug or trace, and =FILE if not to stderr"),
    };
    let format = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    match file {
        Some(file) => {
            let opened = OpenOptions::new().create(true).append(true).open(file);
            let opened = opened.with_context(|| format!("log = {what}: cannot write {file}; name another file"))?;
            format.with_writer(Mutex::new(opened)).init();
        }
        // The journal knows the time, and takes the level from a prefix.
        None if is_journal() => format.without_time().with_level(false).with_writer(Journal).init(),
        None => format.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// Whether stderr is the journal's: `JOURNAL_STREAM` names its device and inode.
fn is_journal() -> bool {
    let Some(status) = nix::sys::stat::fstat(std::io::stderr()).ok() else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", status.st_dev, status.st_ino))
}

struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry(b"<6>".to_vec())
    }

    fn make_writer_for(&'a self, event: &tracing::Metadata<'_>) -> Entry {
        let prefix = match *event.level() {
            tracing::Level::ERROR => "<3>",
            tracing::Level::WARN => "<4>",
            tracing::Level::INFO => "<6>",
            _ => "<7>",
        };
        Entry(prefix.as_bytes().to_vec())
    }
}

/// One event, with its prefix, in one write: the journal makes an entry of each line.
struct Entry(Vec<u8>);

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        drop(std::io::stderr().write_all(&self.0));
    }
}
