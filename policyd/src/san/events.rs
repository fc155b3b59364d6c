//! The kernel's notices that may concern devices: network interfaces and addresses, devices that come and go (uevents, and
//! where the kernel has it, 6.12, the RDMA subsystem's own); and of the files that give addresses to other providers (inotify). What a notice says is not looked at further: everything is read
//! again.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_KOBJECT_UEVENT, NETLINK_RDMA, NETLINK_ROUTE};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::sysfs::DEVICES;

/// Links, IPv4 addresses, IPv6 addresses.
const ROUTE_GROUPS: [u32; 3] = [1, 5, 9];
/// The kernel's own, not udev's.
const UEVENTS: [u32; 1] = [1];
/// `RDMA_NL_GROUP_NOTIFY`
const RDMA_NOTICES: [u32; 1] = [4];

/// Tasks that hear; they end with it.
#[derive(Default)]
pub struct Events {
    always: Vec<AbortHandle>,
    rdma: Option<AbortHandle>,
    files: Option<(Rc<AsyncFd<Files>>, AbortHandle)>,
}

impl Events {
    /// From now on every notice that may concern a device is told. To be called again when something has changed: the RDMA
    /// subsystem may be there by then. (Where it is not it is not asked: asking would load it.)
    pub fn listen(&mut self, root: &Path, files: Option<&Path>, changed: &Rc<Notify>) {
        if self.always.is_empty() {
            self.always.extend(hear("routing", NETLINK_ROUTE, &ROUTE_GROUPS, changed, |_| true));
            self.always.extend(hear("device", NETLINK_KOBJECT_UEVENT, &UEVENTS, changed, is_of_a_device));
        }
        if self.rdma.is_none() && root.join(DEVICES).exists() {
            self.rdma = hear("RDMA", NETLINK_RDMA, &RDMA_NOTICES, changed, |_| true);
        }
        if let Some(folder) = files {
            self.watch(folder, changed);
        }
    }
}

impl Events {
    /// And the folder beside it is in, for it may come. What is watched already is watched once.
    fn watch(&mut self, folder: &Path, changed: &Rc<Notify>) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        if self.files.is_none() {
            self.files = hear_files(changed).inspect_err(|error| debug!("no notices of files: {error}")).ok();
        }
        let Some((inotify, _)) = &self.files else { return };
        for place in folder.parent().into_iter().chain([folder]) {
            if let Err(error) = inotify.get_ref().0.add_watch(place, flags) {
                debug!("{} is not watched: {error}", place.display());
            }
        }
    }
}

struct Files(Inotify);

impl AsRawFd for Files {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn hear_files(changed: &Rc<Notify>) -> std::io::Result<(Rc<AsyncFd<Files>>, AbortHandle)> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // SAFETY: the AsyncFd owns it, which keeps this very descriptor open for as long as it lives.
    let inotify = Rc::new(unsafe { AsyncFd::register_with_interest(Files(inotify), Interest::READABLE) }?);
    let (heard, changed) = (inotify.clone(), changed.clone());
    let task = tokio::task::spawn_local(async move {
        while let Ok(mut ready) = heard.readable().await {
            match ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) {
                Ok(Ok(_)) => changed.notify_one(),
                Ok(Err(error)) => return warn!("no more notices of files: {error}"),
                Err(_) => {}
            }
        }
    });
    Ok((inotify, task.abort_handle()))
}

impl Drop for Events {
    fn drop(&mut self) {
        let files = self.files.as_ref().map(|(_, task)| task);
        for task in self.always.iter().chain(&self.rdma).chain(files) {
            task.abort();
        }
    }
}

/// `None`: this kernel has no such notices; the others must do.
fn hear(
    what: &'static str,
    protocol: isize,
    groups: &[u32],
    changed: &Rc<Notify>,
    concerns: fn(&[u8]) -> bool,
) -> Option<AbortHandle> {
    let socket = subscribe(protocol, groups).inspect_err(|error| debug!("no {what} notices: {error}")).ok()?;
    let changed = changed.clone();
    let task = tokio::task::spawn_local(async move {
        let mut notice = vec![0; 8_192];
        loop {
            let Ok(mut ready) = socket.readable().await else { return };
            let received = ready.try_io(|socket| socket.get_ref().recv(&mut &mut notice[..], libc::MSG_DONTWAIT));
            match received {
                Ok(Ok(length)) if concerns(notice.get(..length).unwrap_or_default()) => changed.notify_one(),
                Ok(Ok(_)) | Err(_) => {}
                // Some were lost: something has changed.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => changed.notify_one(),
                Ok(Err(error)) => {
                    warn!("no more {what} notices: {error}");
                    return;
                }
            }
        }
    });
    Some(task.abort_handle())
}

fn subscribe(protocol: isize, groups: &[u32]) -> std::io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    for &group in groups {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    // SAFETY: the AsyncFd owns the socket, which keeps this very descriptor open for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Of a uevent: words that each end with a zero.
fn is_of_a_device(notice: &[u8]) -> bool {
    notice.split(|&byte| byte == 0).any(|word| word == b"SUBSYSTEM=infiniband")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uevent_of_a_device_is_told_from_others() {
        let uevent = |subsystem: &str| {
            format!("add@/devices/virtual/infiniband/rxe0\0ACTION=add\0SUBSYSTEM={subsystem}\0NAME=rxe0\0SEQNUM=1\0")
        };
        assert!(is_of_a_device(uevent("infiniband").as_bytes()));
        assert!(!is_of_a_device(uevent("net").as_bytes()));
        assert!(!is_of_a_device(uevent("infiniband_verbs").as_bytes()));
        assert!(!is_of_a_device(b"libudev\0\xfe\xed\xca\xfe"));
    }
}
