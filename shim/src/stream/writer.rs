//! The writing end of one direction.

use super::faults::{Fault, planted};
use super::geometry::Geometry;
use super::record::Record;
use super::words::{Place, Port, Word, at, epoch_of, kind_of, stamp, want};

/// An empty ring starts over at its region's first byte once it stands beyond this: a reader that keeps up
/// touches four pages.
const REWIND_AT: u64 = if cfg!(test) { 5 } else { 16 << 10 };

/// What is published at once in a long write, so that the reader can begin.
const STRIDE: u64 = if cfg!(test) { 3 } else { 64 << 10 };
/// The same where words travel: a quarter of a ring, so that some of it is copied in, some under way, and some copied out.
pub const TRAVELLING_STRIDE: usize = 32 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum WState {
    /// The kernel carries the bytes; nothing is owed.
    #[default]
    Tcp = 0,
    /// Bytes go to the ring.
    Ring = 1,
    /// Record and unread ring bytes go to TCP; nothing new is accepted until all is sent.
    FailBack = 2,
    /// W is published, or the kernel's FIN follows, or the anchor is dead.
    End = 3,
    /// The peer's words cannot be: ECONNRESET.
    Broken = 4,
    /// Where words travel: the epoch is said to be taken, and nothing is accepted until that has arrived.
    Proposed = 5,
}

/// What the caller knows when a data call begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriterFacts {
    /// Bytes of the stream accepted so far, ring bytes included: the caller's own count. Used in `Tcp` only.
    pub offset: u64,
    /// No kernel send in flight or partly done, not closing, no urgent byte sent, not asked to stay on TCP.
    pub may_take: bool,
    /// Where the ring starts when the offer is taken; NONE: don't take.
    pub place: Place,
    /// What we store arrives later than it is stored, or never: see [`WState::Proposed`].
    pub travels: bool,
    /// Own wish to leave the ring.
    pub fail_back: bool,
    /// And to take no offer any more: one that stands is declined, for its reader may wait for an answer. Not where words travel.
    pub for_good: bool,
    /// The reader's kernel FIN (or hang-up) has come without W of its own direction.
    pub reader_gone: bool,
    /// The reader's FIN has come *with* its W, and we are about to sleep with no room.
    pub reader_silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterEvent {
    None,
    /// From this offset on bytes go to the ring. Fence and wake the reader: it may sleep on TCP alone.
    Took {
        offset: u64,
    },
    /// N is said, and the state is `Proposed`.
    Proposed,
    /// Whether N has arrived can be known no more but from the reader: it is to be asked by the policyds.
    Ask {
        epoch: u64,
    },
    /// The offer is used up, the reader may read without the switch. Wake it.
    Voided,
    /// Pump now.
    FailBackBegan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing is owed (any more).
    Done,
    /// The kernel takes no more for now.
    Again,
    Failed(i32),
}

/// Ring memory to be filled. Whoever fills it keeps below `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub ptr: *mut u8,
    pub len: usize,
}

/// Plain data for memory that forked processes share; all zero is `Tcp`, epoch 0.
/// Every method under the send lock.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Writer {
    pub(super) state: WState,
    /// The last epoch taken or voided.
    pub(super) epoch: u64,
    /// N of that epoch.
    pub(super) taken_at: u64,
    /// Bytes of the stream accepted; of meaning from N on.
    pub(super) written: u64,
    /// As last seen; never below N, never above `written`.
    pub(super) consumed: u64,
    /// Bytes accepted but not consumed may not exceed this; 0 is no limit but the region's size.
    pub(super) limit: u64,
    pub(super) number: u64,
    pub(super) current: Geometry,
    /// The one before, while bytes below `current.start` may be unread.
    pub(super) previous: Geometry,
    /// Places we have left, not yet told to the caller.
    pub(super) freed: [Place; 2],
    /// What is owed: a record of this size (0: the reader has stopped, and needs none), then [from, to).
    pub(super) head: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    /// How much of it is in the kernel.
    pub(super) sent: u64,
    /// What the kernel's count of sent bytes is ahead of the stream's.
    pub(super) skew: u64,
    /// As [`WriterFacts::travels`] said when the epoch was taken.
    pub(super) travels: bool,
}

