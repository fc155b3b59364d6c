//! The provider's one thread: does what devices are slow at, in the order in which it was asked for, and hears their events.
//!
//! It sleeps when there is nothing to do, takes no signal, starts with the first order, and is gone when `stop` returns.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use libc::pollfd;

use crate::adapter::{Adapter, lock};
use crate::companion::{Companion, Way};
use crate::domain::Domain;
use crate::errors::{Errno, Result};
use crate::nodes::Nodes;
use crate::queue::{Hidden, Queue, bell, hush, ring};
use crate::{host, process, real};

/// What it can be asked for.
pub enum Job {
    OpenDomain(Arc<Domain>),
    CloseDomain(Arc<Domain>),
    Register(Arc<Domain>, u32),
    Release(Arc<Domain>, u32),
    Prepare(Arc<Companion>),
    Connect(Arc<Companion>, Box<Way>),
    Close(Arc<Companion>),
    CloseDrained(Arc<Companion>),
    CloseQueue(Arc<Queue>),
}

pub struct Worker {
    bell: Hidden,
    state: Mutex<State>,
    /// Their devices' events are heard.
    queues: Mutex<Vec<Weak<Queue>>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    thread: Option<JoinHandle<()>>,
    /// Those that have run and may not have left the kernel's list of the process's threads yet.
    left: Vec<libc::pid_t>,
    /// The thread's number: an earlier one leaves.
    turn: u64,
    /// By the switch: orders wait.
    stopped: bool,
    /// The thread is to be another one's child.
    renew: bool,
}

const NAME: &str = "tandem-verbs";
/// Its deepest calls are libibverbs' own, which build paths on the stack.
const STACK: usize = 256 << 10;
/// How long a closed companion waits for the program's threads to poll.
const UNPOLLED_MS: c_int = 20;
/// A thread that has been joined is the process's for some microseconds more; so many looks, this far apart, are over a second.
const LOOKS: u32 = 10_000;
const LOOK: Duration = Duration::from_micros(100);

impl Worker {
    pub fn new() -> Result<Worker> {
        Ok(Worker { bell: bell()?, state: Mutex::default(), queues: Mutex::default() })
    }

    pub fn hear(&self, queue: &Arc<Queue>) {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }

    pub fn order(&'static self, job: Job) -> Result<()> {
        process::check()?;
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        if !state.stopped && (state.thread.is_none() || state.renew) {
            self.spawn(&mut state)?;
        }
        drop(state);
        ring(self.bell.0);
        Ok(())
    }

    /// Whoever gives the next order has the device opened with its own rights: the kernel compares those of the thread that opened
    /// it with those of each one that rings its doorbell, and a thread that is made has its maker's.
    pub fn renew(&self) {
        lock(&self.state).renew = true;
    }

    /// The thread is gone when this returns, for the kernel too: a join returns when the thread has given its stack back, and
    /// unshare(CLONE_NEWUSER) straight afterwards may still count two threads.
    pub fn stop(&self) -> Result<()> {
        let thread = {
            let mut state = lock(&self.state);
            state.stopped = true;
            state.turn += 1;
            state.thread.take()
        };
        ring(self.bell.0);
        if let Some(thread) = thread {
            thread.join().map_err(|_| Errno(libc::EIO))?;
        }
        let left = std::mem::take(&mut lock(&self.state).left);
        let is_there = |looks: &u32| *looks > 0 && left.iter().any(|&thread| exists(thread));
        let mut looks = LOOKS;
        while is_there(&looks) {
            std::thread::sleep(LOOK);
            looks -= 1;
        }
        Ok(())
    }

    pub fn start(&'static self) -> Result<()> {
        // Looked for before the lock is taken: whoever polls holds the adapters and gives orders.
        let events = !self.adapters().is_empty();
        let mut state = lock(&self.state);
        state.stopped = false;
        if state.thread.is_none() && (events || !state.jobs.is_empty()) {
            self.spawn(&mut state)?;
        }
        Ok(())
    }

