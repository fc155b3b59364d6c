//! Two ends on a wire that keeps order each way and no order between the ways, in random interleavings: nothing is lost, nothing is told too
//! early, the window is kept, and without the fence or the fetch it would not be so.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// From the sender to the receiver, in order.
#[derive(Clone, Copy, Debug)]
enum Forth {
    /// Bytes up to here; then the immediate, if there is one.
    Bytes {
        to: u32,
        immediate: Option<u32>,
    },
    Late(u64),
    /// What a fetch found, on its way.
    Answer(u64),
}

/// From the receiver to the sender, in order.
#[derive(Clone, Copy, Debug)]
enum Back {
    Returned(u32),
    Fetch,
}

struct World {
    sent: Sent,
    heard: Heard,
    /// The sender's memory.
    returned: u32,
    own_late: u64,
    /// A sender that has found none left and not yet stored its late note; that has, and not yet looked again.
    starved: bool,
    looking: bool,
    written: u32,
    /// The receiver's memory.
    landed: u32,
    landed_late: u64,
    receives: u32,
    queue: VecDeque<u32>,
    /// What the switch was told of last.
    told: u32,
    forth: VecDeque<Forth>,
    /// Answers to fetches overtake what the sender has still to send.
    answers: VecDeque<Forth>,
    back: VecDeque<Back>,
    skip_fetch: bool,
    skip_look: bool,
}

impl World {
    fn new(window: u16, start: u32) -> World {
        World {
            sent: Sent::new(window),
            heard: Heard::new(window),
            returned: 0,
            own_late: 0,
            starved: false,
            looking: false,
            written: start,
            landed: start,
            landed_late: 0,
            receives: u32::from(window),
            queue: VecDeque::new(),
            told: start,
            forth: VecDeque::new(),
            answers: VecDeque::new(),
            back: VecDeque::new(),
            skip_fetch: false,
            skip_look: false,
        }
    }

    fn write(&mut self) {
        if self.starved {
            return self.be_late();
        }
        if self.looking {
            return self.look();
        }
        self.written = self.written.wrapping_add(1) & MASK;
        let immediate = self.sent.immediate(self.written, self.returned).unwrap();
        self.forth.push_back(Forth::Bytes { to: self.written, immediate });
        self.starved = immediate.is_none();
    }

    fn be_late(&mut self) {
        self.starved = false;
        self.own_late = self.sent.late(self.written);
        self.forth.push_back(Forth::Late(self.own_late));
        self.looking = !self.skip_look;
    }

    fn look(&mut self) {
        self.looking = false;
        if let Some(immediate) = self.sent.immediate(self.written, self.returned).unwrap() {
            self.forth.push_back(Forth::Bytes { to: self.written, immediate: Some(immediate) });
        }
    }

    fn deliver_forth(&mut self) -> bool {
        let Some(message) = self.forth.pop_front() else { return false };
        match message {
            Forth::Bytes { to, immediate } => {
                self.landed = to;
                if let Some(immediate) = immediate {
                    assert!(self.receives > 0, "a notification found no receive");
                    self.receives -= 1;
                    self.queue.push_back(immediate);
                }
            }
            Forth::Late(word) => self.landed_late = word,
            Forth::Answer(_) => unreachable!(),
        }
        true
    }

    fn deliver_back(&mut self) -> bool {
        match self.back.pop_front() {
            Some(Back::Returned(number)) => self.returned = number,
            Some(Back::Fetch) => self.answers.push_back(Forth::Answer(self.own_late)),
            None => return false,
        }
        true
    }

    fn deliver_answer(&mut self) -> bool {
        let Some(Forth::Answer(theirs)) = self.answers.pop_front() else { return false };
        match self.heard.fetched(Some(theirs), Some(self.landed_late)) {
            Fetched::Again => self.back.push_back(Back::Fetch),
            Fetched::Tell(note) => self.tell(note),
            Fetched::Nothing => {}
        }
        self.put_what_is_due();
        true
    }

    fn poll(&mut self) -> bool {
        let Some(immediate) = self.queue.pop_front() else { return false };
        self.receives += 1;
        let note = self.heard.arrived(immediate).unwrap();
        self.tell(note);
        self.put_what_is_due();
        true
    }

    fn put_what_is_due(&mut self) {
        if let Some(due) = self.heard.due() {
            self.back.push_back(Back::Returned(due.returned));
            if due.fetch && !self.skip_fetch {
                self.back.push_back(Back::Fetch);
            }
            self.heard.done(due);
        }
    }

    fn tell(&mut self, note: u32) {
        let ahead = self.landed.wrapping_sub(note) << 1;
        assert!(ahead as i32 >= 0, "told of {note}, but only {} has landed", self.landed);
        assert!((note.wrapping_sub(self.told) << 1) as i32 >= 0, "told of less than before");
        self.told = note;
    }

    fn step(&mut self, which: u8) {
        match which % 6 {
            0 | 1 => self.write(),
            2 => drop(self.deliver_forth()),
            3 => drop(self.deliver_back()),
            4 => drop(self.poll()),
            _ => drop(self.deliver_answer()),
        }
    }

    /// The sender's application calls no more; all else runs to its end.
    fn settle(&mut self) -> bool {
        while self.starved || self.looking {
            self.write();
        }
        while self.deliver_forth() || self.deliver_back() || self.poll() || self.deliver_answer() {}
        self.told == self.written
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_last_notification_is_always_told(
        window in 1..6u16,
        start in prop_oneof![Just(0), Just(MASK - 3), 0..=MASK],
        steps in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut world = World::new(window, start);
        for step in steps {
            world.step(step);
        }
        prop_assert!(world.settle(), "told of {}, written {}", world.told, world.written);
    }
}

/// Random schedules find what goes wrong without one half of the agreement.
fn some_schedule_fails(plant: impl Fn(&mut World)) -> bool {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..20_000).any(|_| {
        let mut world = World::new(1 + u16::from(random()) % 3, 0);
        plant(&mut world);
        (0..random()).for_each(|_| world.step(random()));
        !world.settle()
    })
}

#[test]
fn finds_a_fetch_left_out() {
    assert!(some_schedule_fails(|world| world.skip_fetch = true));
}

#[test]
fn finds_a_second_look_left_out() {
    assert!(some_schedule_fails(|world| world.skip_look = true));
    assert!(!some_schedule_fails(|_| ()));
}

#[test]
fn a_peer_that_sends_or_returns_too_much_is_lying() {
    let mut heard = Heard::new(2);
    assert_eq!(heard.arrived(1), Ok(1));
    assert_eq!(heard.arrived(2 | LAST), Ok(2));
    assert_eq!(heard.arrived(3), Err(LIE));
    let mut sent = Sent::new(2);
    assert_eq!(sent.immediate(1, 0), Ok(Some(1)));
    assert_eq!(sent.immediate(2, 0), Ok(Some(2 | LAST)));
    assert_eq!(sent.immediate(3, 0), Ok(None));
    assert_eq!(sent.immediate(3, 7), Err(LIE));
}
