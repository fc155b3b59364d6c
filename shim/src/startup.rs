//! What happens when the library is loaded and unloaded: one ordered list each. Every hook works before it has run.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{calls, guard, real};

/// In this order, once, in the dynamic linker's thread, before the program's own constructors (but maybe after another
/// library's).
const STEPS: [fn(); 4] = [real::resolve_all, real::resolve_variadic, silence_panics, calls::process::start];

/// At the end of a program that returns from main or calls exit, after its own exit handlers.
const LAST_STEPS: [fn(); 1] = [calls::process::finish];

static DONE: AtomicBool = AtomicBool::new(false);

/// Whether start-up is over: until then every call is the kernel's own.
#[inline(always)]
pub fn is_done() -> bool {
    DONE.load(Ordering::Acquire)
}

/// Every call is the kernel's own again, for good.
pub fn undo() {
    DONE.store(false, Ordering::Release);
}

extern "C" fn start() {
    if guard::contain(|| STEPS.iter().for_each(|step| step())).is_ok() {
        DONE.store(true, Ordering::Release);
    }
}

extern "C" fn finish() {
    if is_done() {
        let _ = guard::contain(|| LAST_STEPS.iter().for_each(|step| step()));
    }
}

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = start;

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = finish;

/// A panic of ours never reaches the program's stderr.
fn silence_panics() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(format_args!("panic in the switch: {panic}"))));
}
