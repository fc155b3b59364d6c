//! A peer or policyd killed under load.

use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::artifacts::native_only;
use tandem_tests::pair::ping_pong_carried;
use tandem_tests::programs::program;
use tandem_tests::{End, Launch, Page, Policyd, Proof, Scratch, Way};

/// What was delivered, then the end, within 50 ms, ten times; a busy machine may be late once.
#[test]
fn peer_killed_in_mid_transfer() {
    const TEST: &str = "peer_killed_in_mid_transfer";
    let mut proof = Proof::new(TEST);
    for way in Way::FOUR {
        let (mut times, mut whole) = (Vec::new(), 0);
        let policyd = if way == Way::Neither { None } else { Policyd::start() };
        for round in 0..10 {
            let scratch = Scratch::new();
            let page = Page::create(scratch.path());
            page.let_go(1);
            let launch = |role: &str, policyd: Option<&Policyd>| {
                let launch = Launch::new(role, program("mid_transfer")).arg(role).arg(scratch.path()).arg("30");
                launch.preload(policyd).spawn(&scratch)
            };
            let mut reader = launch("server", way.for_server(&policyd));
            let mut writer = launch("client", way.for_client(&policyd));
            // Some megabytes have been read; the kill comes at no particular moment.
            let deadline = Instant::now() + Duration::from_secs(20);
            while page.word(0) < 20_000_000 + round * 777_777 && Instant::now() < deadline && !reader.ended() {
                thread::sleep(Duration::from_micros(300));
            }
            let before = Instant::now();
            writer.signal(libc::SIGKILL);
            let dead = writer.wait(Duration::from_secs(5));
            assert_eq!(dead.end, End::Signal(libc::SIGKILL), "{way:?}:\n{dead}");
            let outcome = reader.wait(Duration::from_secs(10));
            let took = before.elapsed();
            assert_eq!(outcome.end, End::Exit(0), "{way:?}, round {round}:\n{outcome}");
            assert!(outcome.stderr.is_empty(), "{way:?}:\n{outcome}");
            // All that the writer's calls had returned, and no byte that it had not begun to write.
            let (returned, read) = (page.word(2), page.word(0));
            assert!(read >= returned, "{way:?}, round {round}: {returned} bytes written, {read} read\n{outcome}");
            whole += read;
            times.push(took);
        }
        times.sort_unstable();
        let (second, worst) = (times[times.len() - 2], times[times.len() - 1]);
        let in_time = second < Duration::from_millis(50) && worst < Duration::from_millis(250);
        assert!(in_time, "{way:?}: the end came after {times:?}");
        if let Some(policyd) = policyd.as_ref().filter(|_| way.both()) {
            let status = policyd.status();
            assert!(status.tx_companion > 100_000_000, "hardly anything was carried: {}", status.whole);
        }
        proof.fact(format!(
            "{way:?}: ten kills, {whole} bytes delivered right, the end within {} ms",
            worst.as_millis()
        ));
    }
    proof.print();
}

/// No connection breaks; new ones are carried again.
#[test]
fn policyd_killed_and_restarted_under_load() {
    const TEST: &str = "policyd_killed_and_restarted_under_load";
    let scratch = Scratch::new();
    let page = Page::create(scratch.path());
    let mut policyd = Policyd::start();
    let launch = |role: &str| {
        let launch = Launch::new(role, program("steady")).arg(role).arg(scratch.path()).arg("w");
        launch.preload(policyd.as_ref()).spawn(&scratch)
    };
    let mut ends = [launch("server"), launch("client")];
    let mut restarts = 0;
    if let Some(policyd) = &mut policyd {
        assert!(policyd.wait_carried(20, Duration::from_secs(10)), "not carried to begin with: {:#?}", policyd.rows());
        page.let_go(1);
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(150));
            policyd.kill();
            let before = page.word(0);
            thread::sleep(Duration::from_millis(150));
            assert!(page.word(0) > before, "the load stood still without policyd");
            policyd.start_again();
            restarts += 1;
            let again = ping_pong_carried(policyd);
            assert!(again, "new processes are not carried after restart {restarts}: {:#?}", policyd.rows());
            // The very same processes: a new connection of theirs.
            let connections = page.word(1);
            let deadline = Instant::now() + Duration::from_secs(10);
            while page.word(1) < connections + 2 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            let pids = ends.each_ref().map(|end| end.pid());
            let deadline = Instant::now() + Duration::from_secs(5);
            let carried = |policyd: &Policyd| {
                policyd.rows().iter().filter(|row| pids.contains(&row.pid) && row.provider == "local").count()
            };
            while carried(policyd) < 2 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            assert!(carried(policyd) >= 2, "new connections of old processes are not carried: {:#?}", policyd.rows());
        }
    } else {
        page.let_go(1);
        thread::sleep(Duration::from_millis(500));
    }
    page.tell(5);
    for end in &mut ends {
        let outcome = end.wait(Duration::from_secs(20));
        assert_eq!(outcome.end, End::Exit(0), "{TEST}:\n{outcome}");
        assert!(outcome.stderr.is_empty(), "{TEST}:\n{outcome}");
    }
    let mut proof = Proof::new(TEST);
    proof.fact(format!(
        "{restarts} kills of policyd, {} exchanges right on 10 connections, new ones carried again",
        page.word(0)
    ));
    proof.print();
    assert!(restarts == 4 || native_only());
}
