//! Where a call's bytes go.

use libc::iovec;

/// The application's vector, front to back.
pub struct Sink<'a> {
    parts: &'a [iovec],
    part: usize,
    /// Into that part.
    at: usize,
    pub taken: usize,
    pub total: usize,
}

impl<'a> Sink<'a> {
    pub fn new(parts: &'a [iovec]) -> Sink<'a> {
        let total = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.iov_len));
        Sink { parts, part: 0, at: 0, taken: 0, total }
    }

    pub fn parts(&self) -> &'a [iovec] {
        self.parts
    }

    /// The same places, nothing taken.
    pub fn anew(&self) -> Sink<'a> {
        Sink { part: 0, at: 0, taken: 0, ..*self }
    }

    /// The next place that has room.
    pub fn next(&mut self) -> Option<(*mut u8, usize)> {
        loop {
            let part = self.parts.get(self.part)?;
            if self.at < part.iov_len {
                return Some((part.iov_base.cast::<u8>().wrapping_add(self.at), part.iov_len - self.at));
            }
            self.part += 1;
            self.at = 0;
        }
    }

    pub fn advance(&mut self, n: usize) {
        self.at += n;
        self.taken += n;
    }
}
