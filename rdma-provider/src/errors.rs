//! Errors: the two conventions of libibverbs, the completions' statuses, and the boundary's negative errno, each turned into the
//! one form that the rest of this crate uses.

use std::ffi::c_int;

/// An errno, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub c_int);

pub type Result<T> = std::result::Result<T, Errno>;

/// What the boundary answers.
pub fn answer(result: Result<i32>) -> i32 {
    match result {
        Ok(value) => value.max(0),
        Err(Errno(errno)) => -errno.max(1),
    }
}

/// Status of a completion that tells how an order ended.
pub fn status(result: &Result<()>) -> i32 {
    result.err().map_or(0, |Errno(errno)| -errno.max(1))
}

/// Verbs that return 0 or an errno (ibv_modify_qp, ibv_post_send), and those few that return -1 and set errno.
pub fn returned(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        1.. => Err(Errno(code)),
        _ => Err(last()),
    }
}

/// Verbs that return an object, or NULL and set errno. Some drivers forget the latter.
pub fn made<T>(object: *mut T) -> Result<*mut T> {
    if object.is_null() { Err(last()) } else { Ok(object) }
}

/// System calls: what is not negative, or errno.
pub fn called(value: c_int) -> Result<c_int> {
    if value < 0 { Err(last()) } else { Ok(value) }
}

pub fn last() -> Errno {
    match std::io::Error::last_os_error().raw_os_error() {
        Some(errno @ 1..) => Errno(errno),
        _ => Errno(libc::EIO),
    }
}

/// Why a companion is dead, by the status of the work request that told.
pub fn of_work(status: u32) -> Errno {
    use rdma_sys::ibv_wc_status as wc;
    Errno(match status {
        wc::IBV_WC_RETRY_EXC_ERR | wc::IBV_WC_RESP_TIMEOUT_ERR => libc::ETIMEDOUT,
        wc::IBV_WC_RNR_RETRY_EXC_ERR => libc::ENOBUFS,
        wc::IBV_WC_REM_ACCESS_ERR | wc::IBV_WC_REM_INV_REQ_ERR | wc::IBV_WC_REM_INV_RD_REQ_ERR => libc::EFAULT,
        // On rxe: our own interface is down, or our address has gone.
        wc::IBV_WC_LOC_QP_OP_ERR => libc::ENETDOWN,
        wc::IBV_WC_WR_FLUSH_ERR => libc::ECONNRESET,
        wc::IBV_WC_FATAL_ERR => libc::ENODEV,
        _ => libc::EIO,
    })
}

/// Runs `work` and leaves errno as it was.
pub fn keeping_errno<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the place of this thread's errno, valid while it runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { place.read() };
    let result = work();
    // SAFETY: as above.
    unsafe { place.write(before) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convention_ends_as_one() {
        assert_eq!(returned(0), Ok(()));
        assert_eq!(returned(libc::ENOMEM), Err(Errno(libc::ENOMEM)));
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::EACCES };
        assert_eq!(returned(-1), Err(Errno(libc::EACCES)));
        assert_eq!(made::<u8>(std::ptr::null_mut()), Err(Errno(libc::EACCES)));
        assert_eq!(answer(Err(Errno(libc::EAGAIN))), -libc::EAGAIN);
        assert_eq!(answer(Ok(3)), 3);
        assert_eq!(status(&Err(Errno(0))), -1, "a failure is never told as success");
    }
}
