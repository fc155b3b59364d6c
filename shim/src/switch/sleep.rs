//! How a blocking call waits: for the ring's other end, for TCP, for its time-out, for a signal.
//!
//! A wait first spins (`spin`), where that has paid of late; then it sleeps in one ppoll on
//! {anchor, own wake, wake 0}. The order that keeps a wake from being lost is in `wake`.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use libc::{c_short, pollfd};
use tandem_protocol::Reason;

use super::anchor::FinalWord;
use super::restartable::{self, Slept};
use super::spin::{self, Reach};
use super::{Conn, anchor, far, receive, send};
use crate::calls::lifecycle;
use crate::provider::local::WAKE0;
use crate::signals::{self, AfterSignal};
use crate::slot::asleep::Asleep;
use crate::slot::{SlotRef, flag};
use crate::stream::sleepers::Sleepers;
use crate::stream::{LocalPort, Port, Word};
use crate::wake::{self, Wake};
use crate::{meet, real, sys};

/// Which direction a sleeper waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    In,
    Out,
}

pub enum Woke {
    /// Something may have changed.
    Look,
    TimedOut,
    /// A signal ended the sleep.
    Signal,
    /// And the kernel has decided: EINTR is due.
    Interrupted,
    /// The socket was closed meanwhile: its number may be another's.
    Gone,
}

/// What is left of a call's time.
pub struct Patience {
    _asleep: Asleep,
    until: Option<u64>,
    limited: bool,
    spun: bool,
    /// Words, or the anchor, said last time that there is something.
    said: bool,
    /// How often so with nothing come of it, and how far the connection had come then.
    in_vain: u32,
    come: u64,
    /// Some bytes have been moved: a signal ends the call with those, whatever its handler's flags.
    pub partial: bool,
}

impl Patience {
    /// From here on a close of the descriptor does not end the connection before the call has returned.
    pub fn of(slot: SlotRef, limit_ns: Option<u64>) -> Patience {
        Patience {
            _asleep: Asleep::on(slot, lifecycle::last_returned),
            until: limit_ns.map(|ns| sys::now_ns().saturating_add(ns)),
            limited: limit_ns.is_some(),
            spun: false,
            said: false,
            in_vain: 0,
            come: 0,
            partial: false,
        }
    }

    /// Spins, the first time it is asked, if that is worth trying. True: there is something.
    pub fn spins(&mut self, conn: &Conn, way: Way) -> bool {
        !std::mem::replace(&mut self.spun, true) && spun_for(conn, way)
    }

    /// There was something, again and again, and nothing has come of it: only a peer that lies brings that about.
    fn is_fooled(&mut self, conn: &Conn) -> bool {
        let come = conn.slot.delivered().wrapping_add(conn.slot.accepted());
        let came = std::mem::replace(&mut self.come, come) != come;
        self.in_vain = if came { 0 } else { self.in_vain + u32::from(std::mem::take(&mut self.said)) };
        self.in_vain > MOST_IN_VAIN
    }

    fn left(&self) -> Option<u64> {
        self.until.map(|until| until.saturating_sub(sys::now_ns()))
    }
}

/// Where a wake cannot be had, or the list of sleepers is full: sleep so long at most, then look.
const TIMED_NS: u64 = 5_000_000;
/// Looks one after the other that may find nothing where the words said that there is something. Then they are that far apart.
pub const MOST_IN_VAIN: u32 = 200;

/// Waits for bytes; `skip` of them have been seen already (a peek that wants more).
pub fn wait_for(conn: &Conn, patience: &mut Patience, skip: usize) -> Woke {
    if skip > 0 {
        // More than what is there already: no word says that, so look now and then.
        return timed(conn, patience);
    }
    wait(conn, Way::In, patience)
}

