//! Other languages' run-time systems.

use crate::row::{Both, ROW, Row};

pub static NODE: Row = Row {
    servers: &["exec node $SOURCES/matrix/programs/http.js server $PORT"],
    client: "exec node $SOURCES/matrix/programs/http.js client $PORT",
    ..ROW
};

/// One selector for all connections, on both ends.
pub static JAVA_NIO: Row = Row {
    once: "javac -d . $SOURCES/matrix/programs/Echo.java",
    servers: &["exec java -Xmx128m -XX:+UseSerialGC Echo selector $PORT"],
    client: "exec java -Xmx128m -XX:+UseSerialGC Echo channels $PORT",
    stop: libc::SIGTERM,
    ..ROW
};

/// A thread a connection, blocking, with time-outs.
pub static JAVA_THREADS: Row = Row {
    once: "javac -d . $SOURCES/matrix/programs/Echo.java",
    servers: &["exec java -Xmx128m -XX:+UseSerialGC Echo threads $PORT"],
    client: "exec java -Xmx128m -XX:+UseSerialGC Echo sockets $PORT",
    ..ROW
};

/// Ten clients at a time, of sixteen connections each: threads that read, write and wait for one connection's edges at once.
pub static TOKIO: Row = Row {
    servers: &["exec $TOKIO server $PORT"],
    client: "for at in 0 1 2 3 4 5 6 7 8 9; do $TOKIO client $PORT >out.$at & done; wait; cat out.*",
    ..ROW
};

/// net/http on both ends, and a client that could be carried.
pub static GO: Row = Row {
    once: "GOCACHE=$PWD/cache GO111MODULE=off go build -o http $SOURCES/matrix/programs/http.go",
    servers: &["exec ./http server $PORT"],
    client: "./http client $PORT; curl -sS http://127.0.0.1:$PORT/bytes/20000000 | sha256sum",
    both: Both::Tcp("Go's runtime makes its system calls without libc"),
    ..ROW
};
