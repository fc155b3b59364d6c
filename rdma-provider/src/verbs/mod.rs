//! libibverbs, as far as it is needed: the only place that knows rdma-sys.
//!
//! [`context`] devices, ports and GIDs; here what is made on one: each is destroyed when dropped, after what was made of it, which
//! the holders see to by the order of their fields or by keeping the [`std::sync::Arc`] of what lies below.

pub mod context;
pub mod pair;

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use rdma_sys as sys;

pub use self::context::Context;
use crate::errors::{Result, made, returned};

/// A protection domain.
pub struct Domain(*mut sys::ibv_pd);
/// Registered memory.
pub struct Region(*mut sys::ibv_mr);
/// A completion channel.
pub struct Channel(*mut sys::ibv_comp_channel);
/// A completion queue.
pub struct Completions(*mut sys::ibv_cq);
/// A shared receive queue.
pub struct Receives(*mut sys::ibv_srq);

macro_rules! threads {
    ($($name:ident)*) => { $(
        // SAFETY: libibverbs' objects may be used from any thread; its drivers lock for themselves.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )* };
}
threads! { Domain Region Channel Completions Receives }

macro_rules! destroyed {
    ($($name:ident by $destroy:path;)*) => { $(
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by this type, destroyed once, not in a forked child (nothing of a parent's is dropped there).
                unsafe { $destroy(self.0) };
            }
        }
    )* };
}
destroyed! {
    Domain by sys::ibv_dealloc_pd;
    Region by sys::ibv_dereg_mr;
    Completions by sys::ibv_destroy_cq;
    Receives by sys::ibv_destroy_srq;
}

impl Domain {
    pub fn new(context: &Context) -> Result<Domain> {
        // SAFETY: a live context.
        made(unsafe { sys::ibv_alloc_pd(context.raw()) }).map(Domain)
    }

    /// # Safety
    /// The memory stays mapped while the region lives.
    pub unsafe fn register(&self, base: *mut c_void, bytes: usize, access: Access) -> Result<Region> {
        // SAFETY: a live domain; the memory by this function's contract. A range that is not mapped is an error.
        made(unsafe { sys::ibv_reg_mr(self.0, base, bytes, access.bits() as c_int) }).map(Region)
    }

    pub(self) fn raw(&self) -> *mut sys::ibv_pd {
        self.0
    }
}

/// What may be done with registered memory.
#[derive(Clone, Copy, Default)]
pub struct Access {
    pub local_write: bool,
    pub remote_write: bool,
    pub remote_read: bool,
}

impl Access {
    pub(self) fn bits(self) -> u32 {
        use sys::ibv_access_flags as rights;
        // What the peer may write must be writable locally, too.
        [
            (self.local_write || self.remote_write, rights::IBV_ACCESS_LOCAL_WRITE),
            (self.remote_write, rights::IBV_ACCESS_REMOTE_WRITE),
            (self.remote_read, rights::IBV_ACCESS_REMOTE_READ),
        ]
        .iter()
        .fold(0, |bits, (set, right)| if *set { bits | right.0 } else { bits })
    }
}

impl Region {
    pub fn local_key(&self) -> u32 {
        // SAFETY: a live region.
        unsafe { (*self.0).lkey }
    }

    pub fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).rkey }
    }
}

impl Channel {
    /// Its descriptor is hidden, and does not block.
    pub fn new(context: &Context) -> Result<Channel> {
        // SAFETY: a live context.
        let channel = Channel(made(unsafe { sys::ibv_create_comp_channel(context.raw()) })?);
        // SAFETY: a fresh channel that nobody else has; libibverbs reads the number anew for each call.
        unsafe {
            let hidden = context::hide_noted((*channel.0).fd);
            (*channel.0).fd = *hidden.as_ref().unwrap_or(&-1);
            context::make_nonblocking(hidden?)?;
        }
        Ok(channel)
    }

    pub fn descriptor(&self) -> c_int {
        // SAFETY: a live channel.
        unsafe { (*self.0).fd }
    }

    /// Takes an event, if there is one. The descriptor does not block.
    pub fn take_event(&self) -> bool {
        let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live channel, two places on this frame.
        let taken = unsafe { sys::ibv_get_cq_event(self.0, &mut cq, &mut context) } == 0;
        if taken {
            // SAFETY: the queue that the event names lives: it is destroyed before its channel, and waits for this.
            unsafe { sys::ibv_ack_cq_events(cq, 1) };
        }
        taken
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: made by this type, destroyed once. libibverbs closes a number that the switch does not think hidden.
        unsafe {
            context::unhide(&raw mut (*self.0).fd);
            sys::ibv_destroy_comp_channel(self.0);
        }
    }
}

