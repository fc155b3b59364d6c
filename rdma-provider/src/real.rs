//! libc's own functions.
//!
//! The switch hides the provider's descriptors from the application: its hooks answer EBADF or POLLNVAL for them. They must not do so
//! to the provider itself, so these are looked up in libc and not by the order in which a program's libraries were loaded.

use std::ffi::{CStr, c_int, c_uint, c_ulong, c_void};
use std::sync::OnceLock;

use libc::{epoll_event, pollfd, size_t, ssize_t};

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        struct Table { $($name: unsafe extern "C" fn($($type),*) -> $result,)* }

        fn table() -> &'static Table {
            static TABLE: OnceLock<Table> = OnceLock::new();
            TABLE.get_or_init(|| Table { $($name: {
                let symbol = CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()).unwrap_or(c"");
                let found = look_up(symbol);
                if found.is_null() {
                    libc::$name
                } else {
                    // SAFETY: libc's function of this name, which has this type.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(found) }
                }
            },)* })
        }

        $(
            /// # Safety
            /// As libc's function of this name.
            pub unsafe fn $name($($argument: $type),*) -> $result {
                // SAFETY: by this function's contract.
                unsafe { (table().$name)($($argument),*) }
            }
        )*
    };
}

functions! {
    read(fd: c_int, buffer: *mut c_void, bytes: size_t) -> ssize_t;
    write(fd: c_int, buffer: *const c_void, bytes: size_t) -> ssize_t;
    poll(entries: *mut pollfd, count: c_ulong, milliseconds: c_int) -> c_int;
    dup(fd: c_int) -> c_int;
    eventfd(count: c_uint, flags: c_int) -> c_int;
    epoll_create1(flags: c_int) -> c_int;
    epoll_ctl(set: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
}

/// Resolves all of them: not for the first time in a forked child or under a lock.
pub fn prepare() {
    table();
}

fn look_up(symbol: &CStr) -> *mut c_void {
    // SAFETY: libc is loaded already; its handle is never given back. A look-up by handle asks libc and nobody before it.
    unsafe {
        let libc = libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if libc.is_null() { std::ptr::null_mut() } else { libc::dlsym(libc, symbol.as_ptr()) }
    }
}
