//! System calls of ours that no hook intercepts: futex, memfd, mmap, thread ids, clocks. Nothing here touches errno
//! visibly: the hooks' edge restores it.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long, c_void};

use crate::real::{self, raw};
use crate::stranger;

static PID: AtomicU32 = AtomicU32::new(0);

/// The kernel's id of this thread, asked for once a thread.
#[inline]
pub fn tid() -> u32 {
    match local::tid() {
        0 => ask_for_tid(),
        tid => tid,
    }
}

#[cold]
fn ask_for_tid() -> u32 {
    // SAFETY: gettid has no arguments and no failure.
    let tid = unsafe { raw!(libc::SYS_gettid) } as u32;
    local::set_tid(tid);
    tid
}

/// A word a thread, 0 at first, at a fixed distance from the thread's pointer (ELF's "initial exec" model): every lock asks for it, and what a
/// shared library's `thread_local!` costs is a call of the dynamic linker's, with its tables. The few bytes have room in every thread, even
/// where the library is loaded late.
#[cfg(target_arch = "x86_64")]
mod local {
    use std::arch::{asm, global_asm};

    global_asm!(
        ".pushsection .tbss.tandem_tid,\"awT\",@nobits",
        ".balign 4",
        ".globl tandem_tid",
        ".hidden tandem_tid",
        ".type tandem_tid,@object",
        ".size tandem_tid, 4",
        "tandem_tid:",
        ".zero 4",
        ".popsection",
    );

    #[inline(always)]
    pub fn tid() -> u32 {
        let tid;
        // SAFETY: a load from this thread's own word.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + tandem_tid@GOTTPOFF]",
                "mov {tid:e}, dword ptr fs:[{at}]",
                at = out(reg) _,
                tid = out(reg) tid,
                options(nostack, readonly, preserves_flags),
            );
        }
        tid
    }

    pub fn set_tid(tid: u32) {
        // SAFETY: a store to this thread's own word, which nothing else refers to.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + tandem_tid@GOTTPOFF]",
                "mov dword ptr fs:[{at}], {tid:e}",
                at = out(reg) _,
                tid = in(reg) tid,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod local {
    use std::cell::Cell;

    thread_local! {
        // const-initialised and without Drop: no allocation, no destructor, safe in a signal handler.
        static TID: Cell<u32> = const { Cell::new(0) };
    }

    pub fn tid() -> u32 {
        // 0 while the thread's storage is being torn down: then it is asked for each time.
        TID.try_with(Cell::get).unwrap_or(0)
    }

    pub fn set_tid(tid: u32) {
        let _ = TID.try_with(|place| place.set(tid));
    }
}

/// The id of this process, as of start-up or the last fork. In a vfork child it is still the parent's: see [`is_vfork_child`].
#[inline]
pub fn pid() -> u32 {
    let pid = PID.load(Ordering::Relaxed);
    if pid != 0 { pid } else { refresh_pid() }
}

#[cold]
pub fn refresh_pid() -> u32 {
    let pid = real_pid();
    PID.store(pid, Ordering::Relaxed);
    pid
}

fn real_pid() -> u32 {
    // SAFETY: getpid has no arguments and no failure.
    unsafe { raw!(libc::SYS_getpid) as u32 }
}

/// A vfork child runs in the parent's memory: it must not change any table there. One system call at most, and where nobody can be one none.
pub fn is_vfork_child() -> bool {
    if !stranger::is_possible() {
        return false;
    }
    let pid = PID.load(Ordering::Relaxed);
    pid != 0 && pid != real_pid()
}

/// In a forked child, before anything else of ours: its one thread has another id now.
pub fn after_fork_in_child() {
    stranger::after_fork_in_child();
    local::set_tid(0);
}

/// Sleeps while the word is `expected`; true when the time-out ended the sleep.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout_ns: Option<u64>) -> bool {
    let time = timeout_ns.map(timespec);
    let time_ptr = time.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the word outlives the call and the timespec, if any, stands on this stack frame.
    let rc = unsafe { raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, time_ptr) };
    rc < 0 && errno() == libc::ETIMEDOUT
}

pub fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the kernel only uses the word's address.
    unsafe { raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// False only when no thread of that id exists any more, or it is dead and waits to be reaped.
pub fn thread_alive(tid: u32) -> bool {
    // SAFETY: signal 0 is delivered to nobody.
    let rc = unsafe { raw!(libc::SYS_tkill, tid as c_int, 0) };
    if rc < 0 && errno() == libc::ESRCH {
        return false;
    }
    !is_zombie(tid)
}

/// As [`thread_alive`], for processes.
pub fn process_alive(pid: u32) -> bool {
    thread_alive(pid)
}

fn is_zombie(pid: u32) -> bool {
    let mut path = [0u8; 32];
    let Some(path) = proc_stat_path(pid, &mut path) else { return false };
    let mut text = [0u8; 256];
    let text = read_file(path, &mut text).unwrap_or(&[]);
    // "pid (any (name)) STATE …"
    let state = text.iter().rposition(|&b| b == b')').and_then(|at| text.get(at + 2));
    matches!(state, Some(b'Z' | b'X'))
}

/// The beginning of a file of the kernel's, which gives as much as there is room for at once. `None`: not to be had.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: raw calls (the hooks are not passed) on a path that ends in NUL and a buffer of the stated length.
    let n = unsafe {
        let fd = raw!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) as c_int;
        if fd < 0 {
            return None;
        }
        let n = raw!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len());
        raw!(libc::SYS_close, fd);
        n
    };
    buffer.get(..usize::try_from(n).ok()?)
}

