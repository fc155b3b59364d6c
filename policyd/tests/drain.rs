//! `tandem drain` as policyd does it: who is told what, who may ask, and what is said of the impossible.

mod switch;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use switch::*;
use tandem_policyd::control::{Answer, Ask, Drain, Draining};
use tandem_protocol::{Message, message};

fn drain(policyd: &Policyd, drain: Drain) -> usize {
    let Answer::Draining(Draining { switches }) = ask(&policyd.socket, Ask::Drain(drain)) else {
        panic!("not drained")
    };
    switches
}

fn tandem(policyd: &Policyd, uid: Option<u32>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(TANDEM);
    command.env("TANDEM_POLICYD", &policyd.socket).env_remove("LD_PRELOAD").args(arguments);
    if let Some(uid) = uid {
        std::os::unix::process::CommandExt::uid(&mut command, uid);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_process_is_told_and_woken() {
    let policyd = Policyd::start(&[]);
    let switch = Switch::connect(&policyd.socket);
    let pid = Some(std::process::id());
    for (undo, expected) in [(false, message::Drain::All), (true, message::Drain::Undo)] {
        assert_eq!(drain(&policyd, Drain { pid, undo, ..Drain::default() }), 1);
        assert_eq!(switch.receive().map(|(message, _)| message), Some(Message::Drain(expected)));
        eventually("it is woken", || switch.wake.read().is_ok());
    }
}

#[test]
fn the_other_end_of_a_pair_is_told_too() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (near, far) = connection(&listener());
    one.send(&Message::Meet(claim(1, &near)), &[]);
    other.send(&Message::Meet(claim(2, &far)), &[]);
    let pairs = [&one, &other].map(|switch| switch.companion().companion.pair);
    assert_eq!(pairs[0], pairs[1]);
    // Both are this process: each is told of itself, and of what it shares with the other.
    assert_eq!(drain(&policyd, Drain { pid: Some(std::process::id()), ..Drain::default() }), 4);
    for switch in [&one, &other] {
        let mut told: Vec<_> = (0..2).filter_map(|_| switch.receive()).map(|(message, _)| message).collect();
        told.sort_by_key(|message| *message != Message::Drain(message::Drain::All));
        assert_eq!(told, [message::Drain::All, message::Drain::Pair(pairs[0])].map(Message::Drain));
    }
}

#[test]
fn what_cannot_be_drained_is_said() {
    let policyd = Policyd::start(&[]);
    for (arguments, expected) in [
        (vec!["drain", "1"], "process 1 does not speak to this policyd"),
        (vec!["drain", "4194303"], "there is no process 4194303"),
        (vec!["drain", "127.0.0.1:1"], "no carried connection has the address 127.0.0.1:1; `tandem ss` lists"),
        (vec!["drain", "--undo", "127.0.0.1:1"], "a drained connection stays on TCP: give a process to undo"),
    ] {
        let (status, text) = tandem(&policyd, None, &arguments);
        assert!(status == Some(1) && text.contains(expected), "{arguments:?}: {status:?} {text}");
    }
    let (status, text) = tandem(&policyd, None, &["drain", "localhost:1"]);
    assert!(status == Some(2) && text.contains("give a process by its number"), "{status:?} {text}");
}

#[test]
fn another_users_process_is_not_drained() {
    if !is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let policyd = Policyd::start(&[]);
    let folder = policyd.socket.parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in std::fs::read_dir(folder).unwrap() {
        std::fs::set_permissions(path.unwrap().path(), std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    let switch = Switch::connect(&policyd.socket);
    let (status, text) = tandem(&policyd, Some(65_534), &["drain", &std::process::id().to_string()]);
    assert!(status == Some(1) && text.contains("is user 0's, and user 65534 may not drain it; root may"), "{text}");
    assert!(switch.wake.read().is_err(), "nobody was told");
}
