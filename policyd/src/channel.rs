//! A switch's channel: one SEQPACKET connection, one task. Credentials are taken from every packet: a process that
//! connected as root and dropped to another user must not speak as root.
//!
//! There may be thousands of these tasks, and what a future holds over a wait is memory of each: so packets are received and
//! sent by polling, with their buffers on the stack for one look, and what is seldom waited for is boxed.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tandem_protocol::assignment::{InterfaceName, NetworkName};
use tandem_protocol::message::MAX_DESCRIPTORS;
use tandem_protocol::{MAX_MESSAGE, Malformed, Message, Reason};
use tokio::time::timeout;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};
use tokio_seqpacket::{UCred, UnixSeqpacket, UnixSeqpacketListener};
use tracing::{debug, warn};

use crate::broker::{self, Admission, ClientId, Inbox, Outgoing};
use crate::connection::Joining;
use crate::daemon::Shared;
use crate::kernel;
use crate::registry::FamilyId;

/// A connection that hasn't said Hello by then is closed.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// A packet that could not be sent for so long, to a process that reads nothing.
const FULL_TIME: Duration = Duration::from_secs(60);

/// Room for the descriptors of any message, and credentials.
const ANCILLARY: usize = 128;

pub fn listen(path: &std::path::Path) -> io::Result<UnixSeqpacketListener> {
    let listener = UnixSeqpacketListener::bind_with_backlog(path, 1_024)?;
    take_credentials(&listener)?;
    Ok(listener)
}

/// On a socket that listens already.
pub fn listen_on(socket: OwnedFd) -> io::Result<UnixSeqpacketListener> {
    // Whoever opened it may have left it blocking.
    let flags = nix::fcntl::OFlag::from_bits_retain(nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK))?;
    let listener = UnixSeqpacketListener::try_from(socket)?;
    take_credentials(&listener)?;
    Ok(listener)
}

/// Serves one connection to its end.
pub async fn serve(socket: UnixSeqpacket, shared: Rc<Shared>) {
    if let Err(error) = take_credentials(&socket) {
        warn!("cannot take a switch's credentials: {error}");
        return;
    }
    let channel = Channel { socket, shared };
    let admitted = Box::pin(timeout(HELLO_TIME, channel.hello())).await;
    match admitted {
        Ok(Ok(client)) => channel.run(&client).await,
        Ok(Err(fault)) => debug!("a connection without a Hello: {fault}"),
        Err(_) => debug!("a connection that never said Hello"),
    }
}

struct Channel {
    socket: UnixSeqpacket,
    shared: Rc<Shared>,
}

/// A switch that has been admitted.
struct Admitted {
    speaker: Speaker,
    outgoing: Inbox,
}

/// Who speaks on a channel.
struct Speaker {
    id: ClientId,
    credentials: UCred,
    pidfd: Option<Arc<OwnedFd>>,
    family: FamilyId,
}

struct Packet {
    message: Result<Message, Malformed>,
    credentials: UCred,
    fds: Vec<OwnedFd>,
}

impl Channel {
    async fn hello(&self) -> io::Result<Admitted> {
        let packet = self.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let connected = self.socket.peer_cred()?;
        let family = match packet.message {
            // A channel that was handed on speaks for nobody.
            Ok(Message::Hello { family, .. }) if connected.pid() == packet.credentials.pid() => family,
            Ok(_) | Err(Malformed::Version(_)) => return self.refuse(Reason::PolicydRefused).await,
            Err(malformed) => return Err(io::Error::other(malformed)),
        };
        let (outbox, outgoing) = broker::queue();
        let pid = packet.credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let pidfd = peer_process(&self.socket, pid).map(Arc::new);
        let admission =
            Admission { pid, uid: packet.credentials.uid(), pidfd: pidfd.clone(), family, fds: packet.fds, outbox };
        let admitted = self.shared.broker.borrow_mut().admit(admission);
        self.shared.changed.notify_one();
        match admitted {
            Ok(id) => {
                let speaker = Speaker { id, credentials: packet.credentials, pidfd, family };
                Ok(Admitted { speaker, outgoing })
            }
            Err(reason) => self.refuse(reason).await,
        }
    }

    async fn refuse(&self, reason: Reason) -> io::Result<Admitted> {
        self.send(&Outgoing { message: Message::RefuseHello { reason }, fds: Vec::new() }).await?;
        Err(io::Error::other(format!("refused: {reason}")))
    }

