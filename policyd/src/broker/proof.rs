//! Whether a claim is true, by what the kernel says of the socket behind it.

use std::time::{Duration, Instant};

use tandem_protocol::Reason;

use super::claims::{Claim, State};
use crate::kernel::{self, Facts};

/// How long a shown socket counts as proven: its connection may end and the same addresses come again. (Both switches
/// look once more themselves before they use a companion.)
const SHOWN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Proof {
    True(Facts),
    False(Reason),
    /// policyd may not take the descriptor itself: the switch must be asked.
    Ask,
}

/// Looks at the socket itself if it may, else at what the switch has shown.
pub fn prove(claim: &Claim, pidfd: Option<&std::os::fd::OwnedFd>, own_netns: Option<u64>) -> Proof {
    match pidfd.map(|pidfd| kernel::take_descriptor(pidfd, claim.meet.fd)) {
        Some(Ok(socket)) => match kernel::facts(socket) {
            Some(facts) => judge(claim, facts, own_netns),
            // The number is another descriptor by now.
            None => Proof::False(Reason::CookieMismatch),
        },
        Some(Err(error)) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {
            Proof::False(Reason::Closed)
        }
        _ => match claim.state {
            State::Shown(at, facts) if Instant::now().duration_since(at) <= SHOWN => judge(claim, facts, own_netns),
            _ => Proof::Ask,
        },
    }
}

/// Every word of the claim against the kernel's.
pub fn judge(claim: &Claim, facts: Facts, own_netns: Option<u64>) -> Proof {
    let reason = if facts.cookie != claim.meet.cookie {
        Reason::CookieMismatch
    } else if Some(facts.netns_cookie) != own_netns {
        Reason::NotLocal
    } else if facts.transparent {
        Reason::Transparent
    } else if facts.addresses != claim.key {
        Reason::AddressMismatch
    } else if !facts.established {
        Reason::NotEstablished
    } else {
        return Proof::True(facts);
    };
    Proof::False(reason)
}
