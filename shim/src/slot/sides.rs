//! A slot's two directions, each behind its lock.

use crate::lock::{Held, Reentered};
use crate::stream::sleepers::Sleepers;
use crate::stream::{Reader, Writer};

use super::Slot;

/// Guarded by `send_lock`.
#[repr(C)]
pub struct SendSide {
    pub writer: Writer,
    pub sleepers: Sleepers,
}

/// Guarded by `recv_lock`.
#[repr(C)]
pub struct RecvSide {
    pub reader: Reader,
    pub sleepers: Sleepers,
}

pub struct SendGuard<'a> {
    held: Held<'a>,
    side: *mut SendSide,
}

pub struct RecvGuard<'a> {
    held: Held<'a>,
    side: *mut RecvSide,
}

impl Slot {
    #[inline]
    pub fn send_side(&self) -> Result<SendGuard<'_>, Reentered> {
        Ok(SendGuard { held: self.send_lock.lock()?, side: self.sender.get() })
    }

    #[inline]
    pub fn recv_side(&self) -> Result<RecvGuard<'_>, Reentered> {
        Ok(RecvGuard { held: self.recv_lock.lock()?, side: self.receiver.get() })
    }
}

impl SendGuard<'_> {
    /// Gives the lock back, with a full fence behind it.
    #[inline]
    pub fn release_and_fence(self) {
        self.held.release_and_fence();
    }
}

impl RecvGuard<'_> {
    /// Gives the lock back, with a full fence behind it.
    #[inline]
    pub fn release_and_fence(self) {
        self.held.release_and_fence();
    }
}

impl std::ops::Deref for SendGuard<'_> {
    type Target = SendSide;
    #[inline]
    fn deref(&self) -> &SendSide {
        // SAFETY: the lock is held for the guard's life and the slot's memory is never unmapped.
        unsafe { &*self.side }
    }
}

impl std::ops::DerefMut for SendGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut SendSide {
        // SAFETY: as above; the guard is borrowed mutably.
        unsafe { &mut *self.side }
    }
}

impl std::ops::Deref for RecvGuard<'_> {
    type Target = RecvSide;
    #[inline]
    fn deref(&self) -> &RecvSide {
        // SAFETY: the lock is held for the guard's life and the slot's memory is never unmapped.
        unsafe { &*self.side }
    }
}

impl std::ops::DerefMut for RecvGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut RecvSide {
        // SAFETY: as above; the guard is borrowed mutably.
        unsafe { &mut *self.side }
    }
}
