//! Assignments that come, change and go while a program runs; policyds that are slow, refuse, or die.

use std::thread;
use std::time::{Duration, Instant};

use tandem_tests::programs::program;

use crate::stand_in::Manner;
use crate::{field, lines};

const ASK: &str = "tcp4 connect:10.79.1.1/5000 ask udp4 connect:10.79.1.1/5001 ask udp6 to:fd79:1::1/5001";
const VIA_0: &str = "peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees fd70::1";
const VIA_1: &str = "peer sees 10.71.0.1; peer sees 10.71.0.1; peer sees fd71::1";

#[test]
fn no_policyd_is_native() {
    let mut field = field!(no_policyd_is_native);
    field.stand_in.stop();
    field.same(&format!("{ASK} options name tcp4 connect:10.79.1.1/9 name fork {ASK} exec {ASK}"));
    let asks = format!("{ASK} {ASK} {ASK} {ASK} {ASK}");
    field.differ(&asks, &[VIA_0; 5].join("; "), &[VIA_0; 5].join("; "));
    field.proof.fact("nobody listens on policyd's socket: as natively");
    field.proof.print();
}

#[test]
fn no_assignment_is_the_routing_table() {
    let mut field = field!(no_assignment_is_the_routing_table);
    field.same(&format!("{ASK} options name"));
    assert!(field.stand_in.asked() > 0, "nobody asked");
    field.proof.fact("policyd is there and assigns nothing: as natively");
    for manner in [Manner::Refuse, Manner::Unsealed] {
        field.stand_in.manner(manner);
        field.assign("eth1");
        field.same(&format!("{ASK} options name"));
        field.proof.fact(format!("{manner:?}: as natively"));
    }
    field.proof.print();
}

/// A request, an assignment, a release: the running program's next socket follows.
#[test]
fn an_assignment_reaches_the_running_program() {
    let mut field = field!(an_assignment_reaches_the_running_program);
    let folder = field.scratch.path().display().to_string();
    let actions =
        format!("{ASK} say:one gate:{folder}/1 {ASK} say:two gate:{folder}/2 {ASK} say:three gate:{folder}/3 {ASK}");
    let mut running = field.tandem(program("autobind")).args(actions.split_whitespace()).spawn(&field.scratch);
    field.wait_for(&running, "one");
    field.assign("eth1");
    field.scratch.write("1", "");
    field.wait_for(&running, "two");
    field.assign("eth0");
    field.scratch.write("2", "");
    field.wait_for(&running, "three");
    field.stand_in.assign(None);
    field.scratch.write("3", "");
    let seen = lines(&running.wait(Duration::from_secs(10)));
    assert_eq!(seen, format!("{VIA_0}; one; {VIA_1}; two; {VIA_0}; three; {VIA_0}"));
    assert_eq!(field.stand_in.asked(), 1, "one question a process");
    field
        .proof
        .fact("none, eth1, eth0, none: each new socket by the assignment of the moment, with one question in all");
    field.proof.print();
}

#[test]
fn bound_sockets_are_never_rebound() {
    let mut field = field!(bound_sockets_are_never_rebound);
    field.assign("eth1");
    let sockets = "tcp4 connect:10.79.1.1/5000 udp4 connect:10.79.1.1/5001 tcp4 bind:10.70.0.1/0 udp4 bind:10.70.0.1/0";
    let after = "socket:1 ask name socket:2 ask name socket:3 connect:10.79.1.1/5000 ask socket:4 to:10.79.1.1/5001 tcp4 connect:10.79.1.1/5000 ask";
    let mut running = field.start(sockets, after);
    field.assign("eth0");
    field.go();
    let seen = lines(&running.wait(Duration::from_secs(10)));
    let one = "peer sees 10.71.0.1; own name 10.71.0.1";
    let zero = "peer sees 10.70.0.1";
    assert_eq!(seen, format!("ready; {one}; {one}; {zero}; {zero}; {zero}"));
    field
        .proof
        .fact("assigned eth1, then eth0: what was bound by us or by the program stays; the next socket leaves by eth0");
    field.proof.print();
}

