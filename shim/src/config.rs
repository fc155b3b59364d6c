//! What the environment asks of the switch: `TANDEM_ATTACH`, `TANDEM_POLICYD`, `TANDEM_INTERFACE`,
//! `TANDEM_NETWORK`, `TANDEM_LOG`, `TANDEM_DEBUG`. Read once,
//! at start-up, before the program can change its environment. A value that makes no sense is logged and its default
//! kept: the switch never makes a program fail.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tandem_protocol::assignment::{InterfaceName, Name, NetworkName};
use tandem_protocol::socket_path::{Search, SocketPath};

/// When a connection asks policyd for its other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Attach {
    /// At the third data call: short connections pay nothing.
    Data = 0,
    /// At once.
    Connect = 1,
    Off = 2,
}

/// policyd's sockets in the order in which they are tried, as the environment had them at start-up: programs overwrite
/// theirs (nginx, for its process title).
static SOCKETS: OnceLock<[Option<SocketPath>; MOST_SOCKETS]> = OnceLock::new();
const MOST_SOCKETS: usize = 4;

/// What `tandem run --interface` or `--network` asks for.
static INTERFACE: OnceLock<InterfaceName> = OnceLock::new();
static NETWORK: OnceLock<NetworkName> = OnceLock::new();

static ATTACH: AtomicU32 = AtomicU32::new(Attach::Data as u32);

pub fn read_environment() {
    // SAFETY: geteuid cannot fail.
    let uid = unsafe { libc::geteuid() };
    let search = Search { explicit: bytes(c"TANDEM_POLICYD"), runtime_dir: bytes(c"XDG_RUNTIME_DIR"), uid };
    let mut found = search.candidates();
    let _ = SOCKETS.set(std::array::from_fn(|_| found.next()));
    if let Some(value) = variable(c"TANDEM_LOG") {
        crate::log::configure(value);
    }
    if let Some(value) = variable(c"TANDEM_DEBUG") {
        crate::debug::configure(value);
    }
    let _ = INTERFACE.set(name(c"TANDEM_INTERFACE"));
    let _ = NETWORK.set(name(c"TANDEM_NETWORK"));
    match variable(c"TANDEM_ATTACH") {
        None | Some("data" | "") => {}
        Some("connect") => ATTACH.store(Attach::Connect as u32, Ordering::Relaxed),
        Some("off") => ATTACH.store(Attach::Off as u32, Ordering::Relaxed),
        Some(other) => {
            crate::log::warn(format_args!("TANDEM_ATTACH: '{other}' is none of connect, data, off; 'data' is used"));
        }
    }
}

#[inline]
pub fn attach() -> Attach {
    match ATTACH.load(Ordering::Relaxed) {
        0 => Attach::Data,
        1 => Attach::Connect,
        _ => Attach::Off,
    }
}

pub fn interface() -> InterfaceName {
    INTERFACE.get().copied().unwrap_or_default()
}

pub fn network() -> NetworkName {
    NETWORK.get().copied().unwrap_or_default()
}

/// policyd's sockets in the order in which they are tried; those that may not be trusted are left out.
pub fn policyd_sockets() -> impl Iterator<Item = SocketPath> {
    // SAFETY: geteuid cannot fail.
    let uid = unsafe { libc::geteuid() };
    SOCKETS.get().into_iter().flatten().flatten().copied().filter(move |path| path.is_trusted(uid))
}

fn name<const N: usize>(variable: &CStr) -> Name<N> {
    let Some(text) = bytes(variable).filter(|text| !text.is_empty()) else { return Name::NONE };
    Name::new(text).unwrap_or_else(|| {
        crate::log::warn(format_args!("{}: no such name can be; it is ignored", variable.to_str().unwrap_or_default()));
        Name::NONE
    })
}

fn variable(name: &CStr) -> Option<&'static str> {
    bytes(name).and_then(|b| std::str::from_utf8(b).ok())
}

fn bytes(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a NUL-terminated name; the environment's strings live as long as nobody changes them, and are looked at
    // before the call that asked returns.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}
