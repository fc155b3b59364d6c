//! The page that a two-ended test program shares with the harness (`struct page` of `programs/common.h`).

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SLOTS: usize = 64;

#[repr(C)]
struct Layout {
    port: AtomicU32,
    asking: AtomicU32,
    go: AtomicU32,
    expect: AtomicU32,
    pid: [AtomicU32; 2],
    slot: [AtomicU32; SLOTS],
    word: [AtomicU64; SLOTS],
}

pub struct Page(*mut Layout);

// SAFETY: every access to the mapping is by atomics.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Makes `page` in a scratch directory, all zero.
    pub fn create(folder: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(folder.join("page"));
        let file = file.expect("page file");
        file.set_len(size_of::<Layout>() as u64).expect("page size");
        // SAFETY: a fresh shared mapping of a file of that size; the result is checked.
        let at = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), size_of::<Layout>(), protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED, "mapping the page");
        Self(at.cast())
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped until drop, page-aligned, of this size, and only ever accessed by atomics.
        unsafe { &*self.0 }
    }

    pub fn port(&self) -> u32 {
        self.layout().port.load(Ordering::SeqCst)
    }

    /// The server's (0) or client's (1) process.
    pub fn pid(&self, end: usize) -> u32 {
        self.layout().pid[end].load(Ordering::SeqCst)
    }

    /// How many warm-ups the program has begun.
    pub fn asking(&self) -> u32 {
        self.layout().asking.load(Ordering::SeqCst)
    }

    /// Lets the first `count` warm-ups end.
    pub fn let_go(&self, count: u32) {
        self.layout().go.store(count, Ordering::SeqCst);
    }

    pub fn gone(&self) -> u32 {
        self.layout().go.load(Ordering::SeqCst)
    }

    /// Connections that the present warm-up warms.
    pub fn expected(&self) -> usize {
        self.layout().expect.load(Ordering::SeqCst) as usize
    }

    pub fn told(&self, slot: usize) -> u32 {
        self.layout().slot[slot].load(Ordering::SeqCst)
    }

    /// As the programs' `tell`; they look again every 100 ms at the latest, so no wake is needed.
    pub fn tell(&self, slot: usize) {
        self.layout().slot[slot].fetch_add(1, Ordering::SeqCst);
    }

    pub fn word(&self, at: usize) -> u64 {
        self.layout().word[at].load(Ordering::SeqCst)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `create`, dropped once.
        unsafe { libc::munmap(self.0.cast(), size_of::<Layout>()) };
    }
}
