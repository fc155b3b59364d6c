//! A pair whose peer is gone makes room for the next one: its pages, its descriptors, and its place in the table.
//!
//! Who looked at it a moment ago may do so once more: its mapping stays, empty, until the next pair's is put in its place, and so does the
//! record. All of it under the channel's lock, when policyd brings a companion.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Pair, pair};
use crate::family::{self, Family, PAIRS};
use crate::slot::{self, Stage};
use crate::{hidden, meet, real, sys};

/// How long nobody may have used it; and how often that is looked for.
const REST_NS: u64 = 200_000_000;

/// The table's places, a bit each.
type Places = [u64; PAIRS / 64];

/// Lets go of the pairs that are over.
pub(super) fn sweep() {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = sys::now_ns();
    if now < NEXT.load(Ordering::Relaxed) {
        return;
    }
    NEXT.store(now + REST_NS, Ordering::Relaxed);
    let Some(family) = family::existing() else { return };
    let me = sys::pid();
    let mine = |pair: &&Pair| !pair.is_far() && pair.owner.load(Ordering::Relaxed) == me && pair.is_named();
    let pairs = || (0..family.shared.next_pair.load(Ordering::Relaxed)).filter_map(pair).filter(mine);
    let instance = meet::instance();
    let mut ended: Places = [0; PAIRS / 64];
    for pair in pairs().filter(|pair| pair.peer_is_done() || pair.instance.load(Ordering::Relaxed) != instance) {
        mark(&mut ended, pair.index);
    }
    if ended.iter().all(|word| *word == 0) {
        return;
    }
    let used = used(family, &ended);
    for pair in pairs().filter(|pair| is_marked(&ended, pair.index)) {
        let since = pair.unused_since.load(Ordering::Relaxed);
        if is_marked(&used, pair.index) {
            pair.unused_since.store(0, Ordering::Relaxed);
        } else if since == 0 {
            pair.unused_since.store(now, Ordering::Relaxed);
        } else if now - since < REST_NS {
        } else if pair.peer_is_done() {
            pair.let_go(family);
        } else {
            pair.is_done();
        }
    }
}

/// A place for a pair of this process: one that is nobody's, or that a process had which is gone.
pub(super) fn claim() -> Option<u32> {
    let family = family::existing()?;
    let owners = &family.shared.pair_owner;
    let me = sys::pid();
    let take = |owner: &AtomicU32, from| owner.compare_exchange(from, me, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let at = owners.iter().position(|owner| take(owner, 0)).or_else(|| {
        let dead = |owner: &AtomicU32| !sys::process_alive(owner.load(Ordering::Acquire));
        let mut ended: Places = [0; PAIRS / 64];
        owners.iter().enumerate().filter(|(_, owner)| dead(owner)).for_each(|(at, _)| mark(&mut ended, at as u32));
        let used = used(family, &ended);
        let free = |at: &usize| is_marked(&ended, *at as u32) && !is_marked(&used, *at as u32);
        (0..PAIRS).filter(free).find(|&at| {
            owners.get(at).is_some_and(|owner| {
                let dead = owner.load(Ordering::Acquire);
                !sys::process_alive(dead) && take(owner, dead)
            })
        })
    })?;
    family.shared.next_pair.fetch_max(at as u32 + 1, Ordering::Relaxed);
    forget_rings(family, at);
    Some(at as u32)
}

pub(super) fn give_up(index: u32) {
    if let Some(owner) = family::existing().and_then(|family| family.shared.pair_owner.get(index as usize)) {
        owner.store(0, Ordering::Release);
    }
}

fn forget_rings(family: &Family, at: usize) {
    if let Some(words) = family.shared.big_rings.get(at) {
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
    let conns = family.shared.conns_used.get(at).map_or(0, |conns| conns.swap(0, Ordering::Relaxed));
    if let Some(words) = family.shared.held_rings.get(at) {
        words.iter().take(conns as usize).for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// Which of these have connections.
fn used(family: &Family, of: &Places) -> Places {
    let mut used: Places = [0; PAIRS / 64];
    for slot in (0..family.shared.slots_used.load(Ordering::Acquire)).filter_map(slot::at) {
        let index = slot.pair.load(Ordering::Acquire).wrapping_sub(1);
        let uses = is_marked(of, index) && !is_marked(&used, index) && slot.stage() >= Stage::Meeting;
        if uses && !slot.no_holder() {
            mark(&mut used, index);
        }
    }
    used
}

fn mark(places: &mut Places, index: u32) {
    if let Some(word) = places.get_mut(index as usize / 64) {
        *word |= 1 << (index % 64);
    }
}

fn is_marked(places: &Places, index: u32) -> bool {
    places.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
}

impl Pair {
    /// policyd may speak of it.
    fn is_named(&self) -> bool {
        self.instance.load(Ordering::Relaxed) != 0
    }

    /// The peer process is gone, or says that it will use it no more.
    fn peer_is_done(&self) -> bool {
        let channel = self.channel.load(Ordering::Relaxed);
        let mut entry = libc::pollfd { fd: channel, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry of this frame, no waiting.
        unsafe { real::poll(&mut entry, 1, 0) > 0 && entry.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0 }
    }

    /// Another policyd made it, which names it no more: the peer is told, and lets go of it when it has no use for it either.
    fn is_done(&self) {
        // SAFETY: a descriptor of ours.
        unsafe { real::shutdown(self.channel.load(Ordering::Relaxed), libc::SHUT_WR) };
    }

    fn let_go(&self, family: &Family) {
        self.is_done();
        self.instance.store(0, Ordering::Relaxed);
        self.unused_since.store(0, Ordering::Relaxed);
        // SAFETY: the range lies in our mapping; nobody reads what stands there any more.
        unsafe { libc::madvise(self.base.cast(), pair::BYTES, libc::MADV_REMOVE) };
        self.close_descriptors();
        if let Some(owner) = family.shared.pair_owner.get(self.index as usize) {
            owner.store(0, Ordering::Release);
        }
    }

    /// Those of a pair that this process, or the one it was forked from, had here.
    pub(super) fn close_descriptors(&self) {
        for known in [&self.peer_wake0, &self.channel] {
            close(known.swap(-1, Ordering::AcqRel));
        }
        for entry in &self.peer_wakes {
            if entry.load(Ordering::Relaxed) != 0 {
                close(entry.swap(0, Ordering::AcqRel) as u32 as RawFd - 1);
            }
        }
        for word in self.woken.iter().chain(&self.sent) {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

fn close(fd: RawFd) {
    hidden::close(fd);
}
