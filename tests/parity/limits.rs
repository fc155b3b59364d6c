//! Descriptor numbers, memory, mappings, and a host that drops its own segments: ours are neither seen nor lost, and nothing
//! fails that would have worked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bytes_and_order::rows;
use tandem_tests::namespace::Namespace;
use tandem_tests::{Carried, Page, Pair, Policyd};

rows! {
    emfile_exactly_where_natively => |pair| {
        pair("descriptors").argument("limit").passes("0,w").carried(Carried::Perhaps)
    };
    close_range_of_everything => |pair| pair("descriptors").argument("close_range").passes("0,w,w");
    close_loop_of_everything => |pair| pair("descriptors").argument("close_loop").passes("0,w,w");
    counting_open_descriptors => |pair| pair("descriptors").argument("count").passes("0,w,w");
    /// Near vm.max_map_count the program's own malloc is the next to fail.
    near_the_limit_of_mappings => |pair| {
        pair("near_limits").argument("maps").argument("40").passes("w").carried(Carried::Perhaps)
    };
}

/// A memory cgroup (v1 or v2) of our own; removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            let cgroup = Self(folder);
            fs::write(cgroup.0.join(limit), bytes.to_string()).ok()?;
            Some(cgroup)
        })
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moving a process into the cgroup");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Past the limit the touch of a ring's page is SIGKILL, not an errno.
#[test]
fn near_the_memory_limit_of_a_cgroup() {
    const TEST: &str = "near_the_memory_limit_of_a_cgroup";
    let Some(cgroup) = Cgroup::new(TEST, 6 << 20) else {
        return println!("{TEST}: NOT RUN: no memory cgroup can be made here (needs root)");
    };
    let confine = |page: &Page, _: Option<&mut Policyd>| {
        cgroup.take_in(page.pid(0));
        cgroup.take_in(page.pid(1));
    };
    let pair = Pair::new(TEST, "near_limits").argument("memory").passes("w,w,w,w,w,w");
    pair.carried(Carried::Perhaps).tamper(&confine).when_both_tell().run();
}

fn where_segments_are_dropped(test: &str, rules: &str) {
    let Some(namespace) = Namespace::new(test) else { return };
    if let Err(e) = namespace.shell(rules) {
        return println!("{test}: NOT RUN: {rules}: {e}");
    }
    Pair::new(test, "dropped").passes("w").inside(&namespace).failing_back(&[40]).limit(60).run();
}

/// TCP_INFO's sent bytes are off by megabytes for good there.
#[test]
fn the_own_queue_dropped_segments_before_the_switch_over() {
    let rules = "ip link set dev lo mtu 1500; tc qdisc add dev lo root tbf rate 1gbit burst 32kb limit 60kb";
    where_segments_are_dropped("the_own_queue_dropped_segments_before_the_switch_over", rules);
}

#[test]
fn the_own_filter_drops_segments_before_the_switch_over() {
    let rules = "nft add table ip t; nft 'add chain ip t o { type filter hook output priority 0; }'
        nft 'add rule ip t o oifname lo numgen random mod 100 < 1 drop'";
    where_segments_are_dropped("the_own_filter_drops_segments_before_the_switch_over", rules);
}
