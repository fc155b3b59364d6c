//! The table that the switch is given: pointers are taken and given here, errors become negative errnos, and no panic, errno or
//! cancellation passes.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::{ptr, slice};

use tandem_provider as boundary;
use tandem_provider::{Address, Blob, Completion, Host, Line, Provider, Put, Share, Table, VERSION};

use crate::companion::Companion;
use crate::domain::Domain;
use crate::errors::{Errno, Result, answer, keeping_errno};
use crate::host::{self, Level};
use crate::queue::Queue;
use crate::{addresses, check, options, process, provider};

struct Shared(Provider);

// SAFETY: pointers to functions and to a constant; the context is unused.
unsafe impl Sync for Shared {}

static TABLE: Shared = Shared(Provider {
    version: VERSION,
    size: size_of::<Provider>() as u32,
    context: ptr::null_mut(),
    name: c"verbs".as_ptr(),
    find,
    list,
    check: check_,
    stop,
    start,
    open_queue,
    close_queue,
    poll,
    arm,
    wake,
    open_domain,
    close_domain,
    register_memory,
    release_memory,
    share,
    adopt_share,
    drop_share,
    create,
    bind,
    set_option,
    prepare,
    endpoint,
    connect,
    close,
    describe,
    put,
    notify,
});

/// # Safety
/// Null, or a host's table that outlives the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tandem_provider_open(host: *const Host) -> *const Provider {
    let opened = edge_unchecked(|| {
        // SAFETY: by this function's contract.
        let host = unsafe { Host::accept(host) }.map_err(|_| Errno(libc::EPROTO))?;
        host::adopt(host);
        quiet_panics();
        provider::open().inspect_err(|why| host::log(Level::Error, format_args!("cannot be used: errno {}", why.0)))?;
        Ok(0)
    });
    if opened == 0 { &raw const TABLE.0 } else { ptr::null() }
}

/// Nothing is ever written to the application's stderr.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| host::log(Level::Error, format_args!("{panic}"))));
    });
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

const CANCEL_DISABLE: c_int = 1;

fn edge(work: impl FnOnce() -> Result<i32>) -> i32 {
    edge_unchecked(|| {
        process::check()?;
        work()
    })
}

fn edge_unchecked(work: impl FnOnce() -> Result<i32>) -> i32 {
    keeping_errno(|| {
        let mut before = 0;
        // A doorbell may be a system call: cancelled in it, a thread would take the driver's locks with it.
        // SAFETY: one int on this frame; the state is put back below.
        unsafe { pthread_setcancelstate(CANCEL_DISABLE, &mut before) };
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Errno(libc::EIO)));
        // SAFETY: as above.
        unsafe { pthread_setcancelstate(before, ptr::null_mut()) };
        answer(result)
    })
}

fn fine(_: ()) -> i32 {
    0
}

/// # Safety
/// Null, or a pointer that can be read.
unsafe fn given<'a, T>(pointer: *const T) -> Result<&'a T> {
    // SAFETY: by this function's contract.
    unsafe { pointer.as_ref() }.ok_or(Errno(libc::EFAULT))
}

/// # Safety
/// Null, or a place that can be written.
unsafe fn place<'a, T>(pointer: *mut T) -> Result<&'a mut T> {
    // SAFETY: by this function's contract.
    unsafe { pointer.as_mut() }.ok_or(Errno(libc::EFAULT))
}

/// The object behind a handle of ours: borrowed for the call.
macro_rules! handle {
    ($name:ident, $given:ty, $ours:ty) => {
        /// # Safety
        /// A handle of this kind that was not closed.
        unsafe fn $name(handle: *mut $given) -> Result<Arc<$ours>> {
            // SAFETY: made by `Arc::into_raw`, and not yet given back.
            unsafe {
                let object: *const $ours = given(handle.cast_const().cast::<$ours>())?;
                Arc::increment_strong_count(object);
                Ok(Arc::from_raw(object))
            }
        }
    };
}
handle!(queue_of, boundary::Queue, Queue);
handle!(domain_of, boundary::Domain, Domain);
handle!(companion_of, boundary::Companion, Companion);

/// # Safety
/// A handle that was not closed, and is not used again.
unsafe fn give_back<T>(object: Arc<T>) {
    // SAFETY: the reference that the handle was.
    unsafe { Arc::decrement_strong_count(Arc::as_ptr(&object)) };
}

