//! Which ends of a pair are preloaded.

use crate::policyd::Policyd;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Neither,
    ServerOnly,
    ClientOnly,
    Both,
    /// Both, and a direction fails back at random about once in so many data calls.
    BothFailingBack(u32),
}

impl Way {
    pub const FOUR: [Self; 4] = [Self::Neither, Self::ServerOnly, Self::ClientOnly, Self::Both];

    pub fn four_and_failing_back(calls: u32) -> [Self; 5] {
        let [neither, server, client, both] = Self::FOUR;
        [neither, server, client, both, Self::BothFailingBack(calls)]
    }

    pub fn server(self) -> bool {
        !matches!(self, Self::Neither | Self::ClientOnly)
    }

    pub fn client(self) -> bool {
        !matches!(self, Self::Neither | Self::ServerOnly)
    }

    pub fn both(self) -> bool {
        self.server() && self.client()
    }

    pub fn debug(self) -> Option<String> {
        match self {
            Self::BothFailingBack(calls) => Some(format!("failback={calls},seed={}", seed())),
            _ => None,
        }
    }

    /// `policyd` where an end of this way is preloaded.
    pub fn for_server(self, policyd: &Option<Policyd>) -> Option<&Policyd> {
        policyd.as_ref().filter(|_| self.server())
    }

    pub fn for_client(self, policyd: &Option<Policyd>) -> Option<&Policyd> {
        policyd.as_ref().filter(|_| self.client())
    }
}

/// `TANDEM_TESTS_SEED`, else a fixed one: a failing run can be repeated.
pub fn seed() -> u64 {
    std::env::var("TANDEM_TESTS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_521)
}
