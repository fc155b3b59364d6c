//! Why a connection is on TCP.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $code:literal $name:ident $text:literal,)*) => {
        /// Why a connection is on TCP, or why policyd refused. Codes and texts are stable: programs read them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Reason { $($(#[doc = $doc])* $name = $code,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// As `tandem ss` and its JSON print it.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// It is on the companion.
    0 None "none",
    1 Connecting "connecting",
    2 Listening "listening",
    /// Fewer data calls than `attach = data` waits for.
    3 FewCalls "few-calls",
    /// Asked policyd; the other end has not.
    4 WaitingForPeer "waiting-for-peer",
    /// Asked policyd; the other end did not ask in time, or is no switch.
    5 PeerAbsent "peer-absent",
    6 PolicydAbsent "policyd-absent",
    /// Policyd would not have this process (another version, too many clients, a Hello that is wrong).
    7 PolicydRefused "policyd-refused",
    8 AttachOff "attach-off",
    /// A socket option that no companion can have.
    9 Option "option",
    /// The socket came by exec or SCM_RIGHTS.
    10 Inherited "inherited",
    /// Several processes hold the socket.
    11 Forked "forked",
    12 UrgentData "urgent-data",
    /// In two epoll sets, or twice in one.
    13 RegisteredTwice "registered-twice",
    14 UnsupportedCall "unsupported-call",
    /// The switch's count and the kernel's differ.
    15 CountMismatch "count-mismatch",
    /// An address that isn't this host's, or another network namespace.
    16 NotLocal "not-local",
    17 Transparent "transparent",
    18 SelfConnect "self-connect",
    19 DifferentDevice "different-device",
    20 NotEstablished "not-established",
    /// The socket behind the claim is another one.
    21 CookieMismatch "cookie-mismatch",
    22 Quota "quota",
    23 NoMemory "no-memory",
    24 NoDescriptor "no-descriptor",
    25 NoMapping "no-mapping",
    26 SignalMixture "signal-mixture",
    27 IoUring "io-uring",
    28 Seccomp "seccomp",
    29 FailedBack "failed-back",
    30 Drained "drained",
    31 PeerGone "peer-gone",
    32 Closed "closed",
    33 NoSlot "no-slot",
    34 Debug "debug",
    /// The descriptor that policyd asked for did not come.
    35 NoProof "no-proof",
    /// Addresses of the socket behind the claim differ from the claim.
    36 AddressMismatch "address-mismatch",
    /// The other end could not take the companion.
    37 PeerUnable "peer-unable",
    /// The socket is leaving this process by exec or SCM_RIGHTS.
    38 HandedOver "handed-over",
    /// The other end wrote what no switch writes.
    39 PeerMisbehaved "peer-misbehaved",
    40 UnsupportedSocket "unsupported-socket",
    41 Unsupported "unsupported",
    /// Its epoll set is out of the switch's sight.
    42 EpollUnseen "epoll-unseen",
    /// The companion is there; neither direction has been switched over yet.
    43 Attached "attached",
    /// The other end is at a listed peer, and no device serves this host's address.
    44 NoDevice "no-device",
    /// The other end is at a listed peer, which says that no device serves its address.
    45 PeerNoDevice "peer-no-device",
    /// The other end is at a listed peer, and there is no link to its policyd.
    46 PeerUnreachable "peer-unreachable",
    /// Devices serve both addresses, but this switch has no provider for them.
    47 NoProvider "no-provider",
    /// Devices serve both addresses, each by another provider.
    48 OtherProvider "other-provider",
}

/// Counters in a registry header; codes stay below it.
pub const REASON_SLOTS: usize = 64;

const _: () = {
    let mut at = 0;
    while at < Reason::ALL.len() {
        assert!((Reason::ALL[at] as usize) < REASON_SLOTS);
        at += 1;
    }
};

impl Reason {
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_are_one_to_one() {
        let mut texts: Vec<_> = Reason::ALL.iter().map(|r| r.text()).collect();
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert!(reason.text().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Reason::ALL.len());
        assert_eq!(Reason::from_code(999), None);
    }
}
