//! The memory that processes look their assignments up in. Only policyd can ever write it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use tandem_protocol::assignment::{Arena, CELLS, Content, TABLES};

/// Arenas by user: no user sees another's.
pub struct Arenas<K> {
    by_user: HashMap<u32, Vec<Rc<Mapped<K>>>>,
}

/// One arena and who has what in it. `K` names an assignment.
pub struct Mapped<K> {
    pub file: Arc<OwnedFd>,
    map: MmapRaw,
    ledger: std::cell::RefCell<Ledger<K>>,
}

struct Ledger<K> {
    used: Vec<bool>,
    next: usize,
    /// Cells that name each table, and its assignment.
    tables: Vec<Option<(K, usize)>>,
}

/// A process's cell: free again when it is dropped.
pub struct Cell<K: Clone + Eq> {
    arena: Rc<Mapped<K>>,
    index: usize,
    table: Option<usize>,
}

/// All tables of an arena have other assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTable;

impl<K> Default for Arenas<K> {
    fn default() -> Self {
        Self { by_user: HashMap::new() }
    }
}

impl<K: Clone + Eq> Arenas<K> {
    pub fn cell(&mut self, uid: u32) -> io::Result<Cell<K>> {
        let in_use = |arena: &Rc<Mapped<K>>| Rc::strong_count(arena) > 1;
        self.by_user.retain(|&user, arenas| user == uid || arenas.iter().any(in_use));
        let arenas = self.by_user.entry(uid).or_default();
        // An arena that nobody uses any more goes, but for one.
        let mut spared = false;
        arenas.retain(|arena| in_use(arena) || !std::mem::replace(&mut spared, true));
        for arena in arenas.iter() {
            if let Some(index) = arena.ledger.borrow_mut().take_cell() {
                return Ok(Cell { arena: arena.clone(), index, table: None });
            }
        }
        let arena = Rc::new(Mapped::new()?);
        arenas.push(arena.clone());
        let index = arena.ledger.borrow_mut().take_cell().unwrap_or(0);
        Ok(Cell { arena, index, table: None })
    }

    /// Gives every table anew its content.
    pub fn rewrite<'a>(&self, mut content: impl FnMut(&K) -> Option<Content<'a>>) {
        for arena in self.by_user.values().flatten() {
            for (index, table) in arena.ledger.borrow().tables.iter().enumerate() {
                let Some((key, _)) = table else { continue };
                if let (Some(content), Some(table)) = (content(key), arena.arena().table(index)) {
                    table.write(&content);
                }
            }
        }
    }
}

impl<K> Mapped<K> {
    fn new() -> io::Result<Self> {
        let file = memfd_create(c"tandem-assignments", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&file, Arena::BYTES as i64)?;
        let map = MmapOptions::new().len(Arena::BYTES).map_raw(&file)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(Arena::SEALS)))?;
        let ledger = Ledger { used: vec![false; CELLS], next: 0, tables: (0..TABLES).map(|_| None).collect() };
        let arena = Self { file: Arc::new(file), map, ledger: ledger.into() };
        arena.arena().initialise();
        Ok(arena)
    }

    pub fn arena(&self) -> &Arena {
        // SAFETY: a shared mapping of an Arena's size, page-aligned, as old as `self`; the file can't shrink. All fields
        // are atomics, valid for any bytes.
        unsafe { &*self.map.as_ptr().cast::<Arena>() }
    }
}

impl<K> Ledger<K> {
    fn take_cell(&mut self) -> Option<usize> {
        let cells = self.used.len();
        let free = (0..cells).map(|step| (self.next + step) % cells).find(|&at| self.used.get(at) == Some(&false))?;
        *self.used.get_mut(free)? = true;
        // One that has just been let go is the last to be used again.
        self.next = free + 1;
        Some(free)
    }
}

impl<K: Clone + Eq> Cell<K> {
    pub fn index(&self) -> u32 {
        self.index as u32
    }

    pub fn file(&self) -> Arc<OwnedFd> {
        self.arena.file.clone()
    }

    /// From now on the process has this assignment, or none.
    pub fn assign(&mut self, assignment: Option<(&K, &Content)>) -> Result<(), NoTable> {
        let table = match assignment {
            Some((key, content)) => match self.arena.take_table(key, content) {
                Some(table) => Some(table),
                None => return self.assign(None).and(Err(NoTable)),
            },
            None => None,
        };
        self.arena.arena().assign(self.index, table);
        if let Some(old) = std::mem::replace(&mut self.table, table) {
            self.arena.release_table(old);
        }
        Ok(())
    }
}

