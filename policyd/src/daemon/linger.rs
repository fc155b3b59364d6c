//! Closing a TCP socket for the last time waits, where its owner has set SO_LINGER, until the other end has everything: for
//! hours if that is what was set. Descriptors that clients send may be such sockets, asked for or not, and what a read of a
//! unix socket does not take the kernel closes then and there. The one thread that serves everybody must not wait for that.
//!
//! A signal ends the wait, and nothing is lost by it: the kernel goes on sending by itself. So a timer sends one while the
//! thread runs. It is off while the thread sleeps.

use std::cell::RefCell;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use tracing::warn;

const SIGNAL: Signal = Signal::SIGALRM;
/// Again and again: one that comes before the wait has begun does not end it.
const EVERY: Duration = Duration::from_millis(5);

extern "C" fn nothing(_: nix::libc::c_int) {}

thread_local! {
    static ALARM: RefCell<Option<Timer>> = const { RefCell::new(None) };
}

/// From now on this thread may call `on` and `off`.
pub fn prepare() -> nix::Result<()> {
    // What else it interrupts goes on.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(SIGNAL, &action)? };
    let thread_id = nix::unistd::gettid().as_raw();
    let to = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id, si_value: 0 };
    let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(to))?;
    ALARM.set(Some(timer));
    Ok(())
}

/// The thread has woken.
pub fn on() {
    set(EVERY);
}

/// The thread is about to sleep.
pub fn off() {
    set(Duration::ZERO);
}

fn set(every: Duration) {
    let every = Expiration::Interval(TimeSpec::from_duration(every));
    let set =
        |alarm: &RefCell<Option<Timer>>| alarm.borrow_mut().as_mut()?.set(every, TimerSetTimeFlags::empty()).err();
    if let Some(error) = ALARM.with(set) {
        warn!("cannot set a timer: {error}");
    }
}
