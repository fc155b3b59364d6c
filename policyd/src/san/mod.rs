//! Which of this host's addresses a provider serves: RDMA devices', read from sysfs, and other providers', read from files; and read again
//! when the kernel says that something has changed. By a timer only while there is a device that serves nothing: its network interface may be another
//! namespace's, and the kernel tells nobody here that it is up (again).
//!
//! `sysfs.rs` and `drop_ins.rs` read, `events.rs` hears.

pub mod drop_ins;
mod events;
pub mod sysfs;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::daemon::Shared;
use crate::peers::hosts::Served;
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
    let mut faults = Vec::new();
    loop {
        if shared.peers.borrow().settings.peers.is_empty() {
            events = Events::default();
            shared.san.notified().await;
            continue;
        }
        let (root, files) = places(&shared);
        events.listen(&root, files.as_deref(), &changed);
        let mut idle = look(&shared, &mut faults).await;
        let mut follows = FOLLOWS.iter().copied();
        loop {
            let notice = noticed(&shared, &changed);
            match follows.next().or(idle.then_some(IDLE)) {
                Some(later) if timeout(later, notice).await.is_err() => idle = look(&shared, &mut faults).await,
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
async fn look(shared: &Rc<Shared>, known: &mut Vec<String>) -> bool {
    let (root, files) = places(shared);
    // A device has hundreds of entries, a file each.
    match tokio::task::spawn_blocking(move || served(&root, files.as_deref())).await {
        Ok((served, idle, faults)) => {
            debug!(?served, "devices serve");
            faults.iter().filter(|fault| !known.contains(fault)).for_each(|fault| warn!("{fault}"));
            *known = faults;
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

/// Where devices are looked for, and where other providers' addresses stand.
fn places(shared: &Shared) -> (PathBuf, Option<PathBuf>) {
    let peers = shared.peers.borrow();
    (peers.sysfs.clone(), drop_ins::folder(peers.settings.folder.as_deref()))
}

/// Sorted by address, one of each: a file that gives an address to a provider goes before a device that has it. Whether there is a device
/// that serves nothing, and what is wrong with the files.
pub fn served(root: &Path, files: Option<&Path>) -> (Vec<Served>, bool, Vec<String>) {
    let (devices, idle) = sysfs::look(root);
    let (mut all, faults) = files.map(drop_ins::read).unwrap_or_default();
    all.extend(devices);
    all.sort_by_key(|served| served.address);
    all.dedup_by_key(|served| served.address);
    (all, idle, faults)
}
