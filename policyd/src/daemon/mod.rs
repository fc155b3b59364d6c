//! The daemon: one thread that serves switches and commands, a lock that makes it the only one at its socket, and the
//! ways it ends.

pub mod background;
mod linger;
mod place;
mod service;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal as on_signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio_seqpacket::UnixSeqpacketListener;
use tracing::{error, info, warn};

use crate::broker::Broker;
use crate::broker::far::Limits;
use crate::config::Settings;
use crate::connection::{self, Connections};
use crate::peers::{self, Peers};
use crate::{channel, control, san};
use background::Readiness;
pub use place::{OCCUPIED, Occupied, Place, make_folder};

/// Connections served at one time, beyond which the next ones wait to be accepted.
const MOST_CHANNELS: usize = 32_768;
const MOST_CONTROLS: usize = 4_096;

/// What the tasks of this one thread share.
pub struct Shared {
    pub broker: RefCell<Broker>,
    pub connections: RefCell<Connections>,
    pub peers: RefCell<Peers>,
    /// What devices serve is to be looked at anew.
    pub san: Notify,
    /// Who waits for the configuration to be read again.
    pub reloads: RefCell<Vec<oneshot::Sender<Result<(), String>>>>,
    /// Something that the main loop looks at may have changed: a deadline, the number of clients.
    pub changed: Notify,
    /// Processes that asked this policyd to stay while they live.
    pub holds: Cell<usize>,
    /// Control connections by user, and how many one may have.
    pub commands: RefCell<HashMap<u32, usize>>,
    pub most_commands: Cell<usize>,
    pub socket: PathBuf,
}

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Settings>>;

/// Serves until SIGTERM, SIGINT, or the end of the linger time. SIGHUP: the configuration is read again.
pub fn run(settings: Settings, readiness: Readiness, reread: Reread) -> Result<()> {
    let inherited = service::inherited()?;
    let place = Place::take(&settings.socket)?;
    prepare_process();
    linger::prepare().context("cannot make a timer")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(linger::off)
        .on_thread_unpark(linger::on)
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot start the runtime")?;
    LocalSet::new().block_on(&runtime, Daemon::start(settings, place, inherited, reread)?.serve(readiness))
}

/// A file size limit that a shell left us would kill at the first pair's memfd; descriptors are what we live on.
fn prepare_process() {
    // SAFETY: the disposition is set before any thread is started; no handler runs.
    if let Err(error) = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) } {
        warn!("cannot ignore SIGXFSZ: {error}");
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!("cannot raise the limit of open files: {error}");
    }
}

struct Daemon {
    shared: Rc<Shared>,
    place: Place,
    linger: Option<Duration>,
    channels: JoinSet<()>,
    controls: JoinSet<()>,
    reread: Reread,
    manager: service::Manager,
    /// Opened for us, and not ours to remove.
    inherited: Option<service::Inherited>,
}

struct Listeners {
    switches: UnixSeqpacketListener,
    control: UnixListener,
}

impl Listeners {
    /// Copies: they may be needed again.
    fn of(inherited: &service::Inherited) -> Result<Self> {
        let missing = "a socket that was handed over is gone";
        let switches = inherited.switches.as_ref().context(missing)?.try_clone()?;
        let control = std::os::unix::net::UnixListener::from(inherited.control.as_ref().context(missing)?.try_clone()?);
        control.set_nonblocking(true)?;
        Ok(Self { switches: channel::listen_on(switches)?, control: UnixListener::from_std(control)? })
    }
}

impl Daemon {
    fn start(settings: Settings, place: Place, inherited: Option<service::Inherited>, reread: Reread) -> Result<Self> {
        let shared = Shared {
            socket: settings.socket.clone(),
            changed: Notify::new(),
            holds: Cell::new(0),
            commands: RefCell::default(),
            most_commands: Cell::new(settings.quotas.commands),
            broker: RefCell::new(Broker::new(settings.clone())),
            peers: RefCell::new(Peers::new(settings.peers.clone(), settings.sysfs.clone())),
            san: Notify::new(),
            reloads: RefCell::default(),
            connections: RefCell::new(Connections::new(settings.networking.clone(), requests_file(&settings.socket))),
        };
        let (channels, controls) = (JoinSet::new(), JoinSet::new());
        let manager = service::Manager::new();
        let linger = settings.linger;
        Ok(Self { shared: Rc::new(shared), place, linger, channels, controls, reread, manager, inherited })
    }

