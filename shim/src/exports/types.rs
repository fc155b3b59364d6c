//! The C types that the table's rows speak of.

pub use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

pub use libc::{
    FILE, aiocb, epoll_event, fd_set, gid_t, iovec, mmsghdr, mode_t, msghdr, nfds_t, off_t, pid_t, pollfd,
    posix_spawn_file_actions_t, posix_spawnattr_t, sigevent, sighandler_t, sigset_t, size_t, sockaddr, sockaddr_in,
    socklen_t, ssize_t, timespec, timeval, uid_t,
};

/// A NULL-ended array, as exec takes it.
pub type Strings = *const *const c_char;
/// A NULL-ended array, as posix_spawn takes it.
pub type SpawnStrings = *const *mut c_char;
pub type SpawnActions = *const posix_spawn_file_actions_t;
pub type SpawnAttributes = *const posix_spawnattr_t;
