//! Two hosts, by `scripts/vm namespaces` or `tests/stand_in/try inside`, each with its policyd, which know each other.

use std::process::Command;
use std::time::Duration;

use crate::artifacts::artifacts;
use crate::host::{self, Host};
use crate::patience::within;
use crate::policyd::Row;
use crate::{Launch, Policyd, Scratch};

/// A guest on a busy host is slow.
pub const LONG: Duration = Duration::from_secs(120);
const PORT: u16 = 7470;

/// The two hosts, and their policyds, which know each other.
pub struct Between {
    pub hosts: [Host; 2],
    pub policyds: [Policyd; 2],
    pub scratch: Scratch,
    /// The policyds' keys.
    _folders: [Scratch; 2],
}

impl Between {
    #[track_caller]
    pub fn start() -> Self {
        let plug_in = artifacts().library.with_file_name("libtandem_rdma.so");
        assert!(plug_in.exists(), "no {}: cargo build --release -p tandem-rdma", plug_in.display());
        let hosts = host::namespaces();
        let scratch = Scratch::new();
        let folders = [0, 1].map(|_| Scratch::new());
        let keys = folders.each_ref().map(new_key);
        let policyds = [0, 1].map(|at: usize| {
            let (own, other) = (&hosts[at].address, &hosts[1 - at].address);
            let config = format!(
                "park_seconds = 120\n[peers]\nlisten = \"{own}:{PORT}\"\nkey = \"{}\"\n[[peer]]\nname = \"other\"\npublic_key = \"{}\"\n\
                 endpoint = \"{other}:{PORT}\"\naddresses = [\"{other}\"]\n",
                folders[at].file("peer.key").display(),
                keys[1 - at],
            );
            let sysfs = hosts[at].stand_in.iter().map(|folder| format!("--sysfs={}", folder.display()));
            Policyd::start_by(hosts[at].namespace.as_ref(), &config, &sysfs.collect::<Vec<_>>()).expect("a policyd")
        });
        let between = Self { hosts, policyds, scratch, _folders: folders };
        between.await_linked();
        between
    }

    /// Until each policyd has a link to the other one, and knows that a device serves its address.
    #[track_caller]
    pub fn await_linked(&self) {
        let linked = within(LONG, Duration::from_millis(200), || self.policyds.iter().all(Policyd::is_linked));
        assert!(linked, "the policyds are not linked");
    }

    /// On the first host or the second, under Tandem.
    pub fn on(&self, at: usize, launch: Launch) -> Launch {
        launch.preload(Some(&self.policyds[at])).in_namespace(self.hosts[at].namespace.as_ref())
    }

    pub fn rows(&self) -> Vec<Row> {
        self.policyds.iter().flat_map(Policyd::rows).collect()
    }

    /// Packets that the devices have sent.
    pub fn sent(&self) -> [u64; 2] {
        self.hosts.each_ref().map(|host| if host.stand_in.is_some() { 0 } else { host.counter("sent_pkts") })
    }

    /// Whether there are devices, whose packets bear witness.
    pub fn has_devices(&self) -> bool {
        self.hosts.iter().all(|host| host.stand_in.is_none())
    }

    pub fn fail_backs(&self) -> u64 {
        self.policyds.iter().map(|policyd| policyd.status().fail_backs).sum()
    }

    pub fn witness(&self) -> String {
        self.policyds.each_ref().map(|policyd| policyd.status().witness()).join("; ")
    }
}

/// Makes a key in a folder; the public one.
#[track_caller]
pub fn new_key(folder: &Scratch) -> String {
    folder.write("policyd.toml", "");
    let mut key = Command::new(&artifacts().command);
    let output = key.args(["peer", "key", "--config"]).arg(folder.file("policyd.toml")).output();
    let output = output.expect("tandem peer key");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
