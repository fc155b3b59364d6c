//! Devices, their ports and their GIDs.

use std::ffi::{CStr, c_int, c_uint};
use std::mem::MaybeUninit;
use std::ptr;

use rdma_sys as sys;

use crate::errors::{Errno, Result, called, last, made, returned};
use crate::{host, process, real};

/// An open device. Its two descriptors are hidden.
pub struct Context {
    raw: *mut sys::ibv_context,
    /// The name of its node below /dev/infiniband.
    pub node: String,
}

// SAFETY: libibverbs' contexts may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What a device can do, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    pub most_completions: u32,
    pub most_receives: u32,
    /// Fetches that may be under way, as the one who asks and as the one who is asked.
    pub fetches_out: u8,
    pub fetches_in: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Port {
    pub active: bool,
    /// As the wire has it: 1 is 256 bytes, 5 is 4096.
    pub mtu: u32,
    pub lid: u16,
    pub most_bytes: u32,
    pub infiniband: bool,
}

/// A GID of a port that may be used for routed RoCE, or on InfiniBand.
#[derive(Clone, Copy, Debug)]
pub struct Gid {
    pub bytes: [u8; 16],
    pub index: u32,
    pub port: u32,
    pub routed_ethernet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The port works again.
    PortUp(u8),
    PortDown(u8),
    /// Addresses have changed.
    Addresses(u8),
    DeviceGone,
    /// The completion queue or the shared receive queue is lost, and with it all that use it.
    QueueLost,
    /// A queue pair is lost.
    PairLost(u32),
    Other(u32),
}

/// As in rdma-core since version 32; not in rdma-sys.
#[repr(C)]
#[derive(Clone, Copy)]
struct GidEntry {
    gid: [u8; 16],
    index: u32,
    port: u32,
    kind: u32,
    interface: u32,
}

const ROUTED: u32 = 2;
const INFINIBAND: u32 = 0;
const LINK_INFINIBAND: u8 = 1;

unsafe extern "C" {
    fn _ibv_query_gid_table(
        context: *mut sys::ibv_context,
        entries: *mut GidEntry,
        most: usize,
        flags: u32,
        entry_bytes: usize,
    ) -> isize;
}

/// Registered memory survives a fork of this process: Linux 5.12 and later.
pub fn forks_are_harmless() -> bool {
    // SAFETY: no arguments; reads what the kernel says.
    unsafe { sys::ibv_is_fork_initialized() == sys::IBV_FORK_UNNEEDED }
}

impl Context {
    pub fn open(name: &str) -> Result<Context> {
        let (raw, node) = process::opening(|| open_raw(name))?;
        let context = Context { raw, node };
        // SAFETY: a fresh context that nobody else has. libibverbs reads the numbers anew for each call.
        unsafe {
            let [commands, events] = context.places();
            let hidden = [hide_noted(commands.read()), hide_noted(events.read())];
            // What could not be hidden has been closed.
            commands.write(*hidden[0].as_ref().unwrap_or(&-1));
            events.write(*hidden[1].as_ref().unwrap_or(&-1));
            let [commands, events] = hidden;
            commands?;
            make_nonblocking(events?)?;
        }
        Ok(context)
    }