impl<K: Clone + Eq> Mapped<K> {
    fn take_table(&self, key: &K, content: &Content) -> Option<usize> {
        let mut ledger = self.ledger.borrow_mut();
        let same = ledger.tables.iter().position(|table| table.as_ref().is_some_and(|(known, _)| known == key));
        let index = same.or_else(|| ledger.tables.iter().position(Option::is_none))?;
        let entry = ledger.tables.get_mut(index)?;
        match entry {
            Some((_, cells)) => *cells += 1,
            None => {
                *entry = Some((key.clone(), 1));
                self.arena().table(index)?.write(content);
            }
        }
        Some(index)
    }

    fn release_table(&self, index: usize) {
        if let Some(entry) = self.ledger.borrow_mut().tables.get_mut(index)
            && let Some((_, cells)) = entry
        {
            *cells -= 1;
            if *cells == 0 {
                *entry = None;
            }
        }
    }
}

impl<K: Clone + Eq> Drop for Cell<K> {
    fn drop(&mut self) {
        // Giving up a table cannot fail.
        let _ = self.assign(None);
        if let Some(used) = self.arena.ledger.borrow_mut().used.get_mut(self.index) {
            *used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tandem_protocol::assignment::{Decision, Name, Range};

    fn with(index: u32, run: impl FnOnce(&Content)) {
        let ranges = [Range { first: Ipv4Addr::new(10, 0, 0, 0), last: Ipv4Addr::new(10, 0, 0, 9), source: 0 }];
        let sources = [Ipv4Addr::new(10, 0, 0, 1)];
        run(&Content {
            interface_index: index,
            interface: Name::new(b"eth0").unwrap(),
            v4_sources: &sources,
            v4: &ranges,
            ..Content::default()
        });
    }

    fn index(cell: &Cell<u32>) -> Option<u32> {
        match cell.arena.arena().look_up(cell.index(), "10.0.0.5".parse().unwrap()) {
            Decision::Bind(binding) => Some(binding.interface_index),
            _ => None,
        }
    }

    #[test]
    fn equal_assignments_share_a_table_and_cells_are_their_own() {
        let mut arenas = Arenas::default();
        let (mut one, mut other) = (arenas.cell(7).unwrap(), arenas.cell(7).unwrap());
        assert_ne!(one.index(), other.index());
        with(3, |content| {
            one.assign(Some((&3, content))).unwrap();
            other.assign(Some((&3, content))).unwrap();
        });
        assert_eq!((index(&one), index(&other)), (Some(3), Some(3)));
        assert_eq!(one.table, other.table);
        with(4, |content| one.assign(Some((&4, content))).unwrap());
        assert_eq!((index(&one), index(&other)), (Some(4), Some(3)));
        with(5, |content| arenas.rewrite(|&key| (key == 3).then_some(*content)));
        assert_eq!((index(&one), index(&other)), (Some(4), Some(5)));
        one.assign(None).unwrap();
        assert_eq!(index(&one), None);
        let stranger = arenas.cell(8).unwrap();
        assert!(!Rc::ptr_eq(&stranger.arena, &one.arena));
    }

    #[test]
    fn a_cell_is_free_when_its_process_goes_and_tables_are_bounded() {
        let mut arenas: Arenas<u32> = Arenas::default();
        let mut cells: Vec<_> = (0..CELLS).map(|_| arenas.cell(7).unwrap()).collect();
        assert_eq!(arenas.by_user[&7].len(), 1);
        with(1, |content| {
            for (key, cell) in (0..TABLES as u32).zip(&mut cells) {
                cell.assign(Some((&key, content))).unwrap();
            }
            let last = cells.last_mut().unwrap();
            assert_eq!(last.assign(Some((&1_000, content))), Err(NoTable));
            assert_eq!(index(last), None);
        });
        cells.truncate(CELLS - 1);
        cells.push(arenas.cell(7).unwrap());
        cells.push(arenas.cell(7).unwrap());
        assert_eq!(arenas.by_user[&7].len(), 2);
        drop(cells);
        arenas.cell(7).unwrap();
        assert_eq!(arenas.by_user[&7].len(), 1);
    }

    #[test]
    fn nobody_else_can_map_it_writable() {
        let arenas = &mut Arenas::<u32>::default();
        let cell = arenas.cell(7).unwrap();
        assert!(MmapOptions::new().len(Arena::BYTES).map_raw(&*cell.file()).is_err());
        assert!(MmapOptions::new().len(Arena::BYTES).map_raw_read_only(&*cell.file()).is_ok());
        assert!(ftruncate(&*cell.file(), 0).is_err());
    }
}
