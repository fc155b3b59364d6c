//! What the switch has given: its log, and the hiding of descriptors.

use std::ffi::c_int;
use std::fmt;
use std::sync::OnceLock;

use tandem_provider::Host;

use crate::errors::{Errno, Result};

struct Given(Host);

// SAFETY: the host's functions may be called from any thread, as the boundary says; its context is theirs alone.
unsafe impl Send for Given {}
// SAFETY: as above.
unsafe impl Sync for Given {}

static HOST: OnceLock<Given> = OnceLock::new();

/// Once a process; a later one is the same switch.
pub fn adopt(host: &Host) {
    let _ = HOST.set(Given(*host));
}

#[derive(Clone, Copy)]
pub enum Level {
    Error = 1,
    Warning = 2,
    Info = 3,
    Debug = 4,
}

pub fn log(level: Level, text: fmt::Arguments<'_>) {
    let Some(Given(host)) = HOST.get() else { return };
    let text = text.to_string().replace(['\0', '\n'], " ");
    // SAFETY: the host's own function and context; the text outlives the call.
    unsafe { (host.log)(host.context, level as u32, text.as_ptr().cast(), text.len()) };
}

/// A device refuses something: which thing, and why.
pub fn noted<T>(what: &str, result: Result<T>) -> Result<T> {
    result.inspect_err(|Errno(errno)| {
        let error = std::io::Error::from_raw_os_error(*errno);
        log(Level::Warning, format_args!("{what}: {error}"));
    })
}

/// Takes a fresh descriptor out of the application's numbers. It is closed if that fails.
pub fn hide(fd: c_int) -> Result<c_int> {
    let Some(Given(host)) = HOST.get() else { return Err(Errno(libc::EBADF)) };
    // SAFETY: the host's own function and context.
    match unsafe { (host.hide)(host.context, fd) } {
        hidden @ 0.. => Ok(hidden),
        errno => Err(Errno(errno.saturating_neg())),
    }
}

/// Async-signal-safe, also in a forked child.
pub fn close_hidden(fd: c_int) {
    if let Some(Given(host)) = HOST.get()
        && fd >= 0
    {
        // SAFETY: as above; the number came from `hide`.
        unsafe { (host.close_hidden)(host.context, fd) };
    }
}
