//! Which of this host's addresses an RDMA device serves: read from sysfs, and read again when the kernel says that
//! something has changed. By a timer only while there is a device that serves nothing: its network interface may be another
//! namespace's, and the kernel tells nobody here that it is up (again).
//!
//! `sysfs.rs` reads, `events.rs` hears.

mod events;
pub mod sysfs;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::daemon::Shared;
use events::Events;

/// Changes come in bursts.
const GATHER: Duration = Duration::from_millis(10);
/// A device's table of addresses follows its network interface's by and by, and no notice comes of that: after a change it
/// is looked at again so much later, and then no more.
const FOLLOWS: [Duration; 3] = [Duration::from_millis(60), Duration::from_millis(400), Duration::from_secs(2)];

/// How often it is looked whether a device that serves nothing does so now.
const IDLE: Duration = Duration::from_secs(5);

/// For as long as policyd runs. Where no peer is configured nobody asks, and nothing is looked at.
pub async fn run(shared: Rc<Shared>) {
    let changed = Rc::new(Notify::new());
    let mut events = Events::default();
    loop {
        if shared.peers.borrow().settings.peers.is_empty() {
            events = Events::default();
            shared.san.notified().await;
            continue;
        }
        let root = shared.peers.borrow().sysfs.clone();
        events.listen(&root, &changed);
        let mut idle = look(&shared).await;
        let mut follows = FOLLOWS.iter().copied();
        loop {
            let notice = noticed(&shared, &changed);
            match follows.next().or(idle.then_some(IDLE)) {
                Some(later) if timeout(later, notice).await.is_err() => idle = look(&shared).await,
                Some(_) => break,
                None => {
                    noticed(&shared, &changed).await;
                    break;
                }
            }
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn noticed(shared: &Shared, changed: &Notify) {
    tokio::select! {
        () = changed.notified() => {}
        () = shared.san.notified() => {}
    }
}

/// True: there is a device that serves nothing.
async fn look(shared: &Rc<Shared>) -> bool {
    let root = shared.peers.borrow().sysfs.clone();
    // A device has hundreds of entries, a file each.
    match tokio::task::spawn_blocking(move || sysfs::look(&root)).await {
        Ok((served, idle)) => {
            debug!(?served, "devices serve");
            shared.broker.borrow_mut().set_served(served);
            shared.changed.notify_one();
            idle
        }
        Err(error) => {
            warn!("the devices were not looked at: {error}");
            false
        }
    }
}