pub fn wait(conn: &Conn, way: Way, patience: &mut Patience) -> Woke {
    if patience.spins(conn, way) {
        return Woke::Look;
    }
    let Some(borrowed) = Borrowed::take() else { return timed(conn, patience) };
    let wake = borrowed.wake;
    let standing = stand(conn, way, wake);
    wake.fall_asleep();
    if conn.pair.is_far() {
        far::arm();
    }
    let woke = if patience.is_fooled(conn) {
        fooled(conn, wake, patience)
    } else if now_ready(conn, way) || !conn.slot.shows(conn.fd) {
        patience.said = true;
        Woke::Look
    } else {
        // The kernel says readable only at the low-water mark, and knows nothing of the ring's share of it.
        let low_water = way == Way::In && conn.slot.has(flag::LOW_WATER);
        let own = patience.left();
        let limit = standing.bound(if low_water { Some(own.unwrap_or(u64::MAX).min(LOOK_NS)) } else { own });
        let limit = if conn.pair.is_far() { far::bound(conn, limit) } else { limit };
        let slept = if limit.is_none() && !patience.partial && signals::mixed() && !conn.pair.is_far() {
            restartably(conn, way, wake, patience)
        } else {
            poll(conn, way, Some(wake), limit, patience)
        };
        if limit == own { slept } else { untimed(slept, patience) }
    };
    wake.wake_up();
    drop(standing);
    drop(borrowed);
    if conn.pair.is_far() {
        meet::collect();
    }
    judge(conn, woke, patience)
}

/// A wake for one sleep: given back however that ends, by pthread_cancel too. (By a longjmp out of a signal handler: at the
/// thread's next sleep.)
pub struct Borrowed {
    pub wake: Wake,
    before: Option<Lent>,
}

/// What this thread has borrowed last, and where on its stack.
#[derive(Clone, Copy)]
struct Lent {
    wake: Wake,
    frame: usize,
}

