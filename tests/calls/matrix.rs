//! Cases that are the same question asked of every call: generated, so that no call is forgotten.

use crate::schedule::Case;

/// A way to receive: how it is written with so many bytes and flags; `None` where it takes no such flag.
struct Receive {
    name: &'static str,
    line: fn(bytes: u32, flags: &str) -> Option<String>,
}

fn no_flags(line: String, flags: &str) -> Option<String> {
    (flags == "0").then_some(line)
}

const RECEIVES: [Receive; 8] = [
    Receive { name: "read", line: |n, flags| no_flags(format!("read {n}"), flags) },
    Receive { name: "readv", line: |n, flags| no_flags(format!("readv {n} 4"), flags) },
    Receive { name: "preadv2", line: |n, flags| no_flags(format!("preadv2 {n} 0"), flags) },
    Receive { name: "recv", line: |n, flags| Some(format!("recv {n} {flags}")) },
    Receive { name: "recvfrom", line: |n, flags| Some(format!("recvfrom {n} {flags}")) },
    Receive { name: "recvmsg", line: |n, flags| Some(format!("recvmsg {n} 4 {flags}")) },
    Receive { name: "recvmmsg", line: |n, flags| Some(format!("recvmmsg {n} 2 WAITFORONE|{flags}")) },
    Receive { name: "splice", line: |n, flags| no_flags(format!("splice_in {n}"), flags) },
];

/// What a receiver meets: calls before it, how it receives, calls after it.
struct Situation {
    name: &'static str,
    before: &'static str,
    bytes: u32,
    flags: &'static str,
    after: &'static str,
}

const fn meets(
    name: &'static str,
    before: &'static str,
    bytes: u32,
    flags: &'static str,
    after: &'static str,
) -> Situation {
    Situation { name, before, bytes, flags, after }
}

const RECEIVERS_MEET: [Situation; 24] = [
    meets("takes what there is", "a send 100", 500, "0", "b fionread"),
    meets("takes no more than it asks for", "a send 1000", 300, "0", "b fionread;b recv 5000"),
    meets("takes several messages at once", "a send 10;a write 20;a sendmsg 30 3", 500, "0", "b fionread"),
    meets("finds nothing on a non-blocking socket", "b nonblock 1", 10, "0", "b poll IN|OUT"),
    meets("does not wait when told so", "b fionread", 10, "DONTWAIT", "a send 5;b recv 10"),
    meets("peeks", "a send 100", 60, "PEEK", "b fionread;b recv 500"),
    meets("peeks twice", "a send 100", 60, "PEEK", "b recv 30 PEEK;b recv 10;b recv 30 PEEK;b recv 500"),
    meets("discards by MSG_TRUNC", "a send 100", 60, "TRUNC", "b recv 500"),
    meets("peeks and discards nothing", "a send 100", 60, "PEEK|TRUNC", "b recv 500"),
    meets("waits for all, which is there", "a send 100;a send 100", 150, "WAITALL", "b recv 500"),
    meets("waits for all, which ends short", "a send 100;a shutdown w", 150, "WAITALL", "b recv 500"),
    meets("asks for nothing of something", "a send 10", 0, "0", "b recv 500"),
    meets("sees the end", "a shutdown w", 10, "0", "b recv 10;b poll IN|OUT|RDHUP|HUP"),
    meets("gets the rest, then the end", "a send 50;a shutdown w", 100, "0", "b recv 10;b recv 10"),
    meets(
        "sees the end after the peer has closed",
        "a send 50;a close",
        100,
        "0",
        "b recv 10;b get ERROR;b poll IN|OUT|RDHUP",
    ),
    meets("is told of a reset", "b send 10;a close", 100, "0", "b recv 10;b recv 10;b get ERROR"),
    meets(
        "is told of a reset before what came",
        "a send 30;b send 10;a close",
        100,
        "0",
        "b recv 10;b recv 10;b send 1",
    ),
    meets(
        "is told of a lingering peer's reset",
        "a set LINGER 1 0;a close",
        100,
        "0",
        "b recv 10;b get ERROR;b send 1",
    ),
    meets(
        "after shutdown of reading gets what there is",
        "a send 30;b shutdown r",
        100,
        "0",
        "b recv 10;b poll IN|RDHUP",
    ),
    meets("after shutdown of reading gets nothing", "b shutdown r", 100, "0", "a send 10;b recv 10;b recv 10"),
    meets("times out", "b set RCVTIMEO 20", 100, "0", "a send 5;b recv 100"),
    meets("is given its low-water mark", "b set RCVLOWAT 20;a send 30", 100, "0", "a send 5;b recv 5"),
    meets(
        "below the low-water mark times out with what there is",
        "b set RCVLOWAT 20;b set RCVTIMEO 20;a send 5",
        100,
        "0",
        "b fionread",
    ),
    meets("on a closed descriptor", "b close", 10, "0", "a poll IN|RDHUP"),
];

