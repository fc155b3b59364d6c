//! Seeing to it that a policyd is there: the system's, else the user's own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tandem_protocol::socket_path::SocketPath;

use super::find;
use crate::control::Ask;
use crate::control::client::Control;
use crate::daemon::{OCCUPIED, make_folder};

/// No program waits longer for a policyd.
const PATIENCE: Duration = Duration::from_secs(2);
/// A policyd started on demand leaves when nobody has needed it for so long.
const LINGER: &str = "30";

/// The socket to give to the program, and why nobody answers there.
pub struct Policyd {
    pub socket: Option<PathBuf>,
    pub trouble: Option<anyhow::Error>,
}

pub fn policyd(named: Option<&Path>) -> Policyd {
    let until = Instant::now() + PATIENCE;
    let uid = nix::unistd::geteuid().as_raw();
    let candidates = crate::search(named);
    let trusted = candidates.iter().filter(|place| place.is_trusted(uid)).map(crate::path_of);
    if let Some(socket) = trusted.into_iter().find(|socket| hold(socket, until).is_ok()) {
        return Policyd { socket: Some(socket), trouble: None };
    }
    let Some(last) = candidates.last() else {
        return Policyd { socket: None, trouble: Some(anyhow!("the socket's path is too long")) };
    };
    let socket = crate::path_of(last);
    if named.is_some() {
        let trouble = hold(&socket, until).err();
        return Policyd { socket: Some(socket), trouble };
    }
    // Never named to the program where somebody else could answer: a named one it would believe.
    if let Err(error) = private_folder(last, uid) {
        return Policyd { socket: None, trouble: Some(error) };
    }
    let trouble = start(&socket, until).err();
    Policyd { socket: Some(socket), trouble }
}

fn private_folder(place: &SocketPath, uid: u32) -> Result<()> {
    let folder = crate::folder_of(place);
    make_folder(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    if !place.is_trusted(uid) {
        bail!("{} is not this user's alone (mode 0700, no symbolic link)", folder.display());
    }
    Ok(())
}

/// Starts it, and waits until it listens. Where several start it at one time, one serves and the others find it.
fn start(socket: &Path, until: Instant) -> Result<()> {
    let own = find::own_folder().context("cannot tell where this command is")?;
    let daemon = find::daemon(&own).with_context(|| format!("no {} near {}", find::DAEMON, own.display()))?;
    let mut command = Command::new(&daemon);
    command.arg("--background").args(["--linger", LINGER, "--socket"]).arg(socket);
    // The switch has no business in policyd.
    command.env_remove("LD_PRELOAD").env_remove("TANDEM_POLICYD");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut starting = command.spawn().with_context(|| format!("cannot start {}", daemon.display()))?;
    loop {
        // It leaves when the daemon, which is not our child, listens. (ECHILD: we were started with SIGCHLD ignored.)
        let left = starting.try_wait();
        if !matches!(left, Ok(None)) && hold(socket, until).is_ok() {
            return Ok(());
        }
        match left {
            Ok(Some(status)) if !status.success() && status.code() != Some(OCCUPIED.into()) => {
                bail!("{} failed ({status}); see {}", daemon.display(), socket.with_extension("log").display())
            }
            _ if Instant::now() >= until => break,
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    // No child may be left: the program would find it when it waits for its own.
    drop(starting.kill());
    drop(starting.wait());
    bail!("{} was started and does not answer at {}", daemon.display(), socket.display())
}

/// Asks it to stay for as long as this process lives, which is the program's life: it takes our place by exec.
fn hold(socket: &Path, until: Instant) -> Result<()> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    Control::connect(socket, left)?.ask(Ask::Hold)?;
    Ok(())
}
