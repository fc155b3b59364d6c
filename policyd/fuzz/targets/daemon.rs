//! What both targets talk to: policyd's own parts, in this process, without its listening sockets.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use tandem_policyd::broker::Broker;
use tandem_policyd::config::Config;
use tandem_policyd::connection::Connections;
use tandem_policyd::daemon::Shared;
use tandem_policyd::peers::Peers;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;

pub struct Daemon {
    runtime: Runtime,
    pub shared: Rc<Shared>,
}

impl Daemon {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tandem-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let socket = folder.join("policyd.sock");
        let settings = Config::default().settings(socket.clone()).expect("the default settings");
        let shared = Shared {
            broker: RefCell::new(Broker::new(settings.clone())),
            connections: RefCell::new(Connections::new(settings.networking.clone(), requests(&socket))),
            peers: RefCell::new(Peers::new(settings.peers.clone(), settings.sysfs.clone())),
            san: Notify::new(),
            reloads: RefCell::default(),
            changed: Notify::new(),
            holds: Cell::new(0),
            commands: RefCell::default(),
            most_commands: Cell::new(settings.quotas.commands),
            socket,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, shared: Rc::new(shared) }
    }

    /// Until the client is done; what the daemon began for it ends with that.
    pub fn run(&self, talk: impl Future<Output = ()>) {
        let tasks = LocalSet::new();
        let shared = self.shared.clone();
        tasks.block_on(&self.runtime, async move {
            tokio::task::spawn_local(async move {
                loop {
                    shared.changed.notified().await;
                    // As the main loop does it.
                    for asker in shared.reloads.take() {
                        let _ = asker.send(Ok(()));
                    }
                    shared.broker.borrow_mut().expire(std::time::Instant::now());
                }
            });
            talk.await;
        });
    }
}

fn requests(socket: &Path) -> std::path::PathBuf {
    socket.with_extension("requests")
}
