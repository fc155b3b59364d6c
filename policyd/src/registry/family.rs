//! Families: a process and the children it forked, with one registry between them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Deref};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek};
use tandem_protocol::Reason;
use tandem_protocol::message::{Meet, SlotRef};
use tandem_protocol::registry::{Registry, Row, Snapshot, claim_word};
use tracing::warn;

use super::Sums;

pub type FamilyId = [u8; 16];

/// Dead families whose totals are still known one by one (a family may come back when its channel was lost).
const REMEMBERED: usize = 1_024;

/// A family's registry: mapped while it is looked at and no longer, for a mapped page of each of thousands of processes
/// would be most of policyd's memory. Sealed against shrinking, so reading it never faults.
pub struct Family {
    pub id: FamilyId,
    /// Of the member that came first: whose rows these are.
    pub uid: u32,
    inode: (u64, u64),
    file: File,
    /// Members' pids as this host numbers them, with their number of channels.
    pids: Mutex<BTreeMap<u32, u32>>,
}

/// The registry, for as long as this lives.
pub struct Mapped(MmapRaw);

impl Mapped {
    fn of(file: &File) -> io::Result<Self> {
        MmapOptions::new().len(Registry::BYTES).map_raw(file).map(Self)
    }
}

impl Deref for Mapped {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        // SAFETY: the mapping is page-aligned, of a Registry's size, and lives as long as `self`; the file is sealed
        // against shrinking. All its fields are atomics, valid for any bytes, so that other writers are no data race.
        unsafe { &*self.0.as_ptr().cast::<Registry>() }
    }
}

impl Family {
    fn checked(id: FamilyId, uid: u32, file: OwnedFd) -> Result<Self, Reason> {
        let inode = check_file(&file, Registry::BYTES, Registry::SEALS)?;
        let family = Self { id, uid, inode, file: file.into(), pids: Mutex::default() };
        let sound = family.map().map_err(|_| Reason::NoMapping)?.is_sound();
        if sound { Ok(family) } else { Err(Reason::PolicydRefused) }
    }

    pub fn map(&self) -> io::Result<Mapped> {
        Mapped::of(&self.file)
    }

    /// A packet went to a process of this family.
    pub fn bump_mail(&self) {
        match self.map() {
            Ok(registry) => drop(registry.header.mail.fetch_add(1, Ordering::Release)),
            // It finds the packet when it next looks by itself.
            Err(error) => warn!("a family is not told of its mail: {error}"),
        }
    }

    /// Tells the family that a copy of the claim's socket is held, for as long as the answer lives: a close waits for it.
    /// `None`: the switch has withdrawn the claim, its descriptor may be another one by now, and none is to be taken.
    pub fn examine(&self, meet: &Meet) -> Option<Examination> {
        let registry = self.map().ok()?;
        registry.begin_examination(meet.slot);
        let examination = Examination { registry };
        let stands = self.word(Registry::claim_offset(meet.slot.slot)).map(u64::from_ne_bytes);
        (stands == Some(claim_word(meet.slot.generation, meet.fd))).then_some(examination)
    }

    /// The descriptor that the switch sent has been closed here.
    pub fn closed_what_was_shown(&self, slot: SlotRef) {
        // Looked at first: the store would allocate a page that only a lying switch has not written itself.
        let shown = self.word(Registry::shown_offset(slot.slot)).map(u32::from_ne_bytes);
        if shown == Some(slot.generation)
            && let Ok(registry) = self.map()
        {
            registry.unshow(slot);
        }
    }

