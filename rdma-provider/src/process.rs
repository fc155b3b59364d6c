//! Forked children: a device belongs to the process that opened it.
//!
//! A child is known by a page that the kernel wipes in it, whatever kind of fork made it, so that the question costs one load. Its
//! copies of the parent's descriptors are closed before fork returns: an open one would keep the parent's queue pairs alive when the
//! parent is gone. Nothing else of the parent's is touched in a child, and what it had allocated stays as it is.

use std::ffi::c_int;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use crate::errors::{Errno, Result, made};
use crate::host;

const OURS: u8 = 1;

static MARK: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Descriptors that a child must not keep.
static OPEN: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

/// Held while libibverbs opens or closes a device: its own locks must not be copied held.
static OPENING: AtomicBool = AtomicBool::new(false);

/// This process may use what was made in it. Fails in a child.
pub fn check() -> Result<()> {
    if is_ours() { Ok(()) } else { Err(Errno(libc::ECHILD)) }
}

pub fn is_ours() -> bool {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: a page that is never unmapped. The kernel wipes it in a child, so the load must not be done away with.
    !mark.is_null() && unsafe { mark.read_volatile() } == OURS
}

/// This process owns what is made from now on. In a child that came by a fork without handlers, the parent's descriptors go now.
pub fn claim() -> Result<()> {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: three functions of ours, in a library that is never unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
    let mark = MARK.load(Ordering::Acquire);
    if mark.is_null() {
        let page = new_page()?;
        // SAFETY: a fresh page of ours.
        unsafe { page.write_volatile(OURS) };
        MARK.store(page, Ordering::Release);
    } else if !is_ours() {
        drop_descriptors();
        // SAFETY: the page is still mapped, and this process's own.
        unsafe { mark.write_volatile(OURS) };
    }
    Ok(())
}

fn new_page() -> Result<*mut u8> {
    const PAGE: usize = 4096;
    // SAFETY: a new private mapping, which is what MADV_WIPEONFORK asks for.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        let page = if page == libc::MAP_FAILED { ptr::null_mut() } else { page };
        let page = made(page)?;
        if libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) != 0 {
            // Before Linux 4.14.
            libc::munmap(page, PAGE);
            return Err(Errno(libc::EOPNOTSUPP));
        }
        Ok(page.cast())
    }
}

/// A hidden descriptor that a child is not to keep. False when there is no room to note it.
#[must_use]
pub fn note_descriptor(fd: c_int) -> bool {
    OPEN.iter().any(|entry| entry.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

pub fn forget_descriptor(fd: c_int) {
    for entry in &OPEN {
        if entry.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

fn drop_descriptors() {
    for entry in &OPEN {
        host::close_hidden(entry.swap(-1, Ordering::AcqRel));
    }
}

/// Runs what takes libibverbs' own locks, never across a fork.
pub fn opening<R>(work: impl FnOnce() -> R) -> R {
    take();
    let result = work();
    OPENING.store(false, Ordering::Release);
    result
}

fn take() {
    while OPENING.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
}

unsafe extern "C" fn before() {
    take();
}

unsafe extern "C" fn in_parent() {
    OPENING.store(false, Ordering::Release);
}

unsafe extern "C" fn in_child() {
    OPENING.store(false, Ordering::Release);
    drop_descriptors();
}
