//! Plug-ins: libraries of SAN providers, and what the switch gives them. The boundary is the crate `tandem-provider`.
//!
//! Each has a name. `verbs` is looked for beside this library, as `libtandem_rdma.so`; any other NAME as `tandem-providers/NAME.so` there;
//! when a connection could first use it. None is ever unloaded. What cannot be loaded is tried again after a while: it may be installed
//! while the program runs.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use tandem_protocol::ProviderName;
use tandem_provider::{ENTRY, Host, Open, Provider, Table, VERSION};

use crate::fd_table::{self, Entry};
use crate::{hidden, log, real, sys};

/// Providers that one process uses at most.
pub const MOST: usize = 4;
const VERBS: &str = "libtandem_rdma.so";
const OTHERS: &str = "tandem-providers";
/// After a plug-in could not be loaded.
const BACK_OFF_NS: u64 = 5_000_000_000;

/// What is known of a plug-in. Found, and changed, under the lock of policyd's channel.
struct Plug {
    /// Zeroes: nobody's yet.
    name: [AtomicU64; 2],
    loaded: AtomicPtr<Provider>,
    next_try: AtomicU64,
    installed: AtomicBool,
    next_look: AtomicU64,
}

static PLUGS: [Plug; MOST] = [const {
    Plug {
        name: [const { AtomicU64::new(0) }; 2],
        loaded: AtomicPtr::new(std::ptr::null_mut()),
        next_try: AtomicU64::new(0),
        installed: AtomicBool::new(false),
        next_look: AtomicU64::new(0),
    }
}; MOST];

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

/// The provider, loaded now if need be: that reads files, and runs the plug-in's constructors. And its number here, below [`MOST`].
pub fn get(name: ProviderName) -> Option<(usize, &'static Provider)> {
    let (number, plug) = plug(name)?;
    let known = plug.provider();
    let now = sys::tick_ns();
    if known.is_none() && now < plug.next_try.load(Ordering::Relaxed) {
        return None;
    }
    let provider = match known {
        Some(provider) => provider,
        None => {
            plug.next_try.store(now + BACK_OFF_NS, Ordering::Relaxed);
            let provider = load(name)?;
            plug.loaded.store(std::ptr::from_ref(provider).cast_mut(), Ordering::Release);
            provider
        }
    };
    Some((number, provider))
}

/// Whether there is a plug-in that could be loaded: asked of the file system now and then. `None`: policyd has not said yet which one
/// it would be.
pub fn is_installed(name: Option<ProviderName>) -> bool {
    const LOOK_NS: u64 = 1_000_000_000;
    let Some(name) = name else { return is_there(path(ProviderName::VERBS)) || is_there(folder_of_others()) };
    let Some((_, plug)) = plug(name) else { return false };
    if plug.provider().is_some() {
        return true;
    }
    let now = sys::tick_ns();
    if now < plug.next_try.load(Ordering::Relaxed) {
        return false;
    }
    if now >= plug.next_look.load(Ordering::Relaxed) {
        plug.next_look.store(now + LOOK_NS, Ordering::Relaxed);
        plug.installed.store(is_there(path(name)), Ordering::Relaxed);
    }
    plug.installed.load(Ordering::Relaxed)
}

fn is_there(path: Option<CString>) -> bool {
    // SAFETY: a path that ends. The raw call: no hook.
    path.is_some_and(|path| unsafe { real::raw!(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::R_OK) == 0 })
}

fn path(name: ProviderName) -> Option<CString> {
    if name == ProviderName::VERBS {
        return in_own_folder(&[VERBS]);
    }
    in_own_folder(&[OTHERS, "/", name.as_str(), ".so"])
}

fn folder_of_others() -> Option<CString> {
    in_own_folder(&[OTHERS])
}

fn in_own_folder(parts: &[&str]) -> Option<CString> {
    let mut path = own_folder()?;
    path.push(b'/');
    parts.iter().for_each(|part| path.extend_from_slice(part.as_bytes()));
    CString::new(path).ok()
}

/// This provider's entry, made now if need be. `None`: the process has had to do with too many.
fn plug(name: ProviderName) -> Option<(usize, &'static Plug)> {
    let wanted = words(name);
    let mut all = PLUGS.iter().enumerate();
    let (number, plug) = all.find(|(_, plug)| plug.words() == wanted || plug.words() == [0; 2])?;
    for (word, wanted) in plug.name.iter().zip(wanted) {
        word.store(wanted, Ordering::Relaxed);
    }
    Some((number, plug))
}

fn words(name: ProviderName) -> [u64; 2] {
    let whole = u128::from_le_bytes(name.bytes());
    [whole as u64, (whole >> 64) as u64]
}

impl Plug {
    fn words(&self) -> [u64; 2] {
        self.name.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    fn provider(&self) -> Option<&'static Provider> {
        // SAFETY: null, or a table that lives as long as the process.
        unsafe { self.loaded.load(Ordering::Acquire).as_ref() }
    }
}

/// In a forked child: it has none of its own yet.
pub fn after_fork_in_child() {
    for plug in &PLUGS {
        plug.loaded.store(std::ptr::null_mut(), Ordering::Relaxed);
        plug.next_try.store(0, Ordering::Relaxed);
    }
}

fn load(name: ProviderName) -> Option<&'static Provider> {
    let path = path(name)?;
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
        Ok(provider) if provider.is_called(name.as_str()) => Some(provider),
        Ok(_) => {
            log::warn(format_args!("{}: it cannot be used: it calls itself something else", path.to_string_lossy()));
            None
        }
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
