//! A network namespace, mostly of the test's own, for what only a whole network can show.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Namespace {
    name: String,
    ours: bool,
}

impl Namespace {
    /// With `lo` up; `None`, and said so, where this user may not make one.
    pub fn new(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tandem-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            println!("{test}: NOT RUN: no network namespace can be made here (needs root and iproute2): {made:?}");
            return None;
        }
        let namespace = Self { name, ours: true };
        namespace.must("ip link set lo up");
        Some(namespace)
    }

    /// One that somebody else has made and will remove.
    pub fn of_others(name: String) -> Self {
        Self { name, ours: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A shell line inside; whether it succeeded.
    pub fn shell(&self, line: &str) -> Result<(), String> {
        let output = Command::new("ip").args(["netns", "exec", &self.name, "sh", "-ec", line]).output();
        let output = output.map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    #[track_caller]
    pub fn must(&self, line: &str) {
        self.shell(line).unwrap_or_else(|e| panic!("in a namespace: {line}: {e}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
        }
    }
}
