//! `tandem drain`: tells switches what is to go back to TCP. Who is told what is here; the switches do it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use tandem_protocol::Message;
use tandem_protocol::message::Drain;
use tandem_protocol::registry::Provider;
use tracing::warn;

use super::{Broker, ClientId};
use crate::kernel;
use crate::registry::Family;

/// A queue keeps so much room for what else is to be said: who lets it fill up is dropped.
const KEPT_ROOM: usize = 64;

/// What is still to be said, and to whom.
#[derive(Default)]
pub struct Drained {
    waiting: VecDeque<(ClientId, Drain)>,
    /// Switches that are told something.
    pub switches: usize,
}

impl Drained {
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }

    fn tell(&mut self, to: ClientId, what: Drain) {
        self.waiting.push_back((to, what));
    }
}

impl Broker {
    /// A process, or the end of that. `sees`: whose it may be.
    pub fn drain_process(&self, pid: u32, undo: bool, sees: Option<u32>) -> Result<Drained, String> {
        let mut drained = Drained::default();
        let members = || self.clients.iter().filter(|(_, client)| client.pid == pid);
        if let Some((_, client)) = members().find(|(_, client)| sees.is_some_and(|uid| uid != client.uid)) {
            let (owner, asker) = (client.uid, sees.unwrap_or_default());
            return Err(format!("process {pid} is user {owner}'s, and user {asker} may not drain it; root may"));
        }
        for (&id, _) in members() {
            drained.tell(id, if undo { Drain::Undo } else { Drain::All });
            drained.switches += 1;
            let partners = self.pairs.partners(id).into_iter().filter(|_| !undo);
            // Its own end of a pair with itself is among all of its own.
            for (pair, partner) in partners.filter(|(_, partner)| *partner != id) {
                drained.tell(partner, Drain::Pair(pair));
                drained.switches += 1;
            }
        }
        match drained.switches {
            0 if !std::path::Path::new(&format!("/proc/{pid}")).exists() => Err(format!("there is no process {pid}")),
            0 => Err(format!(
                "process {pid} does not speak to this policyd: it does not run under Tandem, speaks to another policyd \
                 (--policyd names one), or has moved too few bytes since this one was started. Nothing of it is carried that \
                 this policyd knows (tandem ss)"
            )),
            _ => Ok(drained),
        }
    }

    /// All connections that have this address at either end.
    pub fn drain_connections(&self, address: SocketAddr, families: &[Arc<Family>]) -> Drained {
        let mut drained = Drained::default();
        for family in families {
            let members: Vec<_> =
                self.clients.iter().filter(|(_, client)| client.family_id == family.id).map(|(&id, _)| id).collect();
            let mut any = false;
            family.each_row(|_, index, row| {
                let addresses = row.identity.addresses;
                let named = [addresses.local_address(), addresses.remote_address()].contains(&address);
                let carried = row.provider != Provider::Tcp && row.descriptor.is_none();
                if let (true, true, Ok(slot)) = (named, carried, u32::try_from(index)) {
                    // Which process has it only the family knows.
                    members.iter().for_each(|&id| drained.tell(id, Drain::Slot { slot, cookie: row.identity.cookie }));
                    any = true;
                }
                ControlFlow::Continue(())
            });
            drained.switches += if any { members.len() } else { 0 };
        }
        drained
    }

    /// As much as the queues take now. Who has gone meanwhile needs to be told nothing.
    pub fn tell_drained(&mut self, drained: &mut Drained) {
        let mut later = VecDeque::new();
        while let Some((to, what)) = drained.waiting.pop_front() {
            let Some(client) = self.clients.get(&to) else { continue };
            if client.outbox.room() <= KEPT_ROOM {
                later.push_back((to, what));
            } else {
                self.send(to, Message::Drain(what), Vec::new());
            }
        }
        drained.waiting = later;
    }

    /// Whoever of its threads sleeps looks.
    pub fn ring(&self, id: ClientId) {
        if let Some(client) = self.clients.get(&id)
            && let Err(error) = kernel::ring(&client.wake)
        {
            // It hears of it by its next call.
            warn!(client = id.0, "cannot be woken: {error}");
        }
    }
}
