//! policyd's own log.

use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use tracing::level_filters::LevelFilter;

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
        None => format.with_writer(std::io::stderr).init(),
    }
    Ok(())
}
