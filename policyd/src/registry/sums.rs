//! Totals added up. Saturating: a family's numbers are whatever it wrote.

use std::sync::atomic::Ordering;

use tandem_protocol::reason::REASON_SLOTS;
use tandem_protocol::registry::{Registry, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    pub connections: u64,
    pub carried: u64,
    pub tx_companion: u64,
    pub rx_companion: u64,
    pub fail_backs: u64,
    pub reasons: [u64; REASON_SLOTS],
}

impl Default for Sums {
    fn default() -> Self {
        Self { connections: 0, carried: 0, tx_companion: 0, rx_companion: 0, fail_backs: 0, reasons: [0; REASON_SLOTS] }
    }
}

impl Sums {
    pub fn of_header(registry: &Registry) -> Self {
        let totals = &registry.header.totals;
        let mut sums = Self {
            connections: totals.connections.load(Ordering::Relaxed),
            carried: totals.carried.load(Ordering::Relaxed),
            tx_companion: totals.tx_companion.load(Ordering::Relaxed),
            rx_companion: totals.rx_companion.load(Ordering::Relaxed),
            fail_backs: totals.fail_backs.load(Ordering::Relaxed),
            reasons: [0; REASON_SLOTS],
        };
        for (sum, counter) in sums.reasons.iter_mut().zip(&totals.reasons) {
            *sum = counter.load(Ordering::Relaxed);
        }
        sums
    }

    /// A connection that is still there.
    pub fn add_row(&mut self, row: &Snapshot) {
        self.connections = self.connections.saturating_add(1);
        self.carried = self.carried.saturating_add(u64::from(row.carried()));
        self.tx_companion = self.tx_companion.saturating_add(row.tx_companion);
        self.rx_companion = self.rx_companion.saturating_add(row.rx_companion);
        if let Some(sum) = row.counted_reason().and_then(|r| self.reasons.get_mut(usize::from(r.code()))) {
            *sum = sum.saturating_add(1);
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, u64::saturating_sub);
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        self.connections = with(self.connections, other.connections);
        self.carried = with(self.carried, other.carried);
        self.tx_companion = with(self.tx_companion, other.tx_companion);
        self.rx_companion = with(self.rx_companion, other.rx_companion);
        self.fail_backs = with(self.fail_backs, other.fail_backs);
        for (mine, theirs) in self.reasons.iter_mut().zip(&other.reasons) {
            *mine = with(*mine, *theirs);
        }
    }
}