fn proc_stat_path(pid: u32, buffer: &mut [u8; 32]) -> Option<&CStr> {
    use std::io::Write;
    let mut rest = &mut buffer[..];
    write!(rest, "/proc/{pid}/stat\0").ok()?;
    CStr::from_bytes_until_nul(buffer).ok()
}

/// A sealed-to-be memory file; `None` when the kernel or a fault switch refuses.
pub fn memfd(name: &CStr, bytes: usize) -> Option<RawFd> {
    if crate::debug::fault(crate::debug::Fault::Memfd) {
        return None;
    }
    const MFD_NOEXEC_SEAL: u32 = 8;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name ends in NUL; the descriptor is ours alone until returned.
    unsafe {
        let mut fd = raw!(libc::SYS_memfd_create, name.as_ptr(), base | MFD_NOEXEC_SEAL) as c_int;
        if fd < 0 {
            fd = raw!(libc::SYS_memfd_create, name.as_ptr(), base) as c_int;
        }
        if fd < 0 {
            return None;
        }
        if raw!(libc::SYS_ftruncate, fd, bytes) < 0 {
            raw!(libc::SYS_close, fd);
            return None;
        }
        Some(fd)
    }
}

/// The program's address space is limited: it counts what is left of it, and ours would be many GiB.
pub fn space_is_limited() -> bool {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit64 on ourselves with a valid place.
    let known = unsafe { libc::prlimit64(0, libc::RLIMIT_AS, std::ptr::null(), &mut limit) } == 0;
    known && limit.rlim_cur != libc::RLIM64_INFINITY
}

/// A memory file of this size, which nobody can make shorter under us: to touch a mapping of it is no SIGBUS.
pub fn is_sealed(file: RawFd, bytes: usize, seals: i32) -> bool {
    // SAFETY: all-zero is a valid stat; the calls have no other arguments than a descriptor and its place.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        let has = real::fcntl(file, libc::F_GET_SEALS, 0);
        has >= 0
            && has & seals == seals
            && libc::fstat(file, &mut stat) == 0
            && u64::try_from(stat.st_size) == Ok(bytes as u64)
    }
}

/// Maps `bytes` of a memory file (or anonymous shared memory where `fd` is `None`), never dumped into a core file.
pub fn map_shared(fd: Option<RawFd>, bytes: usize, writable: bool) -> Option<*mut u8> {
    map_shared_at(None, fd, bytes, writable)
}

/// The same, in the place of a mapping of ours that has as many bytes.
pub fn map_shared_at(at: Option<*mut u8>, fd: Option<RawFd>, bytes: usize, writable: bool) -> Option<*mut u8> {
    if crate::debug::fault(crate::debug::Fault::Mmap) {
        return None;
    }
    let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    let anonymous = if fd.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    // SAFETY: a new mapping at an address the kernel chooses, or where one of ours stands, disturbs nothing.
    let at = unsafe {
        libc::mmap(
            at.unwrap_or(std::ptr::null_mut()).cast(),
            bytes,
            prot,
            libc::MAP_SHARED | libc::MAP_NORESERVE | anonymous | fixed,
            fd.unwrap_or(-1),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range was just mapped.
    unsafe { libc::madvise(at, bytes, libc::MADV_DONTDUMP) };
    Some(at.cast())
}

/// A little memory that a forked child shares, by no call that has not loaded this library.
pub fn map_plainly_shared(bytes: usize) -> Option<*mut u8> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at.cast())
}

/// # Safety
/// Nothing may use the range any more.
pub unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: as this function's own.
    unsafe { libc::munmap(at.cast::<c_void>(), bytes) };
}

pub fn fill_random(bytes: &mut [u8]) {
    // SAFETY: the buffer has the stated length. A short answer leaves zeroes, which are as good an id as any.
    unsafe { raw!(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
}

/// Sleeps that long; a signal ends it early.
pub fn pause(ns: u64) {
    let time = timespec(ns);
    // SAFETY: a time on this frame, no answer wanted. The raw call: no cancellation point.
    unsafe { raw!(libc::SYS_nanosleep, &raw const time, std::ptr::null_mut::<libc::timespec>()) };
}

/// False for what cannot be a program's memory: next to nothing (vm.mmap_min_addr), or the kernel's half.
#[inline(always)]
pub fn may_be_memory<T>(place: *const T) -> bool {
    place.addr() as isize >= 1 << 16
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// CLOCK_MONOTONIC_COARSE: the last tick, a few nanoseconds to read.
#[inline]
pub fn tick_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC_COARSE)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a place for the answer.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as libc::time_t, tv_nsec: (ns % 1_000_000_000) as c_long }
}

pub fn errno() -> i32 {
    // SAFETY: libc's errno location is valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

/// On the alternate stack of a signal handler, whose place says nothing of what is called by what.
pub fn on_signal_stack() -> bool {
    // SAFETY: a null pointer asks only; the other is on this frame, and all-zero is valid for it.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut stack) != 0 || stack.ss_flags & libc::SS_ONSTACK != 0
    }
}
