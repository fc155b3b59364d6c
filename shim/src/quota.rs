//! How much of the machine's cores the control group leaves to this process: `cpu.max` (cgroups(7), version 2) or
//! `cpu.cfs_quota_us` (version 1). Who spins within a quota takes time from its own work, and from its peer's.

use std::ffi::CStr;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys;

/// Where the hierarchies with processor time in them are mounted, by custom: of version 2 alone, beside version 1, version 1.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const LEGACY: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
const LONGEST: usize = 4096;

/// There is no quota, or one of two cores at least: both ends of a connection can spin within it. Asked once.
pub fn leaves_two_cores() -> bool {
    const YES: u8 = 1;
    const NO: u8 = 2;
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let answer = hundredths(c"/proc/self/cgroup", &UNIFIED, &LEGACY).is_none_or(|cores| cores >= 200);
            KNOWN.store(if answer { YES } else { NO }, Ordering::Relaxed);
            answer
        }
        known => known == YES,
    }
}

/// The lowest quota of the groups that `membership` names and of those above them, in hundredths of a core. `None`: no quota.
fn hundredths(membership: &CStr, unified: &[&str], legacy: &[&str]) -> Option<u64> {
    let mut buffer = [0u8; LONGEST];
    let lines = str::from_utf8(sys::read_file(membership, &mut buffer)?).ok()?;
    let of = |line: &str| {
        // "0::/path", or "4:cpu,cpuacct:/path"
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return unified.iter().filter_map(|root| lowest(root, path, max)).min();
        }
        let cpu = controllers.split(',').any(|name| name == "cpu");
        legacy.iter().filter(|_| cpu).filter_map(|root| lowest(root, path, cfs_quota)).min()
    };
    lines.lines().filter_map(of).min()
}

/// In a container the path may be the host's, of which only the end, or nothing, is to be seen.
fn lowest(root: &str, path: &str, quota: impl Fn(&str, &str) -> Option<u64>) -> Option<u64> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.filter_map(|end| quota(root, path.get(..end)?)).min()
}

fn max(root: &str, group: &str) -> Option<u64> {
    let mut buffer = [0u8; 64];
    let mut words = read(root, group, "cpu.max", &mut buffer)?.split_ascii_whitespace();
    share(words.next()?, words.next()?)
}

fn cfs_quota(root: &str, group: &str) -> Option<u64> {
    let (mut quota, mut period) = ([0u8; 64], [0u8; 64]);
    let quota = read(root, group, "cpu.cfs_quota_us", &mut quota)?;
    share(quota.trim(), read(root, group, "cpu.cfs_period_us", &mut period)?.trim())
}

/// `None`: "max", -1.
fn share(quota: &str, period: &str) -> Option<u64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    quota.saturating_mul(100).checked_div(period)
}

fn read<'a>(root: &str, group: &str, file: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
    let mut path = [0u8; LONGEST];
    write!(&mut path[..], "{root}{group}/{file}\0").ok()?;
    str::from_utf8(sys::read_file(CStr::from_bytes_until_nul(&path).ok()?, buffer)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs;

    /// Files of a control group's, and what they come to.
    fn of(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("tandem-quota-{}-{name}", std::process::id()));
        for (file, text) in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let at = |path: &str| root.join(path).to_str().unwrap().to_owned();
        let (unified, legacy) = (at("v2"), at("v1"));
        let membership = CString::new(at("membership")).unwrap();
        let found = hundredths(&membership, &[&unified], &[&legacy]);
        fs::remove_dir_all(root).unwrap();
        found
    }

    #[test]
    fn the_lowest_of_the_groups_above_counts() {
        let files = [
            ("membership", "0::/a/b/c\n"),
            ("v2/a/cpu.max", "150000 100000\n"),
            ("v2/a/b/cpu.max", "max 100000\n"),
            ("v2/a/b/c/cpu.max", "800000 100000\n"),
        ];
        assert_eq!(of("above", &files), Some(150));
    }

    #[test]
    fn a_container_that_sees_only_its_own_root_has_its_quota() {
        let files = [("membership", "0::/\n"), ("v2/cpu.max", "50000 100000\n")];
        assert_eq!(of("root", &files), Some(50));
        let files = [
            ("membership", "5:cpu,cpuacct:/docker/0123\n0::/\n"),
            ("v1/cpu.cfs_quota_us", "400000\n"),
            ("v1/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(of("legacy", &files), Some(400));
    }

    #[test]
    fn no_quota_is_none() {
        let files = [
            ("membership", "5:cpu:/\n2:cpuacct:/\n0::/x\n"),
            ("v1/cpu.cfs_quota_us", "-1\n"),
            ("v1/cpu.cfs_period_us", "100000\n"),
            ("v2/x/cpu.max", "max 100000\n"),
        ];
        assert_eq!(of("none", &files), None);
        assert_eq!(of("missing", &[("membership", "0::/gone\n")]), None);
    }
}
