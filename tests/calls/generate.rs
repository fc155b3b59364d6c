//! Random cases, each all of its seed. What a call may ask for is chosen so that kernel TCP's own answer is always the same.

use crate::schedule::Case;

/// splitmix64
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    fn size(&mut self) -> u64 {
        match self.below(20) {
            0 => 0,
            1..8 => 1 + self.below(20),
            8..16 => 1 + self.below(2000),
            16..19 => 1 + self.below(9000),
            _ => 1 + self.below(30000),
        }
    }

    /// Some of these, joined by `|`.
    fn some(&mut self, list: &[&str], one_in: u64) -> String {
        let chosen: Vec<_> = list.iter().filter(|_| self.below(one_in) == 0).copied().collect();
        if chosen.is_empty() { "0".into() } else { chosen.join("|") }
    }
}

const CHILDREN: u64 = 2;
const URGENT: u64 = 6;
const SETS: u64 = 2;
/// Of which `begin_thread` does not say whether it waits.
const THREAD: usize = 2;

/// What the generator knows of the case that it makes.
#[derive(Default)]
struct Known {
    /// Of each end: slots that hold a descriptor, whether a child lives, whether a thread is in a call.
    slots: [Vec<usize>; 2],
    child: [bool; 2],
    waiting: [bool; 2],
    /// Takes back the time limit that the thread's call was given.
    unlimited: String,
    /// Calls that the other end makes meanwhile.
    sends: u64,
    /// The thread's receive returns when there is something: of several messages it may find one or all.
    takes_what_comes: bool,
    /// Whether the end has sent an urgent byte. What becomes of it when another follows: see `named::KNOWN`.
    urgent: [bool; 2],
    moves: bool,
    calls: Vec<String>,
}

/// `moves`: directions change hands in the midst of the case, and what may be told once more then is not asked (see
/// `named::EXCUSED`).
pub fn case(seed: u64, index: u64, moves: bool) -> Case {
    let mut dice = Dice::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ index.wrapping_mul(0x9e37_79b9));
    // Some cases keep to few kinds of calls: rare ones come together more often.
    let theme = dice.below(8);
    // Urgent bytes, and two processes that wait at one time, take a connection back to TCP.
    let moves = moves || matches!(theme, CHILDREN | URGENT);
    let mut known = Known { slots: [vec![0], vec![0]], moves, ..Known::default() };
    let length = 20 + dice.below(90);
    while (known.calls.len() as u64) < length {
        known.call(&mut dice, theme);
    }
    for (end, name) in ['a', 'b'].into_iter().enumerate() {
        if known.waiting[end] {
            known.calls.push(format!("{name} join {THREAD}"));
        }
    }
    Case::new(format!("seed {seed} case {index}"), known.calls)
}

impl Known {
    fn call(&mut self, dice: &mut Dice, theme: u64) {
        let any = dice.below(2) as usize;
        let end = if self.waiting[1 - any] { 1 - any } else { any };
        if self.waiting[end] {
            // A thread of this end is in a call: the other end does something about it, then its result is fetched.
            for _ in 0..self.sends {
                let slot = self.slot(dice, 1 - end);
                let line =
                    if self.takes_what_comes { format!("send {}", dice.below(2000)) } else { Self::sending(dice) };
                self.calls.push(format!("{} {line}", self.who(dice, 1 - end, slot)));
            }
            self.calls.push(format!("{} join {THREAD}", ['a', 'b'][end]));
            self.calls.push(std::mem::take(&mut self.unlimited));
            self.waiting[end] = false;
            return;
        }
        let slot = self.slot(dice, end);
        let who = self.who(dice, end, slot);
        let line = match dice.below(100) {
            0..26 => Self::sending(dice),
            26..56 => Self::receiving(dice),
            56..66 => Self::asking(dice),
            66..80 => Self::epoll(dice),
            80..86 => match Self::option(dice) {
                line if theme == URGENT && line.starts_with("set RCVLOWAT") => return,
                line => line,
            },
            86..89 => {
                (*dice.pick(&["nonblock 1", "nonblock 0", "nonblock 0", "fionbio 1", "fionbio 0", "names"])).into()
            }
            89..92 if theme == 1 || dice.chance(4) => return self.descriptors(dice, end, slot),
            92..94 if theme == CHILDREN => return self.children(dice, end),
            94..97 if theme == 3 || dice.chance(6) => return self.thread(dice, end),
            97..99 if theme == 4 || dice.chance(8) => format!("shutdown {}", dice.pick(&["w", "w", "r", "rw"])),
            99 if theme == 5 || dice.chance(8) => return self.end(dice, end, slot),
            _ if theme == URGENT && dice.chance(3) => match Self::urgent(dice) {
                line if line.starts_with("send") && std::mem::replace(&mut self.urgent[end], true) => return,
                line => line,
            },
            _ => return,
        };
        if !(self.moves && line.contains("|ET")) {
            self.calls.push(format!("{who} {line}"));
        }
    }

