//! Memory that a forked child shares, and the child.

use std::io;
use std::ptr::NonNull;

/// Zeroed memory, the same in children forked from now on. It is never given back: the processes end with it.
pub fn shared_memory(bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping that overlaps nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping was just made, with this length. Later touches are no first touches.
    unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))
}

/// Runs `other_end` in a forked child, pinned to `core`. The child dies with this process.
pub fn child(core: Option<usize>, other_end: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // SAFETY: this process has no other thread yet.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            // SAFETY: no memory is passed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let ended = pin(core).map_err(anyhow::Error::from).and_then(|()| other_end());
            if let Err(error) = ended {
                eprintln!("tandem-load limit, the other end: {error:#}");
            }
            std::process::exit(1)
        }
        _ => Ok(()),
    }
}

pub fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    // SAFETY: all zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET refuses a core beyond the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is as long as is said.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