    /// Until the switch closes, dies, misbehaves, or lets its queue fill up.
    async fn run(&self, client: &Admitted) {
        let Admitted { speaker, outgoing } = client;
        let id = speaker.id;
        let outgoing = async {
            while let Some(packet) = outgoing.next().await {
                let to_sleepers = matches!(packet.message, Message::Drain(_));
                if !Box::pin(self.pass_on(packet)).await {
                    break;
                }
                if let Some(family) = outgoing.family() {
                    family.bump_mail();
                }
                if to_sleepers {
                    self.shared.broker.borrow().ring(id);
                }
                self.shared.broker.borrow_mut().client_has_room(id);
            }
        };
        let incoming = async {
            loop {
                match self.receive().await {
                    Ok(Some(packet)) => {
                        if let Err(fault) = self.deliver(speaker, packet) {
                            debug!(?id, "a switch misbehaves: {fault}; dropped");
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        debug!(?id, "channel: {error}");
                        break;
                    }
                }
            }
        };
        let death = async {
            match speaker.pidfd.clone() {
                // A forked child may hold the channel open after the process is dead.
                Some(process) => kernel::death(process).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = outgoing => {}
            () = incoming => {}
            () = death => {}
        }
        self.shared.broker.borrow_mut().forget(id);
        self.shared.connections.borrow_mut().forget(id);
        self.shared.changed.notify_one();
    }

    /// Whether it has been sent.
    async fn pass_on(&self, packet: Outgoing) -> bool {
        // A process that computes for minutes reads nothing meanwhile, and is in its right: its queue waits.
        let ready = packet.fds.is_empty() || self.all_received().await.is_ok();
        ready && matches!(timeout(FULL_TIME, self.send(&packet)).await, Ok(Ok(())))
    }

    fn deliver(&self, client: &Speaker, packet: Packet) -> Result<(), String> {
        let known = &client.credentials;
        if packet.credentials.pid() != known.pid() || packet.credentials.uid() != known.uid() {
            return Err("another process or user speaks on its channel".to_owned());
        }
        let message = packet.message.map_err(|malformed| malformed.to_string())?;
        match message {
            Message::Assign { interface, network } if packet.fds.is_empty() => {
                self.assign(client, interface, network);
            }
            message => self.shared.broker.borrow_mut().on_message(client.id, message, packet.fds)?,
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The answer may have to wait for the connection manager; it then sends it itself.
    fn assign(&self, client: &Speaker, interface: InterfaceName, network: NetworkName) {
        let pid = client.credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let joining = Joining { pid, pidfd: client.pidfd.clone(), family: client.family, interface, network };
        let joined = self.shared.connections.borrow_mut().join(client.id, joining);
        let (message, fds) = match joined {
            Ok(Some(place)) => (Message::Assignment { cell: place.cell }, vec![place.arena]),
            Ok(None) => return,
            Err(reason) => (Message::Unassigned { reason }, Vec::new()),
        };
        self.shared.broker.borrow_mut().post(client.id, message, fds);
    }

    /// `None`: the switch has closed.
    async fn receive(&self) -> io::Result<Option<Packet>> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Packet>>> {
        let mut bytes = [0u8; MAX_MESSAGE + 1];
        let mut room = [0u8; ANCILLARY];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let (info, ancillary) = ready!(self.socket.poll_recv_vectored_with_ancillary(context, &mut parts, &mut room))?;
        let mut fds = Vec::new();
        let mut credentials = None;
        for part in ancillary.into_messages() {
            match part {
                OwnedAncillaryMessage::FileDescriptors(received) => fds.extend(received.take(MAX_DESCRIPTORS)),
                OwnedAncillaryMessage::Credentials(mut received) => credentials = received.next(),
                OwnedAncillaryMessage::Other(_) => {}
            }
        }
        Poll::Ready(match (info.bytes_read(), credentials) {
            (0, _) => Ok(None),
            _ if info.ancillary_truncated() => Err(io::Error::other("more descriptors than any message has")),
            (_, None) => Err(io::Error::other("a packet without credentials")),
            (length, Some(credentials)) => {
                let message = Message::decode(bytes.get(..length).unwrap_or_default());
                Ok(Some(Packet { message, credentials, fds }))
            }
        })
    }

    async fn send(&self, packet: &Outgoing) -> io::Result<()> {
        poll_fn(|context| self.poll_send(context, packet)).await
    }

    fn poll_send(&self, context: &mut Context<'_>, packet: &Outgoing) -> Poll<io::Result<()>> {
        let mut bytes = [0u8; MAX_MESSAGE];
        let length = packet.message.encode(&mut bytes);
        let bytes = [IoSlice::new(bytes.get(..length).unwrap_or_default())];
        let mut room = [0u8; ANCILLARY];
        let mut ancillary = AncillaryMessageWriter::new(&mut room);
        if !packet.fds.is_empty() {
            let fds = packet.fds.iter().map(|fd| fd.as_fd());
            ancillary.add_fds(fds).map_err(|_| io::Error::other("too many descriptors"))?;
        }
        self.socket.poll_send_vectored_with_ancillary(context, &bytes, &mut ancillary).map_ok(drop)
    }

    /// Descriptors on their way count against the sender's RLIMIT_NOFILE, and a user's policyd has the same user as
    /// the programs it serves: one packet with descriptors a client is under way, no more.
    async fn all_received(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.as_async_fd().writable().await?;
            if kernel::unreceived(&self.socket)? == 0 {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

fn take_credentials(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the descriptor is the socket's, open for the length of this call.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(setsockopt(&fd, sockopt::PassCred, &true)?)
}

/// The process that connected: by the socket (Linux 6.5), else by its number.
pub fn peer_process(socket: &impl AsRawFd, pid: u32) -> Option<OwnedFd> {
    // SAFETY: the descriptor is the socket's, open for the length of this call.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let by_socket = nix::sys::socket::getsockopt(&fd, sockopt::PeerPidfd);
    by_socket.ok().or_else(|| kernel::open_process(pid).ok().filter(|_| pid != 0))
}