    fn slot(&self, dice: &mut Dice, end: usize) -> usize {
        if self.slots[end].is_empty() { 0 } else { dice.pick(&self.slots[end]) }
    }

    fn who(&self, dice: &mut Dice, end: usize, slot: usize) -> String {
        let parent = ['a', 'b'][end];
        let actor = if self.child[end] && dice.chance(2) { ['c', 'd'][end] } else { parent };
        if slot == 0 { actor.to_string() } else { format!("{actor}{slot}") }
    }

    fn sending(dice: &mut Dice) -> String {
        let n = dice.size();
        let flags = dice.some(&["DONTWAIT", "NOSIGNAL", "MORE", "EOR", "CONFIRM"], 6).replace("MORE", "EOR");
        match dice.below(24) {
            0..7 => format!("send {n} {flags}"),
            7..11 => format!("write {n}"),
            11..14 => format!("writev {n} {}", 1 + dice.below(9)),
            14..16 => format!("sendmsg {n} {} {flags}", 1 + dice.below(9)),
            16 => format!("sendto {n} {flags}"),
            17..19 => format!("sendmmsg {} {} {flags}", dice.size() / 4, 1 + dice.below(5)),
            19 => format!("pwritev2 {n} {}", dice.pick(&["0", "NOWAIT", "HIPRI"])),
            20..22 => format!("sendfile {n} {} {}", dice.pick(&["-1", "-1", "0", "5"]), dice.pick(&["0", "0", "100"])),
            22 => "pwrite 0".into(),
            _ if dice.chance(3) => format!("splice_out {n}"),
            _ => format!("send {n}"),
        }
    }

    fn receiving(dice: &mut Dice) -> String {
        let n = dice.size();
        let flags = dice.some(&["PEEK", "WAITALL", "DONTWAIT", "TRUNC", "NOSIGNAL"], 5);
        match dice.below(24) {
            0..9 => format!("recv {n} {flags}"),
            9..13 => format!("read {n}"),
            13..15 => format!("readv {n} {}", 1 + dice.below(9)),
            15..18 => format!("recvmsg {n} {} {flags}", 1 + dice.below(9)),
            18 => format!("recvfrom {n} {flags}"),
            19..21 => {
                let flags = dice.some(&["DONTWAIT", "WAITFORONE", "PEEK"], 3);
                format!("recvmmsg {} {} {flags}", n / 4, 1 + dice.below(5))
            }
            21 => format!("preadv2 {n} {}", dice.pick(&["0", "NOWAIT", "HIPRI"])),
            22 => "pread 0".into(),
            _ if dice.chance(3) => format!("splice_in {n} NONBLOCK"),

            _ => format!("recv {n} ERRQUEUE|DONTWAIT"),
        }
    }

    fn events(dice: &mut Dice) -> String {
        let events = dice.some(&["IN", "IN", "OUT", "PRI", "RDHUP", "RDNORM", "WRNORM"], 2);
        events.replace("IN|IN", "IN")
    }

    fn asking(dice: &mut Dice) -> String {
        let events = Self::events(dice);
        let wait = dice.pick(&[0, 0, 0, 0, 0, 0, 2]);
        match dice.below(10) {
            0..3 => format!("poll {events} {wait}"),
            3 => format!("ppoll {events} {wait}"),
            4 => format!("polls {events}"),
            5 => format!("select {} {wait}", dice.pick(&["rwx", "r", "rw", "w", "x"])),
            6 => format!("pselect {} {wait}", dice.pick(&["rwx", "r", "rw", "w", "x"])),
            7..9 => "fionread".into(),
            _ if dice.chance(3) => "atmark".into(),
            _ => "get ERROR".into(),
        }
    }

