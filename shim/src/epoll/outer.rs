//! The outer epoll of a set: what a wait sleeps on while the set has adopted entries.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::epoll_event;

use super::set::{Guard, Set};
use super::stir::watch;
use crate::debug::{self, Fault};
use crate::provider::far;
use crate::switch::Conn;
use crate::wake::{self, Wake};
use crate::{hidden, real, sys};

/// What an adopted anchor is watched for: everything, each change once.
const ANCHOR_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET) as u32;
/// Tags in the outer set; an anchor's is its descriptor.
pub const TAG_SET: u64 = u64::MAX;
pub const TAG_WAKE: u64 = u64::MAX - 1;
pub const TAG_WAKE0: u64 = u64::MAX - 2;
/// The outer epoll of a set that this one holds.
pub const TAG_NEST: u64 = u64::MAX - 3;
/// The descriptors of companions between hosts: the providers', and policyd's channel.
pub const TAG_PROVIDER: u64 = u64::MAX - 4;
pub const TAG_POLICYD: u64 = u64::MAX - 5;

/// Watches an adopted entry's anchor; what the entry is found by is its tag.
pub fn add_anchor(outer: RawFd, fd: RawFd, entry: RawFd) {
    let mut event = epoll_event { events: ANCHOR_EVENTS, u64: entry as u64 };
    // SAFETY: descriptors of the application and of ours, an event on this frame.
    unsafe {
        if real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event) < 0 {
            // It has been watched there on, as a ghost.
            real::epoll_ctl(outer, libc::EPOLL_CTL_MOD, fd, &mut event);
        }
    }
}

/// For a connection between hosts: the providers' descriptors, and policyd's channel.
pub fn add_provider(outer: RawFd, conn: &Conn) {
    if !conn.pair.is_far() {
        return;
    }
    let tags = std::iter::repeat_n(TAG_PROVIDER, far::DESCRIPTORS - 1).chain([TAG_POLICYD]);
    for (fd, tag) in far::descriptors().into_iter().zip(tags).filter(|(fd, _)| *fd >= 0) {
        let mut event = epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: tag };
        // SAFETY: descriptors of ours, an event on this frame. It may be there already.
        unsafe { real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event) };
    }
}

impl Set {
    /// The outer epoll and its wake, made now if need be.
    pub fn prepare(&self) -> bool {
        if self.outer.load(Ordering::Acquire) >= 0 {
            return true;
        }
        let Some(mut inner) = self.lock() else { return false };
        self.prepare_locked(&mut inner)
    }

    pub fn prepare_locked(&self, inner: &mut Guard<'_>) -> bool {
        if self.outer.load(Ordering::Acquire) >= 0 {
            return true;
        }
        if self.descriptors.load(Ordering::Acquire) == 0 {
            return false;
        }
        let (Some(wake), Some(wake0)) = (inner.wake.or_else(Wake::take), wake::wake0()) else { return false };
        inner.wake = Some(wake);
        let Some(outer) = self.make_outer(wake, wake0) else {
            self.native.store(true, Ordering::Release);
            return false;
        };
        for entry in &inner.adopted {
            add_anchor(outer, entry.conn.fd, entry.fd);
            add_provider(outer, &entry.conn);
            watch(&entry.conn, wake);
        }
        self.kernel_due.store(true, Ordering::Release);
        self.wake_id.store(wake.id + 1, Ordering::Release);
        self.outer.store(outer, Ordering::Release);
        true
    }

    fn make_outer(&self, wake: Wake, wake0: RawFd) -> Option<RawFd> {
        if debug::fault(Fault::Epoll) {
            return None;
        }
        // SAFETY: a new descriptor of ours.
        let outer = hidden::with_room(|_| unsafe { real::epoll_create1(libc::EPOLL_CLOEXEC) });
        if outer < 0 {
            return None;
        }
        let outer = hidden::hide(outer)?;
        let edge = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let entries = [(self.fd.load(Ordering::Acquire), TAG_SET), (wake.fd, TAG_WAKE), (wake0, TAG_WAKE0)];
        for (fd, tag) in entries {
            let mut event = epoll_event { events: edge, u64: tag };
            // SAFETY: descriptors of the application and of ours. ELOOP (a set that holds others, four deep) ends it.
            if unsafe { real::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event) } < 0 {
                crate::log::info(format_args!("no outer epoll for set {fd}: errno {}", sys::errno()));
                hidden::close(outer);
                return None;
            }
        }
        Some(outer)
    }
}
