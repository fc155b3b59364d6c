//! Answering on the control socket.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tandem_protocol::Reason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::debug;

use super::{Answer, Ask, Reply, Request, Status, VERSION};
use crate::channel::peer_process;
use crate::daemon::Shared;
use crate::kernel;
use crate::registry::{self, Sums};

const SILENCE: Duration = Duration::from_secs(30);
const LONGEST_LINE: u64 = 4_096;
/// Processes that hold this policyd, of all users.
const MOST_HOLDS: usize = 16_384;

/// Serves one connection to its end.
pub async fn serve(stream: UnixStream, shared: Rc<Shared>) {
    if let Err(error) = answer_all(stream, &shared).await {
        debug!("control connection: {error}");
    }
}

async fn answer_all(stream: UnixStream, shared: &Rc<Shared>) -> io::Result<()> {
    let mut asker = Asker::of(stream)?;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut asker.stream).take(LONGEST_LINE);
        let length = timeout(SILENCE, limited.read_until(b'\n', &mut line)).await??;
        if length == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let answer = match serde_json::from_slice::<Request>(&line) {
            _ if !whole => Answer::Error("a line of more than 4096 bytes".to_owned()),
            Err(error) => Answer::Error(error.to_string()),
            Ok(request) if request.version != VERSION => {
                Answer::Error(format!("version {} is not spoken here, {VERSION} is", request.version))
            }
            Ok(request) => asker.answer(request.request, shared).await,
        };
        let mut reply = serde_json::to_vec(&Reply { version: VERSION, answer })?;
        reply.push(b'\n');
        timeout(SILENCE, asker.stream.get_mut().write_all(&reply)).await??;
        if !whole {
            return Ok(());
        }
    }
}

struct Asker {
    stream: BufReader<UnixStream>,
    pid: u32,
    /// Whose rows it may see; `None`: everybody's.
    sees: Option<u32>,
}

impl Asker {
    fn of(stream: UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let own = nix::unistd::geteuid().as_raw();
        let sees = (credentials.uid() != 0 && credentials.uid() != own).then_some(credentials.uid());
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        Ok(Self { stream: BufReader::new(stream), pid, sees })
    }

    async fn answer(&self, ask: Ask, shared: &Rc<Shared>) -> Answer {
        match ask {
            Ask::Ss => {
                let families = self.families(shared);
                // Reads /proc and asks the kernel: not in the thread that serves the switches.
                match tokio::task::spawn_blocking(move || registry::list(&families)).await {
                    Ok(rows) => Answer::Ss(rows),
                    Err(error) => Answer::Error(error.to_string()),
                }
            }
            Ask::Status => self.status(shared).await,
            Ask::Hold => self.hold(shared),
        }
    }

    fn families(&self, shared: &Shared) -> Vec<Arc<registry::Family>> {
        let broker = shared.broker.borrow();
        let seen = |uid: u32| self.sees.is_none_or(|sees| sees == uid);
        broker.families.alive().filter(|family| seen(family.uid)).cloned().collect()
    }

    async fn status(&self, shared: &Shared) -> Answer {
        let (census, instance) = {
            let broker = shared.broker.borrow();
            (broker.census(self.sees), broker.instance)
        };
        let families = self.families(shared);
        let mut sums = census.retained;
        let alive = tokio::task::spawn_blocking(move || {
            let mut all = Sums::default();
            families.iter().for_each(|family| all.add(&family.sums()));
            all
        });
        match alive.await {
            Ok(alive) => sums.add(&alive),
            Err(error) => return Answer::Error(error.to_string()),
        }
        Answer::Status(Status {
            connections: sums.connections,
            carried: sums.carried,
            tx_companion: sums.tx_companion,
            rx_companion: sums.rx_companion,
            fail_backs: sums.fail_backs,
            reasons: reasons(&sums),
            clients: census.clients,
            pairs: census.pairs,
            parked: census.parked,
            instance: format!("{instance:016x}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            socket: shared.socket.display().to_string(),
        })
    }

    fn hold(&self, shared: &Rc<Shared>) -> Answer {
        if shared.holds.get() >= MOST_HOLDS {
            return Answer::Error("too many processes hold this policyd".to_owned());
        }
        let Some(process) = peer_process(self.stream.get_ref(), self.pid) else {
            return Answer::Error("this kernel does not tell who asks".to_owned());
        };
        let shared = shared.clone();
        shared.holds.set(shared.holds.get() + 1);
        tokio::task::spawn_local(async move {
            kernel::death(Arc::new(process)).await;
            shared.holds.set(shared.holds.get() - 1);
            shared.changed.notify_one();
        });
        Answer::Held(true)
    }
}

fn reasons(sums: &Sums) -> BTreeMap<String, u64> {
    let counts = sums.reasons.iter().zip(0u16..).filter(|(count, _)| **count > 0);
    counts.filter_map(|(&count, code)| Some((Reason::from_code(code)?.text().to_owned(), count))).collect()
}