/// Sockets of one process, several interfaces at once.
#[test]
fn several_sockets_on_several_interfaces() {
    let mut field = field!(several_sockets_on_several_interfaces);
    field.assign("eth1");
    let actions = "tcp4 connect:10.79.1.1/5000 udp4 bind:10.70.0.1/0 connect:10.79.2.1/5001 udp4 connect:10.79.2.1/5001 tcp4 device:eth0 connect:10.79.1.1/5000 socket:1 ask socket:2 ask socket:3 ask socket:4 ask";
    field.network.packets();
    field.differ(
        actions,
        "peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 10.70.0.1; peer sees 10.70.0.1",
        "peer sees 10.71.0.1; peer sees 10.70.0.1; peer sees 10.71.0.1; peer sees 10.70.0.1",
    );
    let (eth0, eth1) = field.network.packets();
    assert!(eth0 > 0 && eth1 > 0, "{eth0} {eth1}");
    field.proof.fact(format!("two by eth1, two by eth0, at once; {eth0} and {eth1} packets counted in both runs"));
    field.proof.print();
}

#[test]
fn children_and_programs_that_are_executed_inherit() {
    let mut field = field!(children_and_programs_that_are_executed_inherit);
    field.assign("eth1");
    field.differ(&format!("{ASK} fork {ASK} exec {ASK} fork {ASK}"), &[VIA_0; 4].join("; "), &[VIA_1; 4].join("; "));
    // An unbound socket made before the fork is the child's as well.
    field.differ(
        "tcp4 fork connect:10.79.1.1/5000 ask udp4 fork connect:10.79.1.1/5001 ask",
        "peer sees 10.70.0.1; peer sees 10.70.0.1",
        "peer sees 10.71.0.1; peer sees 10.71.0.1",
    );
    // A child that no hook saw has no cell of its own, and does not use its parent's.
    field.differ(
        "tcp4 connect:10.79.1.1/5000 ask clone tcp4 connect:10.79.1.1/5000 ask",
        "peer sees 10.70.0.1; peer sees 10.70.0.1",
        "peer sees 10.71.0.1; peer sees 10.70.0.1",
    );
    // Another user's assignment is asked for anew.
    field.differ(&format!("{ASK} drop {ASK}"), &[VIA_0; 2].join("; "), &[VIA_1; 2].join("; "));
    // By vfork, posix_spawn and pipes: the shell's and Python's ways.
    let shell = format!(
        "'{0}' tcp4 connect:10.79.1.1/5000 ask | cat; x=$('{0}' udp4 to:10.79.1.1/5001); echo $x",
        program("autobind").display()
    );
    let seen = field.finish(field.tandem("/bin/sh").args(["-c", &shell]));
    assert_eq!(lines(&seen), "peer sees 10.71.0.1; peer sees 10.71.0.1");
    let python = "import subprocess, sys, os\nfor how in (dict(close_fds=True), dict(close_fds=False)):\n  print(subprocess.run(sys.argv[1:], capture_output=True, **how).stdout.decode().strip())\nos.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\nos.wait()";
    let launch = field.tandem(tandem_tests::process::system_program("python3")).args(["-c", python]);
    let seen = field.finish(launch.arg(program("autobind")).args(["tcp4", "connect:10.79.1.1/5000", "ask"]));
    assert_eq!(lines(&seen), "peer sees 10.71.0.1; peer sees 10.71.0.1; peer sees 10.71.0.1");
    field.proof.fact("fork, exec, a shell's pipe and substitution, Python's subprocess and posix_spawn: all by eth1");
    field.proof.print();
}

