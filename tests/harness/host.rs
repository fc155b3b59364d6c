//! The host, or the two, that `scripts/vm` has made for this very test: what it says in the environment, and the devices' own
//! counters as witnesses.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::patience::within;

pub struct Host {
    pub address: String,
    pub address6: String,
    /// The RDMA device that serves the address.
    pub device: String,
    /// Where its programs run; `None`: here.
    pub namespace: Option<Namespace>,
    /// What policyd is to take for sysfs, where the provider is the stand-in (`tests/stand_in/try inside`): there is no device then.
    pub stand_in: Option<PathBuf>,
}

/// `scripts/vm one`.
#[track_caller]
pub fn one() -> Host {
    made_by("one");
    Host {
        address: said("ADDRESS"),
        address6: said("ADDRESS6"),
        device: said("DEVICE"),
        namespace: None,
        stand_in: None,
    }
}

/// `scripts/vm namespaces --once`, or the stand-in's two hosts.
#[track_caller]
pub fn namespaces() -> [Host; 2] {
    made_by("namespaces");
    let (names, devices) = (said("HOSTS"), said("DEVICES"));
    let of = |list: &str, at| list.split(' ').nth(at).expect("two names").to_owned();
    let host = |at, address, address6| Host {
        address: said(address),
        address6: said(address6),
        device: of(&devices, at),
        namespace: Some(Namespace::of_others(of(&names, at))),
        stand_in: env::var("TANDEM_VM_STAND_IN").ok().map(|folders| of(&folders, at).into()),
    };
    [host(0, "ADDRESS", "ADDRESS6"), host(1, "PEER", "PEER6")]
}

/// The other one of two guests, for a test that runs in both: they meet by files in a folder that both see.
pub struct Peer {
    pub address: String,
    /// Whether this guest, not the other, is to be the server.
    pub server: bool,
    shared: PathBuf,
}

/// `scripts/vm guests`.
#[track_caller]
pub fn guest() -> (Host, Peer) {
    made_by("guests");
    let host = Host {
        address: said("ADDRESS"),
        address6: said("ADDRESS6"),
        device: said("DEVICE"),
        namespace: None,
        stand_in: None,
    };
    (host, Peer { address: said("PEER"), server: said("HOST") == "2", shared: said("SHARED").into() })
}

impl Peer {
    #[track_caller]
    pub fn tell(&self, what: &str) {
        fs::write(self.shared.join(what), "").expect("writing into the shared folder");
    }

    /// Both guests have come so far, each with success: the second one's own summary may never be seen.
    #[track_caller]
    pub fn both_passed(&self, what: &str, limit: Duration) {
        self.give(&format!("passed.{what}"), "");
        self.given(&format!("passed.{what}"), limit);
    }

    /// A word for the other guest, by a name.
    #[track_caller]
    pub fn give(&self, name: &str, word: &str) {
        let place = self.shared.join(format!("{name}.{}", u8::from(self.server)));
        let fresh = self.shared.join(format!("{name}.{}.new", u8::from(self.server)));
        fs::write(&fresh, word).and_then(|()| fs::rename(&fresh, &place)).expect("writing into the shared folder");
    }

    #[track_caller]
    pub fn given(&self, name: &str, limit: Duration) -> String {
        let place = self.shared.join(format!("{name}.{}", u8::from(!self.server)));
        assert!(within(limit, Duration::from_millis(50), || place.exists()), "the other guest has given no {name:?}");
        fs::read_to_string(place).expect("reading from the shared folder")
    }

    #[track_caller]
    pub fn await_told(&self, what: &str, limit: Duration) {
        let told = within(limit, Duration::from_millis(50), || self.shared.join(what).exists());
        assert!(told, "the other guest did not tell {what:?}");
    }
}

/// Whether `scripts/vm` has started this, in whatever way.
pub fn inside() -> bool {
    env::var_os("TANDEM_VM_MODE").is_some() && env::var_os("TANDEM_VM_STAND_IN").is_none()
}

#[track_caller]
fn made_by(mode: &str) {
    let here = env::var("TANDEM_VM_MODE").unwrap_or_default();
    assert_eq!(
        here, mode,
        "this test runs by scripts/vm {mode} -- ...; `cargo test -p tandem-tests --test guests` does that"
    );
}

#[track_caller]
fn said(name: &str) -> String {
    env::var(format!("TANDEM_VM_{name}")).unwrap_or_else(|_| panic!("scripts/vm has set no TANDEM_VM_{name}"))
}

impl Host {
    /// One of the device's counters, such as `sent_pkts`.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let path = format!("/sys/class/infiniband/{}/ports/1/hw_counters/{name}", self.device);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        text.trim().parse().unwrap_or_else(|e| panic!("{path}: {text:?}: {e}"))
    }
}
