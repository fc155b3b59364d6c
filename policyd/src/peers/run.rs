//! The tasks: one that listens, one for each peer that is dialled, one for each link. A peer that is slow, silent or hostile
//! costs its own link: what waits for it is bounded, what it may say at a time too, and nobody waits for it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::HostId;
use super::filter;
use super::hosts::{Adoption, BackOff, Candidate, Stop};
use super::session::{self, Fault, Session};
use super::wire::{Farewell, Wire};
use crate::daemon::Shared;

/// For connecting, and again for the handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// A link that lasted so long was a link: the next attempt comes soon.
const LASTED: Duration = Duration::from_secs(5);
/// A write that makes no way for so long.
const STUCK: Duration = Duration::from_secs(10);
/// Without a sign of life for so many of the peer's intervals a link is dead.
const INTERVALS: u32 = 3;
/// The peer says that it dials a link that we believe to have.
const PROBE: Duration = Duration::from_secs(2);
/// Messages that wait for one peer. What would be more waits as state of what it is about.
pub const QUEUE: usize = 1_024;
const FAREWELL: Duration = Duration::from_millis(300);
/// A message is read only while there is room for the answers to it.
const ANSWERS: usize = 8;
const FRAMES_AT_ONCE: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);

/// Listens, if that is configured, before policyd says that it is ready; returns what goes on for as long as policyd runs.
/// Without a configured peer it does nothing.
pub fn start(shared: Rc<Shared>) -> impl Future<Output = ()> {
    let mut listener = None;
    let retry = reconcile(&shared, &mut listener);
    run(shared, listener, retry)
}

