//! The real functions behind the hooks: `real::read(fd, buffer, size)` and so on, one for each row of the table.
//!
//! Each symbol has one pointer. It starts out at a resolver that looks the symbol up, stores it and calls it, so that a hook
//! works before start-up has run and pays no test for it; start-up resolves all of them. A symbol that this libc doesn't
//! have leads to ENOSYS, as it would in a kernel that doesn't have the call.
//!
//! The types are "C-unwind", so that a thread cancelled in a real call drops what its frames hold.

// Every row has its function here, whether or not the switch calls it, and keeps libc's spelling.
#![allow(dead_code, non_snake_case, non_upper_case_globals)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::exports::table::table;
use crate::exports::types::*;
use crate::outcome::set_errno;

macro_rules! real_functions {
    ($($route:ident($($r:ident),*) fn $name:ident($($v:ident: $t:ty),*) -> $ret:ty => $($h:ident)::+ $(($($a:expr),*))?;)*) => {
        $(
            /// The next definition of this symbol after ours.
            ///
            /// # Safety
            /// As for the libc function of this name.
            #[inline(always)]
            pub unsafe fn $name($($v: $t),*) -> $ret {
                // SAFETY: the pointer is the resolver or the symbol itself, both of this type; the rest is the caller's.
                unsafe { tail::unwinding::$name()($($v),*) }
            }
        )*

        /// The same functions by a type that cannot unwind, for the hooks' last jump: no frame of ours is left to unwind.
        pub mod tail {
            use super::*;
            $(
                /// # Safety
                /// As for the libc function of this name, and nothing of the caller's may need to be dropped.
                #[inline(always)]
                pub unsafe fn $name($($v: $t),*) -> $ret {
                    let real = pointers::$name.load(Ordering::Relaxed);
                    // SAFETY: the pointer is the resolver or the symbol itself, both of this type; the rest is the caller's.
                    unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($t),*) -> $ret>(real)($($v),*)
                    }
                }
            )*

            pub(super) mod unwinding {
                use super::*;
                $(
                    #[inline(always)]
                    pub fn $name() -> unsafe extern "C-unwind" fn($($t),*) -> $ret {
                        let real = pointers::$name.load(Ordering::Relaxed);
                        // SAFETY: the pointer is the resolver or the symbol itself, both of this type.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($t),*) -> $ret>(real) }
                    }
                )*
            }
        }

        mod pointers {
            use super::*;
            $(pub static $name: AtomicPtr<c_void> = AtomicPtr::new(resolvers::$name as *mut c_void);)*
        }

        mod resolvers {
            use super::*;
            $(
                pub unsafe extern "C-unwind" fn $name($($v: $t),*) -> $ret {
                    pointers::$name.store(lookup(name_of!($name)), Ordering::Relaxed);
                    // SAFETY: the caller's own call, now to the symbol itself.
                    unsafe { super::$name($($v),*) }
                }
            )*
        }

        /// Whether this libc has the symbol: known since start-up.
        pub mod present {
            use super::*;
            $(pub fn $name() -> bool {
                let mut real = pointers::$name.load(Ordering::Relaxed);
                if real == resolvers::$name as *mut c_void {
                    real = lookup(name_of!($name));
                }
                real != missing as *mut c_void && real != missing_number as *mut c_void
            })*
        }

        /// Start-up: looks up every symbol, so that no hook needs the dynamic linker's lock later (in a signal handler, in a
        /// vfork child).
        pub fn resolve_all() {
            $(pointers::$name.store(lookup(name_of!($name)), Ordering::Relaxed);)*
        }
    };
}

macro_rules! name_of {
    ($name:ident) => {
        // A literal with its NUL: the conversion is done by the compiler.
        const {
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            }
        }
    };
}

table!(real_functions);

