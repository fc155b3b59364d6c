//! The plug-in as the switch loads it: by its C boundary alone.

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::sync::Mutex;

use tandem_provider::{ENTRY, Host, Open, Provider, Table, VERSION};

/// What the plug-in logged, for tests that ask, and for those that fail.
pub static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Numbers from here on are hidden.
const HIDDEN: usize = 512;

static HOST: SharedHost = SharedHost(Host {
    version: VERSION,
    size: size_of::<Host>() as u32,
    context: std::ptr::null_mut(),
    log,
    hide,
    close_hidden,
});

struct SharedHost(Host);

// SAFETY: functions that may be called from any thread.
unsafe impl Sync for SharedHost {}

/// Opens it, also anew in a forked child.
pub fn open() -> &'static Provider {
    let path = CString::new(library().into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: the plug-in's own constructors; its entry has this type; its table outlives the process.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!library.is_null(), "dlopen: {:?}", std::ffi::CStr::from_ptr(libc::dlerror()));
        let entry = libc::dlsym(library, ENTRY.as_ptr());
        assert!(!entry.is_null());
        let entry = std::mem::transmute::<*mut c_void, Open>(entry);
        Provider::accept(entry(&raw const HOST.0)).expect("the plug-in's table")
    }
}

/// Beside this program: cargo builds it for these tests.
fn library() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let found = [folder.join("libtandem_rdma.so"), folder.join("../libtandem_rdma.so")];
    found.into_iter().find(|path| path.exists()).expect("libtandem_rdma.so beside this program")
}

unsafe extern "C" fn log(_: *mut c_void, level: u32, text: *const c_char, bytes: usize) {
    // SAFETY: the plug-in's own text.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), bytes) };
    let line = format!("{level}: {}", String::from_utf8_lossy(text));
    if std::env::var_os("TANDEM_RDMA_LOG").is_some() {
        eprintln!("[{}] {line}", std::process::id());
    }
    LOG.lock().unwrap().push(line);
}

unsafe extern "C" fn hide(_: *mut c_void, descriptor: i32) -> i32 {
    // SAFETY: a descriptor that the plug-in hands over.
    unsafe {
        let moved = libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, HIDDEN);
        let moved = if moved < 0 { -*libc::__errno_location() } else { moved };
        libc::close(descriptor);
        moved
    }
}

unsafe extern "C" fn close_hidden(_: *mut c_void, descriptor: i32) {
    // SAFETY: a number that `hide` gave.
    unsafe { libc::close(descriptor) };
}