/// The hot path.
impl Writer {
    /// Looks at the reader's words and the facts, and moves. One load when nothing changed.
    ///
    /// `verify` is asked only when an offer is about to be taken: does the kernel, too, say that this many bytes
    /// were sent on this socket?
    #[inline]
    pub fn consider<P: Port>(
        &mut self,
        port: &P,
        facts: &WriterFacts,
        verify: impl FnOnce(u64) -> bool,
    ) -> WriterEvent {
        let wanted = port.load(Word::Want);
        match self.state {
            WState::Ring => {
                let hold = wanted == stamp(self.epoch, want::HOLD);
                let leave = hold || wanted == stamp(self.epoch, want::LEAVE);
                // RETURNED might arrive after the bytes that it announces: there a record is the answer.
                let hold = hold && !self.travels;
                if leave | facts.fail_back | facts.reader_gone | facts.reader_silent {
                    self.begin_fail_back(port, hold, facts.for_good)
                } else {
                    WriterEvent::None
                }
            }
            WState::Tcp if epoch_of(wanted) == self.epoch.wrapping_add(1) => self.answer(port, wanted, facts, verify),
            WState::Proposed => self.settle_proposal(port),
            WState::FailBack | WState::Tcp | WState::End if wanted == stamp(self.epoch, want::HOLD) => {
                self.answer_hold(port);
                WriterEvent::None
            }
            _ => WriterEvent::None,
        }
    }

    /// The next writable bytes without a seam: all `len` if they are there, else as many as there are. None: no room,
    /// or not in `Ring` (see `state`).
    #[inline(always)]
    pub fn reserve<P: Port>(&mut self, port: &P, len: usize) -> Option<Region> {
        if self.state != WState::Ring {
            return None;
        }
        if self.written - self.current.start >= REWIND_AT {
            self.rewind(port);
        }
        let mut room = self.known_room();
        if room < len as u64 {
            self.look(port);
            room = self.known_room();
        }
        if room == 0 || self.state != WState::Ring {
            return None;
        }
        let run = self.current.run(self.written, room.min(len as u64));
        Some(Region { ptr: port.pointer(run.offset), len: run.len as usize })
    }

    /// [`Writer::write`], of all `len` bytes or none, where they fit without a seam, and where [`Writer::consider`] would find nothing to do
    /// without facts. False: the rest of it knows what to do.
    ///
    /// # Safety
    /// `src` may be read for `len` bytes.
    #[inline(always)]
    pub unsafe fn write_at_once<P: Port>(&mut self, port: &P, src: *const u8, len: usize) -> bool {
        if self.state != WState::Ring || port.load(Word::Want) != stamp(self.epoch, want::READY) {
            return false;
        }
        let Some(region) = self.reserve(port, len).filter(|region| region.len == len) else { return false };
        let run = self.current.run(self.written, region.len as u64);
        // SAFETY: reserved just now; `src` by this function's contract.
        unsafe { port.copy_in(run.offset, src, len) };
        self.commit(port, len);
        true
    }

    /// `n` bytes, not more than were reserved, are there for the reader. Then the caller fences and wakes.
    #[inline]
    pub fn commit<P: Port>(&mut self, port: &P, n: usize) {
        debug_assert!(self.state == WState::Ring && n as u64 <= self.known_room());
        self.written += n as u64;
        port.store(Word::Produced, self.written);
    }

    /// After so many bytes of a long write the other end is to be told before more is copied.
    #[inline]
    pub fn stride(&self) -> usize {
        if self.travels { TRAVELLING_STRIDE } else { usize::MAX }
    }

