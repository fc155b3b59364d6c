//! CPython: http.server with urllib, an asyncio echo.

use std::fs;

use tandem_tests::apps::each_way;
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Way};

use crate::{python, whole};

#[test]
fn python_http_server_and_urllib() {
    each_way("python_http_server_and_urllib", &Way::FOUR, |field| {
        let www = field.scratch.file("www");
        fs::create_dir(&www).expect("directory");
        for (name, size) in [("1B", 1), ("1MiB", 1 << 20), ("30MiB", 30 << 20)] {
            let content: Vec<u8> =
                (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            fs::write(www.join(name), content).expect("file to serve");
        }
        let port = field.port.to_string();
        let launch = Launch::new("http.server", system_program("python3")).args([
            "-m",
            "http.server",
            &port,
            "--bind",
            "127.0.0.1",
        ]);
        let server = field.serve(launch.arg("--directory").arg(&www));
        let names = [["1B", "1MiB", "none"]; 5].concat();
        let client = python("urllib", "fetch.py").arg(&port).args(names).args(["30MiB", "1B"]);
        let mut seen = whole("urllib", &field.ask(client, 60).succeeded());
        seen.push(field.stop(server, libc::SIGINT));
        seen
    });
}

#[test]
fn python_asyncio_echo() {
    each_way("python_asyncio_echo", &Way::four_and_failing_back(40), |field| {
        let port = field.port.to_string();
        let server = field.serve(python("server", "asyncio_echo.py").args(["server", &port]));
        let client = python("client", "asyncio_echo.py").args(["client", &port]);
        let mut seen = whole("client", &field.ask(client, 60).succeeded());
        seen.push(field.stop(server, libc::SIGTERM));
        seen
    });
}
