//! Any bytes on the control socket: each line is answered by a line, and policyd is as before.

#![no_main]

mod daemon;

use std::cell::OnceCell;
use std::time::Duration;

use daemon::Daemon;
use libfuzzer_sys::fuzz_target;
use tandem_policyd::control::server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

thread_local! {
    static DAEMON: OnceCell<Daemon> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    DAEMON.with(|known| {
        let daemon = known.get_or_init(Daemon::new);
        let shared = daemon.shared.clone();
        let holds = shared.holds.get();
        daemon.run(async move {
            let (near, far) = UnixStream::pair().expect("a pair");
            let server = tokio::task::spawn_local(server::serve(far, shared.clone()));
            let (mut from, mut to) = near.into_split();
            let sent = bytes.to_vec();
            tokio::task::spawn_local(async move {
                // It may close at once: after a line that is too long.
                let _ = to.write_all(&sent).await;
            });
            let mut answers = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(20), from.read_to_end(&mut answers)).await;
            assert!(read.is_ok(), "no end of the answers");
            server.await.expect("no panic");
            let watches = String::from_utf8_lossy(bytes).contains("watch");
            let lines = answers.iter().filter(|byte| **byte == b'\n').count();
            let asked = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            assert!(watches || lines <= asked.max(bytes.len()), "{lines} answers to {asked} lines");
            assert!(answers.is_empty() || answers.ends_with(b"\n"), "half an answer");
            // What this process holds lasts as long as it.
            shared.holds.set(holds);
            assert!(shared.commands.borrow().is_empty(), "a connection is still counted");
        });
    });
});