/// One work request that has ended, or one notification of the peer's.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub id: u64,
    pub status: u32,
    pub pair: u32,
    /// A notification's; else one of ours has ended.
    pub note: Option<u32>,
}

/// How many are taken at once.
pub const BATCH: usize = 32;

impl Completions {
    pub fn new(context: &Context, entries: u32, channel: &Channel) -> Result<Completions> {
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        // SAFETY: a live context and channel.
        made(unsafe { sys::ibv_create_cq(context.raw(), entries, ptr::null_mut(), channel.0, 0) }).map(Completions)
    }

    pub fn entries(&self) -> u32 {
        // SAFETY: a live queue.
        unsafe { (*self.0).cqe.max(0) as u32 }
    }

    pub fn resize(&self, entries: u32) -> Result<()> {
        // SAFETY: as above; the driver locks against those who poll.
        returned(unsafe { sys::ibv_resize_cq(self.0, c_int::try_from(entries).unwrap_or(c_int::MAX)) })
    }

    /// The next completion raises an event.
    pub fn arm(&self) -> Result<()> {
        // SAFETY: as above.
        returned(unsafe { sys::ibv_req_notify_cq(self.0, 0) })
    }

    /// Takes at most `room` ended requests, in order on each queue pair.
    pub fn take(&self, room: usize, mut each: impl FnMut(Work)) -> Result<usize> {
        let mut entries = [const { MaybeUninit::<sys::ibv_wc>::uninit() }; BATCH];
        let room = room.min(BATCH);
        // SAFETY: a live queue and as many places as are named.
        let taken = unsafe { sys::ibv_poll_cq(self.0, room as i32, entries.as_mut_ptr().cast()) };
        let taken = usize::try_from(taken).map_err(|_| crate::errors::Errno(libc::EIO))?.min(room);
        for entry in entries.iter().take(taken) {
            // SAFETY: the first `taken` were written.
            let entry = unsafe { entry.assume_init_ref() };
            let received = entry.opcode & sys::ibv_wc_opcode::IBV_WC_RECV != 0 || entry.wr_id == RECEIVE;
            // SAFETY: either member is four bytes; what they mean is decided by the opcode.
            let note = u32::from_be(unsafe { entry.imm_data_invalidated_rkey_union.imm_data });
            // After an error only id, status and number are there: receives bear an id of their own.
            let note = received.then_some(note);
            each(Work { id: entry.wr_id, status: entry.status, pair: entry.qp_num, note });
        }
        Ok(taken)
    }
}

/// The id of every receive request.
pub const RECEIVE: u64 = u64::MAX;

impl Receives {
    pub fn new(domain: &Domain, entries: u32) -> Result<Receives> {
        // SAFETY: zeroes are valid; the fields are set before use.
        let mut wish: sys::ibv_srq_init_attr = unsafe { std::mem::zeroed() };
        wish.attr.max_wr = entries;
        wish.attr.max_sge = 1;
        // SAFETY: a live domain.
        made(unsafe { sys::ibv_create_srq(domain.0, &mut wish) }).map(Receives)
    }

    pub fn resize(&self, entries: u32) -> Result<()> {
        // SAFETY: as above.
        let mut wish: sys::ibv_srq_attr = unsafe { std::mem::zeroed() };
        wish.max_wr = entries;
        // SAFETY: a live queue.
        returned(unsafe { sys::ibv_modify_srq(self.0, &mut wish, sys::ibv_srq_attr_mask::IBV_SRQ_MAX_WR.0 as c_int) })
    }

    /// Posts requests without memory: a notification brings no bytes. Says how many were taken.
    pub fn post(&self, count: u32) -> u32 {
        let mut posted = 0;
        while posted < count {
            let batch = (count - posted).min(BATCH as u32) as usize;
            let mut requests = [const { MaybeUninit::<sys::ibv_recv_wr>::uninit() }; BATCH];
            let first = requests.as_mut_ptr().cast::<sys::ibv_recv_wr>();
            for (at, request) in requests.iter_mut().take(batch).enumerate() {
                let next = if at + 1 < batch { first.wrapping_add(at + 1) } else { ptr::null_mut() };
                request.write(sys::ibv_recv_wr { wr_id: RECEIVE, next, sg_list: ptr::null_mut(), num_sge: 0 });
            }
            let mut bad = ptr::null_mut();
            // SAFETY: a live queue, and a list on this frame that the call copies.
            if unsafe { sys::ibv_post_srq_recv(self.0, first, &mut bad) } != 0 {
                let taken = (bad as usize).wrapping_sub(first as usize) / size_of::<sys::ibv_recv_wr>();
                return posted + taken.min(batch) as u32;
            }
            posted += batch as u32;
        }
        posted
    }
}
