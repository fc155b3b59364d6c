//! The `local` provider: one sealed memory file per pair of processes, made by policyd, mapped once in each, carved into
//! control words and rings. What stands here is the pair: its mapping, the way to wake the peer, and its big rings.
//!
//! Everything in the mapping may be written by the peer at any time; only the stream's ports read it, word by word.

mod reuse;

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use tandem_protocol::board::Board;
use tandem_protocol::pair;

use super::far::{self, Far};
use crate::debug::{self, Fault};
use crate::family::{self, PAIRS, WAKES};
use crate::stream::{LocalPort, Place, Port, Slots, Word, Words, news};
use crate::{hidden, real, sys};

/// One peer process, as this process sees it. Leaked when made, and another one's when this one is gone: see `reuse`.
pub struct Pair {
    /// policyd's number, for its messages.
    id: AtomicU32,
    /// policyd's start that made it: another policyd may use the number again. 0: no pair stands here.
    instance: AtomicU64,
    pub index: u32,
    role: AtomicU8,
    /// Companions between hosts stand beside those of one host in the table: what drives them.
    far: *const Far,
    /// The process whose descriptors these are; its forked children have copies of those there were.
    owner: AtomicU32,
    /// No connection has it since; 0: not known.
    unused_since: AtomicU64,
    base: *mut u8,
    /// Between hosts: where our news stand. (One bit a conn: the peer sets it in ours, we in the peer's.)
    far_news: *const news::Bits,
    peer_board: *mut u8,
    peer_wake0: AtomicI32,
    channel: AtomicI32,
    /// Wake id of the peer -> {bind generation, descriptor + 1}, as far as it has been sent to us.
    peer_wakes: [AtomicU64; WAKES],
    /// Sleep value of the peer's wake id that this process has already answered.
    woken: [AtomicU32; WAKES],
    /// Bind generation of our wake id that has been sent to the peer, + 1.
    sent: [AtomicU32; WAKES],
}

// SAFETY: raw pointers into mappings that are never unmapped; all else is atomic.
unsafe impl Sync for Pair {}

static TABLE: [AtomicPtr<Pair>; PAIRS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PAIRS];

/// What policyd's message about a new pair brings.
pub struct Parts {
    pub memory: RawFd,
    pub board: RawFd,
    pub wake0: RawFd,
    pub channel: RawFd,
}

/// The pair by the family's index, if this process has mapped it.
#[inline]
pub fn pair(index: u32) -> Option<&'static Pair> {
    // SAFETY: null, or leaked by `adopt` and never freed.
    unsafe { TABLE.get(index as usize)?.load(Ordering::Acquire).as_ref() }
}

/// The pair that policyd calls `id`, as the end that has this role: a process may be its own peer.
pub fn find(instance: u64, id: u32, role: u8) -> Option<&'static Pair> {
    let used = family::existing()?.shared.next_pair.load(Ordering::Relaxed);
    (0..used).filter_map(pair).find(|p| p.is(instance, id) && p.role() == role)
}

/// Maps a new pair. All descriptors in `parts` are consumed; `None` leaves nothing behind.
pub fn adopt(instance: u64, id: u32, role: u8, parts: Parts) -> Option<&'static Pair> {
    let made = build(instance, id, role, &parts);
    hidden_close(parts.memory);
    hidden_close(parts.board);
    if made.is_none() {
        hidden_close(parts.wake0);
        hidden_close(parts.channel);
    }
    made
}

fn hidden_close(fd: RawFd) {
    hidden::close(fd);
}

fn build(instance: u64, id: u32, role: u8, parts: &Parts) -> Option<&'static Pair> {
    if debug::fault(Fault::Pair) || sys::space_is_limited() {
        return None;
    }
    reuse::sweep();
    let index = reuse::claim()?;
    let made = map(index, parts);
    let Some(made) = made else {
        reuse::give_up(index);
        return None;
    };
    made.close_descriptors();
    made.peer_wake0.store(parts.wake0, Ordering::Relaxed);
    made.channel.store(parts.channel, Ordering::Relaxed);
    made.id.store(id, Ordering::Relaxed);
    made.role.store(role, Ordering::Relaxed);
    made.unused_since.store(0, Ordering::Relaxed);
    made.owner.store(sys::pid(), Ordering::Relaxed);
    made.instance.store(instance, Ordering::Release);
    Some(made)
}

