//! What the stream needs of the anchor: calls that never wait (MSG_DONTWAIT underneath).

/// Outcome of a receive or a peek on TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpTake {
    /// At least one byte.
    Bytes(usize),
    WouldBlock,
    Fin,
    Failed(i32),
}

/// Outcome of a send on TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpPut {
    /// At least one byte.
    Bytes(usize),
    WouldBlock,
    Failed(i32),
}

/// The receiving half of the anchor. `len` is never 0. Words that are loaded after a call has given bytes, a count of them, or an end
/// are no older than what the other end had stored, and knew to have landed, before it sent those: whether bytes are the application's
/// or the switch's hangs on it.
pub trait TcpReceive {
    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn receive(&mut self, dst: *mut u8, len: usize) -> TcpTake;

    /// Copies without taking, from `skip` bytes on behind the next one; `WouldBlock` when they are not there.
    ///
    /// # Safety
    /// `dst` may be written for `len` bytes.
    unsafe fn peek(&mut self, dst: *mut u8, len: usize, skip: usize) -> TcpTake;

    /// Bytes that could be received now (FIONREAD).
    fn pending(&mut self) -> usize;

    /// Takes and forgets up to `len` bytes. The kernel can do it without a copy (MSG_TRUNC).
    fn discard(&mut self, len: usize) -> TcpTake {
        let mut scratch = [0u8; 1024];
        // SAFETY: not more than the array's length.
        unsafe { self.receive(scratch.as_mut_ptr(), len.min(scratch.len())) }
    }
}

/// The sending half of the anchor. `len` is never 0.
pub trait TcpSend {
    /// # Safety
    /// `src` may be read for `len` bytes. It may be ring memory, which a peer can change meanwhile: not a `&[u8]`.
    unsafe fn send(&mut self, src: *const u8, len: usize) -> TcpPut;
}
