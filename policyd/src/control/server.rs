//! Answering on the control socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_protocol::Reason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use super::{Answer, Ask, Drain, Draining, Reply, Request, Status, VERSION, Watched};
use crate::channel::peer_process;
use crate::connection::{self, Connections};
use crate::daemon::Shared;
use crate::kernel;
use crate::registry::{self, Sums};

const SILENCE: Duration = Duration::from_secs(30);
const LONGEST_LINE: u64 = 4_096;
/// Processes that hold this policyd, of all users.
const MOST_HOLDS: usize = 16_384;

/// Serves one connection to its end.
pub async fn serve(stream: UnixStream, shared: Rc<Shared>) {
    let Ok(mut asker) = Asker::of(stream) else { return };
    let uid = asker.who.uid;
    let most = shared.most_commands.get();
    let count = *shared.commands.borrow_mut().entry(uid).and_modify(|count| *count += 1).or_insert(1);
    let served = if count <= most {
        asker.answer_all(&shared).await
    } else {
        let text = format!("user {uid} has {most} connections here already (quotas.commands); close some");
        asker.reply(Answer::Error(text)).await
    };
    if let Err(error) = served {
        debug!("control connection: {error}");
    }
    let mut commands = shared.commands.borrow_mut();
    if let Some(count) = commands.get_mut(&uid) {
        *count -= 1;
        if *count == 0 {
            commands.remove(&uid);
        }
    }
}

struct Asker {
    stream: BufReader<UnixStream>,
    who: connection::Asker,
    process: Option<Arc<OwnedFd>>,
}

impl Asker {
    fn of(stream: UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let own = nix::unistd::geteuid().as_raw();
        let uid = credentials.uid();
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let process = peer_process(&stream, pid).map(Arc::new);
        let sees = (uid != 0 && uid != own).then_some(uid);
        Ok(Self { stream: BufReader::new(stream), who: connection::Asker { pid, uid, sees }, process })
    }

