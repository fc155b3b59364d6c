//! A peer that scribbles over the memory it shares with its victim, and hands it descriptors that are no wakes: the victim lives, hangs in
//! no call, serves others rightly, and sleeps when nobody writes. The stream's own tests (`hostile` there) do the same to every word,
//! under AddressSanitizer.

use std::fs;
use std::thread;
use std::time::Duration;

use tandem_tests::artifacts::native_only;
use tandem_tests::patience::within;
use tandem_tests::process::cpu_ms;
use tandem_tests::programs::program;
use tandem_tests::{End, Launch, Policyd, Proof, Scratch};

const SECONDS: u64 = 12;

/// `12 connections, 34 bytes, …`
fn counts(text: &str) -> Vec<u64> {
    text.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn a_hostile_peer_harms_nobody_else() {
    const TEST: &str = "a_hostile_peer_harms_nobody_else";
    if native_only() {
        return;
    }
    let mut proof = Proof::new(TEST);
    let (scratch, policyd) = (Scratch::new(), Policyd::start());
    let launch = |name: &str, arguments: &[&str]| {
        Launch::new(name, program("hostile")).args(arguments).preload(policyd.as_ref()).spawn(&scratch)
    };
    let file = scratch.file("port");
    let mut victim = launch("victim", &["victim", file.to_str().expect("a plain path")]);
    let mut port = String::new();
    let listens = within(Duration::from_secs(10), Duration::from_millis(5), || {
        port = fs::read_to_string(&file).unwrap_or_default();
        !port.is_empty()
    });
    assert!(listens, "no victim:\n{}", victim.wait(Duration::ZERO));
    let mut honest = launch("honest", &["honest", &port, &(SECONDS + 2).to_string()]);
    // An even one scribbles wildly, an odd one now and then, so that switch-overs come to their ends.
    let attackers =
        ["2", "3"].map(|seed| launch(&format!("attacker{seed}"), &["attacker", &port, seed, &SECONDS.to_string()]));
    let (mut words, mut bytes, mut descriptors) = (0, 0, 0);
    for mut attacker in attackers {
        // What it is told is garbage too; but it does not crash either.
        let outcome = attacker.wait(Duration::from_secs(120));
        assert_eq!(outcome.end, End::Exit(0), "{TEST}: the attacker\n{outcome}");
        let text = outcome.text();
        let [_, exchanged, scribbled, _, given] = counts(&text)[..] else { panic!("{TEST}: {outcome}") };
        (words, bytes, descriptors) = (words + scribbled, bytes + exchanged, descriptors + given);
    }
    let outcome = honest.wait(Duration::from_secs(120));
    assert_eq!(outcome.end, End::Exit(0), "{TEST}: an honest client was harmed\n{outcome}");
    let text = outcome.text();
    assert!(!victim.ended(), "{TEST}: the victim is gone:\n{}", victim.wait(Duration::ZERO));
    // The attackers' connections come to their time limits, then nobody has anything to do.
    thread::sleep(Duration::from_secs(4));
    let before = cpu_ms(victim.pid());
    thread::sleep(Duration::from_secs(2));
    let used = cpu_ms(victim.pid()) - before;
    assert!(used <= 100, "{TEST}: the victim used {used} ms of CPU in two seconds of silence");
    let status = policyd.as_ref().expect("not native").status();
    assert!(
        words > 1_000 && (descriptors > 0 || cfg!(not(target_arch = "x86_64"))) && status.tx_companion > 1_000_000,
        "{TEST}: {words} words, {}",
        status.whole
    );
    proof.fact(format!(
        "{words} words scribbled over, {descriptors} false wakes given, {bytes} bytes exchanged meanwhile; honest: {}; the victim {used} ms of CPU in silence; {}",
        text.trim(),
        status.witness()
    ));
    proof.print();
}
