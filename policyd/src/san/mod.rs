//! Which of this host's addresses an RDMA device serves: read from sysfs, and read again when the kernel says that
//! something has changed. Never by a timer of its own: a host on which nothing happens is not looked at.
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
        look(&shared).await;
        let mut follows = FOLLOWS.iter();
        loop {
            let notice = noticed(&shared, &changed);
            match follows.next() {
                Some(&later) if timeout(later, notice).await.is_err() => look(&shared).await,
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

async fn look(shared: &Rc<Shared>) {
    let root = shared.peers.borrow().sysfs.clone();
    // A device has hundreds of entries, a file each.
    match tokio::task::spawn_blocking(move || sysfs::served(&root)).await {
        Ok(served) => {
            debug!(?served, "devices serve");
            shared.broker.borrow_mut().set_served(served);
            shared.changed.notify_one();
        }
        Err(error) => warn!("the devices were not looked at: {error}"),
    }
}