    async fn answer_all(&mut self, shared: &Rc<Shared>) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.stream).take(LONGEST_LINE);
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
                Ok(Request { request: Ask::Watch(watched), .. }) => return self.watch(watched, shared).await,
                Ok(request) => self.answer(request.request, shared).await,
            };
            self.reply(answer).await?;
            if !whole {
                return Ok(());
            }
        }
    }

    async fn reply(&mut self, answer: Answer) -> io::Result<()> {
        let mut reply = serde_json::to_vec(&Reply { version: VERSION, answer })?;
        reply.push(b'\n');
        timeout(SILENCE, self.stream.get_mut().write_all(&reply)).await?
    }

    /// Until the client closes or says anything more.
    async fn watch(&mut self, watched: Watched, shared: &Rc<Shared>) -> io::Result<()> {
        let mut events = shared.connections.borrow().watch();
        self.tell_all(watched, shared).await?;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                more = self.stream.fill_buf() => {
                    if more?.is_empty() {
                        return Ok(());
                    }
                    let text = "a connection that watches takes no other question; open another";
                    return self.reply(Answer::Error(text.to_owned())).await;
                }
            };
            match event {
                Ok((uid, status)) => {
                    let seen = self.who.sees.is_none_or(|sees| sees == uid);
                    if seen && watched.id.is_none_or(|id| id == status.id) {
                        self.reply(Answer::Event(status)).await?;
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    self.reply(Answer::Missed(missed)).await?;
                    self.tell_all(watched, shared).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// All that is watched, as it is.
    async fn tell_all(&mut self, watched: Watched, shared: &Rc<Shared>) -> io::Result<()> {
        let mut requests = shared.connections.borrow().requests(self.who);
        requests.retain(|request| watched.id.is_none_or(|id| id == request.id));
        self.reply(Answer::Requests(requests)).await
    }

    async fn answer(&self, ask: Ask, shared: &Rc<Shared>) -> Answer {
        let connections = &shared.connections;
        let answer = match ask {
            Ask::Ss => {
                let families = self.families(shared);
                // Reads /proc and asks the kernel: not in the thread that serves the switches.
                match tokio::task::spawn_blocking(move || registry::list(&families)).await {
                    Ok(rows) => Ok(Answer::Ss(rows)),
                    Err(error) => Err(error.to_string()),
                }
            }
            Ask::Status => Ok(self.status(shared).await),
            Ask::Hold => Ok(self.hold(shared)),
            Ask::Networks => Ok(Answer::Networks(connections.borrow().networks(self.who))),
            Ask::Requests => Ok(Answer::Requests(connections.borrow().requests(self.who))),
            Ask::Open(spec) => Connections::open(shared, self.who, self.process.as_ref(), spec).map(Answer::Opened),
            Ask::Release(of) => connections.borrow_mut().release(self.who, of.id).map(Answer::Released),
            Ask::Prepare(net) => connections.borrow_mut().prepare(self.who, net).map(Answer::Prepared),
            Ask::Explain(of) => connections.borrow().explain(self.who, of.pid).map(Answer::Explanation),
            Ask::Drain(drain) => self.drain(drain, shared).await,
            Ask::Peers => self.peers(shared),
            Ask::Reload => self.reload(shared).await,
            Ask::Watch(_) => Err("watch has a connection of its own".to_owned()),
        };
        answer.unwrap_or_else(Answer::Error)
    }

    /// Answered when everybody has been told, as fast as their queues take it.
    async fn drain(&self, drain: Drain, shared: &Shared) -> Result<Answer, String> {
        let mut drained = match (drain.pid, drain.address, drain.undo) {
            (Some(pid), None, undo) => shared.broker.borrow().drain_process(pid, undo, self.who.sees)?,
            (None, Some(address), false) => {
                let families = self.families(shared);
                shared.broker.borrow().drain_connections(address, &families)
            }
            (None, Some(_), true) => return Err("a drained connection stays on TCP: give a process to undo".to_owned()),
            _ => return Err("give a pid or an address".to_owned()),
        };
        let until = Instant::now() + SILENCE;
        loop {
            shared.broker.borrow_mut().tell_drained(&mut drained);
            if drained.is_over() {
                return Ok(Answer::Draining(Draining { switches: drained.switches }));
            }
            if Instant::now() > until {
                return Err(format!("not all have been told: a process reads nothing for {} s", SILENCE.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn peers(&self, shared: &Shared) -> Result<Answer, String> {
        self.sees_everything("peers")?;
        Ok(Answer::Peers(shared.broker.borrow().peers_status(&shared.peers.borrow())))
    }

    /// Answered when it has been read.
    async fn reload(&self, shared: &Shared) -> Result<Answer, String> {
        self.sees_everything("a reload")?;
        let (sender, read) = oneshot::channel();
        shared.reloads.borrow_mut().push(sender);
        shared.changed.notify_one();
        read.await.map_err(|_| "policyd is leaving".to_owned())?.map(|()| Answer::Reloaded(true))
    }

    fn sees_everything(&self, what: &str) -> Result<(), String> {
        match self.who.sees {
            None => Ok(()),
            Some(uid) => Err(format!("{what}: user {uid} may not; root and policyd's own user may")),
        }
    }

    fn families(&self, shared: &Shared) -> Vec<Arc<registry::Family>> {
        let broker = shared.broker.borrow();
        let seen = |uid: u32| self.who.sees.is_none_or(|sees| sees == uid);
        broker.families.alive().filter(|family| seen(family.uid)).cloned().collect()
    }

    async fn status(&self, shared: &Shared) -> Answer {
        let (census, instance) = {
            let broker = shared.broker.borrow();
            (broker.census(self.who.sees), broker.instance)
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
            far: if self.who.sees.is_none() { census.far } else { 0 },
            far_parked: if self.who.sees.is_none() { census.far_parked } else { 0 },
            instance: format!("{instance:016x}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            socket: shared.socket.display().to_string(),
        })
    }

    fn hold(&self, shared: &Rc<Shared>) -> Answer {
        if shared.holds.get() >= MOST_HOLDS {
            return Answer::Error("too many processes hold this policyd".to_owned());
        }
        // A descriptor of its own: the process may be watched for another reason too.
        let Some(process) = peer_process(self.stream.get_ref(), self.who.pid) else {
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
