//! Receiving: which of TCP and ring gives the next bytes, in every state of the reader.

use std::ptr;
use std::slice;

use super::faults::{Fault, planted};
use super::reader::{RState, Reader, Source, Take, Verdict};
use super::tcp::{TcpReceive, TcpTake};
use super::words::Port;

/// Delivering.
impl Reader {
    /// The next bytes of the stream. In `Ring` with bytes there TCP is not asked. Afterwards, if bytes came from the
    /// companion, the caller fences and wakes the writer.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    #[inline]
    pub unsafe fn receive<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive, dst: *mut u8, len: usize) -> Take {
        if self.state == RState::Ring && self.consumed >= self.taken_at {
            // SAFETY: `dst` by this function's contract.
            let n = unsafe { self.take_ring(port, dst, len) };
            if n > 0 {
                return from(Source::Companion, n);
            }
        }
        // SAFETY: the same.
        unsafe { self.receive_slowly(port, tcp, dst, len) }
    }

    /// What the ring has, where nothing else is to be had or seen to. 0: the rest of it knows what to do.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    #[inline(always)]
    pub unsafe fn take_at_once<P: Port>(&mut self, port: &P, dst: *mut u8, len: usize) -> usize {
        let ready =
            self.state == RState::Ring && self.consumed >= self.taken_at && !self.held && !self.writer_left(port);
        // SAFETY: `dst` by this function's contract.
        if ready { unsafe { self.take_ring(port, dst, len) } } else { 0 }
    }

    /// As `receive`, but TCP is left alone where all that is waited for comes by the ring, or is news of the peer's end that
    /// whoever sleeps is told of. None: nothing came.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    #[inline]
    pub unsafe fn receive_lightly<P: Port>(
        &mut self,
        port: &P,
        tcp: &mut impl TcpReceive,
        dst: *mut u8,
        len: usize,
    ) -> Option<Take> {
        if self.state == RState::Ring && self.consumed >= self.taken_at {
            // SAFETY: `dst` by this function's contract.
            let n = unsafe { self.take_ring(port, dst, len) };
            if n > 0 {
                return Some(from(Source::Companion, n));
            }
            if self.awaits_ring(port) {
                return None;
            }
        }
        // SAFETY: the same.
        Some(unsafe { self.receive_slowly(port, tcp, dst, len) })
    }

    /// # Safety
    /// As `receive`.
    #[cold]
    unsafe fn receive_slowly<P: Port>(
        &mut self,
        port: &P,
        tcp: &mut impl TcpReceive,
        dst: *mut u8,
        len: usize,
    ) -> Take {
        if len == 0 {
            return from(Source::Tcp, 0);
        }
        if self.held {
            self.attend(port, tcp);
            if self.held {
                return Take::WouldBlock;
            }
        }
        loop {
            let step = match self.state {
                RState::End => return self.last_word(),
                RState::Held => return Take::WouldBlock,
                // SAFETY: `dst` by this function's contract.
                RState::Plain => unsafe { self.plain(tcp, dst, len) },
                // SAFETY: the same.
                RState::Offered => unsafe { self.offered(port, tcp, dst, len) },
                // SAFETY: the same.
                RState::Ring if self.consumed < self.taken_at => unsafe { self.rest_of_tcp(tcp, dst, len) },
                // SAFETY: the same.
                RState::Ring => match unsafe { self.take_ring(port, dst, len) } {
                    0 => self.beyond_ring(port, tcp),
                    n => Some(from(Source::Companion, n)),
                },
                // SAFETY: the same.
                RState::Rejoin => match unsafe { self.take_ring(port, dst, len) } {
                    // SAFETY: the same.
                    0 => unsafe { self.rejoining(port, tcp, dst, len) },
                    n => Some(from(Source::Companion, n)),
                },
            };
            if let Some(take) = step {
                return take;
            }
        }
    }

    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn plain(&mut self, tcp: &mut impl TcpReceive, dst: *mut u8, len: usize) -> Option<Take> {
        // SAFETY: by this function's contract.
        match unsafe { tcp.receive(dst, len) } {
            TcpTake::Bytes(n) => {
                self.consumed += n as u64;
                Some(from(Source::Tcp, n))
            }
            other => self.or_end(other),
        }
    }

    /// TCP first, then `at`: what came at or past N belongs to the record.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn offered<P: Port>(
        &mut self,
        port: &P,
        tcp: &mut impl TcpReceive,
        dst: *mut u8,
        len: usize,
    ) -> Option<Take> {
        if self.answered(port) {
            return None;
        }
        // SAFETY: by this function's contract.
        let answer = unsafe { tcp.receive(dst, len) };
        let taken = !planted(Fault::NoRecheck) && self.answered(port) && self.state != RState::Plain;
        match answer {
            TcpTake::Bytes(n) if !taken => {
                self.consumed += n as u64;
                Some(from(Source::Tcp, n))
            }
            // SAFETY: the kernel has just written `n` bytes there.
            TcpTake::Bytes(n) => unsafe { self.overshot(port, dst, n.min(len)) },
            // After a FIN the words are looked at anew: `answered` was, and the ring will be.
            other if !taken => self.or_end(other),
            other => {
                self.no_bytes(other);
                None
            }
        }
    }

    /// The direction was taken while we received: of the `n` bytes at `dst` some may be the record's. What follows a
    /// whole record is the application's again, for R = N = consumed here, and moves down.
    ///
    /// # Safety
    /// `dst` holds `n` bytes and may be written.
    unsafe fn overshot<P: Port>(&mut self, port: &P, dst: *mut u8, n: usize) -> Option<Take> {
        if self.state != RState::Ring {
            return None;
        }
        let before = (self.taken_at - self.consumed).min(n as u64) as usize;
        self.consumed += before as u64;
        // SAFETY: `before` <= `n`.
        let rest = unsafe { slice::from_raw_parts(dst.add(before), n - before) };
        let ours = if rest.is_empty() { 0 } else { self.collected(rest) };
        let after = n - before - ours;
        if after > 0 && self.state == RState::Rejoin {
            // SAFETY: both within the `n` bytes.
            unsafe { ptr::copy(dst.add(before + ours), dst.add(before), after) };
            self.rejoined(port, after as u64);
        }
        let delivered = match self.state {
            RState::End => return None,
            _ => before + after,
        };
        (delivered > 0).then_some(from(Source::Tcp, delivered))
    }

    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn rest_of_tcp(&mut self, tcp: &mut impl TcpReceive, dst: *mut u8, len: usize) -> Option<Take> {
        let rest = (self.taken_at - self.consumed).min(len as u64);
        if self.verdict == Verdict::Fin {
            self.fail(); // a FIN before N: bytes are missing
            return None;
        }
        // SAFETY: by this function's contract.
        match unsafe { tcp.receive(dst, rest as usize) } {
            TcpTake::Bytes(n) => {
                self.consumed += (n as u64).min(rest);
                Some(from(Source::Tcp, n))
            }
            TcpTake::Fin => {
                self.fail();
                None
            }
            other => self.or_end(other),
        }
    }

    /// The ring is empty: the record or the end may have come.
    fn beyond_ring<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> Option<Take> {
        if self.is_short(port) {
            self.fail();
        }
        if self.state == RState::End || self.verdict != Verdict::None {
            return Some(self.last_word());
        }
        if !self.collect(tcp) {
            return Some(Take::WouldBlock);
        }
        (planted(Fault::FinWithoutLook) && self.verdict == Verdict::Fin).then_some(Take::Eof)
    }

    /// The ring is empty up to E: what was delivered comes again and is dropped, the rest is taken from TCP.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn rejoining<P: Port>(
        &mut self,
        port: &P,
        tcp: &mut impl TcpReceive,
        dst: *mut u8,
        len: usize,
    ) -> Option<Take> {
        if self.state == RState::End || self.verdict != Verdict::None {
            return Some(self.at_verdict());
        }
        let again = self.consumed.saturating_sub(self.tcp_at);
        let answer = if again > 0 || self.tcp_at >= self.to {
            return match self.drop_again(port, tcp) {
                true => None,
                false => Some(Take::WouldBlock),
            };
        } else {
            let rest = (self.to - self.tcp_at).min(len as u64);
            // SAFETY: by this function's contract.
            unsafe { tcp.receive(dst, rest as usize) }
        };
        match answer {
            TcpTake::Bytes(n) => {
                self.rejoined(port, n as u64);
                Some(from(Source::Tcp, n))
            }
            other if self.no_bytes(other) => None,
            _ => Some(Take::WouldBlock),
        }
    }

    /// REJOIN: drops what was delivered already. True when that, or the end, was news.
    pub(super) fn drop_again<P: Port>(&mut self, port: &P, tcp: &mut impl TcpReceive) -> bool {
        let again = self.consumed.min(self.to).saturating_sub(self.tcp_at);
        if again == 0 {
            self.rejoined(port, 0);
            return true;
        }
        match tcp.discard(again.min(1 << 30) as usize) {
            TcpTake::Bytes(n) => {
                self.rejoined(port, (n as u64).min(again));
                true
            }
            other => self.no_bytes(other),
        }
    }

    /// FIN in REJOIN, the ring empty: all of it was there, or bytes are missing.
    fn at_verdict(&mut self) -> Take {
        if self.verdict == Verdict::Fin && self.consumed < self.to {
            self.fail();
        }
        self.last_word()
    }

    pub(super) fn or_end(&mut self, answer: TcpTake) -> Option<Take> {
        if self.no_bytes(answer) { Some(self.last_word()) } else { Some(Take::WouldBlock) }
    }
}

pub(super) fn from(source: Source, n: usize) -> Take {
    Take::Bytes { n, from: source }
}