// ---- What there is ----

unsafe extern "C" fn find(_: *mut c_void, local: *const Address) -> i32 {
    // SAFETY: the caller's address; in all that follows, arguments are as the header says.
    edge(|| addresses::find(unsafe { given(local) }?).map(|_| 1))
}

unsafe extern "C" fn list(_: *mut c_void, served: *mut boundary::Served, room: u32) -> i32 {
    edge(|| {
        let all = addresses::list();
        for (at, entry) in all.iter().take(room as usize).enumerate() {
            // SAFETY: the caller has room for so many.
            unsafe { served.add(at).write(entry.told()) };
        }
        Ok(all.len() as i32)
    })
}

unsafe extern "C" fn check_(_: *mut c_void, argument: *mut c_void, line: Line) -> i32 {
    edge(|| {
        // SAFETY: the caller's function and argument; the text outlives the call.
        let say = |text: &str| unsafe { line(argument, text.as_ptr().cast(), text.len()) };
        Ok(check::check(say))
    })
}

unsafe extern "C" fn stop(_: *mut c_void) -> i32 {
    edge(|| provider::worker().stop().map(fine))
}

unsafe extern "C" fn start(_: *mut c_void) -> i32 {
    edge(|| provider::worker().start().map(fine))
}

// ---- The queue ----

unsafe extern "C" fn open_queue(_: *mut c_void, cookie: u64, queue: *mut *mut boundary::Queue) -> i32 {
    edge(|| {
        // SAFETY: the caller's place.
        let queue = unsafe { place(queue) }?;
        *queue = Arc::into_raw(provider::open_queue(cookie)?).cast_mut().cast();
        Ok(0)
    })
}

unsafe extern "C" fn close_queue(queue: *mut boundary::Queue) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe {
        let queue = queue_of(queue)?;
        provider::close_queue(Arc::clone(&queue))?;
        give_back(queue);
        Ok(0)
    })
}

unsafe extern "C" fn poll(queue: *mut boundary::Queue, completions: *mut Completion, room: u32) -> i32 {
    // SAFETY: a handle of ours, and as much room as the caller says.
    edge(|| unsafe {
        let queue = borrowed_queue(queue)?;
        let room = if completions.is_null() { &mut [] } else { slice::from_raw_parts_mut(completions, room as usize) };
        Ok(queue.poll(room) as i32)
    })
}

/// Polling is the hot path: no count is taken, for a queue that is polled is not closed.
///
/// # Safety
/// A handle of a queue that stays open for the call.
unsafe fn borrowed_queue<'a>(queue: *mut boundary::Queue) -> Result<&'a Queue> {
    // SAFETY: by this function's contract.
    unsafe { given(queue.cast_const().cast()) }
}

unsafe extern "C" fn arm(queue: *mut boundary::Queue) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe { borrowed_queue(queue) }?.arm().map(fine))
}

unsafe extern "C" fn wake(queue: *mut boundary::Queue) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| Ok(unsafe { borrowed_queue(queue) }?.descriptor()))
}

// ---- A domain ----

unsafe extern "C" fn open_domain(
    queue: *mut boundary::Queue,
    local: *const Address,
    cookie: u64,
    domain: *mut *mut boundary::Domain,
) -> i32 {
    // SAFETY: a handle of ours, the caller's address and place.
    edge(|| unsafe {
        let (queue, local, domain) = (queue_of(queue)?, given(local)?, place(domain)?);
        *domain = Arc::into_raw(Domain::open(queue, local, cookie)?).cast_mut().cast();
        Ok(0)
    })
}

unsafe extern "C" fn close_domain(domain: *mut boundary::Domain) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe {
        let domain = domain_of(domain)?;
        Arc::clone(&domain).close()?;
        give_back(domain);
        Ok(0)
    })
}

unsafe extern "C" fn register_memory(
    domain: *mut boundary::Domain,
    base: *mut c_void,
    bytes: u64,
    rights: u32,
    cookie: u64,
    memory: *mut u32,
) -> i32 {
    // SAFETY: a handle of ours, the caller's place. The memory itself is looked at by the kernel.
    edge(|| unsafe {
        let (domain, memory) = (domain_of(domain)?, place(memory)?);
        *memory = domain.register(base, bytes, rights, cookie)?;
        Ok(0)
    })
}

unsafe extern "C" fn release_memory(domain: *mut boundary::Domain, memory: u32) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe { domain_of(domain) }?.release(memory).map(fine))
}