    /// Some bytes of the registry as they are now, read from its file: that allocates no page, whichever row is named.
    fn word<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at as u64).ok()?;
        Some(bytes)
    }

    pub fn has_pid(&self, pid: u32) -> bool {
        self.lock_pids().contains_key(&pid)
    }

    /// Every live row, as long as more are wanted. Pages that were never touched are left so: reading one would allocate it.
    pub fn each_row(&self, mut take: impl FnMut(&Registry, usize, Snapshot) -> ControlFlow<()>) {
        let Ok(registry) = self.map() else { return };
        let rows = registry.used_rows();
        let first = std::mem::offset_of!(Registry, header) + size_of_val(&registry.header);
        let written = self.written().into_iter().flat_map(|(start, end)| {
            let from = start.saturating_sub(first) / size_of::<Row>();
            let to = end.saturating_sub(first).div_ceil(size_of::<Row>()).min(rows.len());
            rows.get(from..to).unwrap_or(&[]).iter().enumerate().map(move |(at, row)| (from + at, row))
        });
        // Whether it was cut short makes no difference.
        let mut live = written.filter_map(|(index, row)| Some((index, row.read()?)));
        let _ = live.try_for_each(|(index, row)| take(&registry, index, row));
    }

    pub fn sums(&self) -> Sums {
        let Ok(registry) = self.map() else { return Sums::default() };
        let mut sums = Sums::of_header(&registry);
        self.each_row(|_, _, row| {
            sums.add_row(&row);
            ControlFlow::Continue(())
        });
        sums
    }

    /// Extents of the file that hold pages.
    fn written(&self) -> Vec<(usize, usize)> {
        let seek = |at: usize, whence| {
            let at = i64::try_from(at).ok()?;
            lseek(&self.file, at, whence).ok().and_then(|at| usize::try_from(at).ok())
        };
        let mut extents = Vec::new();
        let mut at = 0;
        while at < Registry::BYTES {
            let Some(start) = seek(at, Whence::SeekData) else { break };
            let end = seek(start, Whence::SeekHole).filter(|&end| end > start).unwrap_or(Registry::BYTES);
            extents.push((start, end));
            at = end;
        }
        extents
    }

    fn lock_pids(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy of a socket may be held until this is dropped.
pub struct Examination {
    registry: Mapped,
}

impl Drop for Examination {
    fn drop(&mut self) {
        self.registry.end_examination();
    }
}

/// All families with a member that is connected, and what the others have left.
#[derive(Default)]
pub struct Families {
    alive: HashMap<FamilyId, (Arc<Family>, usize)>,
    /// By user, of families that are gone.
    retained: HashMap<u32, Sums>,
    recent: VecDeque<(FamilyId, u32, Sums)>,
}

impl Families {
    /// One more member. Its registry must be the one the family already has.
    pub fn join(&mut self, id: FamilyId, registry: OwnedFd, uid: u32, pid: u32) -> Result<Arc<Family>, Reason> {
        let family = if let Some((family, members)) = self.alive.get_mut(&id) {
            if check_file(&registry, Registry::BYTES, Registry::SEALS)? != family.inode {
                return Err(Reason::PolicydRefused);
            }
            *members += 1;
            family.clone()
        } else {
            let family = Arc::new(Family::checked(id, uid, registry)?);
            self.forget_retained(id);
            self.alive.insert(id, (family.clone(), 1));
            family
        };
        *family.lock_pids().entry(pid).or_default() += 1;
        Ok(family)
    }

    /// One member fewer; with the last, the family's totals are kept and its registry is let go.
    pub fn leave(&mut self, family: &Arc<Family>, pid: u32) {
        let mut pids = family.lock_pids();
        if let Some(channels) = pids.get_mut(&pid) {
            *channels -= 1;
            if *channels == 0 {
                pids.remove(&pid);
            }
        }
        drop(pids);
        let Some((_, members)) = self.alive.get_mut(&family.id) else { return };
        *members -= 1;
        if *members == 0 {
            self.alive.remove(&family.id);
            self.retain(family);
        }
    }

    pub fn alive(&self) -> impl Iterator<Item = &Arc<Family>> {
        self.alive.values().map(|(family, _)| family)
    }

    /// What dead families of this user (`None`: of all) carried.
    pub fn retained(&self, uid: Option<u32>) -> Sums {
        let mut all = Sums::default();
        for (_, sums) in self.retained.iter().filter(|(owner, _)| uid.is_none_or(|uid| uid == **owner)) {
            all.add(sums);
        }
        all
    }

    fn retain(&mut self, family: &Family) {
        let sums = family.sums();
        self.retained.entry(family.uid).or_default().add(&sums);
        self.recent.push_back((family.id, family.uid, sums));
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// A family that comes back brings its header's totals along: they must not count twice.
    fn forget_retained(&mut self, id: FamilyId) {
        let Some(at) = self.recent.iter().position(|(known, ..)| *known == id) else { return };
        if let Some((_, uid, sums)) = self.recent.remove(at)
            && let Some(retained) = self.retained.get_mut(&uid)
        {
            retained.subtract(&sums);
        }
    }
}

/// That a file is a memfd of this size with these seals, so that a mapping of it never faults; returns its identity.
pub fn check_file(file: &impl AsFd, bytes: usize, seals: i32) -> Result<(u64, u64), Reason> {
    let status = fstat(file).map_err(|_| Reason::PolicydRefused)?;
    let set = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| Reason::PolicydRefused)?;
    let wanted = SealFlag::from_bits_retain(seals);
    let sealed = SealFlag::from_bits_retain(set).contains(wanted);
    if sealed && usize::try_from(status.st_size) == Ok(bytes) {
        Ok((status.st_dev, status.st_ino))
    } else {
        Err(Reason::PolicydRefused)
    }
}

#[cfg(test)]
mod tests;
