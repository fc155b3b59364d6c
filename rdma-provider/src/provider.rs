//! The process's provider: its thread and what it has open; made by the first open, and anew in a forked child.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::errors::{Errno, Result};
use crate::queue::Queue;
use crate::worker::Worker;
use crate::{process, real};

pub struct State {
    worker: Worker,
}

/// Never freed: calls may be on their way in any thread. A child leaves its parent's where it is.
static STATE: AtomicPtr<State> = AtomicPtr::new(ptr::null_mut());

/// Under the switch's own start-up, or a call of it: one thread at a time comes here first.
pub fn open() -> Result<()> {
    real::prepare();
    if process::is_ours() && !STATE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    process::claim()?;
    let state = Box::into_raw(Box::new(State { worker: Worker::new()? }));
    STATE.store(state, Ordering::Release);
    Ok(())
}

fn state() -> &'static State {
    let state = STATE.load(Ordering::Acquire);
    // SAFETY: nothing calls this before `open` has stored it, and it is never freed.
    unsafe { &*state }
}

pub fn worker() -> &'static Worker {
    &state().worker
}

pub fn open_queue(cookie: u64) -> Result<Arc<Queue>> {
    let queue = Arc::new(Queue::new(cookie)?);
    worker().hear(&queue);
    Ok(queue)
}

pub fn close_queue(queue: Arc<Queue>) -> Result<()> {
    if queue.has_domains() {
        return Err(Errno(libc::EBUSY));
    }
    if queue.adapters().is_empty() {
        return Ok(());
    }
    worker().order(crate::worker::Job::CloseQueue(queue))
}
