//! Requests, kept over a restart: written whenever they change, read at the start. A process that has ended meanwhile, or
//! whose number another one has, is not taken for it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Connections;
use super::process::{Identity, Process};
use super::request::{Net, Request, Spec, State};

const VERSION: u32 = 1;
/// No more is read back, whatever stands in the file.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    next_request: u64,
    requests: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: u64,
    spec: Spec,
    net: Net,
    owner: Identity,
    uid: u32,
    /// Seconds since 1970.
    expires: Option<u64>,
}

impl Connections {
    pub(super) fn load(&mut self) {
        let file = match read(&self.saved) {
            Ok(Some(file)) => file,
            Ok(None) => return,
            Err(error) => {
                warn!("{}: {error:#}; no request is taken over from before", self.saved.display());
                return;
            }
        };
        self.next_request = file.next_request.max(1);
        let now = Instant::now();
        for kept in file.requests {
            let alive = Process::of(kept.owner.pid).is_some_and(|process| process.identity == kept.owner);
            if !alive || self.policy(&kept.net).is_none() {
                self.unsaved = true;
                continue;
            }
            info!(request = kept.id, pid = kept.owner.pid, "taken over from before");
            self.owners.entry(kept.owner).or_default().push(kept.id);
            let request = Request {
                id: kept.id,
                spec: kept.spec,
                net: kept.net,
                owner: kept.owner,
                uid: kept.uid,
                state: State::WaitingForResource,
                reason: "policyd was started again".to_owned(),
                interface: None,
                expires: kept.expires.map(|at| now + Duration::from_secs(at.saturating_sub(unix_time()))),
            };
            self.requests.insert(kept.id, request);
        }
    }

    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        let now = Instant::now();
        let kept = self.requests.values().map(|request| Kept {
            id: request.id,
            spec: request.spec.clone(),
            net: request.net.clone(),
            owner: request.owner,
            uid: request.uid,
            expires: request.expires.map(|at| unix_time() + at.saturating_duration_since(now).as_secs()),
        });
        let file = File { version: VERSION, next_request: self.next_request, requests: kept.collect() };
        if let Err(error) = write(&self.saved, &file) {
            warn!("cannot write {}: {error:#}; requests would be lost by a restart", self.saved.display());
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<File>> {
    use std::io::Read;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    let file: File = serde_json::from_str(&text)?;
    anyhow::ensure!(file.version == VERSION, "version {} is not known here", file.version);
    Ok(Some(file))
}

/// As a whole or not at all.
fn write(path: &Path, file: &File) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).to_owned();
    let mut out = options.clone().custom_flags(libc::O_NOFOLLOW).open(&new)?;
    out.write_all(&serde_json::to_vec(file)?)?;
    drop(out);
    Ok(std::fs::rename(&new, path)?)
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
