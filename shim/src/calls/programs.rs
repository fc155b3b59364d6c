//! Other programs: exec and its kin, posix_spawn, system, popen, and which sockets they are given.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use tandem_protocol::Reason;

use super::{environment, transfer};
use crate::exports::types::*;
use crate::outcome::Outcome;
use crate::slot::{self, SlotRef, Stage, flag};
use crate::switch::anchor;
use crate::{epoll, family, fd_table, meet, real, sys};

/// What the next program finds under 0, 1 and 2 it was given on purpose; and a process that is a socket's only holder and
/// keeps it open over exec gives it to its successor. Both are plain TCP before the program changes.
fn before_exec() {
    give_standard_streams();
    if sys::is_vfork_child() {
        return;
    }
    epoll::before_exec();
    slot::mine().for_each(|slot| {
        meet::examination::before_exit(slot);
    });
    for slot in slot::mine().filter(|slot| slot.stage() == Stage::Attached) {
        let fd = slot.descriptor();
        // SAFETY: F_GETFD has no argument.
        let stays = unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC == 0;
        if stays && (slot.sole_holder() || slot.has(flag::GIVEN)) {
            transfer::hand_over(slot, fd, Reason::HandedOver);
        }
    }
    let me = sys::pid();
    slot::mine().filter(|slot| !slot.sole_holder() && closes_on_exec(*slot)).for_each(|slot| slot.leave(me));
}

fn closes_on_exec(slot: SlotRef) -> bool {
    // SAFETY: F_GETFD has no argument.
    let closes = |fd| unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC != 0;
    if slot.has_others() {
        (0..fd_table::ceiling()).filter(|&fd| fd_table::socket(fd) == Some(slot.index)).all(closes)
    } else {
        closes(slot.descriptor())
    }
}

/// Like all of exec's kin: does not return where it succeeds.
fn exec(real: impl FnOnce() -> c_int) -> Outcome<c_int> {
    before_exec();
    let outcome = Outcome::of(real());
    if !sys::is_vfork_child() {
        let me = sys::pid();
        slot::mine().for_each(|slot| slot.hold(me));
    }
    outcome
}

/// # Safety
/// An environment as exec takes it.
unsafe fn in_environment(environment: Strings, mut call: impl FnMut(Strings) -> c_int) -> c_int {
    // SAFETY: by the caller.
    unsafe { environment::without_us(environment, &mut call) }.unwrap_or_else(|| call(environment))
}

/// These return the number of their error, or what they would have returned.
fn spawned(result: Option<c_int>) -> Outcome<c_int> {
    result.map_or(Outcome::Bypass, Outcome::Done)
}

/// What the next program finds under 0, 1 and 2, be it a child's.
fn give_standard_streams() {
    for fd in 0..=2 {
        if let Some(slot) = slot::of(fd).or_else(|| by_cookie(fd)) {
            let known = slot.descriptor();
            transfer::hand_over(slot, if known >= 0 { known } else { fd }, Reason::HandedOver);
        }
    }
}

/// The slot of a socket that stands under a number which the table does not know it by: a vfork child moved it there.
fn by_cookie(fd: RawFd) -> Option<SlotRef> {
    family::existing()?;
    let cookie = anchor::socket_option::<u64>(fd, libc::SOL_SOCKET, libc::SO_COOKIE)?;
    slot::mine().find(|slot| slot.stage() == Stage::Attached && slot.cookie.load(Ordering::Relaxed) == cookie)
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe { in_environment(environment, |environment| real::execve(path, arguments, environment)) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn execv(path: *const c_char, arguments: Strings) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe {
        environment::without_us(environment::own(), |changed| real::execve(path, arguments, changed))
            .unwrap_or_else(|| real::execv(path, arguments))
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn execvp(file: *const c_char, arguments: Strings) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe {
        environment::without_us(environment::own(), |changed| real::execvpe(file, arguments, changed))
            .unwrap_or_else(|| real::execvp(file, arguments))
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe { in_environment(environment, |environment| real::execvpe(file, arguments, environment)) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe { in_environment(environment, |environment| real::fexecve(fd, arguments, environment)) })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn execveat(
    directory: c_int,
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> Outcome<c_int> {
    // SAFETY: the application's own call, with its own environment, or with one that leaves us out.
    exec(|| unsafe {
        in_environment(environment, |environment| real::execveat(directory, path, arguments, environment, flags))
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn posix_spawn_file_actions_adddup2(
    _actions: *mut posix_spawn_file_actions_t,
    old: c_int,
    new: c_int,
) -> Outcome<c_int> {
    if new >= 0
        && let Some(slot) = slot::of(old)
    {
        transfer::hand_over(slot, old, Reason::HandedOver);
    }
    Outcome::Bypass
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn posix_spawn(
    child: *mut pid_t,
    path: *const c_char,
    actions: SpawnActions,
    attributes: SpawnAttributes,
    arguments: SpawnStrings,
    environment: SpawnStrings,
) -> Outcome<c_int> {
    give_standard_streams();
    // SAFETY: the application's own call.
    spawned(unsafe {
        environment::without_us(environment.cast(), |changed| {
            real::posix_spawn(child, path, actions, attributes, arguments, changed.cast())
        })
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn posix_spawnp(
    child: *mut pid_t,
    file: *const c_char,
    actions: SpawnActions,
    attributes: SpawnAttributes,
    arguments: SpawnStrings,
    environment: SpawnStrings,
) -> Outcome<c_int> {
    give_standard_streams();
    // SAFETY: the application's own call.
    spawned(unsafe {
        environment::without_us(environment.cast(), |changed| {
            real::posix_spawnp(child, file, actions, attributes, arguments, changed.cast())
        })
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pidfd_spawn(
    child: *mut c_int,
    path: *const c_char,
    actions: SpawnActions,
    attributes: SpawnAttributes,
    arguments: SpawnStrings,
    environment: SpawnStrings,
) -> Outcome<c_int> {
    give_standard_streams();
    // SAFETY: the application's own call.
    spawned(unsafe {
        environment::without_us(environment.cast(), |changed| {
            real::pidfd_spawn(child, path, actions, attributes, arguments, changed.cast())
        })
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn pidfd_spawnp(
    child: *mut c_int,
    file: *const c_char,
    actions: SpawnActions,
    attributes: SpawnAttributes,
    arguments: SpawnStrings,
    environment: SpawnStrings,
) -> Outcome<c_int> {
    give_standard_streams();
    // SAFETY: the application's own call.
    spawned(unsafe {
        environment::without_us(environment.cast(), |changed| {
            real::pidfd_spawnp(child, file, actions, attributes, arguments, changed.cast())
        })
    })
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn system(command: *const c_char) -> Outcome<c_int> {
    give_standard_streams();
    // SAFETY: the application's own call.
    spawned(environment::without_us_here(|| unsafe { real::system(command) }))
}

/// # Safety
/// The arguments of the libc call of this name.
pub unsafe fn popen(command: *const c_char, mode: *const c_char) -> Outcome<*mut FILE> {
    give_standard_streams();
    // SAFETY: the application's own call.
    match environment::without_us_here(|| unsafe { real::popen(command, mode) }) {
        Some(stream) => Outcome::of(stream),
        None => Outcome::Bypass,
    }
}