thread_local! {
    // const-initialised and without Drop, as in `sys`.
    static LAST: Cell<Option<Lent>> = const { Cell::new(None) };
    /// The one before that, which a signal handler has interrupted or a longjmp left behind: nobody looks after it now.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

impl Borrowed {
    pub fn take() -> Option<Borrowed> {
        let here = 0u8;
        let frame = (&raw const here).addr();
        // A forked child has none of its parent's.
        let before = LAST.get().filter(|lent| lent.wake.is_ours());
        LEFT.set(before.map(|lent| lent.wake.id));
        // A caller's frame, if that is what it is, lies above ours: at or below ours nothing is alive any more.
        let abandoned = before.filter(|lent| lent.frame <= frame && !sys::on_signal_stack());
        let wake = match abandoned {
            Some(lent) => {
                lent.wake.wake_up();
                lent.wake.drain();
                lent.wake
            }
            None => Wake::take()?,
        };
        LAST.set(Some(Lent { wake, frame }));
        Some(Borrowed { wake, before: before.filter(|_| abandoned.is_none()) })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        LAST.set(self.before);
        LEFT.set(None);
        if self.wake.sleeps() {
            self.wake.wake_up();
        }
        self.wake.put_back();
    }
}

/// Stands in a list for nobody: its owner is gone, or it is this thread's from a sleep that is over or interrupted. (An
/// interrupted one looks anew when the handler returns.)
fn stands_for_nobody(id: u32) -> bool {
    LEFT.get() == Some(id) || !wake::in_use(id)
}

/// A sleeper's place in a direction's list; dropped when it is awake, for whatever reason. The next one is named then, and
/// all others are told if the direction has moved.
pub struct Standing {
    conn: Conn,
    way: Way,
    wake: Wake,
    /// In the list: it will be named in its turn.
    added: bool,
    /// All others there are this process's, which can tell it.
    among_own: bool,
}

/// Where another process stands in the list too, whom nobody here can wake: sleep so long at most, then look.
const LOOK_NS: u64 = 50_000_000;

impl Standing {
    /// How long at most, `left` being what is left of the call's own time.
    pub fn bound(&self, left: Option<u64>) -> Option<u64> {
        match (self.added, self.among_own) {
            (true, true) => left,
            (true, false) => Some(left.unwrap_or(u64::MAX).min(LOOK_NS)),
            (false, _) => Some(left.unwrap_or(u64::MAX).min(TIMED_NS)),
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let Standing { conn, way, wake, added, .. } = self;
        if !conn.slot.current() {
            return;
        }
        match way {
            Way::In => {
                if let Ok(mut side) = conn.slot.recv_side() {
                    let words = (Word::RSleep, Word::Produced);
                    side.sleepers.leave(&conn.inward, words, wake.id, *added, wake::rouse);
                }
            }
            Way::Out => {
                if let Ok(mut side) = conn.slot.send_side() {
                    let words = (Word::WSleep, Word::Consumed);
                    side.sleepers.leave(&conn.out, words, wake.id, *added, wake::rouse);
                }
            }
        }
    }
}

/// A number of the connection is gone: who sleeps by it goes on by another.
pub fn rouse_sleepers(slot: SlotRef) {
    if !slot.has_sleepers() || !slot.current() {
        return;
    }
    if let Ok(side) = slot.recv_side() {
        rouse_all(&side.sleepers);
    }
    if let Ok(side) = slot.send_side() {
        rouse_all(&side.sleepers);
    }
}

/// A direction has changed hands: what its sleepers wait for on the anchor is another thing now.
pub fn rouse_all(sleepers: &Sleepers) {
    sleepers.all().for_each(wake::rouse);
}

/// The sleeper names itself where the other end looks.
pub fn stand(conn: &Conn, way: Way, wake: Wake) -> Standing {
    conn.pair.introduce(wake.id, wake.bind, wake.fd);
    let (added, among_own) = match way {
        Way::In => conn
            .slot
            .recv_side()
            .map_or((false, false), |mut side| join(&mut side.sleepers, wake, &conn.inward, Word::RSleep)),
        Way::Out => conn
            .slot
            .send_side()
            .map_or((false, false), |mut side| join(&mut side.sleepers, wake, &conn.out, Word::WSleep)),
    };
    if !among_own {
        waits_elsewhere(conn);
    }
    Standing { conn: *conn, way, wake, added, among_own }
}

/// Another process waits on the connection too, and only the kernel can wake both: the connection is its own again.
#[cold]
pub fn waits_elsewhere(conn: &Conn) {
    super::leave(conn.slot, conn.fd, Reason::Forked);
}

fn join(sleepers: &mut Sleepers, wake: Wake, port: &LocalPort<'static>, word: Word) -> (bool, bool) {
    if sleepers.is_empty() {
        let added = sleepers.add(wake.id);
        sleepers.name(port, word);
        return (added, true);
    }
    sleepers.retain(|id| !stands_for_nobody(id));
    let among_own = sleepers.all().all(wake::is_mine);
    // The set of another process stays named: nobody here could tell it.
    let added = (among_own || sleepers.set_is(wake::is_mine)) && sleepers.add(wake.id);
    if !added {
        sleepers.overflow();
    }
    sleepers.name(port, word);
    (added, among_own)
}

fn now_ready(conn: &Conn, way: Way) -> bool {
    match way {
        Way::In => receive::readable(conn, false, 1) || send::asked_back(conn),
        Way::Out => !send::blocked(conn) && !send::owes(conn),
    }
}

fn timed(conn: &Conn, patience: &mut Patience) -> Woke {
    let limit = patience.left().unwrap_or(u64::MAX).min(TIMED_NS);
    let slept = poll(conn, Way::Out, None, Some(limit), patience);
    if conn.pair.is_far() {
        meet::collect();
    }
    let woke = untimed(slept, patience);
    judge(conn, woke, patience)
}

#[cold]
fn fooled(conn: &Conn, wake: Wake, patience: &mut Patience) -> Woke {
    let limit = patience.left().unwrap_or(u64::MAX).min(TIMED_NS);
    untimed(poll(conn, Way::Out, Some(wake), Some(limit), patience), patience)
}

/// A bounded sleep that ended is no time-out of the application's.
fn untimed(slept: Woke, patience: &Patience) -> Woke {
    match slept {
        Woke::TimedOut if patience.left() != Some(0) => Woke::Look,
        other => other,
    }
}

fn judge(conn: &Conn, woke: Woke, patience: &Patience) -> Woke {
    if !conn.slot.current() {
        return Woke::Gone;
    }
    match woke {
        Woke::Signal => match signals::after_interruption(patience.limited || patience.partial) {
            AfterSignal::GoOn => Woke::Look,
            AfterSignal::Return => Woke::Signal,
        },
        Woke::Interrupted => Woke::Signal,
        other => other,
    }
}

/// Handlers of both kinds: the kernel decides, as it would for recv or send.
fn restartably(conn: &Conn, way: Way, wake: Wake, patience: &mut Patience) -> Woke {
    match restartable::sleep(conn.fd, events(conn, way), wake) {
        Slept::Woken => {
            let bits = anchor::look(conn);
            patience.said = way == Way::In && bits & libc::POLLIN as u32 != 0;
            if wake::is_rung() {
                rung();
            }
            Woke::Look
        }
        Slept::Interrupted => Woke::Interrupted,
        Slept::Impossible => match poll(conn, way, Some(wake), Some(TIMED_NS), patience) {
            Woke::TimedOut => Woke::Look,
            other => other,
        },
    }
}

fn events(conn: &Conn, way: Way) -> c_short {
    match way {
        // Bytes that are owed to the kernel are pumped by every wait.
        Way::In if send::owes(conn) => libc::POLLIN | libc::POLLRDHUP | libc::POLLOUT,
        Way::In => libc::POLLIN | libc::POLLRDHUP,
        Way::Out => out_events(conn),
    }
}

fn poll(conn: &Conn, way: Way, wake: Option<Wake>, limit: Option<u64>, patience: &mut Patience) -> Woke {
    let input = |fd: RawFd| pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries = [input(-1); 3 + far::DESCRIPTORS];
    let own = [
        pollfd { fd: conn.fd, events: events(conn, way), revents: 0 },
        input(wake.map_or(-1, |w| w.fd)),
        input(WAKE0.load(Ordering::Acquire)),
    ];
    let mut count = own.len();
    entries.iter_mut().zip(own).for_each(|(entry, own)| *entry = own);
    // The providers' and policyd's, for companions between hosts.
    if conn.pair.is_far() {
        count = entries.len();
        entries.iter_mut().skip(own.len()).zip(far::descriptors()).for_each(|(entry, fd)| *entry = input(fd));
    }
    let limit = limit.map(sys::timespec);
    let limit_at = limit.as_ref().map_or(std::ptr::null(), |l| l as *const libc::timespec);
    // SAFETY: so many entries and a time-out on this frame; no signal mask.
    let n = unsafe { real::ppoll(entries.as_mut_ptr(), count as libc::nfds_t, limit_at, std::ptr::null()) };
    if n < 0 {
        return if sys::errno() == libc::EINTR { Woke::Signal } else { Woke::Look };
    }
    let [tcp, own, zero, .., mail] = entries;
    if own.revents != 0
        && let Some(wake) = wake
    {
        wake.drain();
    }
    if zero.revents != 0 {
        rung();
    }
    if mail.revents != 0 {
        // A packet is there before the word that tells of it.
        meet::receive();
    }
    patience.said = tcp.revents & libc::POLLIN != 0;
    if tcp.revents != 0 && conn.slot.current() {
        anchor::note(conn, tcp.revents as u32 & 0xffff);
        if tcp.revents & libc::POLLOUT != 0 {
            send::pump(conn);
        }
    }
    if n == 0 { Woke::TimedOut } else { Woke::Look }
}

/// Wake 0 was rung: by a peer that does not know whom of us to wake, or by policyd, which wants something of a process that sleeps.
pub fn rung() {
    wake::rouse_all();
    meet::collect();
}

/// What a writer without room waits for on the anchor: room in the kernel while bytes are owed to it, else the peer's end
/// (unless that is known already: poll would return at once, for ever).
pub fn out_events(conn: &Conn) -> c_short {
    if send::owes(conn) {
        return libc::POLLOUT;
    }
    let known = conn.slot.anchor.load(Ordering::Acquire) & libc::POLLRDHUP as u32 != 0;
    if known { 0 } else { libc::POLLRDHUP }
}

/// Spins, if it is worth trying, on what the other end will store: no lock. True: there is something.
fn spun_for(conn: &Conn, way: Way) -> bool {
    if !spin::inclined() {
        return false;
    }
    let reach = Reach::of(conn.pair.is_far());
    match way {
        Way::In => {
            let delivered = conn.slot.delivered();
            let there = || receive::produced(conn).saturating_sub(delivered);
            // An orderly end is told by its word, too.
            let ready = || {
                far::glance(conn);
                there() > 0 || conn.inward.load_final()
            };
            spin::spin(reach, ready, there)
        }
        Way::Out => {
            let before = conn.out.load(Word::Consumed);
            let moved = || conn.out.load(Word::Consumed).wrapping_sub(before);
            let ready = || {
                far::glance(conn);
                moved() != 0
            };
            spin::spin(reach, ready, moved)
        }
    }
}
