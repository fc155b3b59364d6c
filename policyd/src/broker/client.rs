//! One connected switch: a process, its descriptors, and the queue of what is to be sent to it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tandem_protocol::board::Board;
use tandem_protocol::message::SlotRef;
use tandem_protocol::{Message, Reason};
use tokio::sync::mpsc;

use super::claims::ClaimId;
use crate::kernel;
use crate::registry::{Family, FamilyId};

/// Packets waiting for one client, and how many of them may carry descriptors.
pub const QUEUE: usize = 256;
const QUEUE_WITH_DESCRIPTORS: usize = 64;

/// A packet on its way to a switch.
pub struct Outgoing {
    pub message: Message,
    pub fds: Vec<Arc<OwnedFd>>,
}

/// What a Hello brings.
pub struct Admission {
    pub pid: u32,
    pub uid: u32,
    /// `None`: this kernel gives none, and proof is asked for by message.
    pub pidfd: Option<Arc<OwnedFd>>,
    pub family: FamilyId,
    /// Registry, board, wake0.
    pub fds: Vec<OwnedFd>,
    pub sender: mpsc::Sender<Box<Outgoing>>,
    /// Where the task that sends finds whose `mail` to bump.
    pub mailbox: Mailbox,
}

pub type Mailbox = Rc<RefCell<Option<Arc<Family>>>>;

pub struct Client<F = Arc<Family>> {
    pub pid: u32,
    pub uid: u32,
    pub pidfd: Option<Arc<OwnedFd>>,
    pub family_id: FamilyId,
    pub family: F,
    pub board: Arc<OwnedFd>,
    pub wake: Arc<OwnedFd>,
    pub outbox: Outbox,
    /// The socket it has been asked for. One at a time: a descriptor on its way holds a connection open.
    pub proving: Option<Asked>,
    pub to_prove: VecDeque<ClaimId>,
}

pub struct Asked {
    pub claim: ClaimId,
    pub slot: SlotRef,
}

pub struct Outbox {
    /// Boxed: a queue has room for 32 of them from its start, however idle the process.
    sender: mpsc::Sender<Box<Outgoing>>,
    mailbox: Mailbox,
}

#[derive(Debug)]
pub struct Full;

impl Outbox {
    pub fn send(&self, packet: Outgoing) -> Result<(), Full> {
        self.sender.try_send(Box::new(packet)).map_err(|_| Full)
    }

    /// Room for a packet with descriptors: they are ours until they are sent.
    pub fn takes_descriptors(&self) -> bool {
        self.sender.max_capacity() - self.sender.capacity() < QUEUE_WITH_DESCRIPTORS
    }

    /// Packets that it still takes.
    pub fn room(&self) -> usize {
        self.sender.capacity()
    }

    pub fn set_family(&self, family: Arc<Family>) {
        *self.mailbox.borrow_mut() = Some(family);
    }
}

impl Admission {
    /// The client it makes, and its registry. Descriptors that a peer will be handed are looked at first: it maps the
    /// board (which must never shrink under it, nor be writable) and writes to the wake (which must be an eventfd).
    pub fn checked(self) -> Result<(Client<()>, OwnedFd), Reason> {
        let [registry, board, wake] = <[OwnedFd; 3]>::try_from(self.fds).map_err(|_| Reason::PolicydRefused)?;
        crate::registry::check_file(&board, Board::BYTES, Board::SEALS)?;
        if !kernel::is_eventfd(&wake) {
            return Err(Reason::PolicydRefused);
        }
        let client = Client {
            pid: self.pid,
            uid: self.uid,
            pidfd: self.pidfd,
            family_id: self.family,
            family: (),
            board: Arc::new(board),
            wake: Arc::new(wake),
            outbox: Outbox { sender: self.sender, mailbox: self.mailbox },
            proving: None,
            to_prove: VecDeque::new(),
        };
        Ok((client, registry))
    }
}

impl Client<()> {
    pub fn joined(self, family: Arc<Family>) -> Client {
        let Self { pid, uid, pidfd, family_id, board, wake, outbox, proving, to_prove, .. } = self;
        Client { pid, uid, pidfd, family_id, family, board, wake, outbox, proving, to_prove }
    }
}