    fn epoll(dice: &mut Dice) -> String {
        let set = dice.below(SETS);
        match dice.below(10) {
            0..4 => {
                let kind = dice.pick(&["", "", "|ET", "|ET", "|ONESHOT", "|ET|ONESHOT"]);
                let action = dice.pick(&["add", "add", "mod", "mod", "del"]);
                format!("epoll {set} {action} {}{kind}", Self::events(dice))
            }
            4..9 => format!("epoll_wait {set} {}", dice.pick(&[0, 0, 0, 0, 1])),
            _ => format!("epoll_pwait2 {set} 0"),
        }
    }

    fn option(dice: &mut Dice) -> String {
        match dice.below(12) {
            0..3 => format!("set RCVLOWAT {}", dice.pick(&[1, 1, 1, 2, 10, 500])),
            3 => format!("set RCVTIMEO {}", dice.pick(&[0, 3])),
            4 => format!("set SNDTIMEO {}", dice.pick(&[0, 3])),
            5 => format!("set LINGER {} {}", dice.pick(&[0, 1]), dice.pick(&[0, 1])),
            6 => format!("set KEEPALIVE {}", dice.below(2)),
            7 => format!(
                "get {}",
                dice.pick(&["RCVLOWAT", "LINGER", "RCVTIMEO", "SNDTIMEO", "ACCEPTCONN", "KEEPALIVE", "TYPE"])
            ),
            8 => format!("get {}", dice.pick(&["NODELAY", "CORK", "OOBINLINE", "PROTOCOL", "DOMAIN", "PEEK_OFF"])),
            9 => format!("set {} 1", dice.pick(&["NODELAY", "QUICKACK", "PRIORITY", "REUSEADDR", "KEEPIDLE"])),
            10 if dice.chance(5) => "outq".into(),
            _ => format!("set {} 1", dice.pick(&["NOSUCH", "NOTCP", "ERROR", "TYPE"])),
        }
    }

    fn urgent(dice: &mut Dice) -> String {
        match dice.below(4) {
            0 => format!("send {} OOB", 1 + dice.below(5)),
            1 => "recv 1 OOB".into(),
            2 => "atmark".into(),
            _ => "poll PRI|IN".into(),
        }
    }

    fn descriptors(&mut self, dice: &mut Dice, end: usize, slot: usize) {
        let name = ['a', 'b'][end];
        if self.child[end] || self.slots[end].is_empty() {
            return;
        }
        if self.slots[end].len() > 1 && dice.chance(2) {
            self.slots[end].retain(|&other| other != slot);
            self.calls.push(format!("{name}{slot} close"));
            return;
        }
        let Some(free) = (0..4).find(|slot| !self.slots[end].contains(slot)) else { return };
        self.calls.push(format!("{name}{slot} {} {free}", dice.pick(&["dup", "dup2", "dupfd"])));
        self.slots[end].push(free);
    }

    fn children(&mut self, dice: &mut Dice, end: usize) {
        let (parent, child) = (['a', 'b'][end], ['c', 'd'][end]);
        if self.slots[end].is_empty() {
            return;
        }
        self.calls.push(if self.child[end] {
            format!("{child} exit {}", dice.pick(&["_exit", "exit", "kill"]))
        } else {
            format!("{parent} fork")
        });
        self.child[end] = !self.child[end];
    }

    fn thread(&mut self, dice: &mut Dice, end: usize) {
        let name = ["a", "b"][end];
        let slot = self.slot(dice, end);
        self.sends = dice.below(3);
        // Long enough for what is sent to come, on a busy machine too.
        let time = if self.sends > 0 { 400 } else { 20 };
        let kind = dice.below(5);
        self.takes_what_comes = kind == 4;
        if self.takes_what_comes {
            self.sends = self.sends.min(1);
        }
        let call = match kind {
            0 => format!("recv {} WAITALL", 1 + dice.size()),
            1 => format!("poll IN {time}"),
            2 => format!("select r {time}"),
            3 => format!("epoll_wait {} {time}", dice.below(SETS)),
            _ => format!("recv {}", 1 + dice.size()),
        };
        // Without a time limit it waits for ever, where nothing comes.
        self.calls.push(format!("{name}{slot} set RCVTIMEO {time}"));
        self.unlimited = format!("{name}{slot} set RCVTIMEO 0");
        self.calls.push(format!("{name}{slot}&{THREAD} {call}"));
        self.waiting[end] = true;
    }

    fn end(&mut self, dice: &mut Dice, end: usize, slot: usize) {
        let name = ['a', 'b'][end];
        self.slots[end].retain(|&other| other != slot);
        self.calls.push(format!("{name}{slot} {}", dice.pick(&["close", "close", "close_range"])));
    }
}
