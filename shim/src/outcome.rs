//! How an operation ends: done, bypass or fail. Here, and nowhere else, that becomes a return value and errno.

use crate::guard;
use std::ffi::c_int;

/// How a handler in `calls` ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<R> {
    /// The call is over and this is its result; errno is as it was before. A call that returns its error number
    /// instead of setting errno (posix_spawn) ends with `Done(number)`.
    Done(R),
    /// Not ours: the hook makes the real call, with the application's own arguments, and errno as it was before.
    Bypass,
    /// The call is over, with this errno and the type's own failure value.
    Fail(c_int),
}

impl<R: Returned> Outcome<R> {
    /// What a real call returned and the errno it left: for handlers that make the real call themselves.
    pub fn of(result: R) -> Self {
        if result.is_failure() { Self::Fail(errno()) } else { Self::Done(result) }
    }
}

/// What libc returns for a failure, by the type it returns.
pub trait Returned: Copy {
    const FAILURE: Self;
    fn is_failure(self) -> bool;
}

macro_rules! returned {
    ($($type:ty: $failure:expr;)*) => { $(impl Returned for $type {
        const FAILURE: Self = $failure;
        fn is_failure(self) -> bool { self == $failure }
    })* };
}
returned! { c_int: -1; isize: -1; i64: -1; }

impl<T> Returned for *mut T {
    const FAILURE: Self = std::ptr::null_mut();
    fn is_failure(self) -> bool {
        self.is_null()
    }
}

impl Returned for () {
    const FAILURE: Self = ();
    fn is_failure(self) -> bool {
        false
    }
}

/// Runs a handler behind a hook. `None` is the bypass. A panic in the handler ends here: it is logged, the call fails with EIO
/// and is not made again, for nobody knows how far it came. (A slot is poisoned by its own lock's guard, dropped on the way.)
pub fn settle<R: Returned>(symbol: &'static str, handler: impl FnOnce() -> Outcome<R>) -> Option<R> {
    let before = errno();
    match guard::contain(handler) {
        Ok(Outcome::Done(result)) => {
            set_errno(before);
            Some(result)
        }
        Ok(Outcome::Bypass) => {
            set_errno(before);
            None
        }
        Ok(Outcome::Fail(number)) => fail(number),
        Err(guard::Panicked) => {
            log_panic(symbol);
            fail(libc::EIO)
        }
    }
}

/// Runs what only takes note of a call that has been made: errno stays the call's, a panic is logged and forgotten.
pub fn note(symbol: &'static str, handler: impl FnOnce()) {
    let before = errno();
    if guard::contain(handler).is_err() {
        log_panic(symbol);
    }
    set_errno(before);
}

fn log_panic(symbol: &str) {
    crate::log::error(format_args!("{symbol}: a fault of the switch; the call failed with EIO or went unnoticed"));
}

pub fn fail<R: Returned>(number: c_int) -> Option<R> {
    set_errno(number);
    Some(R::FAILURE)
}

pub fn errno() -> c_int {
    // SAFETY: libc gives each thread a valid errno for the thread's life.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(number: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_and_bypass_leave_errno_alone_and_failure_sets_it() {
        set_errno(7);
        let spoil = || set_errno(99);
        assert_eq!(
            settle("t", || {
                spoil();
                Outcome::Done(3)
            }),
            Some(3)
        );
        assert_eq!(errno(), 7);
        assert_eq!(
            settle::<c_int>("t", || {
                spoil();
                Outcome::Bypass
            }),
            None
        );
        assert_eq!(errno(), 7);
        assert_eq!(settle::<isize>("t", || Outcome::Fail(libc::EAGAIN)), Some(-1));
        assert_eq!(errno(), libc::EAGAIN);
        note("t", spoil);
        assert_eq!(errno(), libc::EAGAIN);
    }

    #[test]
    fn a_panic_is_eio_and_the_call_is_not_repeated() {
        let mut runs = 0;
        assert_eq!(
            settle::<isize>("t", || {
                runs += 1;
                panic!("planted")
            }),
            Some(-1)
        );
        assert_eq!((runs, errno()), (1, libc::EIO));
        note("t", || panic!("planted"));
        assert!(!std::thread::panicking());
    }
}