    /// reserve, copy, commit, until `len` bytes are written or there is no room. Then the caller fences and wakes.
    ///
    /// # Safety
    /// `src` may be read for `len` bytes.
    #[inline]
    pub unsafe fn write<P: Port>(&mut self, port: &P, src: *const u8, len: usize) -> usize {
        let mut done = 0;
        while done < len {
            let Some(region) = self.reserve(port, (len - done).min(STRIDE as usize)) else {
                break;
            };
            let run = self.current.run(self.written, region.len as u64);
            if planted(Fault::ProducedFirst) {
                self.commit(port, region.len);
            }
            // SAFETY: reserved just now; `src` by this function's contract.
            unsafe { port.copy_in(run.offset, src.add(done), region.len) };
            if !planted(Fault::ProducedFirst) {
                self.commit(port, region.len);
            }
            done += region.len;
        }
        done
    }
}

/// Switch-over and fail-back.
impl Writer {
    #[cold]
    fn answer<P: Port>(
        &mut self,
        port: &P,
        wanted: u64,
        facts: &WriterFacts,
        verify: impl FnOnce(u64) -> bool,
    ) -> WriterEvent {
        let epoch = self.epoch.wrapping_add(1);
        // Taken already, by a holder that died before it could note it: there is no way back.
        let said = port.load(Word::AtKind) == stamp(epoch, at::TAKEN);
        let dead = facts.travels && port.load(Word::Dead) != 0;
        if (dead || facts.for_good || wanted == stamp(epoch, want::LEAVE) || wanted == stamp(epoch, want::HOLD))
            && !said
        {
            port.store(Word::AtKind, stamp(epoch, at::VOID));
            self.epoch = epoch;
            return WriterEvent::Voided;
        }
        let may = facts.may_take && !facts.fail_back && !facts.reader_gone && !facts.reader_silent;
        let offered = wanted == stamp(epoch, want::READY) && may && port.admits(facts.place);
        if !offered && !said {
            return WriterEvent::None;
        }
        // The reader has said how far it is, before it offered: not beyond us, and past the last geometry.
        let consumed = port.load(Word::Consumed);
        let possible = consumed <= facts.offset && consumed >= self.current.start;
        let same = !said || port.load(Word::AtOffset) == facts.offset && port.admits(facts.place);
        if !possible || !same {
            self.state = WState::Broken;
            return WriterEvent::None;
        }
        if !said && !verify(self.kernel_offset(facts.offset)) {
            return WriterEvent::None;
        }
        self.take(port, epoch, facts)
    }

    fn take<P: Port>(&mut self, port: &P, epoch: u64, facts: &WriterFacts) -> WriterEvent {
        self.written = facts.offset;
        self.taken_at = facts.offset;
        self.consumed = facts.offset;
        if !self.publish(port, facts.place) {
            return WriterEvent::None; // places are still to be collected
        }
        if planted(Fault::StampFirst) {
            port.store(Word::AtKind, stamp(epoch, at::TAKEN));
        }
        port.store(Word::AtOffset, facts.offset);
        port.store(Word::AtKind, stamp(epoch, at::TAKEN));
        self.epoch = epoch;
        self.travels = facts.travels;
        if self.travels && !planted(Fault::NotAwaited) {
            self.state = WState::Proposed;
            return WriterEvent::Proposed;
        }
        self.state = WState::Ring;
        WriterEvent::Took { offset: facts.offset }
    }

