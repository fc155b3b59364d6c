//! The memory that switches read the SAN subnet table in. Only policyd can ever write it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use tandem_protocol::san::{Content, San};

pub struct Table {
    file: Arc<OwnedFd>,
    map: MmapRaw,
}

impl Table {
    pub fn new() -> io::Result<Self> {
        let file = memfd_create(c"tandem-san", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&file, San::BYTES as i64)?;
        let map = MmapOptions::new().len(San::BYTES).map_raw(&file)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(San::SEALS)))?;
        let table = Self { file: Arc::new(file), map };
        table.san().initialise();
        Ok(table)
    }

    pub fn file(&self) -> Arc<OwnedFd> {
        self.file.clone()
    }

    pub fn write(&self, content: &Content) {
        self.san().write(content);
    }

    fn san(&self) -> &San {
        // SAFETY: a shared mapping of a San's size, page-aligned, as old as `self`; the file can't shrink. All fields are
        // atomics, valid for any bytes.
        unsafe { &*self.map.as_ptr().cast::<San>() }
    }
}
