//! The rows of `tandem ss`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tandem_protocol::registry::{Provider, Snapshot};
use tandem_protocol::{ProviderName, Reason};

use super::Family;
use super::kernel_bytes::{self, Kernel};
use super::sockets::Sockets;

/// No answer has more rows: a hostile family could otherwise make policyd's memory its own.
pub const MOST_ROWS: usize = 200_000;

/// One connection end that a switch knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsRow {
    pub pid: u32,
    pub program: String,
    /// `addr:port` or `[v6]:port`; `?` where that could not be found out.
    pub local: String,
    pub remote: String,
    /// `tcp`, `local`, or a plug-in's name: `verbs` is the one for RDMA.
    pub provider: String,
    /// Why it is on TCP; null otherwise.
    pub reason: Option<String>,
    pub tx_tcp: u64,
    pub rx_tcp: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
    /// Both ends of the companion as its provider names them (device, GID, queue pair); null where that is nothing but the above.
    #[serde(default)]
    pub native: Option<String>,
}

/// Reads /proc and asks the kernel: to be called where that may take its time.
pub struct Listing {
    kernel: Option<Kernel>,
    sockets: Sockets,
    programs: HashMap<u32, String>,
}

pub fn list(families: &[Arc<Family>]) -> Vec<SsRow> {
    let mut listing = Listing { kernel: Kernel::new().ok(), sockets: Sockets::default(), programs: HashMap::new() };
    let mut rows: Vec<SsRow> = Vec::new();
    for family in families {
        family.each_row(|registry, index, row| {
            rows.extend(listing.row(family, &row).map(|shown| match row.provider {
                Provider::PlugIn => by_plug_in(shown, &registry.native(index)),
                _ => shown,
            }));
            if rows.len() < MOST_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    rows.sort_by(|a, b| (a.pid, &a.local, &a.remote).cmp(&(b.pid, &b.local, &b.remote)));
    rows
}

/// A switch writes the name, and is believed as far as it can be one.
fn by_plug_in(row: SsRow, text: &str) -> SsRow {
    let (name, native) = text.split_once(' ').unwrap_or((text, ""));
    let provider = ProviderName::new(name).map_or_else(|| "?".to_owned(), |name| name.to_string());
    SsRow { provider, native: Some(native.to_owned()), ..row }
}

impl Listing {
    /// `None`: a dead process left the row behind, and its socket is gone.
    fn row(&mut self, family: &Family, row: &Snapshot) -> Option<SsRow> {
        let pid = row.identity.pid;
        let program = self.program(family, pid);
        let (mut tx_tcp, mut rx_tcp) = (row.tx_tcp, row.rx_tcp);
        let mut identity = row.identity;
        let mut known = true;
        if let Some(fd) = row.descriptor {
            // Whose process is gone, nobody can be asked about.
            program.as_ref()?;
            identity.cookie = kernel_bytes::ANY_COOKIE;
            match self.sockets.of(pid, fd) {
                Some(addresses) => identity.addresses = addresses,
                None => known = false,
            }
        }
        let bypassed = row.provider == Provider::Tcp && row.settled;
        if known && (bypassed || program.is_none()) {
            match self.kernel.as_ref().map(|kernel| kernel.bytes(&identity)) {
                Some(Ok(Some(bytes))) if bypassed => (tx_tcp, rx_tcp) = (bytes.tx, bytes.rx),
                Some(Ok(None)) if program.is_none() => return None,
                _ => {}
            }
        }
        let addresses = identity.addresses;
        let shown = |address: SocketAddr| if known { address.to_string() } else { "?".to_owned() };
        Some(SsRow {
            pid,
            program: program.unwrap_or_else(|| "?".to_owned()),
            local: shown(addresses.local_address()),
            remote: shown(addresses.remote_address()),
            provider: match row.provider {
                Provider::Tcp => "tcp",
                Provider::Local => "local",
                Provider::PlugIn => "?",
            }
            .to_owned(),
            reason: (row.provider == Provider::Tcp).then(|| row.reason.map_or("unknown", Reason::text).to_owned()),
            tx_tcp,
            rx_tcp,
            tx_companion: row.tx_companion,
            rx_companion: row.rx_companion,
            native: None,
        })
    }

    /// The name of a process, if it is one of the family's: a row may name any pid it likes.
    fn program(&mut self, family: &Family, pid: u32) -> Option<String> {
        if pid == 0 {
            return None;
        }
        let folder = format!("/proc/{pid}");
        let theirs = family.has_pid(pid) || std::fs::metadata(&folder).is_ok_and(|status| status.uid() == family.uid);
        if !theirs {
            return None;
        }
        if let Some(known) = self.programs.get(&pid) {
            return Some(known.clone());
        }
        let name = std::fs::read(format!("{folder}/comm")).ok()?;
        let name = String::from_utf8_lossy(&name).trim_end_matches('\n').replace(char::is_control, "?");
        self.programs.insert(pid, name.clone());
        Some(name)
    }
}