struct Send {
    name: &'static str,
    line: fn(bytes: u32, flags: &str) -> Option<String>,
}

const SENDS: [Send; 10] = [
    Send { name: "write", line: |n, flags| no_flags(format!("write {n}"), flags) },
    Send { name: "writev", line: |n, flags| no_flags(format!("writev {n} 7"), flags) },
    Send { name: "pwritev2", line: |n, flags| no_flags(format!("pwritev2 {n} 0"), flags) },
    Send { name: "send", line: |n, flags| Some(format!("send {n} {flags}")) },
    Send { name: "sendto", line: |n, flags| Some(format!("sendto {n} {flags}")) },
    Send { name: "sendmsg", line: |n, flags| Some(format!("sendmsg {n} 7 {flags}")) },
    Send { name: "sendmmsg", line: |n, flags| Some(format!("sendmmsg {n} 3 {flags}")) },
    Send { name: "sendfile", line: |n, flags| no_flags(format!("sendfile {n}"), flags) },
    Send { name: "sendfile with an offset", line: |n, flags| no_flags(format!("sendfile {n} 0 50"), flags) },
    Send { name: "splice", line: |n, flags| no_flags(format!("splice_out {n}"), flags) },
];

const SENDERS_MEET: [Situation; 14] = [
    meets("arrives", "b recv 10 DONTWAIT", 100, "0", "b fionread;b recv 500"),
    meets("arrives in order", "a send 10", 100, "0", "a write 10;b recv 500"),
    meets("of much", "b nonblock 1", 9000, "0", "b fionread;b recv 4000;b recv 60000"),
    meets("of nothing", "b recv 10 DONTWAIT", 0, "0", "b fionread;b poll IN|RDHUP"),
    meets("on a non-blocking socket", "a nonblock 1", 1000, "0", "b recv 5000"),
    meets("that shall not wait", "b fionread", 1000, "DONTWAIT", "b recv 5000"),
    meets("without SIGPIPE", "a shutdown w", 10, "NOSIGNAL", "b recv 10"),
    meets("after shutdown of writing", "a shutdown w", 10, "0", "b recv 10;a get ERROR"),
    meets("to a peer that shut its reading", "b shutdown r", 10, "0", "b recv 100;b recv 10 DONTWAIT"),
    meets("to a peer that has closed", "b close", 10, "0", "a write 10;a write 10;a get ERROR;a poll IN|OUT|RDHUP"),
    meets("to a peer that has closed with bytes unread", "a send 10;b close", 10, "0", "a write 10;a recv 10"),
    meets("to a peer that has reset", "b set LINGER 1 0;b close", 10, "0", "a write 10;a recv 10"),
    meets(
        "from a full socket",
        "b set RCVBUF 20000;a set SNDBUF 20000;a nonblock 1;a stuff hard",
        40000,
        "0",
        "b drain;b drain;a poll OUT",
    ),
    meets("on a closed descriptor", "a close", 10, "0", "b poll IN|RDHUP"),
];