/// The record at this place, and its mappings: where those of a pair that is gone stood, if there was one.
fn map(index: u32, parts: &Parts) -> Option<&'static Pair> {
    let sound = sys::is_sealed(parts.memory, pair::BYTES, pair::SEALS)
        && sys::is_sealed(parts.board, Board::BYTES, Board::SEALS);
    if !sound {
        crate::log::warn(format_args!(
            "policyd gave memory of another layout: is it of another release than libtandem.so?"
        ));
        return None;
    }
    let before = pair(index).filter(|before| !before.is_far());
    let at = before.map(|before| (before.base, before.peer_board));
    let base = sys::map_shared_at(at.map(|at| at.0), Some(parts.memory), pair::BYTES, true)?;
    let Some(board) = sys::map_shared_at(at.map(|at| at.1), Some(parts.board), Board::BYTES, false) else {
        if before.is_none() {
            // SAFETY: mapped above, handed to nobody.
            unsafe { sys::unmap(base, pair::BYTES) };
        }
        return None;
    };
    before.or_else(|| enlist(index, |fresh| (fresh.base, fresh.peer_board) = (base, board)))
}

/// Companions between hosts: the memory that `far` drives, as a pair of this process with all of them. It lives for ever.
pub fn enlist_far(far: *const Far, base: *mut u8, news: *mut u8) -> Option<&'static Pair> {
    enlist(reuse::claim()?, |fresh| (fresh.far, fresh.base, fresh.far_news) = (far, base, news.cast()))
}

/// A new record in the table.
fn enlist(index: u32, fill: impl FnOnce(&mut Pair)) -> Option<&'static Pair> {
    let place = TABLE.get(index as usize)?;
    // SAFETY: zeroed is a valid Pair (null pointers, zero atomics); the fields are set before it is published.
    let mut fresh: Box<Pair> = unsafe { Box::new_zeroed().assume_init() };
    fresh.index = index;
    fresh.owner = AtomicU32::new(sys::pid());
    (fresh.peer_wake0, fresh.channel) = (AtomicI32::new(-1), AtomicI32::new(-1));
    fill(&mut fresh);
    let fresh = Box::into_raw(fresh);
    place.store(fresh, Ordering::Release);
    // SAFETY: just leaked.
    unsafe { fresh.as_ref() }
}

impl Pair {
    /// What policyd calls so.
    pub fn is(&self, instance: u64, id: u32) -> bool {
        self.instance.load(Ordering::Relaxed) == instance && self.id.load(Ordering::Relaxed) == id
    }

    pub fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    pub fn instance(&self) -> u64 {
        self.instance.load(Ordering::Relaxed)
    }

    /// Which of the two we are.
    #[inline(always)]
    pub fn role(&self) -> u8 {
        self.role.load(Ordering::Relaxed)
    }