    /// PROPOSED: has N arrived? Where nobody can know any more, the reader says whether it saw it.
    #[cold]
    fn settle_proposal<P: Port>(&mut self, port: &P) -> WriterEvent {
        if port.load(Word::Landed) == self.epoch {
            self.state = WState::Ring;
            return WriterEvent::Took { offset: self.taken_at };
        }
        if port.load(Word::Dead) == 0 {
            return WriterEvent::None;
        }
        let answer = match port.load(Word::Answer) {
            _ if planted(Fault::GuessedVoid) => stamp(self.epoch, at::VOID),
            _ if planted(Fault::GuessedTaken) => stamp(self.epoch, at::TAKEN),
            answer => answer,
        };
        if answer == stamp(self.epoch, at::VOID) {
            self.state = WState::Tcp;
            return WriterEvent::Voided;
        }
        if answer == stamp(self.epoch, at::TAKEN) {
            self.owe(Record::SIZE as u64); // R = E = N
            return WriterEvent::FailBackBegan;
        }
        WriterEvent::Ask { epoch: self.epoch }
    }

    /// W, when the bytes were in the ring; then the caller lets the kernel send its FIN. False while bytes are owed:
    /// pump first.
    pub fn finish<P: Port>(&mut self, port: &P) -> bool {
        match self.state {
            WState::FailBack | WState::Proposed => return false,
            WState::Ring if self.travels => port.store(Word::End, self.written.wrapping_add(1)),
            WState::Ring => port.store(Word::Final, self.written.wrapping_add(1)),
            WState::Tcp | WState::End | WState::Broken => {}
        }
        if self.state != WState::Broken {
            self.state = WState::End;
        }
        true
    }

    /// The anchor is dead (RST, EPIPE): nothing more is owed to anybody.
    pub fn abandon(&mut self) {
        self.state = WState::End;
    }
}

impl Writer {
    #[inline]
    pub fn state(&self) -> WState {
        self.state
    }

    /// The reader has stopped reading, once: whether that is answered `asked` knows, under the lock.
    #[inline]
    pub fn may_be_asked<P: Port>(port: &P) -> bool {
        kind_of(port.load(Word::Want)) == want::HOLD
    }

    /// The reader wants the direction back, in whichever way: a hint.
    pub fn leave_is_asked<P: Port>(port: &P) -> bool {
        matches!(kind_of(port.load(Word::Want)), want::LEAVE | want::HOLD)
    }

    /// The reader has stopped reading, and that is not answered yet.
    pub fn asked<P: Port>(&self, port: &P) -> bool {
        let wanted = port.load(Word::Want);
        match epoch_of(wanted) {
            _ if kind_of(wanted) != want::HOLD => false,
            epoch if epoch == self.epoch => !answered(port.load(Word::AtKind), epoch),
            epoch => epoch == self.epoch.wrapping_add(1) && self.state == WState::Tcp,
        }
    }

    /// Bytes are owed to a reader that knows no record, nor the ring: they are not to be left behind.
    pub fn owes_returned<P: Port>(&self, port: &P) -> bool {
        self.owed() && (self.head == 0 || port.load(Word::Want) == stamp(self.epoch, want::HOLD))
    }

    /// Record or bytes have still to go to the kernel.
    pub fn owed(&self) -> bool {
        self.state == WState::FailBack
    }

    /// PROPOSED, and nothing has come that would settle it.
    pub fn undecided<P: Port>(&self, port: &P) -> bool {
        self.state == WState::Proposed
            && port.load(Word::Landed) != self.epoch
            && (port.load(Word::Dead) == 0 || epoch_of(port.load(Word::Answer)) != self.epoch)
    }

    /// Bytes of the stream accepted, of meaning since the last take. After a fail-back the caller counts on from here.
    #[inline]
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// N of the last epoch taken.
    pub fn taken_at(&self) -> u64 {
        self.taken_at
    }

    /// How many bytes the kernel has been given when `stream` bytes of the stream were accepted: in `Tcp` only.
    pub fn kernel_offset(&self, stream: u64) -> u64 {
        stream.wrapping_add(self.skew)
    }
}

/// Does the writer's own word answer HOLD of this epoch?
pub(super) fn answered(said: u64, epoch: u64) -> bool {
    epoch_of(said) == epoch && kind_of(said) != at::TAKEN
}
