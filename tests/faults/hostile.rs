//! A peer that scribbles over the memory it shares with its victim, and hands it descriptors that are no wakes: the victim lives, hangs in
//! no call, serves others rightly, and sleeps when nobody writes. The stream's own tests (`hostile` there) do the same to every word,
//! under AddressSanitizer.

use std::fs;
use std::thread;
use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::patience::within;
use tandem_tests::process::{cpu_ms, which};
use tandem_tests::programs::program;
use tandem_tests::{End, Launch, Policyd, Proof, Scratch};

const SECONDS: u64 = 12;

/// `12 connections, 34 bytes, …`
fn counts(text: &str) -> Vec<u64> {
    text.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn a_hostile_peer_harms_nobody_else() {
    attacked("a_hostile_peer_harms_nobody_else", SECONDS, None);
}

/// Every byte that the victim reads or writes is one that it may, by memcheck.
#[test]
fn a_hostile_peer_leads_its_victim_nowhere() {
    const TEST: &str = "a_hostile_peer_leads_its_victim_nowhere";
    let Some(valgrind) = which("valgrind") else {
        return println!("{TEST}: NOT RUN: valgrind is not installed");
    };
    let log = Scratch::new();
    let watched = Launch::new("victim", valgrind)
        .args(["--quiet", "--error-limit=no", "--trace-children=no", "--fair-sched=yes"])
        .arg(format!("--log-file={}", log.file("errors").display()))
        .arg(program("hostile"));
    attacked(TEST, 6, Some(watched));
    let text = fs::read_to_string(log.file("errors")).unwrap_or_default();
    // What begins otherwise tells of system calls that this valgrind does not know.
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("==")).collect();
    assert!(errors.is_empty() || native_only(), "{TEST}:\n{}", errors.join("\n"));
}

/// A victim (by this launch), two attackers for so long, and an honest client beside them.
fn attacked(test: &str, seconds: u64, watched: Option<Launch>) {
    if native_only() {
        return;
    }
    let slow = watched.is_some();
    let mut proof = Proof::new(test);
    let (scratch, policyd) = (Scratch::new(), Policyd::start());
    let launch = |name: &str, arguments: &[&str]| {
        Launch::new(name, program("hostile")).args(arguments).preload(policyd.as_ref()).spawn(&scratch)
    };
    let file = scratch.file("port");
    let victim = watched.unwrap_or_else(|| Launch::new("victim", program("hostile")));
    let mut victim = victim.arg("victim").arg(&file).preload(policyd.as_ref()).spawn(&scratch);
    let mut port = String::new();
    let listens = within(Duration::from_secs(30), Duration::from_millis(5), || {
        port = fs::read_to_string(&file).unwrap_or_default();
        !port.is_empty()
    });
    assert!(listens, "no victim:\n{}", victim.wait(Duration::ZERO));
    let mut honest = launch("honest", &["honest", &port, &(seconds + 2).to_string()]);
    // An even one scribbles wildly, an odd one now and then, so that switch-overs come to their ends.
    let attackers =
        ["2", "3"].map(|seed| launch(&format!("attacker{seed}"), &["attacker", &port, seed, &seconds.to_string()]));
    let (mut words, mut bytes, mut descriptors) = (0, 0, 0);
    for mut attacker in attackers {
        // What it is told is garbage too; but it does not crash either.
        let outcome = attacker.wait(Duration::from_secs(120));
        assert_eq!(outcome.end, End::Exit(0), "{test}: the attacker\n{outcome}");
        let text = outcome.text();
        let [_, exchanged, scribbled, _, given] = counts(&text)[..] else { panic!("{test}: {outcome}") };
        (words, bytes, descriptors) = (words + scribbled, bytes + exchanged, descriptors + given);
    }
    let outcome = honest.wait(Duration::from_secs(120));
    assert_eq!(outcome.end, End::Exit(0), "{test}: an honest client was harmed\n{outcome}");
    let text = outcome.text();
    assert!(!victim.ended(), "{test}: the victim is gone:\n{}", victim.wait(Duration::ZERO));
    // The attackers' connections come to their time limits, then nobody has anything to do.
    let silence = if slow { 0 } else { 2 };
    thread::sleep(Duration::from_secs(2 * silence));
    let before = cpu_ms(victim.pid());
    thread::sleep(Duration::from_secs(silence));
    let used = cpu_ms(victim.pid()) - before;
    assert!(used <= 100, "{test}: the victim used {used} ms of CPU in {silence} seconds of silence");
    let status = policyd.as_ref().expect("not native").status();
    let least = if slow { 50_000 } else { 1_000_000 };
    assert!(
        words > 500 && (descriptors > 0 || cfg!(not(target_arch = "x86_64"))) && status.tx_companion > least,
        "{test}: {words} words, {}",
        status.whole
    );
    proof.fact(format!(
        "{words} words scribbled over, {descriptors} false wakes given, {bytes} bytes exchanged meanwhile; honest: {}; the victim {used} ms of CPU in {silence} s of silence; {}",
        text.trim(),
        status.witness()
    ));
    proof.print();
}
