//! The `tandem` command.
//!
//! Without std's start-up: it would ignore SIGPIPE and open /dev/null for closed standard descriptors, and a program
//! under `tandem run` must find both as the caller left them.

#![no_main]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// # Safety
/// Called by the C runtime: `argv` has `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    let arguments = (0..count).map(|at| {
        // SAFETY: the C runtime gives `argc` zero-terminated strings that live as long as the process.
        let argument = unsafe { CStr::from_ptr(*argv.add(at)) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    });
    tandem_policyd::cli::main(arguments.collect())
}
