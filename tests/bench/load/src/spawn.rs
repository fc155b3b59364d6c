//! What it takes to start a program and see it end. Run natively: only the started program is preloaded.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::orders::{Times, obey, outcome};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value = "/bin/true")]
    program: PathBuf,
    /// The library that the program is started with
    #[arg(long)]
    preload: Option<PathBuf>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut command = Command::new(&options.program);
    command.stdin(Stdio::null());
    if let Some(library) = &options.preload {
        command.env("LD_PRELOAD", library);
    }
    obey(|time| {
        let mut times = Times::new();
        let started = Instant::now();
        while started.elapsed() < time {
            let before = Instant::now();
            let status = command.status().with_context(|| format!("cannot start {}", options.program.display()))?;
            ensure!(status.success(), "{} ended with {status}", options.program.display());
            times.note(before.elapsed());
        }
        Ok(outcome(started, times.count(), 0, &times))
    })
}
