//! Where a panic of ours ends, and a cancelled thread's unwinding doesn't.
//!
//! `catch_unwind` would do for panics, but it aborts the program when `pthread_cancel` unwinds a thread that sleeps below it in
//! a real call: std takes the forced unwinding for a foreign exception it may not catch. So the frame that stops panics is our
//! own: its personality routine stops Rust's exceptions and lets every other pass, as C frames do.
//!
//! A handler that sleeps in a cancellation point must therefore call it by `crate::real` (whose types are "C-unwind"), and its
//! guards are dropped when the thread is cancelled there.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A panic came this far; its message went to the log by the panic hook.
#[derive(Debug)]
pub struct Panicked;

/// Runs `work`; a panic in it becomes an error value.
pub fn contain<R>(work: impl FnOnce() -> R) -> Result<R, Panicked> {
    let mut job = Job { work: ManuallyDrop::new(work), result: None };
    // SAFETY: `run` gets the job it was made for, which outlives the call.
    let exception = unsafe { tandem_guard(run_of(&job), (&raw mut job).cast()) };
    if exception.is_null() {
        return job.result.ok_or(Panicked);
    }
    // Raised again where std can see it: std alone can take its exception apart and count the panic as over.
    // SAFETY: the exception is Rust's own, was caught once and is raised once.
    let _ = catch_unwind(AssertUnwindSafe(|| unsafe { _Unwind_RaiseException(exception) }));
    Err(Panicked)
}

struct Job<W, R> {
    work: ManuallyDrop<W>,
    result: Option<R>,
}

fn run_of<W: FnOnce() -> R, R>(_: &Job<W, R>) -> Run {
    run::<W, R>
}

extern "C-unwind" fn run<W: FnOnce() -> R, R>(job: *mut c_void) {
    // SAFETY: `contain` passes its own job, of these very types, and runs it once: the work is taken once.
    let (job, work) = unsafe {
        let job = &mut *job.cast::<Job<W, R>>();
        let work = ManuallyDrop::take(&mut job.work);
        (job, work)
    };
    job.result = Some(work());
}

type Run = extern "C-unwind" fn(*mut c_void);

unsafe extern "C-unwind" {
    /// Calls `run(job)`; returns null, or the Rust exception that ended it.
    fn tandem_guard(run: Run, job: *mut c_void) -> *mut c_void;
    fn _Unwind_RaiseException(exception: *mut c_void) -> c_int;
}

unsafe extern "C" {
    fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
    fn _Unwind_SetIP(context: *mut c_void, address: usize);
    fn _Unwind_GetLanguageSpecificData(context: *mut c_void) -> usize;
}

const SEARCH_PHASE: c_int = 1;
const HANDLER_FRAME: c_int = 4;
const HANDLER_FOUND: c_int = 6;
const INSTALL_CONTEXT: c_int = 7;
const CONTINUE_UNWIND: c_int = 8;
/// The class of Rust's exceptions; std has written it in either byte order.
const RUST: [u8; 8] = *b"MOZ\0RUST";

/// The unwinder asks each frame what it wants. In place of a table of landing pads the frame's "language specific data" is the
/// address of its one landing pad. Forced unwinding never names a handler frame, and so passes.
extern "C" fn tandem_guard_personality(
    _version: c_int,
    actions: c_int,
    class: u64,
    exception: *mut c_void,
    context: *mut c_void,
) -> c_int {
    if class.to_ne_bytes() != RUST && class.to_be_bytes() != RUST {
        return CONTINUE_UNWIND;
    }
    if actions & SEARCH_PHASE != 0 {
        return HANDLER_FOUND;
    }
    if actions & HANDLER_FRAME == 0 {
        return CONTINUE_UNWIND;
    }
    // SAFETY: the unwinder's own context, in the phase in which it may be changed. Register 0 is the first that a landing pad
    // finds its data in (rax, x0).
    unsafe {
        _Unwind_SetGR(context, 0, exception.addr());
        _Unwind_SetIP(context, _Unwind_GetLanguageSpecificData(context));
    }
    INSTALL_CONTEXT
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.tandem_guard,\"ax\",@progbits",
    ".balign 16",
    ".globl tandem_guard",
    ".hidden tandem_guard",
    ".type tandem_guard,@function",
    "tandem_guard:",
    ".cfi_startproc",
    ".cfi_personality 0x1b, {personality}",
    ".cfi_lsda 0x1b, .Ltandem_guard_landing",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "xor eax, eax",
    ".Ltandem_guard_landing:",
    "pop rbp",
    ".cfi_def_cfa_offset 8",
    "ret",
    ".cfi_endproc",
    ".size tandem_guard, . - tandem_guard",
    ".popsection",
    personality = sym tandem_guard_personality,
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.tandem_guard,\"ax\",@progbits",
    ".balign 16",
    ".globl tandem_guard",
    ".hidden tandem_guard",
    ".type tandem_guard,@function",
    "tandem_guard:",
    ".cfi_startproc",
    ".cfi_personality 0x1b, {personality}",
    ".cfi_lsda 0x1b, .Ltandem_guard_landing",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "mov x2, x0",
    "mov x0, x1",
    "blr x2",
    "mov x0, #0",
    ".Ltandem_guard_landing:",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    ".size tandem_guard, . - tandem_guard",
    ".popsection",
    personality = sym tandem_guard_personality,
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn a_panic_becomes_a_value_again_and_again() {
        for _ in 0..3 {
            assert!(
                contain(|| if std::hint::black_box(true) {
                    panic!("planted")
                })
                .is_err()
            );
            assert!(!std::thread::panicking());
        }
        assert_eq!(contain(|| 5).ok(), Some(5));
    }

    #[test]
    fn nested_frames_stop_their_own_panic_only() {
        let outer = contain(|| {
            assert!(
                contain(|| if std::hint::black_box(true) {
                    panic!("inner")
                })
                .is_err()
            );
            1
        });
        assert_eq!(outer.ok(), Some(1));
    }

    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }

    extern "C" fn sleeper(_: *mut c_void) -> *mut c_void {
        unsafe extern "C-unwind" {
            fn pause() -> c_int;
        }
        let _ = contain(|| {
            let _held = Held;
            // SAFETY: no arguments.
            unsafe { pause() }
        });
        std::ptr::null_mut()
    }

    #[test]
    fn a_cancelled_thread_unwinds_through_and_drops_what_it_held() {
        let mut thread: libc::pthread_t = 0;
        let mut result = std::ptr::null_mut();
        // SAFETY: a plain thread with default attributes, joined below.
        unsafe {
            assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), sleeper, std::ptr::null_mut()), 0);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(libc::pthread_cancel(thread), 0);
            assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
        }
        assert_eq!(result.addr(), usize::MAX, "PTHREAD_CANCELED");
        assert_eq!(DROPPED.load(Ordering::SeqCst), 1);
    }
}