    async fn serve(mut self, readiness: Readiness) -> Result<()> {
        let mut terminate = on_signal(SignalKind::terminate())?;
        let mut interrupt = on_signal(SignalKind::interrupt())?;
        let mut hangup = on_signal(SignalKind::hangup())?;
        Connections::watch_owners(&self.shared);
        let worker = tokio::task::spawn_local(connection::worker::start(self.shared.clone()).await);
        self.shared.tell_peers();
        let devices = tokio::task::spawn_local(san::run(self.shared.clone()));
        let links = tokio::task::spawn_local(peers::run::start(self.shared.clone()));
        let mut listeners = self.listen()?;
        readiness.tell();
        self.manager.ready();
        let mut watchdog = self.manager.next_watchdog();
        info!(socket = %self.shared.socket.display(), "serving");
        let mut idle_since = Some(Instant::now());
        loop {
            let deadline = self.shared.broker.borrow().next_deadline();
            let leave_at = self.linger.and_then(|linger| idle_since.map(|since| since + linger));
            tokio::select! {
                accepted = listeners.switches.accept(), if self.channels.len() < MOST_CHANNELS => self.channel(accepted).await,
                accepted = listeners.control.accept(), if self.controls.len() < MOST_CONTROLS => self.control(accepted).await,
                Some(_) = self.channels.join_next(), if !self.channels.is_empty() => {}
                Some(_) = self.controls.join_next(), if !self.controls.is_empty() => {}
                () = at(deadline), if deadline.is_some() => {}
                () = at(leave_at), if leave_at.is_some() => {
                    match self.leave(listeners)? {
                        None => break,
                        Some(again) => listeners = again,
                    }
                }
                () = self.shared.changed.notified() => {}
                () = at(watchdog), if watchdog.is_some() => {
                    self.manager.alive();
                    watchdog = self.manager.next_watchdog();
                }
                _ = hangup.recv() => self.reload(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            if !self.shared.reloads.borrow().is_empty() {
                self.reload();
            }
            self.tell_status();
            self.shared.broker.borrow_mut().expire(Instant::now());
            let idle = self.channels.is_empty() && self.controls.is_empty() && self.shared.holds.get() == 0;
            idle_since = if idle { idle_since.or(Some(Instant::now())) } else { None };
        }
        info!("leaving");
        self.manager.stopping();
        links.abort();
        peers::run::farewell(&self.shared).await;
        devices.abort();
        worker.abort();
        drop(worker.await);
        connection::worker::clean(&self.shared).await;
        self.place.leave(self.inherited.is_none());
        Ok(())
    }

    /// A file that is no configuration changes nothing.
    fn reload(&mut self) {
        self.manager.reloading();
        let read = (self.reread)();
        for asker in self.shared.reloads.take() {
            // Who asked may have gone.
            let _ = asker.send(read.as_ref().map(|_| ()).map_err(|error| format!("{error:#}")));
        }
        match read {
            Ok(settings) => {
                if settings.socket != self.shared.socket {
                    warn!("the socket stays at {} until policyd is started anew", self.shared.socket.display());
                }
                self.linger = settings.linger;
                self.shared.most_commands.set(settings.quotas.commands);
                self.shared.connections.borrow_mut().reload(settings.networking.clone());
                self.shared.peers.borrow_mut().configure(settings.peers.clone());
                self.shared.broker.borrow_mut().reload(settings);
                self.shared.tell_peers();
                info!("the configuration has been read again");
            }
            Err(error) => error!("{error:#}; the configuration from before stays in force"),
        }
        self.manager.ready();
    }

    fn tell_status(&mut self) {
        let shared = &self.shared;
        self.manager.status(|| {
            let clients = shared.broker.borrow().census(None).clients;
            format!("{clients} processes, {} requests", shared.connections.borrow().request_count())
        });
    }

    fn listen(&self) -> Result<Listeners> {
        if let Some(inherited) = &self.inherited {
            return Listeners::of(inherited);
        }
        let socket = &self.shared.socket;
        let cannot = |path: &std::path::Path| format!("cannot listen at {}", path.display());
        self.place.clear()?;
        let switches = channel::listen(socket).with_context(|| cannot(socket))?;
        let path = control::path(socket);
        let control = UnixListener::bind(&path).with_context(|| cannot(&path))?;
        self.place.open_to_users()?;
        Ok(Listeners { switches, control })
    }

    /// Leaves for want of clients: first nobody new can come, then whoever came in the last moment is looked for. If
    /// somebody did, it is served, and the sockets are made again.
    fn leave(&mut self, mut listeners: Listeners) -> Result<Option<Listeners>> {
        if self.inherited.is_some() {
            // Whoever comes now starts us again.
            return Ok(None);
        }
        self.place.clear()?;
        let mut late = false;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Ok(socket)) = listeners.switches.poll_accept(&mut context) {
            self.channels.spawn_local(channel::serve(socket, self.shared.clone()));
            late = true;
        }
        while let std::task::Poll::Ready(Ok((stream, _))) = listeners.control.poll_accept(&mut context) {
            self.controls.spawn_local(control::server::serve(stream, self.shared.clone()));
            late = true;
        }
        if late { self.listen().map(Some) } else { Ok(None) }
    }

    async fn channel(&mut self, accepted: io::Result<tokio_seqpacket::UnixSeqpacket>) {
        match accepted {
            Ok(socket) => drop(self.channels.spawn_local(channel::serve(socket, self.shared.clone()))),
            Err(error) => rest(&error).await,
        }
    }

    async fn control(&mut self, accepted: io::Result<(tokio::net::UnixStream, tokio::net::unix::SocketAddr)>) {
        match accepted {
            Ok((stream, _)) => drop(self.controls.spawn_local(control::server::serve(stream, self.shared.clone()))),
            Err(error) => rest(&error).await,
        }
    }
}

impl Shared {
    /// The broker is to know the peers that are configured now.
    fn tell_peers(&self) {
        let (listed, limits) = {
            let peers = self.peers.borrow();
            (peers.listed(), Limits { companions: peers.settings.companions, parked: peers.settings.parked })
        };
        self.broker.borrow_mut().set_peers(listed, limits);
        self.san.notify_one();
    }
}

/// Where requests are kept over a restart.
fn requests_file(socket: &std::path::Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".requests");
    path.into()
}

/// Out of descriptors, most likely: the connection stays in the queue, so don't ask for it a million times a second.
async fn rest(error: &io::Error) {
    warn!("cannot accept: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn at(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
