//! Pairs of processes: the memory between them, and which of its conns are in use.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::ftruncate;
use tandem_protocol::message::{CompanionRef, SlotRef};
use tandem_protocol::{Reason, pair};
use tracing::warn;

use super::ClientId;

/// Linux 6.3: never executable, and no sysctl can make it a warning.
const MFD_NOEXEC_SEAL: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub client: ClientId,
    pub uid: u32,
    pub slot: SlotRef,
}

/// What one user has here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub pairs: usize,
    /// Companion ends.
    pub companions: usize,
}

pub type OtherEnd = End;

#[derive(Default)]
pub struct Pairs {
    next: u32,
    all: HashMap<u32, Pair>,
    /// The smaller client first: it has role 0.
    by_clients: HashMap<[ClientId; 2], u32>,
    by_client: HashMap<ClientId, BTreeSet<u32>>,
    by_uid: HashMap<u32, Usage>,
}

struct Pair {
    clients: [ClientId; 2],
    uids: [u32; 2],
    conns: Vec<Option<Conn>>,
    /// The last freed is used next: its pages are there already.
    free: Vec<u32>,
    used: usize,
}

struct Conn {
    id: u64,
    /// By role; `None`: that end has let go.
    ends: [Option<End>; 2],
}

pub struct Granted {
    pub pair: u32,
    pub conn: u32,
    /// For a new pair, by role.
    pub introductions: Vec<Introduction>,
}

pub struct Introduction {
    pub memory: Arc<OwnedFd>,
    pub channel: Arc<OwnedFd>,
}

impl Pairs {
    pub fn exists(&self, clients: [ClientId; 2]) -> bool {
        self.by_clients.contains_key(&clients)
    }

    /// A conn for these two ends, in order of role; makes the pair if there is none.
    pub fn take_conn(&mut self, ends: [End; 2], id: u64) -> Result<Granted, Reason> {
        let clients = ends.map(|end| end.client);
        let (number, introductions) = match self.by_clients.get(&clients) {
            Some(&number) => (number, Vec::new()),
            None => self.make(clients, ends.map(|end| end.uid))?,
        };
        let pair = self.all.get_mut(&number).ok_or(Reason::NoSlot)?;
        let conn = pair.take(Conn { id, ends: ends.map(Some) }).ok_or(Reason::NoSlot)?;
        for uid in pair.uids {
            self.by_uid.entry(uid).or_default().companions += 1;
        }
        Ok(Granted { pair: number, conn, introductions })
    }

    /// Who has that role in that pair.
    pub fn member(&self, companion: CompanionRef) -> Option<ClientId> {
        self.all.get(&companion.pair)?.clients.get(usize::from(companion.role)).copied()
    }

    /// That role has let go; the conn is free when both have. Returns the other end if it has not.
    pub fn release(&mut self, companion: CompanionRef) -> Option<OtherEnd> {
        let pair = self.all.get_mut(&companion.pair)?;
        let used = pair.used;
        let other = pair.release(companion);
        if pair.used < used {
            let uids = pair.uids;
            self.give_back(uids, 0, 1);
        }
        other
    }

    pub fn remove_client(&mut self, client: ClientId) {
        for number in self.by_client.remove(&client).unwrap_or_default() {
            let Some(pair) = self.all.remove(&number) else { continue };
            self.by_clients.remove(&pair.clients);
            self.give_back(pair.uids, 1, pair.used);
            for other in pair.clients.into_iter().filter(|&other| other != client) {
                if let Some(numbers) = self.by_client.get_mut(&other) {
                    numbers.remove(&number);
                }
            }
        }
    }

    /// The pairs that a process has, and with whom.
    pub fn partners(&self, client: ClientId) -> Vec<(u32, ClientId)> {
        let numbers = self.by_client.get(&client).into_iter().flatten();
        let pairs = numbers.filter_map(|number| Some((*number, self.all.get(number)?.clients)));
        pairs.map(|(number, [one, other])| (number, if one == client { other } else { one })).collect()
    }

    pub fn count(&self, seen: impl Fn(ClientId) -> bool) -> usize {
        self.all.values().filter(|pair| pair.clients.iter().any(|&id| seen(id))).count()
    }

    /// A pair of two processes of one user counts twice, as its companions' ends do.
    pub fn usage(&self, uid: u32) -> Usage {
        self.by_uid.get(&uid).copied().unwrap_or_default()
    }

    fn give_back(&mut self, uids: [u32; 2], pairs: usize, companions: usize) {
        for uid in uids {
            let Some(usage) = self.by_uid.get_mut(&uid) else { continue };
            usage.pairs -= pairs;
            usage.companions -= companions;
            if *usage == Usage::default() {
                self.by_uid.remove(&uid);
            }
        }
    }

    fn make(&mut self, clients: [ClientId; 2], uids: [u32; 2]) -> Result<(u32, Vec<Introduction>), Reason> {
        let memory = Arc::new(memory().map_err(refused)?);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(refused)?;
        let introductions = [one, other]
            .map(|channel| Introduction { memory: memory.clone(), channel: Arc::new(channel) })
            .into_iter()
            .collect();
        self.next = self.next.wrapping_add(1);
        let number = self.next;
        self.all.insert(number, Pair { clients, uids, conns: Vec::new(), free: Vec::new(), used: 0 });
        self.by_clients.insert(clients, number);
        for uid in uids {
            self.by_uid.entry(uid).or_default().pairs += 1;
        }
        for client in clients {
            self.by_client.entry(client).or_default().insert(number);
        }
        Ok((number, introductions))
    }
}

impl Pair {
    fn take(&mut self, conn: Conn) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.conns.len()).ok().filter(|&index| index < pair::CONNS)?;
                self.conns.push(None);
                index
            }
        };
        *self.conns.get_mut(index as usize)? = Some(conn);
        self.used += 1;
        Some(index)
    }

    fn release(&mut self, companion: CompanionRef) -> Option<OtherEnd> {
        let place = self.conns.get_mut(companion.conn as usize)?;
        let conn = place.as_mut().filter(|conn| conn.id == companion.id)?;
        let role = usize::from(companion.role);
        conn.ends.get_mut(role)?.take()?;
        let other = *conn.ends.get(role ^ 1)?;
        if other.is_none() {
            *place = None;
            self.free.push(companion.conn);
            self.used -= 1;
        }
        other
    }
}

fn refused(error: nix::Error) -> Reason {
    warn!("cannot make the memory of a pair: {error}");
    match error {
        nix::Error::EMFILE | nix::Error::ENFILE => Reason::NoDescriptor,
        _ => Reason::NoMemory,
    }
}

/// Virtual until touched, and of this size for ever: a mapping of it never faults.
fn memory() -> nix::Result<OwnedFd> {
    const NAME: &CStr = c"tandem-pair";
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(NAME, flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL))
        .or_else(|_| memfd_create(NAME, flags))?;
    ftruncate(&file, pair::BYTES as i64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(pair::SEALS)))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