unsafe extern "C" fn share(domain: *mut boundary::Domain, memory: u32, share: *mut Share) -> i32 {
    // SAFETY: a handle of ours, the caller's place.
    edge(|| unsafe {
        *place(share)? = domain_of(domain)?.share(memory)?;
        Ok(0)
    })
}

unsafe extern "C" fn adopt_share(
    domain: *mut boundary::Domain,
    share: *const Share,
    remote: *mut u32,
    bytes: *mut u64,
) -> i32 {
    // SAFETY: a handle of ours, the caller's share and places.
    edge(|| unsafe {
        let (remote, bytes) = (place(remote)?, place(bytes)?);
        (*remote, *bytes) = domain_of(domain)?.adopt(given(share)?)?;
        Ok(0)
    })
}

unsafe extern "C" fn drop_share(domain: *mut boundary::Domain, remote: u32) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe { domain_of(domain) }?.forget(remote).map(fine))
}

// ---- A companion ----

unsafe extern "C" fn create(
    domain: *mut boundary::Domain,
    cookie: u64,
    companion: *mut *mut boundary::Companion,
) -> i32 {
    // SAFETY: a handle of ours, the caller's place.
    edge(|| unsafe {
        let (domain, companion) = (domain_of(domain)?, place(companion)?);
        *companion = Arc::into_raw(Companion::create(domain, cookie)?).cast_mut().cast();
        Ok(0)
    })
}

unsafe extern "C" fn bind(companion: *mut boundary::Companion, local: *const Address, remote: *const Address) -> i32 {
    // SAFETY: a handle of ours, the caller's addresses.
    edge(|| unsafe { companion_of(companion)?.bind(given(local)?, given(remote)?).map(fine) })
}

unsafe extern "C" fn set_option(
    companion: *mut boundary::Companion,
    level: i32,
    name: i32,
    value: *const c_void,
    bytes: u32,
) -> i32 {
    // SAFETY: a handle of ours, the caller's bytes.
    edge(|| unsafe { companion_of(companion)?.set_option(level, name, options::value(value, bytes)).map(fine) })
}

unsafe extern "C" fn prepare(companion: *mut boundary::Companion) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe { companion_of(companion) }?.prepare().map(fine))
}

unsafe extern "C" fn endpoint(companion: *mut boundary::Companion, own: *mut Blob) -> i32 {
    // SAFETY: a handle of ours, the caller's place.
    edge(|| unsafe {
        *place(own)? = companion_of(companion)?.endpoint()?;
        Ok(0)
    })
}

unsafe extern "C" fn connect(companion: *mut boundary::Companion, peer: *const Blob) -> i32 {
    // SAFETY: a handle of ours, the caller's blob.
    edge(|| unsafe { companion_of(companion)?.connect(given(peer)?).map(fine) })
}

unsafe extern "C" fn close(companion: *mut boundary::Companion) -> i32 {
    // SAFETY: a handle of ours.
    edge(|| unsafe {
        let companion = companion_of(companion)?;
        Arc::clone(&companion).close()?;
        give_back(companion);
        Ok(0)
    })
}

unsafe extern "C" fn describe(companion: *mut boundary::Companion, text: *mut c_char, room: u32) -> i32 {
    // SAFETY: a handle of ours, and as much room as the caller says.
    edge(|| unsafe {
        let all = companion_of(companion)?.describe();
        let bytes = all.len().min(room as usize);
        ptr::copy_nonoverlapping(all.as_ptr(), place(text)? as *mut c_char as *mut u8, bytes);
        Ok(bytes as i32)
    })
}

// ---- Moving bytes ----

unsafe extern "C" fn put(companion: *mut boundary::Companion, puts: *const Put, count: u32) -> i32 {
    // SAFETY: a handle that stays open for the call, and as many puts as the caller says.
    edge(|| unsafe {
        let companion: &Companion = given(companion.cast_const().cast())?;
        let puts = if puts.is_null() { &[] } else { slice::from_raw_parts(puts, count as usize) };
        companion.put(puts).map(fine)
    })
}

unsafe extern "C" fn notify(companion: *mut boundary::Companion, note: u32) -> i32 {
    // SAFETY: as for `put`.
    edge(|| unsafe { given::<Companion>(companion.cast_const().cast()) }?.notify(note).map(fine))
}
