//! What one connection does: all of it follows from the seed and the connection's index, at both ends alike.

/// splitmix64
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// From 1, small ones as likely as large ones.
    pub fn size(&mut self, most: u64) -> u64 {
        let bits = 64 - most.max(1).leading_zeros();
        let width = self.below(u64::from(bits) + 1);
        (1 + self.below(1 << width.min(62))).min(most.max(1))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Poll,
    Select,
    EpollLevel,
    EpollEdge,
}

#[derive(Clone, Debug)]
pub struct Direction {
    pub key: u64,
    /// Bytes of each writing thread.
    pub quotas: Vec<u64>,
    pub readers: usize,
    pub largest_write: u64,
    pub largest_read: u64,
    pub reader_late_us: u64,
    /// One in so many calls is followed by a pause; 0: never.
    pub pauses: u64,
    pub writer_wait: Wait,
    pub reader_wait: Wait,
    pub dice: Dice,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub no_delay: bool,
    /// O_NONBLOCK on the client's, the server's socket.
    pub nonblocking: [bool; 2],
    pub pings: u64,
    pub ping_pause_us: u64,
    /// The server sends its FIN by close alone.
    pub fin_by_close: bool,
    /// Client to server, server to client.
    pub directions: [Direction; 2],
}

impl Plan {
    pub fn new(seed: u64, index: u64, large: bool) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ index.wrapping_mul(0x9e37_79b9));
        let directions = [Direction::new(&mut dice, large), Direction::new(&mut dice, large)];
        Self {
            no_delay: !dice.chance(4),
            nonblocking: [dice.chance(3), dice.chance(3)],
            pings: if dice.chance(3) { 0 } else { dice.below(30) },
            ping_pause_us: if dice.chance(2) { 0 } else { dice.below(400) },
            fin_by_close: dice.chance(3),
            directions,
        }
    }
}

impl Direction {
    fn new(dice: &mut Dice, large: bool) -> Self {
        let most = match dice.below(100) {
            _ if large => 16 << 20,
            0 => 8 << 20,
            1..5 => 1 << 20,
            5..40 => 64 << 10,
            _ => 8 << 10,
        };
        let writers = if dice.chance(2) { 1 } else { 1 + dice.below(4) };
        let readers = if dice.chance(2) { 1 } else { 1 + dice.below(4) };
        let quotas: Vec<u64> = (0..writers)
            .map(|_| match dice.below(10) {
                0 => 0,
                1 if most > 100_000 => most,
                _ => dice.size(most),
            })
            .collect();
        // Not more than some thousand calls a connection.
        let total: u64 = quotas.iter().sum();
        let least = (total / 1500).max(1);
        Self {
            key: dice.next(),
            quotas,
            readers: readers as usize,
            largest_write: least.max(dice.size(64 << 10)),
            largest_read: least.max(dice.size(64 << 10)),
            reader_late_us: if dice.chance(4) { dice.below(30_000) } else { 0 },
            pauses: if dice.chance(2) { 0 } else { 1 + dice.below(40) },
            writer_wait: Wait::any(dice),
            reader_wait: Wait::any(dice),
            dice: Dice::new(dice.next()),
        }
    }

    pub fn total(&self) -> u64 {
        self.quotas.iter().sum()
    }

    pub fn pause(&self, dice: &mut Dice) {
        if self.pauses > 0 && dice.chance(self.pauses) {
            std::thread::sleep(std::time::Duration::from_micros(dice.below(1500)));
        }
    }
}

impl Wait {
    fn any(dice: &mut Dice) -> Self {
        [Self::Poll, Self::Select, Self::EpollLevel, Self::EpollEdge][dice.below(4) as usize]
    }
}
