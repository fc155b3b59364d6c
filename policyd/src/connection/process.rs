//! Who a process is, where it comes from, and what can be said of it: what `/proc` says, checked against its pidfd.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kernel;

/// Ancestors looked at: a deeper tree is no one's shell session.
const GENERATIONS: usize = 64;

/// A process and none of its successors by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks since boot.
    pub started: u64,
}

/// What static rules ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub program: Option<PathBuf>,
    pub uid: u32,
    pub effective_uid: u32,
    pub groups: Vec<u32>,
    pub cgroup: Option<PathBuf>,
    /// It makes its sockets in policyd's network namespace.
    pub same_network: bool,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub identity: Identity,
    /// Nearest first.
    pub ancestors: Vec<Identity>,
    pub facts: Facts,
    pub pidfd: Arc<OwnedFd>,
}

impl Process {
    /// `None`: there is no such process (any more), or it can't be looked at.
    pub fn of(pid: u32) -> Option<Self> {
        Self::held(pid, Arc::new(kernel::open_process(pid).ok()?))
    }

    /// What is read is this process's, if it still lives after it was read.
    pub fn held(pid: u32, pidfd: Arc<OwnedFd>) -> Option<Self> {
        let (identity, parent) = identity(pid)?;
        let facts = Facts::of(pid)?;
        let ancestors = ancestors(identity, parent);
        kernel::lives(&pidfd).then_some(Self { identity, ancestors, facts, pidfd })
    }
}

impl Facts {
    fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |key: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        let uids = numbers("Uid:");
        let (real, effective) = (*uids.first()?, *uids.get(1)?);
        let mut groups = numbers("Gid:");
        groups.extend(numbers("Groups:"));
        Some(Self {
            // A setuid program is its owner's: nobody else may steer it.
            uid: if real == effective { effective } else { 0 },
            effective_uid: effective,
            groups,
            program: std::fs::read_link(format!("/proc/{pid}/exe")).ok(),
            cgroup: cgroup(pid),
            same_network: network(pid).is_none_or(|theirs| network(std::process::id()) == Some(theirs)),
        })
    }
}

pub fn name(pid: u32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// `None`: not to be told, as for another user's process where we may not look.
fn network(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The unified hierarchy's, else that which systemd keeps.
fn cgroup(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |prefix: &str| text.lines().find_map(|line| line.split_once(prefix)).map(|(_, path)| PathBuf::from(path));
    of("0::").or_else(|| of(":name=systemd:"))
}

/// Whether `group` is `top` or below it.
pub fn is_below(group: &Path, top: &Path) -> bool {
    group.starts_with(top)
}

/// With the parent's number.
fn identity(pid: u32) -> Option<(Identity, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).map(|(parent, started)| (Identity { pid, started }, parent))
}

/// The program's name may have blanks and parentheses in it.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((parent, started))
}

fn ancestors(mut child: Identity, mut parent: u32) -> Vec<Identity> {
    let mut found = Vec::new();
    while parent > 1 && found.len() < GENERATIONS {
        // A parent that began after its child is another process by that number.
        let Some((next, grandparent)) = identity(parent).filter(|(next, _)| next.started <= child.started) else {
            break;
        };
        found.push(next);
        (child, parent) = (next, grandparent);
    }
    found.shrink_to_fit();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses() {
        let stat = "7 (a) (b) R 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987 6 1";
        assert_eq!(parse_stat(stat), Some((3, 987)));
        assert_eq!(parse_stat("7 (x) R"), None);
    }

    #[test]
    fn a_child_knows_where_it_comes_from() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let own = identity(std::process::id()).unwrap().0;
        assert_eq!(process.ancestors.first(), Some(&own));
        assert_eq!(process.facts.uid, nix::unistd::geteuid().as_raw());
        assert!(process.facts.program.is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Process::held(child.id(), process.pidfd).is_none());
    }

    #[test]
    fn a_group_and_what_is_below_it() {
        assert!(is_below(Path::new("/system.slice/a.service/x"), Path::new("/system.slice/a.service")));
        assert!(!is_below(Path::new("/system.slice/a.service2"), Path::new("/system.slice/a.service")));
    }
}
