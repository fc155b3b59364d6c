//! Packets on their way to one switch: the broker queues them, the task that has the channel sends them. There may be
//! thousands of queues, nearly all of them always empty: such a one owns nothing but itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tandem_protocol::Message;

use crate::registry::Family;

/// Packets waiting for one client, and how many of them may carry descriptors.
const QUEUE: usize = 256;
const QUEUE_WITH_DESCRIPTORS: usize = 64;

/// A packet on its way to a switch.
pub struct Outgoing {
    pub message: Message,
    pub fds: Vec<Arc<OwnedFd>>,
}

/// The broker's end. Once it is dropped nothing more comes than what is queued.
pub struct Outbox(Rc<RefCell<Queue>>);

/// The end of the task that sends.
pub struct Inbox(Rc<RefCell<Queue>>);

#[derive(Debug)]
pub struct Full;

#[derive(Default)]
struct Queue {
    packets: VecDeque<Outgoing>,
    closed: bool,
    /// The task, while it waits for a packet.
    waits: Option<Waker>,
    /// Whose `mail` is bumped for each packet.
    family: Option<Arc<Family>>,
}

pub fn queue() -> (Outbox, Inbox) {
    let queue = Rc::default();
    (Outbox(Rc::clone(&queue)), Inbox(queue))
}

impl Outbox {
    pub fn send(&self, packet: Outgoing) -> Result<(), Full> {
        let mut queue = self.0.borrow_mut();
        if queue.packets.len() >= QUEUE {
            return Err(Full);
        }
        queue.packets.push_back(packet);
        queue.wake();
        Ok(())
    }

    /// Room for a packet with descriptors: they are ours until they are sent.
    pub fn takes_descriptors(&self) -> bool {
        self.0.borrow().packets.len() < QUEUE_WITH_DESCRIPTORS
    }

    /// Packets that it still takes.
    pub fn room(&self) -> usize {
        QUEUE - self.0.borrow().packets.len()
    }

    pub fn set_family(&self, family: Arc<Family>) {
        self.0.borrow_mut().family = Some(family);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.closed = true;
        queue.wake();
    }
}

impl Inbox {
    /// `None`: the broker has let this switch go.
    pub async fn next(&self) -> Option<Outgoing> {
        std::future::poll_fn(|context| self.0.borrow_mut().poll_next(context)).await
    }

    pub fn family(&self) -> Option<Arc<Family>> {
        self.0.borrow().family.clone()
    }
}

impl Queue {
    fn poll_next(&mut self, context: &Context<'_>) -> Poll<Option<Outgoing>> {
        let packet = self.packets.pop_front();
        if self.packets.is_empty() {
            // Its memory goes too.
            self.packets = VecDeque::new();
        }
        if packet.is_none() && !self.closed {
            self.waits = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(packet)
    }

    fn wake(&mut self) {
        if let Some(task) = self.waits.take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Outgoing {
        Outgoing { message: Message::San, fds: Vec::new() }
    }

    fn poll(inbox: &Inbox) -> Poll<Option<Message>> {
        let context = Context::from_waker(Waker::noop());
        inbox.0.borrow_mut().poll_next(&context).map(|packet| packet.map(|packet| packet.message))
    }

    #[test]
    fn it_is_bounded_and_owns_nothing_when_it_is_empty() {
        let (outbox, inbox) = queue();
        for queued in 0..QUEUE {
            assert_eq!((outbox.room(), outbox.takes_descriptors()), (QUEUE - queued, queued < QUEUE_WITH_DESCRIPTORS));
            outbox.send(packet()).unwrap();
        }
        assert!(outbox.send(packet()).is_err());
        while poll(&inbox) == Poll::Ready(Some(Message::San)) {}
        assert_eq!((outbox.room(), inbox.0.borrow().packets.capacity()), (QUEUE, 0));
    }

    #[test]
    fn what_is_queued_comes_before_the_end() {
        let (outbox, inbox) = queue();
        assert_eq!(poll(&inbox), Poll::Pending);
        outbox.send(packet()).unwrap();
        drop(outbox);
        assert_eq!((poll(&inbox), poll(&inbox)), (Poll::Ready(Some(Message::San)), Poll::Ready(None)));
    }
}