/// Where `dprintf` and `__dprintf_chk` jump (see `exports::variadic`): variadic, so without a row and a resolver of their own;
/// null until start-up has run.
pub static DPRINTF: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
pub static DPRINTF_CHK: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Where `clone` jumps (see `exports::sharing`).
#[cfg(not(test))]
pub static CLONE: AtomicPtr<c_void> = AtomicPtr::new(crate::exports::sharing::resolve_clone as *mut c_void);

#[cfg(not(test))]
pub extern "C" fn resolve_clone() {
    CLONE.store(lookup(c"clone"), Ordering::Release);
}

/// Looks up what is variadic if that is still to be done.
pub fn resolve_variadic() {
    #[cfg(not(test))]
    resolve_clone();
    if DPRINTF_CHK.load(Ordering::Acquire).is_null() {
        DPRINTF.store(lookup(c"dprintf"), Ordering::Release);
        DPRINTF_CHK.store(lookup(c"__dprintf_chk"), Ordering::Release);
    }
}

/// A system call by number that no hook sees, not even that of `syscall()`: `raw!(libc::SYS_gettid)`.
macro_rules! raw {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let [a, b, c, d, e, f] = $crate::real::six([$($argument as usize),*]);
        $crate::real::syscall($number, a, b, c, d, e, f)
    }};
}
#[allow(unused_imports)]
pub(crate) use raw;

/// The arguments given, and zeroes for the rest.
#[inline(always)]
pub fn six<const N: usize>(given: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    all.iter_mut().zip(given).for_each(|(to, from)| *to = from);
    all
}

/// The version of libc's oldest symbols: some (sigvec) exist in that one only, hidden from a plain look-up.
#[cfg(target_arch = "x86_64")]
const BASE_VERSION: &CStr = c"GLIBC_2.2.5";
#[cfg(target_arch = "aarch64")]
const BASE_VERSION: &CStr = c"GLIBC_2.17";

fn lookup(name: &CStr) -> *mut c_void {
    // SAFETY: both names end in NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if !found.is_null() {
        return found;
    }
    // SAFETY: as above.
    let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, name.as_ptr(), BASE_VERSION.as_ptr()) };
    if !found.is_null() {
        return found;
    }
    // The spawn family returns its error number.
    if name.to_bytes().starts_with(b"pidfd_spawn") { missing_number as *mut c_void } else { missing as *mut c_void }
}

/// Stands in for a symbol that this libc lacks, whatever its arguments. All such symbols return an int.
extern "C" fn missing() -> isize {
    set_errno(libc::ENOSYS);
    -1
}

extern "C" fn missing_number() -> isize {
    libc::ENOSYS as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_unresolved_and_resolved() {
        let mut pair: [c_int; 2] = [-1; 2];
        for _ in 0..2 {
            let mut byte = 0u8;
            // SAFETY: valid places and sizes.
            unsafe {
                assert_eq!(pipe(pair.as_mut_ptr()), 0);
                assert_eq!(write(pair[1], c"x".as_ptr().cast(), 1), 1);
                assert_eq!(read(pair[0], (&raw mut byte).cast(), 1), 1);
                assert_eq!(close(pair[0]) + close(pair[1]), 0);
            }
            assert_eq!(byte, b'x');
            resolve_all();
        }
    }

    #[test]
    fn a_raw_call_takes_as_many_arguments_as_it_needs() {
        // SAFETY: no arguments; a null path of no use.
        unsafe {
            assert_eq!(raw!(libc::SYS_getpid), i64::from(std::process::id()));
            assert_eq!(raw!(libc::SYS_dup3, -1i32, 5, 0), -1);
        }
        assert_eq!(crate::outcome::errno(), libc::EBADF);
    }

    #[test]
    fn a_missing_symbol_is_enosys_and_no_panic() {
        assert_eq!(lookup(c"no_such_symbol_anywhere"), missing as *mut c_void);
        assert_eq!(missing(), -1);
        assert_eq!(crate::outcome::errno(), libc::ENOSYS);
        assert!(present::read() && present::sigvec(), "sigvec exists in its oldest version only");
    }
}
