//! Whether a claim is true, by what the kernel says of the socket behind it.

use std::io;
use std::time::{Duration, Instant};

use tandem_protocol::Reason;
use tandem_protocol::message::Meet;

use super::claims::{Claim, State};
use super::client::Client;
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

/// Looks at the socket itself if it may, else at what the switch has shown. `client` is the claim's.
pub fn prove(claim: &Claim, client: Option<&Client>, own_netns: Option<u64>) -> Proof {
    let Some(client) = client else { return Proof::False(Reason::Closed) };
    match look(client, &claim.meet) {
        Ok(Some(facts)) => judge(claim, facts, own_netns),
        // The number is another descriptor by now.
        Ok(None) => Proof::False(Reason::CookieMismatch),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => Proof::False(Reason::Closed),
        Err(_) => match claim.state {
            State::Shown(at, facts) if Instant::now().duration_since(at) <= SHOWN => judge(claim, facts, own_netns),
            _ => Proof::Ask,
        },
    }
}

/// The claimed socket by a copy of its descriptor, which is closed when this returns and is announced while it is held.
/// `Ok(None)`: no connected TCP socket.
fn look(client: &Client, meet: &Meet) -> io::Result<Option<Facts>> {
    let closing = || io::Error::from_raw_os_error(libc::EBADF);
    let _announced = client.family.examine(meet).ok_or_else(closing)?;
    let pidfd = client.pidfd.as_deref().ok_or(io::ErrorKind::Unsupported)?;
    Ok(kernel::facts(kernel::take_descriptor(pidfd, meet.fd)?))
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
