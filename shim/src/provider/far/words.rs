//! Words of the switch-over that go by the policyds, because the provider's way is dead, or this is a forked child's.

use std::sync::atomic::Ordering;

use tandem_protocol::message::{FarRef, Message, Word as Said, WordKind};

use super::meeting::{Book, Life, Say, with};
use super::{Far, told};
use crate::meet;
use crate::slot::SlotRef;
use crate::stream::{Port, Word, stamped};
use crate::switch::{self, Conn};

/// A word that cannot go by the provider.
pub fn hear(name: FarRef, said: Said, say: &Say<'_>) {
    with(name, |far, book, number| {
        let (Some(meeting), Some(ports)) = (book.at(number), far.ports(number)) else { return };
        let [out, inward] = &ports;
        let ours = said.writer == meeting.role;
        match said.kind {
            WordKind::Ask if !ours => meeting.asked = Some(said.epoch),
            WordKind::AnswerVoid if ours => out.store(Word::Answer, stamped::answer(said.epoch, false)),
            WordKind::AnswerTaken if ours => out.store(Word::Answer, stamped::answer(said.epoch, true)),
            WordKind::Void if !ours => inward.store(Word::Voided, said.epoch),
            WordKind::Leave if ours => {
                if let Some(want) = stamped::leave(out.load(Word::Want), said.epoch) {
                    out.store(Word::Want, want);
                }
            }
            _ => {}
        }
        if said.kind == WordKind::Ask && !ours && meeting.life == Life::Up && meeting.known & told::DEAD == 0 {
            // Nothing may arrive any more after the answer.
            meeting.known |= told::DEAD;
            ports.iter().for_each(|port| port.store(Word::Dead, 1));
        }
        let slot = meeting.slot;
        far.rouse(number, &ports);
        if let Some(slot) = meet::slot_named(slot) {
            switch::look_anew(slot, slot.descriptor());
        }
        far.step(book, number, say);
    });
}

impl Far {
    /// What this end's directions have to say that the provider cannot carry.
    pub(super) fn say_words(&self, book: &mut Book, number: u32, slot: Option<SlotRef>, say: &Say<'_>) {
        let (Some(conn), Some(meeting)) = (self.conn(number), book.at(number)) else { return };
        let Some([_, inward]) = self.ports(number) else { return };
        if meeting.life != Life::Up || meeting.instance != meet::instance() {
            return;
        }
        let (far, role) = (meeting.far, meeting.role);
        let speak = |kind, writer, epoch| say(&Message::FarWord { far, word: Said { kind, writer, epoch } });
        let (ask, void) = (conn.ask.load(Ordering::Acquire), conn.void.load(Ordering::Acquire));
        if ask != meeting.asks && speak(WordKind::Ask, role, ask.wrapping_sub(1)) {
            meeting.asks = ask;
        }
        if void != meeting.voids && speak(WordKind::Void, role, void.wrapping_sub(1)) {
            meeting.voids = void;
        }
        let dead = meeting.known & told::DEAD != 0;
        if let Some(epoch) = stamped::left(inward.load(Word::Want)).filter(|_| dead || meeting.by_words)
            && meeting.leaves != epoch + 1
            && speak(WordKind::Leave, role ^ 1, epoch)
        {
            meeting.leaves = epoch + 1;
        }
        // Our end of the queue pair is closed first: what is answered stays true.
        if let Some(epoch) = meeting.asked.filter(|_| meeting.known & told::CLOSED != 0)
            && let Some(taken) = slot.and_then(|slot| switch::was_taken(&Conn::of(slot, slot.descriptor())?, epoch))
        {
            let kind = if taken { WordKind::AnswerTaken } else { WordKind::AnswerVoid };
            if speak(kind, role ^ 1, epoch) {
                meeting.asked = None;
            }
        }
    }

    /// A forked child has the connection too, and reads it: the other end's writer is asked back to TCP, which this process shares.
    pub(super) fn leave_in_child(&self, say: &Say<'_>) {
        for (number, conn) in self.conns.iter().enumerate().filter(|(_, conn)| conn.id.load(Ordering::Relaxed) != 0) {
            let Some([_, inward]) = self.ports(number as u32) else { continue };
            let Some(epoch) = stamped::left(inward.load(Word::Want)) else { continue };
            if conn.left.swap(epoch + 1, Ordering::AcqRel) == epoch + 1 {
                continue;
            }
            let far = FarRef { host: conn.host.load(Ordering::Relaxed), id: conn.id.load(Ordering::Relaxed) };
            let writer = conn.role.load(Ordering::Relaxed) as u8 ^ 1;
            if !say(&Message::FarWord { far, word: Said { kind: WordKind::Leave, writer, epoch } }) {
                conn.left.store(0, Ordering::Release);
                self.todo.store(true, Ordering::Release);
            }
        }
    }
}
