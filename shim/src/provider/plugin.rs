//! Plug-ins: libraries of SAN providers, and what the switch gives them. The boundary is the crate `tandem-provider`.
//!
//! A plug-in is looked for beside this library, when a connection could first use it. It is never unloaded. What cannot be loaded is
//! tried again after a while: it may be installed while the program runs.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use tandem_provider::{ENTRY, Host, Open, Provider, Table, VERSION};

use crate::fd_table::{self, Entry};
use crate::{hidden, log, real, sys};

const NAME: &str = "libtandem_rdma.so";
/// After a plug-in could not be loaded.
const BACK_OFF_NS: u64 = 5_000_000_000;

static LOADED: AtomicPtr<Provider> = AtomicPtr::new(std::ptr::null_mut());
static NEXT_TRY: AtomicU64 = AtomicU64::new(0);

struct Given(Host);

// SAFETY: functions that may be called from any thread, and no context.
unsafe impl Sync for Given {}

static HOST: Given = Given(Host {
    version: VERSION,
    size: size_of::<Host>() as u32,
    context: std::ptr::null_mut(),
    log: say,
    hide,
    close_hidden,
});

/// The provider, loaded now if need be: that reads files, and runs the plug-in's constructors.
pub fn get() -> Option<&'static Provider> {
    let known = loaded();
    let now = sys::tick_ns();
    if known.is_some() || now < NEXT_TRY.load(Ordering::Relaxed) {
        return known;
    }
    NEXT_TRY.store(now + BACK_OFF_NS, Ordering::Relaxed);
    let provider = load()?;
    LOADED.store(std::ptr::from_ref(provider).cast_mut(), Ordering::Release);
    Some(provider)
}

/// Whether there is a plug-in that could be loaded: asked of the file system now and then.
pub fn is_installed() -> bool {
    const LOOK_NS: u64 = 1_000_000_000;
    static KNOWN: AtomicBool = AtomicBool::new(false);
    static NEXT_LOOK: AtomicU64 = AtomicU64::new(0);
    if loaded().is_some() {
        return true;
    }
    let now = sys::tick_ns();
    if now < NEXT_TRY.load(Ordering::Relaxed) {
        return false;
    }
    if now >= NEXT_LOOK.load(Ordering::Relaxed) {
        NEXT_LOOK.store(now + LOOK_NS, Ordering::Relaxed);
        // SAFETY: a path that ends. The raw call: no hook.
        let found = path().is_some_and(|path| unsafe {
            real::raw!(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::R_OK) == 0
        });
        KNOWN.store(found, Ordering::Relaxed);
    }
    KNOWN.load(Ordering::Relaxed)
}

fn path() -> Option<CString> {
    let mut path = own_folder()?;
    path.extend_from_slice(b"/");
    path.extend_from_slice(NAME.as_bytes());
    CString::new(path).ok()
}

/// The provider, if it has been loaded.
#[inline]
pub fn loaded() -> Option<&'static Provider> {
    // SAFETY: null, or a table that lives as long as the process.
    unsafe { LOADED.load(Ordering::Acquire).as_ref() }
}

/// In a forked child: it has none of its own yet.
pub fn after_fork_in_child() {
    LOADED.store(std::ptr::null_mut(), Ordering::Relaxed);
    NEXT_TRY.store(0, Ordering::Relaxed);
}

fn load() -> Option<&'static Provider> {
    let path = path()?;
    // SAFETY: a path that ends. Its constructors are the plug-in's affair; it is never closed.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: the dynamic linker's own text, of this thread.
        let why = unsafe { libc::dlerror() };
        if !why.is_null() {
            // SAFETY: as above.
            log::info(format_args!("no provider: {}", unsafe { CStr::from_ptr(why) }.to_string_lossy()));
        }
        return None;
    }
    // SAFETY: the handle of a library, and a name that ends.
    let entry = unsafe { libc::dlsym(library, ENTRY.as_ptr()) };
    if entry.is_null() {
        log::warn(format_args!("{}: it is no provider, for it has no {ENTRY:?}", path.to_string_lossy()));
        return None;
    }
    // SAFETY: the boundary says that a symbol of this name has this type; its table outlives the process.
    let table = unsafe { Provider::accept(std::mem::transmute::<*mut c_void, Open>(entry)(&raw const HOST.0)) };
    match table {
        Ok(provider) => Some(provider),
        Err(why) => {
            log::warn(format_args!("{}: it cannot be used: {why}", path.to_string_lossy()));
            None
        }
    }
}

/// Where this library is.
fn own_folder() -> Option<Vec<u8>> {
    // SAFETY: all-zero is a valid Dl_info; the address is one of ours.
    let name = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr((&raw const HOST).cast(), &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(info.dli_fname)
    };
    let folder = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).parent()?;
    Some(folder.as_os_str().as_bytes().to_vec())
}

unsafe extern "C" fn say(_: *mut c_void, level: u32, text: *const c_char, bytes: usize) {
    // SAFETY: by the boundary, so many bytes of text.
    let text = String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(text.cast::<u8>(), bytes) });
    let line = format_args!("provider: {text}");
    match level {
        1 => log::error(line),
        2 => log::warn(line),
        3 => log::info(line),
        4 => log::debug(line),
        _ => log::trace(line),
    }
}

unsafe extern "C" fn hide(_: *mut c_void, descriptor: i32) -> i32 {
    let hidden = hidden::hide(descriptor);
    if let Some(number) = hidden {
        fd_table::set(number, Entry::Lent);
    }
    hidden.unwrap_or(-libc::EMFILE)
}

unsafe extern "C" fn close_hidden(_: *mut c_void, descriptor: i32) {
    hidden::close(descriptor);
}
