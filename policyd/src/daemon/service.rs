//! Being a system service: sockets that were opened before us, and what the service manager is told. Without one all of
//! this does nothing.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use sd_notify::NotifyState;
use tracing::warn;

/// Status texts are for people.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The two sockets, if they were handed to us.
#[derive(Default)]
pub struct Inherited {
    pub switches: Option<OwnedFd>,
    pub control: Option<OwnedFd>,
}

/// What was opened for us by socket activation.
pub fn inherited() -> Result<Option<Inherited>> {
    let fds: Vec<_> = sd_notify::listen_fds().context("LISTEN_FDS is not to be understood")?.collect();
    if fds.is_empty() {
        return Ok(None);
    }
    let mut found = Inherited::default();
    for fd in fds {
        // SAFETY: the service manager has opened these numbers for this process, and nobody else takes them.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        match kind(socket.as_fd()) {
            Some(SockType::SeqPacket) if found.switches.is_none() => found.switches = Some(socket),
            Some(SockType::Stream) if found.control.is_none() => found.control = Some(socket),
            _ => bail!(
                "descriptor {fd} is no socket of ours: the unit needs one ListenSequentialPacket=, one ListenStream="
            ),
        }
    }
    if found.switches.is_none() || found.control.is_none() {
        bail!("a socket is missing: the unit needs ListenSequentialPacket=SOCKET and ListenStream=SOCKET.control");
    }
    Ok(Some(found))
}

fn kind(socket: BorrowedFd) -> Option<SockType> {
    let listens = getsockopt(&socket, sockopt::AcceptConn).ok()?;
    getsockopt(&socket, sockopt::SockType).ok().filter(|_| listens)
}

/// Talks to the service manager.
pub struct Manager {
    present: bool,
    watchdog: Option<Duration>,
    told: Option<(Instant, String)>,
}

impl Manager {
    pub fn new() -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some();
        // Half of it: one may be late.
        let watchdog = sd_notify::watchdog_enabled().filter(|_| present).map(|limit| limit / 2);
        Self { present, watchdog, told: None }
    }

    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// That the main loop still goes round.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    pub fn next_watchdog(&self) -> Option<Instant> {
        self.watchdog.map(|every| Instant::now() + every)
    }

    /// What `systemctl status` shows.
    pub fn status(&mut self, text: impl FnOnce() -> String) {
        let recent = self.told.as_ref().is_some_and(|(at, _)| at.elapsed() < AT_MOST_EVERY);
        if !self.present || recent {
            return;
        }
        let text = text();
        if self.told.as_ref().is_none_or(|(_, told)| *told != text) {
            self.tell(&[NotifyState::Status(&text)]);
            self.told = Some((Instant::now(), text));
        }
    }

    fn tell(&self, state: &[NotifyState]) {
        if self.present
            && let Err(error) = sd_notify::notify(state)
        {
            warn!("cannot tell the service manager: {error}");
        }
    }
}