/// How readiness is asked for.
const ASKS: [(&str, &str, &str); 9] = [
    ("poll", "", "b poll IN|OUT|PRI|RDHUP"),
    ("ppoll", "", "b ppoll IN|OUT|PRI|RDHUP"),
    ("poll beside others", "", "b polls IN|OUT|PRI|RDHUP"),
    ("select", "", "b select rwx"),
    ("pselect", "", "b pselect rwx"),
    ("epoll, level", "b epoll 0 add IN|OUT|PRI|RDHUP", "b epoll_wait 0"),
    ("epoll, edge", "b epoll 0 add IN|OUT|PRI|RDHUP|ET;b epoll_wait 0", "b epoll_wait 0;b epoll_wait 0"),
    ("epoll, one shot", "b epoll 0 add IN|RDHUP|ONESHOT", "b epoll_wait 0;b epoll_wait 0"),
    ("epoll, exclusive", "b epoll 0 add IN|EXCLUSIVE", "b epoll_pwait2 0;b epoll_poll 0"),
];

/// What happens between two questions.
const HAPPENS: [(&str, &str); 16] = [
    ("nothing", "b state"),
    ("bytes come", "a send 10"),
    ("bytes come and are read", "a send 10;b read 10"),
    ("bytes come and are read in part", "a send 10;b read 5"),
    ("bytes come twice", "a send 10;b poll 0;a send 10"),
    ("bytes come and are peeked", "a send 10;b recv 5 PEEK"),
    ("fewer bytes than the low-water mark come", "b set RCVLOWAT 20;a send 10"),
    ("the low-water mark is reached", "b set RCVLOWAT 20;a send 10;a send 10"),
    ("the low-water mark is lowered", "b set RCVLOWAT 20;a send 10;b set RCVLOWAT 1"),
    ("the peer shuts its writing", "a shutdown w"),
    ("the peer shuts both", "a shutdown rw"),
    ("the peer closes", "a close"),
    ("the peer closes with bytes unread", "b send 10;a close"),
    ("it shuts its own reading", "b shutdown r"),
    ("it shuts its own writing", "b shutdown w"),
    ("it shuts both", "b shutdown rw"),
];

/// How a thread waits, and what it then finds.
const WAITS: [(&str, &str); 9] = [
    ("recv", "b& recv 50"),
    ("read", "b& read 50"),
    ("recvmsg", "b& recvmsg 50 3"),
    ("recv for all", "b& recv 20 WAITALL"),
    ("recv that peeks", "b& recv 50 PEEK"),
    ("poll", "b& poll IN|RDHUP 5000"),
    ("select", "b& select r 5000"),
    ("epoll_wait", "b epoll 0 add IN|RDHUP;b& epoll_wait 0 5000"),
    ("splice", "b& splice_in 50"),
];

const ENDS_THE_WAIT: [(&str, &str); 9] = [
    ("bytes", "a send 20"),
    ("bytes by a child of the peer", "a fork;c send 20"),
    ("the peer's shutdown", "a shutdown w"),
    ("the peer's close", "a close"),
    ("the peer's reset", "a set LINGER 1 0;a close"),
    ("its own shutdown", "b shutdown rw"),
    ("an interrupting signal", "b signal"),
    ("a signal with SA_RESTART, then bytes", "b handler restart;b signal;a send 20"),
    ("bytes on another descriptor's socket", "a dup 1;a close;a1 send 20"),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add =
        |name: String, calls: String| cases.push(Case::new(name, calls.split(';').filter(|call| !call.is_empty())));
    for receive in &RECEIVES {
        for Situation { name, before, bytes, flags, after } in &RECEIVERS_MEET {
            if let Some(line) = (receive.line)(*bytes, flags) {
                add(format!("{} {name}", receive.name), format!("{before};b {line};{after}"));
            }
        }
    }
    for send in &SENDS {
        for Situation { name, before, bytes, flags, after } in &SENDERS_MEET {
            if let Some(line) = (send.line)(*bytes, flags) {
                add(format!("a {} {name}", send.name), format!("{before};a {line};{after}"));
            }
        }
    }
    for (asked, before, ask) in ASKS {
        for (happens, what) in HAPPENS {
            add(format!("{asked}, when {happens}"), format!("{before};{what};{ask}"));
        }
    }
    for (waits, wait) in WAITS {
        for (by, end) in ENDS_THE_WAIT {
            add(format!("{waits} that waits, ended by {by}"), format!("b handler plain;{wait};{end};b join;b handled"));
        }
    }
    cases
}
