//! What measures networks. Rates differ, of course; what is counted does not.

use crate::row::{ROW, Row};

pub static IPERF3: Row = Row {
    servers: &["exec iperf3 -s -B 127.0.0.1 -p $PORT"],
    client: r#"
        # Between two tests the server does not listen for a moment.
        measure() {
            for _ in 1 2 3 4 5; do
                iperf3 -c 127.0.0.1 -p $PORT -n 64M -f k "$@" >out 2>err && break
                grep -q 'Connection refused' err || break
                sleep 0.3
            done
            cat err >&2
            grep -cE 'sender|receiver|Done' out
        }
        measure
        measure -R
        measure -P 4
        measure --bidir
        measure -Z -l 1400 -n 4M"#,
    ..ROW
};

/// In place of netperf, which Debian has only in its non-free part.
pub static SOCKPERF: Row = Row {
    servers: &["exec sockperf server --tcp -i 127.0.0.1 -p $PORT"],
    client: r#"
        measure() { sockperf "$@" --tcp -i 127.0.0.1 -p $PORT -t 1 2>&1 | sed 's/\x1b\[[0-9;]*m//g' | grep -oE '# (dropped|duplicated|out-of-order) messages = [0-9]+' | sort; }
        measure ping-pong -m 64
        measure ping-pong -m 4096 --full-rtt
        measure under-load -m 200 --mps 2000"#,
    both: crate::row::Both::Carried(100_000),
    ..ROW
};
