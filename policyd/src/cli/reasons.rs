//! `tandem explain ADDRESS:PORT`: why a connection is on TCP, and what to do about it, for every reason.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use serde::Serialize;
use tandem_protocol::Reason;

use super::Show;
use super::show::{ask, json, print};
use crate::control::{Answer, Ask};
use crate::registry::SsRow;

#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    end: SsRow,
    why: &'static str,
    remedy: &'static str,
}

/// Every end that has this address, as its own or as its peer's.
pub fn explain(address: SocketAddr, show: &Show) -> Result<()> {
    let Answer::Ss(rows) = ask(show, Ask::Ss)? else { bail!("policyd answered something else") };
    let all: Vec<Explained> = rows.into_iter().filter(|row| has(row, address)).map(explained).collect();
    if all.is_empty() {
        bail!(
            "no switch knows a connection with {address}: neither end runs under Tandem with this policyd (start them by \
             tandem run), the socket came to its program by exec or SCM_RIGHTS, or there is no such connection (ss -tn \
             lists them)"
        );
    }
    if show.json { json(&all) } else { print(&all.iter().map(page).collect::<String>()) }
}

pub fn has(row: &SsRow, address: SocketAddr) -> bool {
    [&row.local, &row.remote].into_iter().any(|shown| shown.parse() == Ok(address))
}

fn explained(end: SsRow) -> Explained {
    let reason = end.reason.as_deref().map(|text| Reason::ALL.iter().find(|reason| reason.text() == text));
    let (why, remedy) = match reason {
        None => ("its bytes go by companion", "none is needed"),
        Some(None) => ("for a reason that this command does not know", "use the command of policyd's own version"),
        Some(Some(&reason)) => words(reason),
    };
    Explained { end, why, remedy }
}

fn page(explained: &Explained) -> String {
    let Explained { end, why, remedy } = explained;
    let by = match &end.reason {
        Some(reason) => format!("TCP ({reason})"),
        None => format!("companion ({})", end.provider),
    };
    let lines = [
        ("connection", format!("{} to {}", end.local, end.remote)),
        ("process", format!("{}/{}", end.pid, end.program)),
        ("carried by", by),
        ("why", (*why).to_owned()),
        ("remedy", (*remedy).to_owned()),
    ];
    lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect::<String>() + "\n"
}

