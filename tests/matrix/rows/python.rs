//! CPython's ways of serving, and two event loops from outside it.

use crate::row::{ROW, Row};

pub static PYTHON_HTTP_SERVER: Row = Row {
    once: "mkdir www; seq 4000000 >www/many; printf x >www/one",
    servers: &["exec python3 -m http.server $PORT --bind 127.0.0.1 --directory www"],
    client: "exec python3 -B $SOURCES/programs/fetch.py $PORT one many none one many one",
    stop: libc::SIGINT,
    ..ROW
};

pub static PYTHON_ASYNCIO: Row = Row {
    servers: &["exec python3 -B $SOURCES/programs/asyncio_echo.py server $PORT"],
    client: "exec python3 -B $SOURCES/programs/asyncio_echo.py client $PORT",
    ..ROW
};

/// `socketserver.ThreadingTCPServer`, then `ForkingTCPServer`.
pub static PYTHON_THREADS: Row = Row {
    servers: &[
        "exec python3 -B $SOURCES/matrix/programs/lines.py Threading $PORT",
        "exec python3 -B $SOURCES/matrix/programs/lines.py Forking $PORT2",
    ],
    client: "python3 -B $SOURCES/matrix/programs/lines.py client $PORT; exec python3 -B $SOURCES/matrix/programs/lines.py client $PORT2",
    ..ROW
};

/// Processes of one pool, each with a connection to the server's objects.
pub static PYTHON_MULTIPROCESSING: Row = Row {
    servers: &["exec python3 -B $SOURCES/matrix/programs/pool.py server $PORT"],
    client: "exec python3 -B $SOURCES/matrix/programs/pool.py client $PORT",
    ..ROW
};

pub static PYTHON_UVLOOP: Row = Row {
    servers: &[
        "exec python3 -B -c 'import uvloop, runpy, sys; uvloop.install(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name=\"__main__\")' \
        $SOURCES/programs/asyncio_echo.py server $PORT",
    ],
    client: "exec python3 -B -c 'import uvloop, runpy, sys; uvloop.install(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name=\"__main__\")' \
        $SOURCES/programs/asyncio_echo.py client $PORT",
    ..ROW
};

/// Names are looked up without gevent's threads: CPython 3.11 may crash where a thread begins while the interpreter ends.
pub static PYTHON_GEVENT: Row = Row {
    servers: &["exec python3 -B $SOURCES/matrix/programs/greenlets.py server $PORT"],
    client: "export GEVENT_RESOLVER=block; exec python3 -B $SOURCES/matrix/programs/greenlets.py client $PORT",
    ..ROW
};
