//! What the kernel tells of its set by `/proc` alone: whether a one-shot entry has fired, for it disarms those without a word, and which
//! entries there are, when other processes may have changed them.

use std::io::Write;
use std::os::fd::RawFd;

use libc::c_int;

use crate::real::raw;

/// What epoll_ctl's events keep when a one-shot entry fires (EP_PRIVATE_BITS of fs/eventpoll.c).
const KEPT: u32 = (libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLEXCLUSIVE).cast_unsigned();
const CHUNK: usize = 4096;

/// False, too, where `/proc` is not to be had: then it is told once more than it should.
pub fn has_fired(set: RawFd, fd: RawFd) -> bool {
    events_of(set, fd).is_some_and(|events| events & !KEPT == 0)
}

/// False, too, where `/proc` is not to be had.
pub fn is_there(set: RawFd, fd: RawFd) -> bool {
    events_of(set, fd).is_some()
}

/// Out of lines like `tfd:        7 events: 40000019 data: ...`.
fn events_of(set: RawFd, fd: RawFd) -> Option<u32> {
    let mut path = [0u8; 48];
    write!(&mut path[..], "/proc/self/fdinfo/{set}\0").ok()?;
    // SAFETY: raw calls (the hooks are not passed) on a path that ends in NUL.
    let file =
        unsafe { raw!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) } as c_int;
    if file < 0 {
        return None;
    }
    let mut buffer = [0u8; CHUNK];
    let (mut filled, mut found) = (0, None);
    while found.is_none() {
        let Some(room) = buffer.get_mut(filled..) else { break };
        // SAFETY: a buffer of the stated length.
        let n = unsafe { raw!(libc::SYS_read, file, room.as_mut_ptr(), room.len()) };
        let Some(n) = usize::try_from(n).ok().filter(|&n| n > 0) else { break };
        filled += n;
        let text = buffer.get(..filled).unwrap_or(&[]);
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        found = text.get(..whole).unwrap_or(&[]).split(|&byte| byte == b'\n').find_map(|line| entry(line, fd));
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
    // SAFETY: opened above.
    unsafe { raw!(libc::SYS_close, file) };
    found
}

fn entry(line: &[u8], fd: RawFd) -> Option<u32> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let named = words.next()? == "tfd:" && words.next()?.parse() == Ok(fd) && words.next()? == "events:";
    if named { u32::from_str_radix(words.next()?, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let line = b"tfd:        7 events: 40000019 data: ffffffffffffffff  pos:0 ino:2 sdev:9";
        assert_eq!(entry(line, 7), Some(0x4000_0019));
        assert_eq!(entry(line, 70), None);
        assert_eq!(entry(b"flags:\t02", 7), None);
    }

    #[test]
    fn a_one_shot_entry_that_fired_is_known() {
        // SAFETY: descriptors of this test's own, an event on this frame, room for one.
        unsafe {
            let set = raw!(libc::SYS_epoll_create1, 0) as RawFd;
            let pipes: Vec<[RawFd; 2]> = (0..200)
                .map(|_| {
                    let mut ends = [0; 2];
                    assert_eq!(raw!(libc::SYS_pipe2, ends.as_mut_ptr(), 0), 0);
                    let mut event = libc::epoll_event { events: (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32, u64: 0 };
                    assert_eq!(raw!(libc::SYS_epoll_ctl, set, libc::EPOLL_CTL_ADD, ends[1], &raw mut event), 0);
                    ends
                })
                .collect();
            let last = pipes[199][1];
            assert_eq!(
                (events_of(set, last).is_some(), has_fired(set, last), has_fired(set, 9999)),
                (true, false, false)
            );
            let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 300];
            let n = raw!(libc::SYS_epoll_pwait, set, events.as_mut_ptr(), 300, 0, std::ptr::null::<u8>(), 8);
            assert_eq!((n, has_fired(set, last), has_fired(set, pipes[0][1])), (200, true, true));
        }
    }
}