/// Why, and the remedy.
fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::None => ("its bytes go by companion", "none is needed"),
        Reason::Connecting => ("it is being connected", "wait; if it stays so, look at the route and the firewall"),
        Reason::Listening => ("it listens, and carries nothing", "none is needed"),
        Reason::FewCalls => (
            "no second exchange has begun and fewer than eight data calls have moved bytes, or another process holds the socket",
            "wait; --attach connect asks at once; let the forked process close the socket",
        ),
        Reason::WaitingForPeer => (
            "this end has asked policyd, the other end has not",
            "wait; start the other end's program by tandem run, with the same policyd or one of a listed host",
        ),
        Reason::PeerAbsent => (
            "the other end did not ask within park_seconds",
            "start the other end's program by tandem run; if it runs so already, explain its end. The connection stays on \
             TCP, the next one will not",
        ),
        Reason::PolicydAbsent => ("no policyd answered", "start tandem-policyd, or the program by tandem run"),
        Reason::PolicydRefused => (
            "policyd would not have this process",
            "use library and policyd of one version; raise clients in [quotas]; policyd's log says which",
        ),
        Reason::AttachOff => ("the program was started with --attach off", "start it without"),
        Reason::Option => (
            "a socket option is set that a companion cannot honour",
            "configure the program not to set it (TCP_USER_TIMEOUT, TCP_MD5SIG and their like; the switch's log names it)",
        ),
        Reason::Inherited => ("the socket came by exec or SCM_RIGHTS", "let the program accept or connect it itself"),
        Reason::Forked => ("several processes use the socket", "let all but one close it"),
        Reason::UrgentData => ("urgent data was sent", "none: urgent data goes by TCP alone"),
        Reason::RegisteredTwice => ("it is in more than eight epoll sets", "none: it is the program's way"),
        Reason::UnsupportedCall => (
            "it was used by a call that no companion knows (AIO, fdopen, control messages, O_ASYNC)",
            "configure the program to read and write by the usual calls",
        ),
        Reason::CountMismatch => (
            "the switch has counted other bytes than the kernel: something moved bytes past libc",
            "none, if the program makes system calls itself; else report it",
        ),
        Reason::NotLocal => (
            "an address is not this host's, or the ends are in different network namespaces",
            "list the other host by tandem peer add; within one host, run both ends in policyd's namespace",
        ),
        Reason::Transparent => ("a transparent proxy holds it", "none: its addresses are not its own"),
        Reason::SelfConnect => ("it is connected to itself", "none"),
        Reason::DifferentDevice => ("its ends are bound to different devices", "bind both to one, or neither"),
        Reason::NotEstablished => ("an end had closed before the companion was there", "none: it was over too soon"),
        Reason::CookieMismatch => {
            ("the socket was another one by the time policyd looked", "none: it was over too soon")
        }
        Reason::Quota => ("the user's quota is used up", "raise [quotas] in policyd's configuration"),
        Reason::NoMemory => ("there was no memory for it", "give the host or the cgroup more memory"),
        Reason::NoDescriptor => ("the process has no descriptor to spare", "raise its limit: ulimit -n, LimitNOFILE="),
        Reason::NoMapping => ("the process can map no more", "raise vm.max_map_count"),
        Reason::SignalMixture => (
            "the program has signal handlers with and without SA_RESTART, and sockets that block",
            "none: which calls a signal ends is the kernel's to say",
        ),
        Reason::IoUring => ("the process has an io_uring", "configure the program not to use io_uring"),
        Reason::Seccomp => ("the process has installed a seccomp filter", "none, unless the program can do without"),
        Reason::FailedBack => (
            "it went back to TCP: it was handed on, closing, or its provider failed",
            "none for this connection; the switch's log (--log debug=FILE) says what happened",
        ),
        Reason::Drained => ("it, or its process, was drained", "tandem drain --undo PID, then connect anew"),
        Reason::PeerGone => ("the other end's process is gone", "none"),
        Reason::Closed => ("it was closed before it was carried", "none"),
        Reason::NoSlot => ("the program has more connections than the switch has room for", "run several processes"),
        Reason::Debug => ("TANDEM_DEBUG says so", "start the program without TANDEM_DEBUG"),
        Reason::NoProof => (
            "policyd may not look at the socket, and the switch did not show it in time",
            "give policyd CAP_SYS_PTRACE, as its systemd unit does",
        ),
        Reason::AddressMismatch => ("the socket has other addresses than were claimed", "none: it was over too soon"),
        Reason::PeerUnable => {
            ("the other end could not take the companion", "explain the other end: it names the cause")
        }
        Reason::HandedOver => (
            "the program gives the socket to another program (exec, SCM_RIGHTS)",
            "none: the other program may not know Tandem",
        ),
        Reason::PeerMisbehaved => {
            ("the other end wrote what no switch writes", "use libraries of one version; else report it")
        }
        Reason::UnsupportedSocket => ("it is no plain TCP socket", "none"),
        Reason::Unsupported => ("this kernel lacks something", "tandem check names it"),
        Reason::EpollUnseen => (
            "its epoll set is in another one, used by parent and child both, or where the switch cannot see it",
            "none: it is the program's way",
        ),
        Reason::Attached => (
            "the companion is there, and neither direction has been switched over yet",
            "wait for more traffic; a forked process that holds the socket too keeps it so",
        ),
        Reason::NoDevice => ("no RDMA device serves this host's address", "tandem check says what is missing"),
        Reason::PeerNoDevice => ("no RDMA device serves the other host's address", "run tandem check there"),
        Reason::PeerUnreachable => {
            ("there is no link to the other host's policyd", "tandem peer list shows the last error")
        }
        Reason::NoProvider => (
            "the library of the provider that serves this host's address cannot be loaded",
            "tandem check says why; for RDMA cargo build --release -p tandem-rdma, and put libtandem_rdma.so beside libtandem.so",
        ),
        Reason::OtherProvider => (
            "the two ends' addresses are served by different providers",
            "give both addresses to one provider: compare tandem check and providers.d on both hosts",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(local: &str, remote: &str, reason: Option<&str>) -> SsRow {
        SsRow {
            pid: 7,
            program: "redis-server".to_owned(),
            local: local.to_owned(),
            remote: remote.to_owned(),
            provider: if reason.is_some() { "tcp" } else { "local" }.to_owned(),
            reason: reason.map(str::to_owned),
            native: None,
            tx_tcp: 0,
            rx_tcp: 0,
            tx_companion: 0,
            rx_companion: 0,
        }
    }

    #[test]
    fn both_ends_of_an_address_are_found() {
        let address = "127.0.0.1:80".parse().unwrap();
        assert!(has(&row("127.0.0.1:80", "127.0.0.1:4000", None), address));
        assert!(has(&row("127.0.0.1:4000", "127.0.0.1:80", None), address));
        assert!(!has(&row("127.0.0.1:8080", "?", None), address));
    }

    #[test]
    fn every_reason_has_words_of_its_own() {
        for reason in Reason::ALL {
            let (why, remedy) = words(*reason);
            assert!(!why.is_empty() && !remedy.is_empty(), "{reason}");
        }
        let page = page(&explained(row("127.0.0.1:80", "127.0.0.1:4000", Some("attach-off"))));
        assert!(
            page.contains("TCP (attach-off)") && page.contains("--attach off") && page.contains("start it without")
        );
        assert!(self::page(&explained(row("127.0.0.1:80", "127.0.0.1:4000", None))).contains("companion (local)"));
    }
}
