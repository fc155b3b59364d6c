//! Going into the background, for `tandem run`: the parent leaves when the daemon listens, and the daemon is nobody's
//! child, has no terminal, and keeps nothing open that it was started with.

use std::fs::OpenOptions;
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// Tells whoever waits that the daemon listens.
#[derive(Default)]
pub struct Readiness(Option<std::io::PipeWriter>);

impl Readiness {
    pub fn tell(mut self) {
        if let Some(pipe) = &mut self.0 {
            // Whoever started us may have stopped waiting.
            drop(pipe.write_all(b"."));
        }
    }
}

/// Returns in the daemon. The process that called leaves when the daemon listens, with status 0, or with the daemon's
/// own status if it fails before.
///
/// To be called before any thread is started.
pub fn enter(log: &Path) -> Result<Readiness> {
    let (mut reader, writer) = pipe().context("cannot make a pipe")?;
    // SAFETY: there is one thread, so the child may do whatever the parent could.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut word = [0];
            if reader.read_exact(&mut word).is_ok() {
                std::process::exit(0);
            }
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, status)) => std::process::exit(status.max(1)),
                _ => std::process::exit(1),
            }
        }
        ForkResult::Child => {}
    }
    drop(reader);
    close_all_but(writer.as_raw_fd());
    setsid().context("cannot leave the session")?;
    std::env::set_current_dir("/").context("cannot go to /")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    match OpenOptions::new().create(true).write(true).truncate(true).open(log) {
        Ok(log) => dup2_stderr(&log)?,
        Err(_) => dup2_stderr(&null)?,
    }
    Ok(Readiness(Some(writer)))
}

/// A pipe of the caller's that stayed open here would keep its reader waiting for our end.
fn close_all_but(keep: i32) {
    let keep = keep.unsigned_abs();
    // SAFETY: nothing in this process owns a descriptor past the standard ones but `keep`: it has just been forked from
    // one that had opened nothing else.
    unsafe {
        libc::close_range(3, keep - 1, 0);
        libc::close_range(keep + 1, u32::MAX, 0);
    }
}