    /// A thread, in place of the one there is, if any: it begins when that one has left.
    fn spawn(&'static self, state: &mut State) -> Result<()> {
        let before = state.thread.take();
        state.turn += 1;
        state.renew = false;
        let turn = state.turn;
        let body = move || {
            if let Some(before) = before {
                ring(self.bell.0);
                let _ = before.join();
            }
            self.run(turn);
        };
        let thread = || Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(body);
        let failed = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EAGAIN));
        state.thread = Some(without_signals(thread).map_err(failed)?);
        Ok(())
    }

    fn run(&self, turn: u64) {
        // SAFETY: no memory is involved.
        let own = unsafe { libc::gettid() };
        {
            let left = &mut lock(&self.state).left;
            left.retain(|&thread| exists(thread));
            left.push(own);
        }
        let mut nodes = Nodes::new();
        while let Some(job) = self.next(turn) {
            match job {
                Some(job) => run(job),
                None => self.wait(&mut nodes),
            }
        }
    }

    /// `None`: this thread is to leave.
    fn next(&self, turn: u64) -> Option<Option<Job>> {
        let mut state = lock(&self.state);
        (state.turn == turn).then(|| state.jobs.pop_front())
    }

    fn adapters(&self) -> Vec<(Arc<Queue>, Arc<Adapter>)> {
        let queues: Vec<_> = lock(&self.queues).iter().filter_map(Weak::upgrade).collect();
        let each = |queue: Arc<Queue>| queue.adapters().into_iter().map(move |adapter| (Arc::clone(&queue), adapter));
        queues.into_iter().flat_map(each).collect()
    }

    /// Until there is an order, an event of a device, or a device less. A program that has closed its connections and sleeps
    /// elsewhere polls no more: then what it closed is seen to here.
    fn wait(&self, nodes: &mut Nodes) {
        let adapters = self.adapters();
        let entry = |fd: c_int| pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut entries = vec![entry(self.bell.0), entry(nodes.descriptor())];
        entries.extend(adapters.iter().map(|(_, adapter)| entry(adapter.context.event_descriptor())));
        let draining = adapters.iter().any(|(_, adapter)| adapter.is_draining());
        let limit = if draining { UNPOLLED_MS } else { -1 };
        // SAFETY: as many entries as are named.
        let ready = unsafe { real::poll(entries.as_mut_ptr(), entries.len() as libc::c_ulong, limit) };
        if ready == 0 {
            adapters.iter().for_each(|(queue, _)| queue.sweep());
        }
        if entries.first().is_some_and(|entry| entry.revents != 0) {
            hush(self.bell.0);
        }
        let told: Vec<_> = entries.iter().skip(2).map(|entry| entry.revents != 0).collect();
        let nodes_gone = match entries.get(1).is_some_and(|entry| entry.revents != 0) {
            true => self.nodes_changed(nodes),
            false => Vec::new(),
        };
        for ((queue, adapter), told) in adapters.into_iter().zip(told) {
            let gone = told && adapter.handle_events(&queue);
            if gone || nodes_gone.contains(&adapter.node) {
                host::log(host::Level::Info, format_args!("{} has gone", adapter.name));
                queue.lose(adapter, Errno(libc::ENODEV));
            } else {
                drop(adapter);
                queue.release_unused(false);
            }
        }
    }

    /// A device has come or gone: the nodes that have gone.
    fn nodes_changed(&self, nodes: &mut Nodes) -> Vec<String> {
        crate::addresses::forget();
        for queue in lock(&self.queues).iter().filter_map(Weak::upgrade) {
            queue.tell(tandem_provider::kind::CHANGED, 0, queue.cookie);
        }
        nodes.take_gone()
    }
}

fn run(job: Job) {
    match job {
        Job::OpenDomain(domain) => domain.do_open(),
        Job::CloseDomain(domain) => domain.do_close(),
        Job::Register(domain, number) => domain.do_register(number),
        Job::Release(domain, number) => domain.do_release(number),
        Job::Prepare(companion) => companion.do_prepare(),
        Job::Connect(companion, way) => {
            companion.do_connect(&way);
            // The next one of this domain finds its pair made.
            if let Ok(opened) = companion.domain.opened() {
                opened.make_ahead(companion.port());
            }
        }
        Job::Close(companion) => companion.do_close(),
        Job::CloseDrained(companion) => companion.do_close_drained(),
        Job::CloseQueue(queue) => queue.release_unused(true),
    }
}

/// What is started inherits the mask: it never runs a handler of the application's.
fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    // SAFETY: two sets on this frame; the thread's own mask is put back.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        result
    }
}

/// A thread of this process.
fn exists(thread: libc::pid_t) -> bool {
    // SAFETY: signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
}
