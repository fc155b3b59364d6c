//! The matrix: real programs of every kind, with both ends under Tandem, the server alone and the client alone. Output and ends
//! must be those of the native run; a row whose both ends should be carried must have been.
//!
//! - `row`: what a row is; `run`: one row in all ways; `cell`: what the table says of a way
//! - `rows/`: the table itself, by kind of program; `programs/`: the small programs of the languages' rows

mod cell;
mod row;
mod rows;
mod run;

use row::Row;

macro_rules! rows {
    ($($module:ident: $($row:ident)+;)+) => {
        $($(
            #[test]
            #[allow(non_snake_case, reason = "named as the row")]
            fn $row() {
                run::row(stringify!($row), &rows::$module::$row);
            }
        )+)+

        const ALL: &[(&str, &Row)] = &[$($((stringify!($row), &rows::$module::$row),)+)+];
    };
}

rows! {
    stores: REDIS MEMCACHED POSTGRESQL MARIADB ETCD ZOOKEEPER;
    web: NGINX HAPROXY CURL WGET STUNNEL STATIC;
    shells: SSH RSYNC GIT_DAEMON SOCAT;
    measures: IPERF3 SOCKPERF;
    python: PYTHON_HTTP_SERVER PYTHON_ASYNCIO PYTHON_THREADS PYTHON_MULTIPROCESSING PYTHON_UVLOOP PYTHON_GEVENT;
    languages: NODE JAVA_NIO JAVA_THREADS TOKIO GO;
}

/// A row that no test runs would prove nothing, and a row without a server or a client compares nothing.
#[test]
fn every_row_is_whole() {
    for (name, row) in ALL {
        assert!(!row.servers.is_empty() && row.servers.len() <= row::PORTS.len(), "{name}: servers");
        assert!(!row.client.trim().is_empty(), "{name}: no client");
    }
}
