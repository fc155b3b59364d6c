//! Whether the one that asks is another process than the one whose tables these are: a child by vfork, which runs in its parent's memory and
//! must change nothing there, or one by a bare clone, which nobody has told that it is one.
//!
//! The kernel would say (getpid), for a system call at each close. So a child that shares the memory is noted by who makes it
//! (`exports::sharing`), and one with a copy of it finds a page empty that the kernel does not copy (MADV_WIPEONFORK, Linux 4.14).
//! Only where one of both is so, or there is no such page, the kernel is asked.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::sys;

/// Children by vfork that run now; and [`EVER`].
pub static SHARING: AtomicU32 = AtomicU32::new(0);
/// There has been another child in this memory, and nobody tells when it has gone.
pub const EVER: u32 = 1 << 30;

/// Null, or a word that is 0 in a child which has not passed through `after_fork_in_child`.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

pub fn is_possible() -> bool {
    // SAFETY: null, or a page that is never unmapped.
    let mark = unsafe { MARK.load(Ordering::Relaxed).as_ref() };
    SHARING.load(Ordering::Relaxed) != 0 || mark.is_none_or(|mark| mark.load(Ordering::Relaxed) == 0)
}

/// A child may be made that runs in this memory.
pub fn may_come() {
    SHARING.fetch_or(EVER, Ordering::Relaxed);
}

/// When there is something to lose. Without memory the kernel is asked as ever.
pub fn start() {
    if !MARK.load(Ordering::Relaxed).is_null() {
        return;
    }
    const PAGE: usize = 4096;
    // SAFETY: a fresh mapping of our own, where the kernel chooses.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return;
        }
        if libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, PAGE);
            return;
        }
        MARK.store(page.cast(), Ordering::Relaxed);
    }
    mark();
}

/// A forked child that knows what it is: nobody shares its memory, and its process id is known anew.
pub fn after_fork_in_child() {
    sys::refresh_pid();
    SHARING.store(0, Ordering::Relaxed);
    mark();
}

fn mark() {
    // SAFETY: as above.
    if let Some(mark) = unsafe { MARK.load(Ordering::Relaxed).as_ref() } {
        mark.store(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{self, raw};

    /// One test, for the page and the count are the process's.
    #[test]
    fn a_child_is_told_from_its_parent() {
        sys::refresh_pid();
        start();
        assert!(!is_possible() && !sys::is_vfork_child());
        SHARING.store(1, Ordering::Relaxed);
        assert!(
            is_possible() && !sys::is_vfork_child(),
            "its parent's other threads ask, and hear that it is not they"
        );
        SHARING.store(0, Ordering::Relaxed);
        // SAFETY: the child, which has a copy of this memory and one thread, makes no call but its end.
        unsafe {
            let child = raw!(libc::SYS_clone, libc::SIGCHLD);
            if child == 0 {
                let told = sys::is_vfork_child();
                after_fork_in_child();
                real::_exit(i32::from(told) + 2 * i32::from(!sys::is_vfork_child()));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child as i32, &raw mut status, 0), child as i32);
            assert_eq!(libc::WEXITSTATUS(status), 3, "told at first, and no more when it has introduced itself");
        }
    }
}