/// Nobody waits longer than 20 ms, and the answer serves the next socket.
#[test]
fn a_slow_policyd() {
    let mut field = field!(a_slow_policyd);
    field.assign("eth1");
    field.stand_in.manner(Manner::After(Duration::from_millis(5)));
    field.differ(ASK, VIA_0, VIA_1);
    field.proof.fact("an answer after 5 ms is waited for");

    field.stand_in.manner(Manner::After(Duration::from_millis(150)));
    let one = "tcp4 connect:10.79.1.1/5000 ask";
    let gate = format!("say:ready gate:{}", field.gate().display());
    let actions = format!("{one} {gate} {one}");
    let hasty = |field: &crate::Field| field.tandem(program("autobind")).env("TANDEM_DEBUG", "");
    let mut running = hasty(&field).args(actions.split_whitespace()).spawn(&field.scratch);
    field.wait_for(&running, "ready");
    thread::sleep(Duration::from_millis(300));
    field.go();
    let seen = lines(&running.wait(Duration::from_secs(10)));
    assert_eq!(seen, "peer sees 10.70.0.1; ready; peer sees 10.71.0.1");
    field.proof.fact("an answer after 150 ms: the first socket goes as natively, one after it by eth1");

    field.stand_in.manner(Manner::Never);
    let many = vec![one; 20].join(" ");
    let time = |launch: tandem_tests::Launch| {
        let started = Instant::now();
        let outcome = field.finish(launch.args(many.split_whitespace()));
        assert_eq!(lines(&outcome), vec!["peer sees 10.70.0.1"; 20].join("; "));
        started.elapsed()
    };
    let (native, here) = (time(field.native(program("autobind"))), time(hasty(&field)));
    assert!(here < native + Duration::from_millis(250), "{native:?} natively, {here:?} here");
    field.proof.fact(format!("no answer at all: 20 sockets took {here:?}, natively {native:?}: one wait, not twenty"));
    field.proof.print();
}

#[test]
fn policyd_dies_and_comes_back() {
    let mut field = field!(policyd_dies_and_comes_back);
    field.assign("eth1");
    let folder = field.scratch.path().display().to_string();
    let actions = format!("{ASK} say:one gate:{folder}/1 {ASK} say:two gate:{folder}/2 {ASK}");
    let mut running = field.tandem(program("autobind")).args(actions.split_whitespace()).spawn(&field.scratch);
    field.wait_for(&running, "one");
    field.stand_in.stop();
    // The switch looks whether policyd lives every tenth of a second at most.
    thread::sleep(Duration::from_millis(150));
    field.scratch.write("1", "");
    field.wait_for(&running, "two");
    field.stand_in.start_again();
    thread::sleep(Duration::from_millis(600));
    field.scratch.write("2", "");
    let seen = lines(&running.wait(Duration::from_secs(10)));
    assert_eq!(seen, format!("{VIA_1}; one; {VIA_0}; two; {VIA_1}"));
    field.proof.fact("killed: natively from then on; back again: asked anew, by eth1");
    field.proof.print();
}

/// Another namespace has other interfaces, under the same numbers and names.
#[test]
fn another_network_namespace() {
    let mut field = field!(another_network_namespace);
    field.assign("eth1");
    let python = "import ctypes, socket, sys\nlibc = ctypes.CDLL(None)\ns = socket.create_connection(('10.79.1.1', 5000)); print(s.recv(99).decode())\nf = open('/run/netns/' + sys.argv[1]); assert libc.setns(f.fileno(), 0x40000000) == 0\ns = socket.create_connection(('10.79.1.1', 5000)); print(s.recv(99).decode())\n";
    let python3 = tandem_tests::process::system_program("python3");
    let launch = |launch: tandem_tests::Launch| launch.args(["-c", python, field.network.two.name()]);
    let native = field.finish(launch(field.native(&python3)));
    let here = field.finish(launch(field.tandem(&python3)));
    assert_eq!((lines(&native), lines(&here)), ("10.70.0.1; 10.79.2.1".into(), "10.71.0.1; 10.79.2.1".into()));
    field.proof.fact("after setns no socket is bound any more");
    field.proof.print();
}
