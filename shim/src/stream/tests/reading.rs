//! The reading end of `directions`.

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::directions::*;
use super::world::{Side, View, World};
use super::*;
use crate::stream::sleepers::{Sleepers, whom};
use crate::stream::{FOR_GOOD, Port, RState, Word};

#[derive(Default)]
pub(super) struct ReadSide {
    reader: Reader,
    sleepers: Sleepers,
    pub(super) delivered: u64,
    pub(super) ended: bool,
    /// On its way to somebody without a switch; there.
    handing: bool,
    pub(super) bypass: bool,
}

pub(super) fn read(world: &World, side: &shuttle::sync::Mutex<ReadSide>, id: u32) {
    let port = world.view(Side::Reader);
    let mut anchor = world.anchor(Side::Reader);
    loop {
        let mut held = side.lock().unwrap();
        let end = &mut *held;
        while !end.ended && !world.dead(Side::Reader) && end.call(world, &port, &mut anchor) {
            if chance(30) {
                break;
            }
        }
        if end.ended || world.dead(Side::Reader) {
            end.pass_on(world, &port);
            return;
        }
        if end.handing || chance(50) {
            end.pass_on(world, &port);
            drop(held);
            thread::yield_now();
            continue;
        }
        let added = end.sleepers.add(id);
        end.sleepers.name(&port, Word::RSleep);
        world.lie_down(id);
        port.fence();
        end.reader.attend(&port, &mut anchor);
        if end.reader.readable(&port) || end.reader.wants_tcp() && world.tcp_readable() {
            world.rise(id);
            end.sleepers.remove(id, added);
            end.sleepers.name(&port, Word::RSleep);
            port.fence();
            end.pass_on(world, &port);
            continue;
        }
        drop(held);
        reached(Corner::SleptEmpty);
        world.sleep(id, |wire| wire.readable());
        world.rise(id);
        let mut held = side.lock().unwrap();
        held.sleepers.remove(id, added);
        held.sleepers.name(&port, Word::RSleep);
        port.fence();
        held.pass_on(world, &port);
    }
}

impl ReadSide {
    /// One call of the application's; false when it would block.
    fn call(&mut self, world: &World, port: &View, anchor: &mut super::world::Anchor) -> bool {
        let len = thread_rng().gen_range(1..12);
        if self.bypass {
            return self.without_a_switch(anchor, len);
        }
        self.perhaps_move(world, port);
        if self.handing && !self.let_go(world, port, anchor) {
            return self.bypass;
        }
        let ready = chance(30) && {
            self.reader.attend(port, anchor);
            self.reader.readable(port) || self.reader.wants_tcp() && world.tcp_readable()
        };
        let available = if chance(30) { self.reader.available(port, anchor) } else { 0 };
        let peeked = chance(30).then(|| {
            let skip = thread_rng().gen_range(0..5);
            (skip, peek(&mut self.reader, port, anchor, len, skip).1)
        });
        if let Some((skip, bytes)) = &peeked {
            assert_eq!(*bytes, tokens(self.delivered + *skip as u64, bytes.len()), "peeked");
        }
        let at_once = chance(10).then(|| take_at_once(&mut self.reader, port, len)).filter(|bytes| !bytes.is_empty());
        let (take, bytes) = match at_once {
            Some(bytes) => (companion(bytes.len()), bytes),
            None => receive(&mut self.reader, port, anchor, len),
        };
        if world.dead(Side::Reader) {
            return false;
        }
        assert_eq!(bytes, tokens(self.delivered, bytes.len()), "at {}", self.delivered);
        assert!(bytes.len() >= available.min(1), "{available} were announced");
        self.delivered += bytes.len() as u64;
        match (self.reader.state(), self.reader.epoch()) {
            (RState::Ring, EPOCHS) => reached(Corner::LastRing),
            (RState::Rejoin, _) => reached(Corner::Rejoined),
            (RState::Plain, EPOCHS) => reached(Corner::LastPlain),
            _ => {}
        }
        match take {
            Take::Bytes { from, .. } => {
                if from == Source::Companion {
                    self.wake_writer(world, port);
                }
                true
            }
            // Ready by TCP may have been the record, when the direction was taken between the two looks.
            Take::WouldBlock => {
                assert!(!ready || self.reader.state() != RState::Plain);
                false
            }
            Take::Eof => {
                self.ended = true;
                false
            }
            Take::Reset | Take::Failed(_) => panic!("{take:?}"),
        }
    }

    /// As `switch::receive::let_go`. False while nothing may be read.
    fn let_go(&mut self, world: &World, port: &View, anchor: &mut super::world::Anchor) -> bool {
        let finished = world.finished();
        self.reader.attend(port, anchor);
        let possible = !finished || self.reader.let_go_at_fin(port, anchor);
        self.reader.let_go(port, anchor);
        self.bypass = self.reader.state() == RState::Plain && !world.dead(Side::Reader);
        if !self.bypass && possible && self.reader.held() {
            return false;
        }
        reached(if self.bypass { Corner::HandedOver } else { Corner::NotHandedOver });
        self.handing = false;
        !self.bypass
    }

    fn without_a_switch(&mut self, anchor: &mut super::world::Anchor, len: usize) -> bool {
        let mut bytes = vec![0; len];
        // SAFETY: a vector of that length.
        match unsafe { anchor.receive(bytes.as_mut_ptr(), len) } {
            TcpTake::Bytes(n) => {
                assert_eq!(bytes[..n], tokens(self.delivered, n), "at {}, without a switch", self.delivered);
                self.delivered += n as u64;
                true
            }
            TcpTake::WouldBlock => false,
            TcpTake::Fin => {
                self.ended = true;
                false
            }
            TcpTake::Failed(errno) => panic!("{errno}"),
        }
    }

    fn perhaps_move(&mut self, world: &World, port: &View) {
        if world.hand_over && chance(6) && self.reader.hold(port) {
            self.handing = true;
            self.wake_writer(world, port);
            return;
        }
        if self.reader.state() == RState::Plain && self.reader.epoch() < EPOCHS && chance(60) {
            let offered = self.reader.offer(port, self.delivered);
            assert!(offered || port.load(Word::Left) == FOR_GOOD);
            self.wake_writer(world, port);
        } else if chance(if self.reader.state() == RState::Offered { 30 } else { 4 }) {
            self.reader.leave(port);
            self.wake_writer(world, port);
        }
    }

    fn wake_writer(&self, world: &World, port: &View) {
        if let Some(wake) = whom(port, Word::WSleep, world) {
            world.wake(wake.id, wake.counter);
        }
    }

    /// Before the lock is left: bytes and sleepers left behind?
    fn pass_on(&self, world: &World, port: &View) {
        if (self.ended || self.reader.readable(port))
            && let Some(other) = self.sleepers.named()
        {
            world.rouse(other);
        }
    }
}
