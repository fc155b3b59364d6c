//! The place where one policyd serves: its folder, its lock, its two sockets. Who has the lock may remove sockets that
//! a killed one left behind; a live one's are never touched.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::control;

/// How long a policyd that is just leaving may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The exit status that says so.
pub const OCCUPIED: u8 = 3;

/// Another policyd serves here.
#[derive(Debug)]
pub struct Occupied(pub PathBuf);

impl std::fmt::Display for Occupied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "another policyd already serves {}; stop it, or name another socket by --socket", self.0.display())
    }
}

impl std::error::Error for Occupied {}

pub struct Place {
    socket: PathBuf,
    lock_path: PathBuf,
    lock: Flock<std::fs::File>,
}

impl Place {
    pub fn take(socket: &Path) -> Result<Self> {
        if let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            make_folder(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let mut lock_path = socket.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let until = Instant::now() + PATIENCE;
        loop {
            let locked = lock(&lock_path).with_context(|| format!("cannot lock {}", lock_path.display()))?;
            if let Some(lock) = locked {
                return Ok(Self { socket: socket.to_owned(), lock_path, lock });
            }
            let answers = UnixStream::connect(control::path(socket)).is_ok();
            if answers || Instant::now() >= until {
                return Err(Occupied(socket.to_owned()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes both sockets. A file there that is no socket is somebody's mistake, and stays.
    pub fn clear(&self) -> Result<()> {
        for path in [self.socket.clone(), control::path(&self.socket)] {
            match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
                Ok(status) if !std::os::unix::fs::FileTypeExt::is_socket(&status.file_type()) => {
                    anyhow::bail!(
                        "{} is there and is not a socket; remove it, or name another by --socket",
                        path.display()
                    )
                }
                Ok(_) => std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Every user may connect; whom we serve how is told by credentials. (A user's own stands in a folder that nobody
    /// else can enter.)
    pub fn open_to_users(&self) -> Result<()> {
        for path in [self.socket.clone(), control::path(&self.socket)] {
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))
                .with_context(|| format!("cannot open {} to all users", path.display()))?;
        }
        Ok(())
    }

    /// With `sockets`, they are ours and go with us.
    pub fn leave(self, sockets: bool) {
        if sockets && let Err(error) = self.clear() {
            tracing::warn!("{error:#}");
        }
        // Still locked: who waits for it finds that the file is gone, and makes a new one.
        drop(std::fs::remove_file(&self.lock_path));
        drop(self.lock);
    }
}

/// `Ok(None)`: somebody has it.
fn lock(path: &Path) -> io::Result<Option<Flock<std::fs::File>>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    // The one before may have removed the file that we have just locked.
    let ours = lock.metadata()?;
    let there = std::fs::symlink_metadata(path);
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())).then_some(lock))
}

/// The system's is for all to enter; any other is its user's alone.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mode = if folder.starts_with("/run/tandem") { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_holder_and_is_left_clean() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("in/policyd.sock");
        let place = Place::take(&socket).unwrap();
        assert_eq!(std::fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let live = std::os::unix::net::UnixListener::bind(control::path(&socket)).unwrap();
        assert!(Place::take(&socket).err().unwrap().downcast_ref::<Occupied>().is_some());
        drop(live);
        drop(place.lock);

        // As after a kill: the lock is free, the sockets are still there.
        let place = Place::take(&socket).unwrap();
        place.clear().unwrap();
        assert!(!control::path(&socket).exists());
        place.leave(true);
        assert_eq!(std::fs::read_dir(socket.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("policyd.sock");
        std::fs::write(&socket, "letters").unwrap();
        let place = Place::take(&socket).unwrap();
        assert!(place.clear().unwrap_err().to_string().contains("is not a socket"));
        assert!(socket.exists());
    }
}
