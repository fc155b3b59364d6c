//! What the completion queue and the device say of a companion.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tandem_provider::{Completion, kind};

use super::{Companion, Inner, Life, Source};
use crate::adapter::lock;
use crate::control::Slot;
use crate::errors::{self, Errno, Result};
use crate::host::{self, Level};
use crate::notes::Fetched;
use crate::queue::{Queue, Sink};
use crate::send::Purpose;
use crate::verbs::Work;
use crate::worker::Job;

impl Companion {
    pub fn pair_number(&self) -> u32 {
        self.pair_number.load(Ordering::Acquire)
    }

    pub fn port(&self) -> u8 {
        lock(&self.inner).source.port
    }

    /// Port, GID and its index.
    pub fn source(&self) -> (u8, [u8; 16], u8) {
        let Source { port, gid, index } = lock(&self.inner).source;
        (port, gid, index)
    }

    /// The completion queue speaks of it. True: something is owed to the peer's provider.
    pub fn ended(&self, work: &Work, sink: &mut Sink) -> bool {
        let mut inner = lock(&self.inner);
        match inner.life {
            Life::Up | Life::Connecting | Life::Ready => {}
            Life::Dead => {
                // What had arrived before that: the peer has been told so by its device, and may say nothing more.
                if let (0, Some(immediate)) = (work.status, work.note) {
                    let _ = self.notified(&mut inner, immediate, sink);
                }
                return false;
            }
            Life::New | Life::Preparing | Life::Closing => return false,
        }
        let handled = match (work.status, work.note) {
            (0, Some(immediate)) => self.notified(&mut inner, immediate, sink),
            (0, None) => self.landed(&mut inner, work, sink),
            // Receives do not fail by themselves: the pair has.
            (_, Some(_)) => return false,
            (status, None) => Err(errors::of_work(status)),
        };
        if let Err(why) = handled {
            self.die(&mut inner, why);
            sink.push(Completion { status: errors::status(&Err(why)), ..self.completion(kind::DEAD) });
            return false;
        }
        inner.life == Life::Up && inner.heard.due().is_some()
    }

    fn notified(&self, inner: &mut Inner, immediate: u32, sink: &mut Sink) -> Result<()> {
        let note = inner.heard.arrived(immediate)?;
        match inner.life {
            Life::Up | Life::Dead => sink.push(Completion { note, ..self.completion(kind::NOTIFIED) }),
            _ => inner.early = Some(note),
        }
        Ok(())
    }

    fn landed(&self, inner: &mut Inner, work: &Work, sink: &mut Sink) -> Result<()> {
        let (serial, number) = work.request();
        if serial != self.serial {
            return Ok(());
        }
        let mut fetched = false;
        let freed = inner.sends.end(number, |purpose| match purpose {
            Purpose::Report(token) => sink.push(Completion { token, ..self.completion(kind::LANDED) }),
            Purpose::Fetched => fetched = true,
            Purpose::Room => {}
        });
        let freed = freed.ok_or(Errno(libc::EIO))?;
        if let Some(opened) = &inner.opened {
            opened.adapter.give_sends(freed);
        }
        if let (true, Some(slot)) = (fetched, &inner.slot) {
            let (theirs, landed) = (slot.fetched(), slot.late());
            match inner.heard.fetched(theirs, landed) {
                Fetched::Tell(note) => sink.push(Completion { note, ..self.completion(kind::NOTIFIED) }),
                Fetched::Again => inner.heard.ask_again(),
                Fetched::Nothing => {}
            }
        }
        Ok(())
    }

    /// The completion queue has been seen empty since this companion's pair failed, or was destroyed.
    pub fn drained(self: &Arc<Self>) {
        // Refused only in a child, where nobody polls.
        let _ = self.order(Job::CloseDrained(Arc::clone(self)));
    }

    /// Something has happened to the device: the pair is not to go on.
    pub fn kill(&self, queue: &Queue, why: Errno) {
        let mut inner = lock(&self.inner);
        if matches!(inner.life, Life::Ready | Life::Connecting | Life::Up) {
            self.die(&mut inner, why);
            queue.tell(kind::DEAD, errors::status(&Err(why)), self.cookie);
        }
    }

    /// Its device has gone: the pair and all that it took of the device are given back. Close finds that done.
    pub fn let_go(&self) {
        let mut inner = lock(&self.inner);
        let (pair, slot) = (inner.pair.take(), inner.slot.take());
        let opened = inner.opened.take();
        if let Some(opened) = &opened {
            opened.adapter.leave(self.pair_number());
            opened.adapter.give_sends(inner.sends.under_way());
            opened.adapter.give_window(inner.window);
        }
        drop(inner);
        // The pair before what it reaches.
        drop(pair);
        drop(slot);
        if let Some(opened) = opened {
            opened.tidy_slots();
        }
    }

    /// From here on nothing of ours lands. The caller tells it.
    pub(super) fn die(&self, inner: &mut Inner, why: Errno) {
        let was_up = std::mem::replace(&mut inner.life, Life::Dead) == Life::Up;
        if let Some(pair) = &inner.pair {
            let _ = pair.fail();
        }
        // A late note cannot be fetched any more; what has landed has, with all the bytes before it.
        let late = inner.slot.as_ref().and_then(Slot::late).filter(|_| was_up);
        if let Fetched::Tell(note) = inner.heard.fetched(late, late) {
            self.domain.queue.tell_all(Completion { note, ..self.completion(kind::NOTIFIED) });
        }
        host::log(Level::Info, format_args!("companion {:#x} is dead: errno {}", self.cookie, why.0));
    }
}
