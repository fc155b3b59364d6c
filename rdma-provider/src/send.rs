//! What is under way on one queue pair: how many requests, which of them tell their end, and what that end is to be told to whom.
//!
//! Most requests are not signalled. One that ends well says that all before it have. A queue that is full holds a signalled one, so
//! it always gets room again.

use std::collections::VecDeque;

/// Why a request is signalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The switch asked for it.
    Report(u64),
    /// The peer's late notification has been fetched.
    Fetched,
    /// Only to make room.
    Room,
}

#[derive(Debug)]
pub struct SendQueue {
    depth: u32,
    /// Requests posted, and ended, since the beginning: their ids are these numbers' low halves.
    posted: u64,
    ended: u64,
    /// Of the last signalled one, + 1.
    signalled: u64,
    expected: VecDeque<(u64, Purpose)>,
}

impl SendQueue {
    pub fn new(depth: u32) -> SendQueue {
        SendQueue { depth, posted: 0, ended: 0, signalled: 0, expected: VecDeque::with_capacity(depth as usize) }
    }

    pub fn under_way(&self) -> u32 {
        (self.posted - self.ended) as u32
    }

    pub fn room(&self) -> u32 {
        self.depth - self.under_way()
    }

    /// The next request: its number, and whether it is to be signalled. The caller has seen that there is room.
    pub fn add(&mut self, purpose: Option<Purpose>) -> (u32, bool) {
        let number = self.posted;
        self.posted += 1;
        let due = self.posted - self.signalled >= u64::from((self.depth / 4).max(1));
        let purpose = purpose.or(due.then_some(Purpose::Room));
        if let Some(purpose) = purpose {
            self.signalled = self.posted;
            self.expected.push_back((number, purpose));
        }
        (number as u32, purpose.is_some())
    }

    /// A request has ended well, and with it all before it. Gives how many requests there is room for now, and tells what was
    /// waited for. `None`: no such request is under way.
    pub fn end(&mut self, number: u32, mut tell: impl FnMut(Purpose)) -> Option<u32> {
        let ahead = number.wrapping_sub(self.ended as u32);
        if ahead >= self.under_way() {
            return None;
        }
        let end = self.ended + u64::from(ahead) + 1;
        while let Some(&(number, purpose)) = self.expected.front()
            && number < end
        {
            self.expected.pop_front();
            tell(purpose);
        }
        let freed = (end - self.ended) as u32;
        self.ended = end;
        Some(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Requests of random purposes, ended by the signalled ones in order, at random times.
        #[test]
        fn never_more_than_its_depth_and_never_stuck(depth in 1..70u32, steps in proptest::collection::vec((0..4u8, any::<bool>()), 1..400)) {
            let mut queue = SendQueue::new(depth);
            let mut wire = VecDeque::new();
            let (mut told, mut asked, mut token) = (Vec::new(), Vec::new(), 0);
            for (what, end_one) in steps {
                if queue.room() > 0 {
                    let purpose = (what == 0).then(|| { token += 1; asked.push(token); Purpose::Report(token) });
                    let (number, signalled) = queue.add(purpose);
                    if signalled {
                        wire.push_back(number);
                    }
                } else {
                    prop_assert!(!wire.is_empty(), "full, and nothing will tell when there is room");
                }
                prop_assert!(queue.under_way() <= depth);
                if end_one && let Some(number) = wire.pop_front() {
                    queue.end(number, |purpose| if let Purpose::Report(token) = purpose { told.push(token) });
                }
            }
            while let Some(number) = wire.pop_front() {
                queue.end(number, |purpose| if let Purpose::Report(token) = purpose { told.push(token) });
            }
            prop_assert_eq!(told, asked);
        }
    }

    #[test]
    fn an_end_of_nothing_is_noticed() {
        let mut queue = SendQueue::new(4);
        assert_eq!(queue.end(0, |_| ()), None);
        let (number, _) = queue.add(None);
        assert_eq!(queue.end(number, |_| ()), Some(1));
        assert_eq!(queue.end(number, |_| ()), None);
        assert_eq!(queue.end(number.wrapping_add(1), |_| ()), None);
    }
}