async fn run(shared: Rc<Shared>, mut listener: Option<(SocketAddr, TcpListener)>, mut retry: bool) {
    let changed = shared.peers.borrow().changed.clone();
    loop {
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(AGAIN), if retry => {}
            accepted = accept(listener.as_ref()), if listener.is_some() => match accepted {
                Ok((stream, from)) => answered(&shared, stream, from),
                Err(error) => {
                    warn!("cannot accept a peer: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
        retry = reconcile(&shared, &mut listener);
    }
}

/// Every peer is told that policyd leaves, as far as that is quickly done.
pub async fn farewell(shared: &Shared) {
    shared.peers.borrow_mut().leave();
    let until = Instant::now() + FAREWELL;
    while shared.peers.borrow().is_linked() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Listens as configured, and sees to it that who is to be dialled is dialled. True: it could not listen.
fn reconcile(shared: &Rc<Shared>, listener: &mut Option<(SocketAddr, TcpListener)>) -> bool {
    let (wanted, sources) = {
        let peers = shared.peers.borrow();
        (peers.settings.listen.filter(|_| !peers.listed().is_empty()), peers.sources())
    };
    if listener.as_ref().map(|(address, _)| *address) != wanted {
        *listener = None;
    }
    let mut failed = false;
    if let Some(address) = wanted {
        match listener.take().map_or_else(|| listen(address), |(_, open)| Ok(open)) {
            Ok(open) => {
                match filter::attach(&open, &sources) {
                    Ok(true) => {}
                    Ok(false) => info!("too many peers' addresses for a filter: each is looked at when it connects"),
                    Err(error) => warn!("no filter on the peers' socket ({error}): each is looked at when it connects"),
                }
                *listener = Some((address, open));
            }
            Err(error) => {
                warn!("cannot listen for peers at {address}: {error}; trying again");
                failed = true;
            }
        }
    }
    let undialled = shared.peers.borrow().undialled();
    for host in undialled {
        let task = tokio::task::spawn_local(keep_dialled(shared.clone(), host));
        shared.peers.borrow_mut().dials(host, task.abort_handle());
    }
    failed
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(64)
}

async fn accept(listener: Option<&(SocketAddr, TcpListener)>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some((_, listener)) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Somebody has connected: who it is must be seen.
fn answered(shared: &Rc<Shared>, stream: TcpStream, from: SocketAddr) {
    if !shared.peers.borrow_mut().may_begin(from.ip(), Instant::now()) {
        debug!(%from, "no peer's address, or too many handshakes: closed");
        return;
    }
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        shared.peers.borrow_mut().handshakes += 1;
        let met = timeout(PATIENCE, greeted(&shared, stream, from)).await;
        shared.peers.borrow_mut().handshakes -= 1;
        match met {
            Ok(Ok(link)) => drop(live(shared, link).await),
            Ok(Err(fault)) => info!(%from, "no link: {fault}"),
            Err(_) => info!(%from, "no link: the handshake was not over in time"),
        }
    });
}

async fn greeted(shared: &Rc<Shared>, mut stream: TcpStream, from: SocketAddr) -> Result<Link, Fault> {
    let own = shared.peers.borrow().own.clone().ok_or(Fault::NotAPolicyd)?;
    let listed = |key| shared.peers.borrow().of_key(key).is_some();
    let session = session::answer(&mut stream, &own, listed).await?;
    let host = shared.peers.borrow().of_key(session.peer).ok_or(Fault::UnknownKey(session.peer))?;
    if !shared.peers.borrow().may_come(host, from.ip()) {
        warn!(%from, "a peer's key comes from an address that is not its own");
        return Err(Fault::UnknownKey(session.peer));
    }
    let mut link = Link::new(host, stream, session, false)?;
    let theirs = link.hello().await?;
    link.adopted(shared, theirs).await?;
    link.say(&hello(shared)).await?;
    Ok(link)
}

/// Dials a peer whenever there is no link to it.
async fn keep_dialled(shared: Rc<Shared>, host: HostId) {
    let mut back_off = BackOff::default();
    loop {
        let linked = shared.peers.borrow().while_linked(host);
        if let Some(wake) = linked {
            wake.notified().await;
            continue;
        }
        match timeout(2 * PATIENCE, dialled(&shared, host)).await.unwrap_or_else(|_| Err(in_time())) {
            Ok(link) => {
                // A task of its own: it says farewell when this one is ended.
                let lived = tokio::task::spawn_local(live(shared.clone(), link)).await.unwrap_or_default();
                if lived >= LASTED {
                    back_off = BackOff::default();
                }
            }
            Err(fault) => {
                debug!(host, "no link: {fault}");
                shared.peers.borrow_mut().failed(host, fault.to_string());
            }
        }
        tokio::time::sleep(back_off.pause()).await;
    }
}

fn in_time() -> Fault {
    Fault::Io(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time"))
}

async fn dialled(shared: &Rc<Shared>, host: HostId) -> Result<Link, Fault> {
    let (endpoint, key, own) = {
        let peers = shared.peers.borrow();
        let peer = peers.peer(host).ok_or(Fault::NotAPolicyd)?;
        (peer.endpoint.ok_or(Fault::NotAPolicyd)?, peer.public_key, peers.own.clone().ok_or(Fault::NotAPolicyd)?)
    };
    let mut stream = timeout(PATIENCE, TcpStream::connect(endpoint))
        .await
        .map_err(|_| in_time())?
        .map_err(|error| io::Error::new(error.kind(), format!("cannot connect to {endpoint}: {error}")))?;
    let session = timeout(PATIENCE, session::dial(&mut stream, &own, key)).await.map_err(|_| in_time())??;
    let mut link = Link::new(host, stream, session, true)?;
    let greeting = async {
        link.say(&hello(shared)).await?;
        link.hello().await
    };
    let theirs = timeout(PATIENCE, greeting).await.map_err(|_| in_time())?.map_err(unlisted)?;
    link.adopted(shared, theirs).await?;
    Ok(link)
}

/// An answerer that does not list us has nothing to say to us.
fn unlisted(fault: Fault) -> Fault {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    match fault {
        Fault::Io(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) => {
            let text = "it closed after the handshake: is this host's key (`tandem peer key`) listed there, with the \
                        address that it comes from?";
            Fault::Io(io::Error::new(ConnectionRefused, text))
        }
        fault => fault,
    }
}

fn hello(shared: &Shared) -> Wire {
    let keepalive_seconds = shared.peers.borrow().settings.keepalive.as_secs().clamp(1, 60) as u8;
    Wire::Hello { instance: shared.broker.borrow().instance, keepalive_seconds }
}

/// One authenticated connection.
struct Link {
    host: HostId,
    dialled: bool,
    address: SocketAddr,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    session: Session,
    frame: Vec<u8>,
    /// The peer gives a sign of life so often.
    interval: Duration,
    adopted: Option<(u64, Rc<Stop>)>,
    instance: u64,
}

impl Link {
    fn new(host: HostId, stream: TcpStream, session: Session, dialled: bool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // What the kernel may try to send in vain, before it says so.
        setsockopt(&stream, sockopt::TcpUserTimeout, &(STUCK.as_millis() as u32))?;
        let address = stream.peer_addr()?;
        let (reader, writer) = stream.into_split();
        let reader = BufReader::new(reader);
        let (frame, interval) = (Vec::new(), PATIENCE);
        Ok(Self { host, dialled, address, reader, writer, session, frame, interval, adopted: None, instance: 0 })
    }

    async fn say(&mut self, message: &Wire) -> Result<(), Fault> {
        let mut out = Vec::new();
        self.session.seal(message, &mut out)?;
        Ok(self.writer.write_all(&out).await?)
    }

    async fn hear(&mut self) -> Result<Wire, Fault> {
        session::next_frame(&mut self.reader, &mut self.frame).await?;
        self.session.open(&self.frame)
    }

    /// The instance of the peer's policyd.
    async fn hello(&mut self) -> Result<u64, Fault> {
        match self.hear().await {
            Ok(Wire::Hello { instance, keepalive_seconds }) => {
                self.interval = Duration::from_secs(keepalive_seconds.into());
                Ok(instance)
            }
            Ok(Wire::Bye(farewell)) => Err(refused(farewell)),
            Ok(_) => Err(Fault::Malformed),
            Err(fault) => Err(fault),
        }
    }

    /// From now on it is the link to that host, or it ends here.
    async fn adopted(&mut self, shared: &Rc<Shared>, instance: u64) -> Result<(), Fault> {
        let candidate = Candidate { host: self.host, dialled: self.dialled, instance, address: self.address };
        let adoption = shared.peers.borrow_mut().adopt(&candidate);
        match adoption {
            Adoption::Adopted { number, stop } => {
                self.instance = instance;
                self.adopted = Some((number, stop));
                Ok(())
            }
            Adoption::Refused(farewell) => {
                let _ = timeout(PATIENCE, self.say(&Wire::Bye(farewell))).await;
                Err(refused(farewell))
            }
        }
    }
}

fn refused(farewell: Farewell) -> Fault {
    Fault::Io(io::Error::new(io::ErrorKind::ConnectionAborted, farewell.to_string()))
}

/// Serves a link to its end; returns how long it lasted.
async fn live(shared: Rc<Shared>, mut link: Link) -> Duration {
    let Some((number, stop)) = link.adopted.take() else { return Duration::ZERO };
    let began = Instant::now();
    let host = link.host;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let first = shared.broker.borrow_mut().link_up(host, number, link.instance, sender.clone());
    shared.changed.notify_one();
    info!(host, address = %link.address, "linked");
    let why = exchange(&shared, link, Ends { number, stop, sender, receiver, first }).await;
    shared.peers.borrow_mut().ended(host, number, &why);
    shared.broker.borrow_mut().link_down(host, number);
    shared.changed.notify_one();
    info!(host, "the link has ended: {why}");
    began.elapsed()
}

/// What a link's two directions work with.
struct Ends {
    number: u64,
    stop: Rc<Stop>,
    sender: mpsc::Sender<Wire>,
    receiver: mpsc::Receiver<Wire>,
    first: Vec<Wire>,
}

/// Why it ended.
async fn exchange(shared: &Rc<Shared>, mut link: Link, ends: Ends) -> String {
    let Ends { number, stop, sender, mut receiver, first } = ends;
    let (host, patience) = (link.host, link.interval * INTERVALS);
    let keepalive = shared.peers.borrow().settings.keepalive;
    let Link { reader, writer, session, .. } = &mut link;
    let session = RefCell::new(session);
    let heard = std::cell::Cell::new(Instant::now());
    let writer = Mutex::new(writer);

    let outgoing = async {
        let mut writer = writer.lock().await;
        for message in &first {
            send(&mut writer, &session, std::slice::from_ref(message)).await?;
        }
        let mut batch = Vec::new();
        loop {
            batch.clear();
            match timeout(keepalive, receiver.recv_many(&mut batch, FRAMES_AT_ONCE)).await {
                Ok(0) => return Err(refused(Farewell::Removed)),
                Ok(_) => {}
                Err(_) => batch.push(Wire::Ping { answer: false }),
            }
            send(&mut writer, &session, &batch).await?;
            // There is room again for what waits as state.
            shared.broker.borrow_mut().link_has_room(host);
        }
    };
    let incoming = async {
        let mut frame = Vec::new();
        loop {
            // Who doesn't read what is said is not listened to either.
            let room = sender.reserve_many(ANSWERS).await.map_err(|_| refused(Farewell::Removed))?;
            drop(room);
            session::next_frame(reader, &mut frame).await?;
            heard.set(Instant::now());
            let message = session.borrow_mut().open(&frame)?;
            match message {
                Wire::Ping { answer: true } => drop(sender.try_send(Wire::Ping { answer: false })),
                Wire::Ping { answer: false } => {}
                Wire::Bye(farewell) => return Err(refused(farewell)),
                Wire::Hello { .. } => return Err(Fault::Malformed),
                message => {
                    shared.broker.borrow_mut().on_peer(host, number, message)?;
                    shared.changed.notify_one();
                }
            }
            tokio::task::coop::consume_budget().await;
        }
    };
    let dead = async {
        loop {
            let silent = heard.get().elapsed();
            if silent >= patience {
                return Err::<(), Fault>(in_time());
            }
            tokio::time::sleep(patience - silent).await;
        }
    };
    let probed = async {
        loop {
            stop.probe.notified().await;
            let _ = sender.try_send(Wire::Ping { answer: true });
            let before = heard.get();
            tokio::time::sleep(PROBE).await;
            if heard.get() == before {
                return Err::<(), Fault>(in_time());
            }
        }
    };
    let fault: Result<(), Fault> = tokio::select! {
        end = outgoing => end,
        end = incoming => end,
        end = dead => end,
        end = probed => end,
        () = stop.told.notified() => Err(refused(stop.why.get().unwrap_or(Farewell::Removed))),
    };
    let Err(fault) = fault else { return String::new() };
    let farewell = match (&fault, stop.why.get()) {
        (_, Some(why)) => Some(why),
        (Fault::Malformed | Fault::Misbehaviour(_), None) => Some(Farewell::Malformed),
        _ => None,
    };
    if let (Some(farewell), Ok(mut writer)) = (farewell, writer.try_lock()) {
        let farewell = [Wire::Bye(farewell)];
        let _ = timeout(FAREWELL, send(&mut writer, &session, &farewell)).await;
    }
    fault.to_string()
}

async fn send(writer: &mut OwnedWriteHalf, session: &RefCell<&mut Session>, messages: &[Wire]) -> Result<(), Fault> {
    let mut out = Vec::new();
    for message in messages {
        session.borrow_mut().seal(message, &mut out)?;
    }
    let written = timeout(STUCK, writer.write_all(&out)).await;
    Ok(written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it is sent"))??)
}
