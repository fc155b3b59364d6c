//! `TANDEM_LOG=LEVEL=FILE`: what the switch has to say goes to that file and nowhere else, never to the program's
//! stdout or stderr. A line is formatted on the stack and written with one raw call; the file is opened for each line,
//! so that no descriptor is kept and a forked child writes to the right place.

use std::fmt::{Arguments, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::real::raw;
use crate::sys;

#[derive(Clone, Copy, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);
static FILE: OnceLock<Vec<u8>> = OnceLock::new();

/// Start-up. A value that cannot be understood turns logging off: there is no place to complain to.
pub fn configure(value: &str) {
    let Some((level, file)) = value.split_once('=') else { return };
    let level = match level {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => return,
    };
    let mut path = file.as_bytes().to_vec();
    path.push(0);
    if FILE.set(path).is_ok() {
        LEVEL.store(level as u8, Ordering::Relaxed);
    }
}

#[inline]
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

pub fn error(text: Arguments<'_>) {
    line(Level::Error, "error", text);
}

pub fn warn(text: Arguments<'_>) {
    line(Level::Warn, "warn", text);
}

pub fn info(text: Arguments<'_>) {
    line(Level::Info, "info", text);
}

pub fn debug(text: Arguments<'_>) {
    line(Level::Debug, "debug", text);
}

pub fn trace(text: Arguments<'_>) {
    line(Level::Trace, "trace", text);
}

#[inline]
fn line(level: Level, name: &str, text: Arguments<'_>) {
    if enabled(level) {
        write_line(name, text);
    }
}

#[cold]
fn write_line(name: &str, text: Arguments<'_>) {
    let Some(path) = FILE.get() else { return };
    let saved = sys::errno();
    let mut buffer = Line { bytes: [0; 512], used: 0 };
    let now = sys::now_ns();
    let _ =
        write!(buffer, "{}.{:06} {}/{} {name} ", now / 1_000_000_000, now / 1_000 % 1_000_000, sys::pid(), sys::tid());
    let _ = buffer.write_fmt(text);
    let _ = buffer.write_char('\n');
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: raw calls (the hooks are not passed) with a path that ends in NUL and a buffer of the stated length.
    unsafe {
        let fd = raw!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600) as i32;
        if fd >= 0 {
            raw!(libc::SYS_write, fd, buffer.bytes.as_ptr(), buffer.used);
            raw!(libc::SYS_close, fd);
        }
    }
    sys::set_errno(saved);
}

/// A line cut at 511 bytes; the newline always fits.
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let limit = if text == "\n" { self.bytes.len() } else { self.bytes.len() - 1 };
        let take = text.len().min(limit - self.used.min(limit));
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.used..self.used + take), text.as_bytes().get(..take)) {
            to.copy_from_slice(from);
            self.used += take;
        }
        Ok(())
    }
}
