//! What the bytes are: the top two bits name the writing thread, the others follow from the position in that thread's own
//! sequence. However the kernel interleaves writers, each one's bytes must come once and in order.

use std::sync::OnceLock;

const PERIOD: u64 = 65_521;

fn table() -> &'static [u8; PERIOD as usize] {
    static TABLE: OnceLock<Box<[u8; PERIOD as usize]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut table = Box::new([0; PERIOD as usize]);
        for byte in table.iter_mut() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8 & 63;
        }
        table
    })
}

#[inline]
fn low_bits(position: u64, key: u64) -> u8 {
    let position = position + (key & 0xffff);
    (table()[(position % PERIOD) as usize] ^ (position / PERIOD) as u8) & 63
}

pub fn fill(to: &mut [u8], writer: usize, position: u64, key: u64) {
    for (at, byte) in to.iter_mut().enumerate() {
        *byte = (writer as u8) << 6 | low_bits(position + at as u64, key);
    }
}

/// How far each writing thread's sequence has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions(pub [u64; 4]);

impl Positions {
    /// Takes the next bytes of the stream; where the first wrong one is, if any is.
    pub fn take(&mut self, bytes: &[u8], key: u64) -> Result<(), usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            let position = &mut self.0[usize::from(byte >> 6)];
            if byte & 63 != low_bits(*position, key) {
                return Err(at);
            }
            *position += 1;
        }
        Ok(())
    }
}