    /// What drives these companions, if they are between hosts.
    #[inline]
    pub fn far(&self) -> Option<&'static Far> {
        // SAFETY: null, or as old as the pair and never freed.
        unsafe { self.far.as_ref() }
    }

    #[inline]
    pub fn is_far(&self) -> bool {
        !self.far.is_null()
    }

    /// The port of one direction of a connection; `writer` is the writing end's role.
    #[inline(always)]
    pub fn port(&self, conn: u32, writer: u8) -> Option<LocalPort<'static>> {
        let writer = writer & 1;
        let mut at = pair::control_offset(conn)? + usize::from(writer) * size_of::<Words>();
        let (mut first, mut small) = (first_ring(writer, conn)?, small_ring(writer, conn)?);
        let mut big = Slots {
            first: pair::big_ring_offset(writer, 0)? as u64,
            size: pair::BIG_RING_BYTES as u64,
            count: u64::from(pair::BIG_RINGS),
        };
        if self.is_far() {
            // Between hosts the direction that we write is role 0's.
            (at, small) = far::place(conn, writer != 0)?;
            (first, big.count) = (Place::NONE, 0);
        }
        // SAFETY: all offsets lie in the mapping, which is never unmapped; Words is atomics only, and aligned there.
        Some(unsafe { LocalPort::new(&*self.base.add(at).cast::<Words>(), self.base, first, small, big) })
    }

    /// Makes our half of a connection's words this companion's: whatever a predecessor left is gone before the id that
    /// makes them valid is there.
    pub fn initialise(&self, conn: u32, id: u64) {
        let (Some(out), Some(inward)) = (self.port(conn, self.role()), self.port(conn, self.role() ^ 1)) else {
            return;
        };
        if let Some(conns) = family::existing().and_then(|family| family.shared.conns_used.get(self.index as usize)) {
            conns.fetch_max(conn + 1, Ordering::Relaxed);
        }
        let held = family::existing().and_then(|f| f.shared.held_rings.get(self.index as usize)?.get(conn as usize));
        if let Some(word @ 1..) = held.map(|h| h.swap(0, Ordering::AcqRel)) {
            self.release(Place::from_word(word));
        }
        out.store(Word::WriterReady, 0);
        inward.store(Word::ReaderReady, 0);
        Word::WRITERS.iter().for_each(|&word| out.store(word, 0));
        Word::READERS.iter().for_each(|&word| inward.store(word, 0));
        out.store(Word::WriterReady, id);
        inward.store(Word::ReaderReady, id);
    }

    /// A free big ring in our half. Between hosts rings have one size.
    pub fn claim_big(&self) -> Option<Place> {
        if self.is_far() {
            return None;
        }
        let bits = family::existing()?.shared.big_rings.get(self.index as usize)?;
        for (at, word) in bits.iter().enumerate() {
            let mut seen = word.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                match word.compare_exchange_weak(seen, seen | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => {
                        let number = at as u32 * 64 + bit;
                        let offset = pair::big_ring_offset(self.role(), number)?;
                        return Some(Place::new(offset as u64, pair::BIG_RING_BYTES as u64));
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Gives a big ring back, and its pages to the kernel; a small one stays the connection's.
    pub fn release(&self, place: Place) {
        let first = pair::big_ring_offset(self.role(), 0).unwrap_or(usize::MAX);
        let Some(from) =
            (place.offset() as usize).checked_sub(first).filter(|_| place.size() == pair::BIG_RING_BYTES as u64)
        else {
            return;
        };
        let number = from / pair::BIG_RING_BYTES;
        // SAFETY: the range lies in our mapping; MADV_REMOVE only drops pages that nobody owes to anybody any more.
        unsafe {
            libc::madvise(self.base.add(place.offset() as usize).cast(), pair::BIG_RING_BYTES, libc::MADV_REMOVE);
        }
        let bits = family::existing().and_then(|f| f.shared.big_rings.get(self.index as usize));
        if let Some(word) = bits.and_then(|b| b.get(number / 64)) {
            word.fetch_and(!(1 << (number % 64)), Ordering::Release);
        }
    }

    /// A closed connection's place: a big ring that the peer may still read is kept until the connection's number comes
    /// back to us (both ends have then let go of it).
    pub fn give_back(&self, conn: u32, place: Place, unread: bool) {
        let held = family::existing().and_then(|f| f.shared.held_rings.get(self.index as usize)?.get(conn as usize));
        match held {
            Some(held) if unread && place.size() == pair::BIG_RING_BYTES as u64 => {
                held.store(place.word(), Ordering::Release)
            }
            _ => self.release(place),
        }
    }

    /// Tells the peer's epoll sets that this conn is to be looked at. True: the bit was not set yet; see [`news::tell`].
    #[inline]
    pub fn tell_news(&self, conn: u32) -> bool {
        news::tell(self.news_of(self.role() ^ 1), conn)
    }

    /// Conns of `mask` in word `at` that the peer has news of; they are cleared, and looked at afterwards.
    #[inline]
    pub fn take_news(&self, at: usize, mask: u64) -> u64 {
        news::take(self.own_news(), at, mask)
    }

    /// As [`Pair::take_news`], and leaves them.
    #[inline]
    pub fn news(&self, at: usize) -> u64 {
        news::peek(self.own_news(), at)
    }

    /// As the other role's `tell_news`, where no peer process sets our bits.
    pub fn tell_own_news(&self, conn: u32) -> bool {
        news::tell(self.own_news(), conn)
    }

    #[inline]
    fn own_news(&self) -> &[news::Bits] {
        self.news_of(self.role())
    }

    #[inline]
    fn news_of(&self, role: u8) -> &[news::Bits] {
        let own = pair::news_offset(role & 1).map_or(self.far_news, |at| self.base.wrapping_add(at).cast());
        let words = if self.far_news.is_null() { own } else { self.far_news };
        // SAFETY: NEWS_WORDS words stand there, in a mapping that is never unmapped, and aligned.
        unsafe { std::slice::from_raw_parts(words, pair::NEWS_WORDS) }
    }

    /// See [`Pair::wake`].
    #[inline]
    pub fn sleeps(&self, id: u32) -> bool {
        // SAFETY: the board stays mapped for the life of the process.
        let board = unsafe { &*self.peer_board.cast::<Board>() };
        board.entry(id).is_some_and(|entry| entry.sleep.load(Ordering::Acquire) & 1 != 0)
    }

    /// Wakes the peer's sleeper `id` if it sleeps and has not been woken from this sleep already.
    /// The caller has stored what the sleeper waits for and put a full fence behind it.
    #[inline]
    pub fn wake(&self, id: u32) {
        // SAFETY: the board stays mapped for the life of the process.
        let board = unsafe { &*self.peer_board.cast::<Board>() };
        let Some(entry) = board.entry(id) else { return };
        let sleep = entry.sleep.load(Ordering::Acquire);
        if sleep & 1 != 0 {
            self.wake_asleep(id, sleep, entry.bind.load(Ordering::Acquire));
        }
    }

    #[cold]
    fn wake_asleep(&self, id: u32, sleep: u32, bind: u32) {
        let Some(woken) = self.woken.get(id as usize) else { return };
        if woken.swap(sleep, Ordering::Relaxed) == sleep {
            return;
        }
        let fd = self.peer_wake(id, bind).unwrap_or_else(|| self.peer_wake0.load(Ordering::Relaxed));
        signal(fd);
    }

    /// The peer's wake descriptor, fetched from the pair's channel where it has not been yet.
    fn peer_wake(&self, id: u32, bind: u32) -> Option<RawFd> {
        let known = |entry: u64| (entry >> 32) as u32 == bind && entry as u32 != 0;
        let slot = self.peer_wakes.get(id as usize)?;
        let mut entry = slot.load(Ordering::Acquire);
        // A child would take away what is the parent's. One by vfork would note its own number of it in the parent's memory.
        if !known(entry) && self.is_ours() {
            self.drain_channel();
            entry = slot.load(Ordering::Acquire);
        }
        known(entry).then(|| entry as u32 as RawFd - 1)
    }

    /// What the channel brings is for this process, or for nobody else any more.
    fn is_ours(&self) -> bool {
        let (owner, me) = (self.owner.load(Ordering::Relaxed), sys::pid());
        let inherits = || {
            !sys::process_alive(owner)
                && self.owner.compare_exchange(owner, me, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        !sys::is_vfork_child() && (owner == me || inherits())
    }

    /// Makes the peer able to wake `id`; false when its descriptor could not be sent (the peer then rings wake 0, and
    /// every sleeper of ours listens to that too).
    #[inline]
    pub fn introduce(&self, id: u32, bind: u32, fd: RawFd) {
        if let Some(sent) = self.sent.get(id as usize)
            && sent.load(Ordering::Relaxed) != bind.wrapping_add(1)
            && self.send_wake(id, bind, fd)
        {
            sent.store(bind.wrapping_add(1), Ordering::Relaxed);
        }
    }

    #[cold]
    fn send_wake(&self, id: u32, bind: u32, fd: RawFd) -> bool {
        if self.is_far() {
            return true; // the other host wakes nobody here
        }
        if debug::fault(Fault::Wake) {
            return false;
        }
        let mut text = [0u8; 8];
        text[..4].copy_from_slice(&id.to_le_bytes());
        text[4..].copy_from_slice(&bind.to_le_bytes());
        crate::meet::packet::send(self.channel.load(Ordering::Relaxed), &text, &[fd])
    }

    fn drain_channel(&self) {
        let mut text = [0u8; 16];
        while let Some(packet) = crate::meet::packet::receive(self.channel.load(Ordering::Relaxed), &mut text) {
            let (id, bind) = (word(&text, 0), word(&text, 4));
            let mut fds = packet.fds();
            let fd = fds.next().and_then(hidden::hide);
            fds.for_each(drop_fd);
            let fd = fd.filter(|&fd| is_wake(fd) || refuse(fd));
            let (Some(fd), Some(entry), 8) = (fd, self.peer_wakes.get(id as usize), packet.length) else {
                fd.into_iter().for_each(hidden::close);
                continue;
            };
            let old = entry.swap(u64::from(bind) << 32 | (fd + 1) as u64, Ordering::AcqRel) as u32;
            if old != 0 {
                hidden::close(old as RawFd - 1);
            }
        }
    }
}

/// What a peer gives us to wake it by is written to: nothing but an eventfd, else a liar would have us write into what it chose, or wait
/// in a full pipe. Where that cannot be seen (no /proc) wake 0 serves, which policyd has looked at.
fn is_wake(fd: RawFd) -> bool {
    const EVENTFD: &[u8] = b"anon_inode:[eventfd]";
    let (mut path, mut target) = ([0u8; 32], [0u8; EVENTFD.len() + 1]);
    if write!(&mut path[..], "/proc/self/fd/{fd}\0").is_err() {
        return false;
    }
    // SAFETY: a path that ends, and room of the stated size; the flags are an open file's of ours.
    unsafe {
        let length = libc::readlink(path.as_ptr().cast(), target.as_mut_ptr().cast(), target.len());
        usize::try_from(length).is_ok_and(|length| target.get(..length) == Some(EVENTFD))
            && real::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK as usize) == 0
    }
}

fn refuse(fd: RawFd) -> bool {
    hidden::close(fd);
    false
}

fn drop_fd(fd: RawFd) {
    // SAFETY: a descriptor that was just received and is known to nobody.
    unsafe { real::close(fd) };
}

fn word(text: &[u8; 16], at: usize) -> u32 {
    text.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Adds one to an eventfd.
pub fn signal(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight bytes from this frame; a full counter (EAGAIN) is a wake that is already due.
    unsafe { real::write(fd, (&raw const one).cast(), 8) };
}

/// Wake 0 of this process: the one every sleeper listens to.
pub static WAKE0: AtomicI32 = AtomicI32::new(-1);

/// The ring that `writer`'s direction of a connection begins in.
fn first_ring(writer: u8, conn: u32) -> Option<Place> {
    Some(Place::new(pair::first_ring_offset(writer, conn)? as u64, pair::FIRST_RING_BYTES as u64))
}

/// The larger one that it has, too.
pub fn small_ring(writer: u8, conn: u32) -> Option<Place> {
    Some(Place::new(pair::small_ring_offset(writer, conn)? as u64, pair::SMALL_RING_BYTES as u64))
}
