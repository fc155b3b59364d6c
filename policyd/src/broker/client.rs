//! One connected switch: a process, its descriptors, and the queue of what is to be sent to it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tandem_protocol::Reason;
use tandem_protocol::board::Board;
use tandem_protocol::message::SlotRef;

use super::claims::ClaimId;
use super::outbox::Outbox;
use crate::kernel;
use crate::registry::{Family, FamilyId};

/// What a Hello brings.
pub struct Admission {
    pub pid: u32,
    pub uid: u32,
    /// `None`: this kernel gives none, and proof is asked for by message.
    pub pidfd: Option<Arc<OwnedFd>>,
    pub family: FamilyId,
    /// Registry, board, wake0.
    pub fds: Vec<OwnedFd>,
    pub outbox: Outbox,
}

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
            outbox: self.outbox,
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
