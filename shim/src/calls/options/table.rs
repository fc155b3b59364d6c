//! What every socket option means beside the anchor, on which each is set too, so that getsockopt answers as TCP does. A test
//! compares it with the installed headers. What has no row here means no companion.

use std::ffi::c_int;

use Meaning::{Anchors, BetweenHostsUnlessZero, Carried, NoCompanion, ReadOnly, Remembered};

use crate::slot::flag;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// The companion does as it says: how.
    Carried(#[cfg_attr(not(test), allow(dead_code))] &'static str),
    /// The same, by a flag of the slot (and of what a listener accepts).
    Remembered(u32),
    /// Meaningless on a companion: it shapes the anchor's own packets, addresses, memory or end.
    Anchors,
    /// To be asked for alone: the kernel refuses to set it.
    ReadOnly,
    /// The connection stays on, or goes back to, TCP: why.
    NoCompanion(#[cfg_attr(not(test), allow(dead_code))] &'static str),
    /// The same within a host, unless it is set to nothing but zero, which it is from the beginning (as haproxy does). Between hosts its companion
    /// gives up before, and the kernel has what waits then.
    BetweenHostsUnlessZero(#[cfg_attr(not(test), allow(dead_code))] &'static str),
}

type Row = (c_int, &'static str, Meaning);

/// By level: the option's number, its name in the kernel's headers, what it means.
pub const TABLE: &[(c_int, &[Row])] = &[
    (
        libc::SOL_SOCKET,
        &[
            (1, "SO_DEBUG", NoCompanion("unusual")),
            (2, "SO_REUSEADDR", Anchors),
            (3, "SO_TYPE", ReadOnly),
            (4, "SO_ERROR", ReadOnly),
            (5, "SO_DONTROUTE", Anchors),
            (6, "SO_BROADCAST", Anchors),
            (7, "SO_SNDBUF", Remembered(flag::SEND_BUFFER)),
            (8, "SO_RCVBUF", Anchors),
            (9, "SO_KEEPALIVE", Anchors),
            (10, "SO_OOBINLINE", NoCompanion("urgent bytes are TCP's")),
            (11, "SO_NO_CHECK", Anchors),
            (12, "SO_PRIORITY", Anchors),
            (13, "SO_LINGER", Carried("the anchor closes, so it lingers or resets")),
            (14, "SO_BSDCOMPAT", Anchors),
            (15, "SO_REUSEPORT", Anchors),
            (16, "SO_PASSCRED", NoCompanion("control messages")),
            (17, "SO_PEERCRED", ReadOnly),
            (18, "SO_RCVLOWAT", Remembered(flag::LOW_WATER)),
            (19, "SO_SNDLOWAT", ReadOnly),
            (20, "SO_RCVTIMEO_OLD", Remembered(flag::TIMED)),
            (21, "SO_SNDTIMEO_OLD", Remembered(flag::TIMED)),
            (22, "SO_SECURITY_AUTHENTICATION", NoCompanion("packets are protected")),
            (23, "SO_SECURITY_ENCRYPTION_TRANSPORT", NoCompanion("packets are protected")),
            (24, "SO_SECURITY_ENCRYPTION_NETWORK", NoCompanion("packets are protected")),
            (25, "SO_BINDTODEVICE", NoCompanion("a device of its own: policyd compares those")),
            (26, "SO_ATTACH_FILTER", NoCompanion("a filter may drop or cut what comes")),
            (27, "SO_DETACH_FILTER", NoCompanion("unusual")),
            (28, "SO_PEERNAME", ReadOnly),
            (29, "SO_TIMESTAMP_OLD", NoCompanion("control messages")),
            (30, "SO_ACCEPTCONN", ReadOnly),
            (31, "SO_PEERSEC", ReadOnly),
            (32, "SO_SNDBUFFORCE", Remembered(flag::SEND_BUFFER)),
            (33, "SO_RCVBUFFORCE", Anchors),
            (34, "SO_PASSSEC", NoCompanion("control messages")),
            (35, "SO_TIMESTAMPNS_OLD", NoCompanion("control messages")),
            (36, "SO_MARK", NoCompanion("a way of its own")),
            (37, "SO_TIMESTAMPING_OLD", NoCompanion("control messages")),
            (38, "SO_PROTOCOL", ReadOnly),
            (39, "SO_DOMAIN", ReadOnly),
            (40, "SO_RXQ_OVFL", NoCompanion("control messages")),
            (41, "SO_WIFI_STATUS", NoCompanion("control messages")),
            (42, "SO_PEEK_OFF", NoCompanion("peeks that walk on")),
            (43, "SO_NOFCS", NoCompanion("unusual")),
            (44, "SO_LOCK_FILTER", NoCompanion("unusual")),
            (45, "SO_SELECT_ERR_QUEUE", NoCompanion("unusual")),
            (46, "SO_BUSY_POLL", Anchors),
            (47, "SO_MAX_PACING_RATE", Anchors),
            (48, "SO_BPF_EXTENSIONS", ReadOnly),
            (49, "SO_INCOMING_CPU", Anchors),
            (50, "SO_ATTACH_BPF", NoCompanion("a filter may drop or cut what comes")),
            (51, "SO_ATTACH_REUSEPORT_CBPF", NoCompanion("unusual")),
            (52, "SO_ATTACH_REUSEPORT_EBPF", NoCompanion("unusual")),
            (53, "SO_CNX_ADVICE", Anchors),
            (55, "SO_MEMINFO", ReadOnly),
            (56, "SO_INCOMING_NAPI_ID", ReadOnly),
            (57, "SO_COOKIE", ReadOnly),
            (59, "SO_PEERGROUPS", ReadOnly),
            (60, "SO_ZEROCOPY", NoCompanion("completions by the error queue")),
            (61, "SO_TXTIME", NoCompanion("packets have times")),
            (62, "SO_BINDTOIFINDEX", NoCompanion("a device of its own: policyd compares those")),
            (63, "SO_TIMESTAMP_NEW", NoCompanion("control messages")),
            (64, "SO_TIMESTAMPNS_NEW", NoCompanion("control messages")),
            (65, "SO_TIMESTAMPING_NEW", NoCompanion("control messages")),
            (66, "SO_RCVTIMEO_NEW", Remembered(flag::TIMED)),
            (67, "SO_SNDTIMEO_NEW", Remembered(flag::TIMED)),
            (68, "SO_DETACH_REUSEPORT_BPF", NoCompanion("unusual")),
            (69, "SO_PREFER_BUSY_POLL", Anchors),
            (70, "SO_BUSY_POLL_BUDGET", Anchors),
            (71, "SO_NETNS_COOKIE", ReadOnly),
            (72, "SO_BUF_LOCK", Anchors),
            (73, "SO_RESERVE_MEM", NoCompanion("memory is counted")),
            (74, "SO_TXREHASH", Anchors),
            (75, "SO_RCVMARK", NoCompanion("control messages")),
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            (1, "TCP_NODELAY", Anchors),
            (2, "TCP_MAXSEG", Anchors),
            (3, "TCP_CORK", Anchors),
            (4, "TCP_KEEPIDLE", Anchors),
            (5, "TCP_KEEPINTVL", Anchors),
            (6, "TCP_KEEPCNT", Anchors),
            (7, "TCP_SYNCNT", Anchors),
            (8, "TCP_LINGER2", Anchors),
            (9, "TCP_DEFER_ACCEPT", Anchors),
            (10, "TCP_WINDOW_CLAMP", Anchors),
            (11, "TCP_INFO", ReadOnly),
            (12, "TCP_QUICKACK", Anchors),
            (13, "TCP_CONGESTION", Anchors),
            (14, "TCP_MD5SIG", NoCompanion("segments are signed")),
            (16, "TCP_THIN_LINEAR_TIMEOUTS", Anchors),
            (17, "TCP_THIN_DUPACK", Anchors),
            (18, "TCP_USER_TIMEOUT", BetweenHostsUnlessZero("the kernel would see nothing wait")),
            (19, "TCP_REPAIR", NoCompanion("the kernel takes the stream over")),
            (20, "TCP_REPAIR_QUEUE", NoCompanion("the kernel takes the stream over")),
            (21, "TCP_QUEUE_SEQ", NoCompanion("the kernel takes the stream over")),
            (22, "TCP_REPAIR_OPTIONS", NoCompanion("the kernel takes the stream over")),
            (23, "TCP_FASTOPEN", Anchors),
            (24, "TCP_TIMESTAMP", Anchors),
            (25, "TCP_NOTSENT_LOWAT", Anchors),
            (26, "TCP_CC_INFO", ReadOnly),
            (27, "TCP_SAVE_SYN", Anchors),
            (28, "TCP_SAVED_SYN", ReadOnly),
            (29, "TCP_REPAIR_WINDOW", NoCompanion("the kernel takes the stream over")),
            (30, "TCP_FASTOPEN_CONNECT", Anchors),
            (31, "TCP_ULP", NoCompanion("the kernel takes the stream over")),
            (32, "TCP_MD5SIG_EXT", NoCompanion("segments are signed")),
            (33, "TCP_FASTOPEN_KEY", Anchors),
            (34, "TCP_FASTOPEN_NO_COOKIE", Anchors),
            (35, "TCP_ZEROCOPY_RECEIVE", NoCompanion("getsockopt receives")),
            (36, "TCP_INQ", NoCompanion("control messages")),
            (37, "TCP_TX_DELAY", NoCompanion("packets are delayed")),
        ],
    ),
    (
        libc::IPPROTO_IP,
        &[
            (1, "IP_TOS", Anchors),
            (2, "IP_TTL", Anchors),
            (3, "IP_HDRINCL", NoCompanion("unusual")),
            (4, "IP_OPTIONS", NoCompanion("unusual")),
            (5, "IP_ROUTER_ALERT", NoCompanion("unusual")),
            (6, "IP_RECVOPTS", NoCompanion("control messages")),
            (7, "IP_RETOPTS", NoCompanion("control messages")),
            (8, "IP_PKTINFO", NoCompanion("control messages")),
            (9, "IP_PKTOPTIONS", NoCompanion("control messages")),
            (10, "IP_MTU_DISCOVER", Anchors),
            (11, "IP_RECVERR", NoCompanion("control messages")),
            (12, "IP_RECVTTL", NoCompanion("control messages")),
            (13, "IP_RECVTOS", NoCompanion("control messages")),
            (14, "IP_MTU", ReadOnly),
            (15, "IP_FREEBIND", Anchors),
            (16, "IP_IPSEC_POLICY", NoCompanion("packets are protected")),
            (17, "IP_XFRM_POLICY", NoCompanion("packets are protected")),
            (18, "IP_PASSSEC", NoCompanion("control messages")),
            (19, "IP_TRANSPARENT", NoCompanion("addresses that are not the host's")),
            (20, "IP_ORIGDSTADDR", NoCompanion("control messages")),
            (21, "IP_MINTTL", NoCompanion("unusual")),
            (22, "IP_NODEFRAG", NoCompanion("unusual")),
            (23, "IP_CHECKSUM", NoCompanion("control messages")),
            (24, "IP_BIND_ADDRESS_NO_PORT", Anchors),
            (25, "IP_RECVFRAGSIZE", NoCompanion("control messages")),
            (26, "IP_RECVERR_RFC4884", NoCompanion("control messages")),
            (32, "IP_MULTICAST_IF", NoCompanion("not for TCP")),
            (33, "IP_MULTICAST_TTL", NoCompanion("not for TCP")),
            (34, "IP_MULTICAST_LOOP", NoCompanion("not for TCP")),
            (35, "IP_ADD_MEMBERSHIP", NoCompanion("not for TCP")),
            (36, "IP_DROP_MEMBERSHIP", NoCompanion("not for TCP")),
            (37, "IP_UNBLOCK_SOURCE", NoCompanion("not for TCP")),
            (38, "IP_BLOCK_SOURCE", NoCompanion("not for TCP")),
            (39, "IP_ADD_SOURCE_MEMBERSHIP", NoCompanion("not for TCP")),
            (40, "IP_DROP_SOURCE_MEMBERSHIP", NoCompanion("not for TCP")),
            (41, "IP_MSFILTER", NoCompanion("not for TCP")),
            (42, "MCAST_JOIN_GROUP", NoCompanion("not for TCP")),
            (43, "MCAST_BLOCK_SOURCE", NoCompanion("not for TCP")),
            (44, "MCAST_UNBLOCK_SOURCE", NoCompanion("not for TCP")),
            (45, "MCAST_LEAVE_GROUP", NoCompanion("not for TCP")),
            (46, "MCAST_JOIN_SOURCE_GROUP", NoCompanion("not for TCP")),
            (47, "MCAST_LEAVE_SOURCE_GROUP", NoCompanion("not for TCP")),
            (48, "MCAST_MSFILTER", NoCompanion("not for TCP")),
            (49, "IP_MULTICAST_ALL", NoCompanion("not for TCP")),
            (50, "IP_UNICAST_IF", NoCompanion("a way of its own")),
            (51, "IP_LOCAL_PORT_RANGE", Anchors),
            (52, "IP_PROTOCOL", ReadOnly),
        ],
    ),
    (
        libc::IPPROTO_IPV6,
        &[
            (1, "IPV6_ADDRFORM", NoCompanion("unusual")),
            (2, "IPV6_2292PKTINFO", NoCompanion("control messages")),
            (3, "IPV6_2292HOPOPTS", NoCompanion("control messages")),
            (4, "IPV6_2292DSTOPTS", NoCompanion("control messages")),
            (5, "IPV6_2292RTHDR", NoCompanion("control messages")),
            (6, "IPV6_2292PKTOPTIONS", NoCompanion("control messages")),
            (7, "IPV6_CHECKSUM", NoCompanion("unusual")),
            (8, "IPV6_2292HOPLIMIT", NoCompanion("control messages")),
            (9, "IPV6_NEXTHOP", NoCompanion("unusual")),
            (10, "IPV6_AUTHHDR", NoCompanion("packets are protected")),
            (11, "IPV6_FLOWINFO", NoCompanion("control messages")),
            (16, "IPV6_UNICAST_HOPS", Anchors),
            (17, "IPV6_MULTICAST_IF", NoCompanion("not for TCP")),
            (18, "IPV6_MULTICAST_HOPS", NoCompanion("not for TCP")),
            (19, "IPV6_MULTICAST_LOOP", NoCompanion("not for TCP")),
            (20, "IPV6_ADD_MEMBERSHIP", NoCompanion("not for TCP")),
            (21, "IPV6_DROP_MEMBERSHIP", NoCompanion("not for TCP")),
            (22, "IPV6_ROUTER_ALERT", NoCompanion("unusual")),
            (23, "IPV6_MTU_DISCOVER", Anchors),
            (24, "IPV6_MTU", NoCompanion("unusual")),
            (25, "IPV6_RECVERR", NoCompanion("control messages")),
            (26, "IPV6_V6ONLY", Anchors),
            (27, "IPV6_JOIN_ANYCAST", NoCompanion("not for TCP")),
            (28, "IPV6_LEAVE_ANYCAST", NoCompanion("not for TCP")),
            (29, "IPV6_MULTICAST_ALL", NoCompanion("not for TCP")),
            (30, "IPV6_ROUTER_ALERT_ISOLATE", NoCompanion("unusual")),
            (31, "IPV6_RECVERR_RFC4884", NoCompanion("control messages")),
            (32, "IPV6_FLOWLABEL_MGR", NoCompanion("unusual")),
            (33, "IPV6_FLOWINFO_SEND", NoCompanion("unusual")),
            (34, "IPV6_IPSEC_POLICY", NoCompanion("packets are protected")),
            (35, "IPV6_XFRM_POLICY", NoCompanion("packets are protected")),
            (36, "IPV6_HDRINCL", NoCompanion("unusual")),
            (49, "IPV6_RECVPKTINFO", NoCompanion("control messages")),
            (50, "IPV6_PKTINFO", NoCompanion("unusual")),
            (51, "IPV6_RECVHOPLIMIT", NoCompanion("control messages")),
            (52, "IPV6_HOPLIMIT", NoCompanion("unusual")),
            (53, "IPV6_RECVHOPOPTS", NoCompanion("control messages")),
            (54, "IPV6_HOPOPTS", NoCompanion("unusual")),
            (55, "IPV6_RTHDRDSTOPTS", NoCompanion("unusual")),
            (56, "IPV6_RECVRTHDR", NoCompanion("control messages")),
            (57, "IPV6_RTHDR", NoCompanion("unusual")),
            (58, "IPV6_RECVDSTOPTS", NoCompanion("control messages")),
            (59, "IPV6_DSTOPTS", NoCompanion("unusual")),
            (60, "IPV6_RECVPATHMTU", NoCompanion("control messages")),
            (61, "IPV6_PATHMTU", ReadOnly),
            (62, "IPV6_DONTFRAG", NoCompanion("unusual")),
            (63, "IPV6_USE_MIN_MTU", NoCompanion("unusual")),
            (66, "IPV6_RECVTCLASS", NoCompanion("control messages")),
            (67, "IPV6_TCLASS", Anchors),
            (70, "IPV6_AUTOFLOWLABEL", NoCompanion("unusual")),
            (72, "IPV6_ADDR_PREFERENCES", NoCompanion("unusual")),
            (73, "IPV6_MINHOPCOUNT", NoCompanion("unusual")),
            (74, "IPV6_ORIGDSTADDR", NoCompanion("control messages")),
            (75, "IPV6_TRANSPARENT", NoCompanion("addresses that are not the host's")),
            (76, "IPV6_UNICAST_IF", NoCompanion("a way of its own")),
            (77, "IPV6_RECVFRAGSIZE", NoCompanion("control messages")),
            (78, "IPV6_FREEBIND", Anchors),
        ],
    ),
];

pub fn meaning(level: c_int, number: c_int) -> Meaning {
    let rows = TABLE.iter().find(|(known, _)| *known == level).map_or(&[][..], |(_, rows)| rows);
    rows.iter().find(|(known, ..)| *known == number).map_or(NoCompanion("unknown"), |(.., meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// Names of the headers that are values or lengths of options, or flags in messages.
    const NO_OPTIONS: &[&str] = &[
        "TCP_MSS_DEFAULT",
        "TCP_MSS_DESIRED",
        "TCP_REPAIR_ON",
        "TCP_REPAIR_OFF",
        "TCP_REPAIR_OFF_NO_WP",
        "TCP_MD5SIG_MAXKEYLEN",
        "TCP_AO_MAXKEYLEN",
        "IP_PMTUDISC_",
        "IP_DEFAULT_MULTICAST_",
        "MCAST_EXCLUDE",
        "MCAST_INCLUDE",
        "IPV6_FL_",
        "IPV6_TLV_",
        "IPV6_PRIORITY_",
        "IPV6_PMTUDISC_",
        "IPV6_PREFER_SRC_",
    ];

    const HEADERS: [(c_int, &str, &[&str]); 4] = [
        (libc::SOL_SOCKET, "/usr/include/asm-generic/socket.h", &["SO_"]),
        (libc::IPPROTO_TCP, "/usr/include/linux/tcp.h", &["TCP_"]),
        (libc::IPPROTO_IP, "/usr/include/linux/in.h", &["IP_", "MCAST_"]),
        (libc::IPPROTO_IPV6, "/usr/include/linux/in6.h", &["IPV6_"]),
    ];

    /// `#define NAME 12`, of the names wanted. Hexadecimal numbers are flags.
    fn defined(text: &str, prefixes: &[&str]) -> Vec<(String, c_int)> {
        let mut found = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("#define"), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if prefixes.iter().any(|prefix| name.starts_with(prefix))
                && !NO_OPTIONS.iter().any(|none| name == *none || none.ends_with('_') && name.starts_with(none))
                && let Ok(number) = value.parse()
            {
                found.push((name.to_owned(), number));
            }
        }
        found
    }

    /// What `calls::at_once` leaves to the kernel without a look at this table.
    #[test]
    fn options_that_pass_at_once_are_the_anchors_alone() {
        for name in crate::calls::at_once::PACKETS {
            assert!(meaning(libc::IPPROTO_TCP, name) == Anchors, "{name}");
        }
    }

    #[test]
    fn every_option_of_the_headers_has_a_row() {
        for (level, path, prefixes) in HEADERS {
            let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path} (linux-libc-dev): {e}"));
            let rows = TABLE.iter().find(|(known, _)| *known == level).map_or(&[][..], |(_, rows)| rows);
            let options = defined(&text, prefixes);
            assert!(options.len() > 20, "{path}: only {} options were found", options.len());
            for (name, number) in options {
                let row = rows.iter().find(|(known, ..)| *known == number);
                assert!(row.is_some(), "{name} = {number} of {path} has no row: what does it mean on a companion?");
                let named = rows.iter().find(|(_, known, _)| *known == name);
                assert!(named.is_none_or(|(known, ..)| *known == number), "{name} is {number} in {path}");
            }
        }
    }

    #[test]
    fn no_option_has_two_rows() {
        for (level, rows) in TABLE {
            let numbers: BTreeSet<_> = rows.iter().map(|(number, ..)| number).collect();
            assert_eq!(numbers.len(), rows.len(), "level {level}");
        }
    }

    /// A row says how, or why not.
    #[test]
    fn every_row_says_why() {
        let all = TABLE.iter().flat_map(|(_, rows)| rows.iter());
        let counts = all.fold([0; 2], |[carried, not], (_, name, meaning)| match meaning {
            Carried(how) | NoCompanion(how) if how.is_empty() => panic!("{name} does not say"),
            NoCompanion(_) => [carried, not + 1],
            _ => [carried + 1, not],
        });
        println!("{} options may be set on a carried connection, {} mean TCP", counts[0], counts[1]);
    }

    #[test]
    fn what_has_no_row_means_no_companion() {
        assert_eq!(meaning(libc::SOL_SOCKET, 9999), NoCompanion("unknown"));
        assert_eq!(meaning(250, 1), NoCompanion("unknown"));
        assert_eq!(meaning(libc::IPPROTO_TCP, libc::TCP_NODELAY), Anchors);
    }
}
