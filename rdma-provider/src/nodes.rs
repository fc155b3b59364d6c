//! The devices' nodes below /dev/infiniband: that one is deleted is the only word that a device is going, for some drivers (rxe
//! among them) send no event and wait until nobody has it open.

use std::ffi::{CStr, c_int};

use crate::queue::Hidden;
use crate::real;
use crate::verbs::context::hide_noted;

const FOLDER: &CStr = c"/dev/infiniband";

/// Without it (no such folder, no descriptor) devices are only given up when they say so themselves.
pub struct Nodes(Option<Hidden>);

impl Nodes {
    pub fn new() -> Nodes {
        // SAFETY: a new descriptor of ours.
        let Ok(watch) = hide_noted(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }) else {
            return Nodes(None);
        };
        let watch = Hidden(watch);
        let what = libc::IN_DELETE | libc::IN_CREATE | libc::IN_ATTRIB;
        // SAFETY: our descriptor, a C string.
        let added = unsafe { libc::inotify_add_watch(watch.0, FOLDER.as_ptr(), what) };
        Nodes((added >= 0).then_some(watch))
    }

    pub fn descriptor(&self) -> c_int {
        self.0.as_ref().map_or(-1, |watch| watch.0)
    }

    /// The names that were deleted since.
    pub fn take_gone(&mut self) -> Vec<String> {
        let mut gone = Vec::new();
        let Some(Hidden(watch)) = self.0 else { return gone };
        let mut buffer = [0u64; 512];
        loop {
            // SAFETY: the buffer's own size; the descriptor does not block.
            let read = unsafe { real::read(watch, buffer.as_mut_ptr().cast(), size_of_val(&buffer)) };
            let Some(read @ 1..) = usize::try_from(read).ok() else { return gone };
            let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).take(read).collect();
            gone.extend(deleted(&bytes));
        }
    }
}

/// The names in a batch of events: each has 16 bytes (watch, what, cookie, length), then a name padded with zeroes.
fn deleted(mut events: &[u8]) -> Vec<String> {
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
    };
    let mut names = Vec::new();
    while let Some((head, rest)) = events.split_at_checked(size_of::<libc::inotify_event>()) {
        let Some((name, rest)) = rest.split_at_checked(word(head, 12) as usize) else { break };
        if word(head, 4) & libc::IN_DELETE != 0 {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            names.push(String::from_utf8_lossy(name.get(..end).unwrap_or(&[])).into_owned());
        }
        events = rest;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_deleted_is_gone() {
        let event = |what: u32, name: &[u8; 16]| {
            let mut bytes = Vec::new();
            for word in [1, what, 0, 16] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(name);
            bytes
        };
        let mut batch = event(libc::IN_CREATE, b"uverbs1\0\0\0\0\0\0\0\0\0");
        batch.extend(event(libc::IN_DELETE, b"uverbs0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(deleted(&batch), ["uverbs0"]);
        batch.truncate(40);
        assert!(deleted(&batch).is_empty(), "a cut event is none");
    }
}
