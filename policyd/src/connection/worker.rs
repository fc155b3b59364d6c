//! The task that looks at the network, makes what is planned so, and tells whom it concerns.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tandem_protocol::Message;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::Pair;
use super::compile::{self, Task};
use super::destroy::destroy;
use super::netlink::{Kernel, listen};
use super::request::State;
use super::settings::Autobind;
use super::steering::Steering;
use super::view::View;
use crate::daemon::Shared;

const AGAIN: Duration = Duration::from_millis(200);

/// Looks at the network a first time, so that whoever asks is told how things are; returns what goes on looking, for as
/// long as policyd runs.
pub async fn start(shared: Rc<Shared>) -> impl Future<Output = ()> {
    let mut worker = Worker { shared, kernel: None, steering: Steering::new(), stale: true };
    worker.refresh(false).await;
    worker.run()
}

/// On the way out: what we made in the kernel goes with us.
pub async fn clean(shared: &Shared) {
    let (settings, steers) = {
        let mut connections = shared.connections.borrow_mut();
        // Nobody may bind to an address whose rule goes in a moment.
        connections.withdraw();
        (connections.settings.autobind.clone(), connections.steers)
    };
    if steers && let Ok(kernel) = Kernel::connect() {
        Steering::new().remove(&kernel, &settings, steers).await;
    }
}

struct Worker {
    shared: Rc<Shared>,
    kernel: Option<Kernel>,
    steering: Steering,
    /// The network must be looked at whatever has happened.
    stale: bool,
}

impl Worker {
    async fn run(mut self) {
        let changed = Rc::new(Notify::new());
        tokio::task::spawn_local(listen(changed.clone()));
        let work = self.shared.connections.borrow().work.clone();
        loop {
            let deadline = self.shared.connections.borrow().next_deadline();
            let network = tokio::select! {
                () = changed.notified() => true,
                () = work.notified() => false,
                () = until(deadline) => false,
            };
            self.refresh(network).await;
        }
    }

    async fn refresh(&mut self, network: bool) {
        if let Err(error) = self.try_refresh(network).await {
            error!("{error:#}; trying again");
            self.kernel = None;
            tokio::time::sleep(AGAIN).await;
            self.stale = true;
            self.shared.connections.borrow().work.notify_one();
        }
    }

    async fn try_refresh(&mut self, network: bool) -> anyhow::Result<()> {
        let kernel = match &self.kernel {
            Some(kernel) => kernel.clone(),
            None => self.kernel.insert(Kernel::connect()?).clone(),
        };
        if network || self.stale {
            let view = kernel.view().await?;
            let mut connections = self.shared.connections.borrow_mut();
            connections.view = Rc::new(view);
            connections.view_number += 1;
            self.stale = false;
        }
        let (view, number, settings, steers, needed, wanted) = {
            let mut connections = self.shared.connections.borrow_mut();
            connections.settle_requests(Instant::now());
            connections.settle_members();
            let needed = connections.needed();
            let wanted = connections.wanted_steering(&needed);
            let settings = connections.settings.autobind.clone();
            let (view, number) = (connections.view.clone(), connections.view_number);
            (view, number, settings, connections.steers, needed, wanted)
        };
        let steered = self.steering.reconcile(&kernel, &view, &settings, steers, &wanted).await;
        self.shared.connections.borrow_mut().steered = steered;
        self.compile(&kernel, &view, number, &needed, &settings).await;
        self.tell();
        Ok(())
    }

    /// Compiles what is needed and not known, or known from before the network changed.
    /// Only what rules have been made for in this round: what has been asked for since has its turn in the next.
    async fn compile(&self, kernel: &Kernel, view: &View, number: u64, needed: &BTreeSet<Pair>, settings: &Autobind) {
        for pair in needed {
            let (destinations, steered) = {
                let connections = self.shared.connections.borrow();
                if connections.compiled.get(pair).is_some_and(|(known, _)| *known == number) {
                    continue;
                }
                let Some(policy) = connections.policy(&pair.net) else { continue };
                (policy.destinations, connections.steered.contains(&pair.interface))
            };
            let (interface, user, destinations) = (pair.interface, pair.user, &destinations[..]);
            let task = Task { kernel, view, interface, destinations, user, steered, settings };
            let compiled = compile::compile(&task).await;
            debug!(?pair, v4 = compiled.v4.len(), v6 = compiled.v6.len(), by_source = compiled.by_source, "compiled");
            let mut connections = self.shared.connections.borrow_mut();
            if compiled.sources().next().is_some() {
                connections.last.insert((pair.net.clone(), user), (interface, compiled.clone()));
            }
            connections.compiled.insert(pair.clone(), (number, compiled));
        }
        self.shared.connections.borrow_mut().compiled.retain(|pair, _| needed.contains(pair));
    }

    /// Writes tables and cells, answers those who wait, and tells requests that they are connected.
    fn tell(&self) {
        let answers = {
            let mut connections = self.shared.connections.borrow_mut();
            connections.rewrite();
            let all: Vec<_> = connections.members.keys().copied().collect();
            let mut answers = Vec::new();
            for client in all {
                connections.show(client);
                answers.extend(connections.answer(client).map(|place| (client, place)));
            }
            connections.connected();
            connections.save();
            answers
        };
        let doomed = std::mem::take(&mut self.shared.connections.borrow_mut().doomed);
        if !doomed.is_empty() {
            // It reads /proc and waits for the kernel.
            tokio::task::spawn_blocking(move || match destroy(&doomed) {
                Ok(ended) => info!("{ended} connections were ended: their interface has gone"),
                Err(error) => warn!("connections whose interface has gone are kept: {error}"),
            });
        }
        let mut broker = self.shared.broker.borrow_mut();
        for (client, place) in answers {
            broker.post(client, Message::Assignment { cell: place.cell }, vec![place.arena]);
        }
    }
}

impl super::Connections {
    /// Requests whose interface is prepared are connected.
    fn connected(&mut self) {
        let ready: Vec<(u64, u32)> = self
            .requests
            .values()
            .filter(|request| request.state == State::Connecting)
            .filter_map(|request| {
                let pair = self.pair_of(request)?;
                self.compiled.contains_key(&pair).then_some((request.id, pair.interface))
            })
            .collect();
        for (id, interface) in ready {
            let name = self.interface_name(interface);
            if self.steers && !self.steered.contains(&interface) {
                warn!("{name} has no rules of ours: sockets are bound to the device");
            }
            self.set_state(id, State::Connected, &format!("by {name}"));
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
