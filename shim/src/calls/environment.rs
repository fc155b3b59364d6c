//! What the next program is told to preload. Where it cannot find this library (in another root directory, say) ld.so would complain on its
//! stderr: there LD_PRELOAD is passed on without it.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::exports::types::*;
use crate::real::raw;

/// All of it stands on the stack: the caller may be a vfork child. A larger environment is passed on as it is.
const MOST: usize = 1024;
const LONGEST: usize = 4096;
const VARIABLE: &[u8] = b"LD_PRELOAD=";

unsafe extern "C" {
    static environ: AtomicPtr<*const c_char>;
}

/// This library's path, as ld.so was given it.
static OURS: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());

/// At start-up.
pub fn find_ourselves() {
    // SAFETY: all-zero is a valid Dl_info; the name lives as long as this library, which is never unloaded.
    unsafe {
        let mut known: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr((&raw const OURS).cast(), &mut known) != 0 {
            OURS.store(known.dli_fname.cast_mut(), Ordering::Relaxed);
        }
    }
}

/// The program's own.
pub fn own() -> Strings {
    // SAFETY: libc's variable, which other threads may change meanwhile, as with every exec.
    unsafe { environ.load(Ordering::Relaxed) }
}

/// Calls it with this environment, or with one that does not name us; None: the first, and nothing was called.
///
/// # Safety
/// An environment as exec takes it.
pub unsafe fn without_us<R>(environment: Strings, call: impl FnOnce(Strings) -> R) -> Option<R> {
    let ours = ours()?;
    // SAFETY: by the caller.
    let (at, preload, count) = unsafe { preload(environment)? };
    if !names(preload).any(|name| name == ours) || is_there(ours) {
        return None;
    }
    // SAFETY: by the caller; `preload` has counted the strings.
    unsafe { changed(environment, count, at, preload, call) }
}

/// A frame of its own, for it is a large one.
#[inline(never)]
unsafe fn changed<R>(
    environment: Strings,
    count: usize,
    at: usize,
    preload: &[u8],
    call: impl FnOnce(Strings) -> R,
) -> Option<R> {
    let ours = ours()?;
    let mut text = [0u8; LONGEST];
    let rest = write_rest(&mut text, preload, ours)?;
    let mut strings = [std::ptr::null::<c_char>(); MOST];
    let mut to = 0;
    for from in 0..count {
        // SAFETY: by the caller.
        let string = unsafe { *environment.add(from) };
        let string = if from != at {
            string
        } else if rest {
            text.as_ptr().cast()
        } else {
            continue;
        };
        *strings.get_mut(to)? = string;
        to += 1;
    }
    (to < MOST).then(|| call(strings.as_ptr()))
}

/// As [`without_us`], of a call that takes the program's own environment.
pub fn without_us_here<R>(call: impl FnOnce() -> R) -> Option<R> {
    let before = own();
    // SAFETY: the program's own environment. Who puts another in its place meanwhile has the last word.
    unsafe {
        without_us(before, |changed| {
            environ.store(changed.cast_mut(), Ordering::Relaxed);
            let result = call();
            let changed = changed.cast_mut();
            let _ = environ.compare_exchange(changed, before.cast_mut(), Ordering::Relaxed, Ordering::Relaxed);
            result
        })
    }
}

fn ours() -> Option<&'static [u8]> {
    let name = OURS.load(Ordering::Relaxed);
    // SAFETY: null, or a string that lives as long as this library.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// Where LD_PRELOAD stands, what it says, and how many strings there are.
unsafe fn preload<'a>(environment: Strings) -> Option<(usize, &'a [u8], usize)> {
    let (mut found, mut count) = (None, 0);
    // SAFETY: an array that a null pointer ends, of strings that end.
    unsafe {
        while !environment.is_null() && !(*environment.add(count)).is_null() {
            if count == MOST {
                return None;
            }
            let string = CStr::from_ptr(*environment.add(count)).to_bytes();
            if found.is_none()
                && let Some(value) = string.strip_prefix(VARIABLE)
            {
                found = Some((count, value));
            }
            count += 1;
        }
    }
    found.map(|(at, value)| (at, value, count))
}

/// ld.so parts them by spaces and colons.
fn names(preload: &[u8]) -> impl Iterator<Item = &[u8]> {
    preload.split(|&byte| byte == b':' || byte == b' ').filter(|name| !name.is_empty())
}

fn is_there(ours: &[u8]) -> bool {
    // SAFETY: `ours` is a C string, whose NUL follows it.
    unsafe { raw!(libc::SYS_faccessat, libc::AT_FDCWD, ours.as_ptr(), libc::R_OK) == 0 }
}

/// What LD_PRELOAD says besides; Some(false): nothing.
fn write_rest(text: &mut [u8; LONGEST], preload: &[u8], ours: &[u8]) -> Option<bool> {
    let mut to = 0;
    let mut put = |bytes: &[u8]| {
        text.get_mut(to..to + bytes.len())?.copy_from_slice(bytes);
        to += bytes.len();
        Some(())
    };
    put(VARIABLE)?;
    let mut any = false;
    for name in names(preload).filter(|&name| name != ours) {
        if any {
            put(b":")?;
        }
        put(name)?;
        any = true;
    }
    put(b"\0")?;
    Some(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_we_are_left_out() {
        let mut text = [0; LONGEST];
        assert_eq!(write_rest(&mut text, b"/a.so:/us.so /b.so", b"/us.so"), Some(true));
        assert_eq!(CStr::from_bytes_until_nul(&text).unwrap(), c"LD_PRELOAD=/a.so:/b.so");
        assert_eq!(write_rest(&mut text, b"/us.so", b"/us.so"), Some(false));
        assert_eq!(write_rest(&mut text, &[b'x'; LONGEST], b"/us.so"), None);
    }
}