    /// Where libibverbs keeps its descriptors.
    fn places(&self) -> [*mut c_int; 2] {
        // SAFETY: a live context.
        unsafe { [&raw mut (*self.raw).cmd_fd, &raw mut (*self.raw).async_fd] }
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_context {
        self.raw
    }

    pub fn abilities(&self) -> Result<Abilities> {
        let mut attributes = MaybeUninit::<sys::ibv_device_attr>::zeroed();
        // SAFETY: a live context; zeroes are valid there.
        let attributes = unsafe {
            returned(sys::ibv_query_device(self.raw, attributes.as_mut_ptr()))?;
            attributes.assume_init()
        };
        let number = |value: c_int| u32::try_from(value).unwrap_or(0);
        let byte = |value: c_int| u8::try_from(value.max(0)).unwrap_or(u8::MAX);
        Ok(Abilities {
            most_completions: number(attributes.max_cqe),
            most_receives: if attributes.max_srq > 0 { number(attributes.max_srq_wr) } else { 0 },
            fetches_out: byte(attributes.max_qp_init_rd_atom),
            fetches_in: byte(attributes.max_qp_rd_atom),
        })
    }

    pub fn port(&self, port: u8) -> Result<Port> {
        let mut attributes = MaybeUninit::<sys::ibv_port_attr>::zeroed();
        // SAFETY: a live context. The symbol fills the older, shorter form of the structure, whose fields are the same ones.
        let attributes = unsafe {
            returned(sys::ibv_query_port(self.raw, port, attributes.as_mut_ptr().cast()))?;
            attributes.assume_init()
        };
        Ok(Port {
            active: attributes.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            mtu: attributes.active_mtu,
            lid: attributes.lid,
            most_bytes: attributes.max_msg_sz,
            infiniband: attributes.link_layer == LINK_INFINIBAND,
        })
    }

    /// All GIDs of all ports, as they are now.
    pub fn gids(&self) -> Result<Vec<Gid>> {
        // The kernel takes no answer longer than 64 KiB.
        const MOST: usize = 2047;
        const EMPTY: GidEntry = GidEntry { gid: [0; 16], index: 0, port: 0, kind: 0, interface: 0 };
        let mut entries = vec![EMPTY; MOST];
        // SAFETY: a live context, and as many places as are named.
        let found = unsafe { _ibv_query_gid_table(self.raw, entries.as_mut_ptr(), MOST, 0, size_of::<GidEntry>()) };
        let found = usize::try_from(found).map_err(|_| Errno((-found) as c_int))?;
        let usable = |entry: &&GidEntry| entry.kind == ROUTED || entry.kind == INFINIBAND;
        let gid = |entry: &GidEntry| Gid {
            bytes: entry.gid,
            index: entry.index,
            port: entry.port,
            routed_ethernet: entry.kind == ROUTED,
        };
        Ok(entries.iter().take(found).filter(usable).map(gid).collect())
    }

    pub fn event_descriptor(&self) -> c_int {
        // SAFETY: a live context.
        unsafe { (*self.raw).async_fd }
    }

    /// Takes an event, if there is one. The descriptor does not block.
    pub fn take_event(&self) -> Option<Event> {
        // rdma-sys' type lists the kinds of its day, and another value there would be no Rust value: read as plain words.
        #[repr(C)]
        struct Raw {
            element: u64,
            kind: c_uint,
            rest: u32,
        }
        const _: () = assert!(size_of::<Raw>() >= size_of::<sys::ibv_async_event>());
        let mut event = Raw { element: 0, kind: 0, rest: 0 };
        let place = (&raw mut event).cast::<sys::ibv_async_event>();
        // SAFETY: a live context, and a place as large as the event.
        if unsafe { sys::ibv_get_async_event(self.raw, place) } != 0 {
            return None;
        }
        let port = event.element as u8;
        let kind = match event.kind {
            0 | 14 => Event::QueueLost,
            // SAFETY: the queue pair lives at least until the event is acknowledged.
            1..=3 => Event::PairLost(unsafe { (*(event.element as *const sys::ibv_qp)).qp_num }),
            8 => Event::DeviceGone,
            9 => Event::PortUp(port),
            10 => Event::PortDown(port),
            11 | 17 | 18 => Event::Addresses(port),
            other => Event::Other(other),
        };
        // SAFETY: the event just taken, acknowledged once.
        unsafe { sys::ibv_ack_async_event(place) };
        Some(kind)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        for place in self.places() {
            // SAFETY: a context that is used by nobody any more.
            unsafe { unhide(place) };
        }
        // SAFETY: opened by this type; what was made of it is gone.
        process::opening(|| unsafe { sys::ibv_close_device(self.raw) });
    }
}

/// Hides a descriptor and notes it for forks. On failure it is closed.
pub fn hide_noted(fd: c_int) -> Result<c_int> {
    let hidden = host::hide(called(fd)?)?;
    if process::note_descriptor(hidden) {
        return Ok(hidden);
    }
    host::close_hidden(hidden);
    Err(Errno(libc::EMFILE))
}

pub fn close_noted(fd: c_int) {
    process::forget_descriptor(fd);
    host::close_hidden(fd);
}

/// libibverbs is about to close a descriptor, by a number that the switch thinks hidden: it gets a new one for that.
///
/// # Safety
/// The place holds a hidden descriptor, or -1, and nobody else uses it.
pub unsafe fn unhide(place: *mut c_int) {
    // SAFETY: by this function's contract.
    unsafe {
        let hidden = place.read();
        if hidden >= 0 {
            place.write(real::dup(hidden));
            close_noted(hidden);
        }
    }
}

/// # Safety
/// The descriptor is ours.
pub unsafe fn make_nonblocking(fd: c_int) -> Result<()> {
    let on: c_int = 1;
    // SAFETY: by this function's contract; the request reads one int.
    called(unsafe { libc::ioctl(fd, libc::FIONBIO, &raw const on) }).map(drop)
}

/// And the name of its node.
fn open_raw(name: &str) -> Result<(*mut sys::ibv_context, String)> {
    let mut count = 0;
    // SAFETY: the list ends with a null pointer and is given back below; names are C strings in its entries.
    unsafe {
        let list = made(sys::ibv_get_device_list(&mut count))?;
        let devices = std::slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0));
        let named = |device: &&*mut sys::ibv_device| {
            CStr::from_ptr(sys::ibv_get_device_name(**device)).to_bytes() == name.as_bytes()
        };
        let device = devices.iter().find(named).copied().unwrap_or(ptr::null_mut());
        let context = match device.is_null() {
            true => Err(Errno(libc::ENODEV)),
            false => {
                let context = sys::ibv_open_device(device);
                let node = CStr::from_ptr((*device).dev_name.as_ptr()).to_string_lossy().into_owned();
                if context.is_null() { Err(last()) } else { Ok((context, node)) }
            }
        };
        sys::ibv_free_device_list(list);
        context
    }
}
