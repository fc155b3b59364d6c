//! Our own rules and tables: made, kept current, taken over after a crash, removed, and never an administrator's.

mod network;
mod switch;

use std::process::Command;

use network::*;
use switch::*;
use tandem_policyd::connection::request::Spec;
use tandem_protocol::assignment::Name;

/// What a socket with that source address does.
fn by(net: &Net, from: &str, to: &str) -> String {
    net.near(&format!("ip route get {to} from {from} | head -1"))
}

#[test]
fn a_source_address_leaves_by_its_interface_and_nothing_else_changes() {
    let Some(net) = Net::new("steering") else { return };
    let before = [by(&net, "10.2.0.1", "192.0.2.1"), by(&net, "fd00:2::1", "2001:db8::1")];
    assert!(before.iter().all(|way| way.contains("eth0")), "by the routing table's choice: {before:?}");
    let manager = Manager::start(&net, BACKUP);
    let process = Assigned::by_network(&manager.socket, "backup");
    assert!(process.binding("192.0.2.1").unwrap().by_source);
    assert!(by(&net, "10.2.0.1", "192.0.2.1").contains("via 10.2.0.254 dev eth1"));
    assert!(by(&net, "fd00:2::1", "2001:db8::1").contains("via fd00:2::fe dev eth1"));
    // The host's own, the other's on-link, and sockets without an address.
    assert!(by(&net, "10.2.0.1", "10.1.0.1").contains("dev lo"));
    assert!(by(&net, "10.2.0.1", "10.1.0.254").contains("eth1"), "so the table of destinations leaves it out");
    assert!(net.near("ip route get 192.0.2.1").contains("eth0"));
    let ours = net.ours();
    let index = net.near("cat /sys/class/net/eth1/ifindex").trim().parse::<u32>().unwrap();
    assert!(ours.contains(&format!("10000:\tfrom 10.2.0.1 lookup {} proto 84", 7_200_000 + index)), "{ours}");

    // Kept current.
    net.near("ip addr add 10.2.5.1/24 dev eth1; ip route add 10.77.0.0/16 via 10.2.0.253");
    eventually("the new address and route are there", || {
        net.ours().contains("from 10.2.5.1") && by(&net, "10.2.5.1", "10.77.0.1").contains("via 10.2.0.253 dev eth1")
    });
    net.near("ip addr del 10.2.5.1/24 dev eth1; ip route del 10.77.0.0/16");
    eventually("and gone again", || !net.ours().contains("10.2.5.1") && !net.ours().contains("10.77.0.0"));
    drop(process);
    eventually("with its last process", || net.ours().is_empty());
}

#[test]
fn a_stop_leaves_nothing_and_a_crash_is_taken_over() {
    let Some(net) = Net::new("a crash") else { return };
    let mut manager = Manager::start(&net, BACKUP);
    let sleeper = Sleeper::new();
    let request = manager.open(Spec { pid: Some(sleeper.pid()), ..backup() }).unwrap();
    eventually("rules", || net.ours().contains("from 10.2.0.1"));
    eventually("all of them", || net.ours().contains("default via fd00:2::fe"));
    let administrator =
        "ip rule add from 10.50.0.1 lookup 77 priority 9999; ip route add 10.60.0.0/16 via 10.2.0.254 table 77";
    net.near(administrator);
    eventually("a copy of that route too", || net.ours().contains("10.60.0.0/16"));
    let made = net.ours();
    let before = net.near("ip rule list priority 9999; ip route show table 77");

    manager.kill();
    assert_eq!(net.ours(), made, "a crash leaves them");
    // What the dead one made for an interface that nobody wants now.
    net.near("ip rule add from 10.1.0.1 lookup 7200002 priority 10000 protocol 84");
    manager.launch();
    manager.until(request.id, tandem_policyd::connection::request::State::Connected);
    eventually("taken over, and what nobody wants removed", || net.ours() == made);
    manager.stop();
    assert_eq!(net.ours(), "", "a stop leaves nothing");
    assert_eq!(net.near("ip rule list priority 9999; ip route show table 77"), before);
}

#[test]
fn an_administrators_numbers_are_left_to_him() {
    let Some(net) = Net::new("collisions") else { return };
    let index: u32 = net.near("cat /sys/class/net/eth1/ifindex").trim().parse().unwrap();
    let table = 5_000 + index;
    let route = format!("10.60.0.0/16 via 10.2.0.254 table {table}");
    let rule = "from 10.50.0.1 lookup 77 priority 4321";
    for (theirs, gone) in [
        (format!("ip route add {route}"), format!("ip route del {route}")),
        (format!("ip rule add {rule}"), format!("ip rule del {rule}")),
    ] {
        net.near(&theirs);
        let config = format!("{BACKUP}[autobind]\nrule_priority = 4321\ntable_base = 5000\nprotocol = 98\n");
        let manager = Manager::start(&net, &config);
        let process = Assigned::by_network(&manager.socket, "backup");
        let binding = process.binding("192.0.2.1").expect("by device then");
        assert!(!binding.by_source, "{theirs}");
        let rules = net.near("ip rule list; ip -6 rule list");
        assert!(!rules.contains("proto 98"), "{rules}");
        assert!(net.near("ip route show table all proto 98").is_empty());
        // Out of the way, the numbers that are configured can be used.
        net.near(&gone);
        eventually("then by source", || process.binding("192.0.2.1").is_some_and(|binding| binding.by_source));
        assert!(net.near("ip rule list priority 4321").contains("proto 98"));
    }
}

#[test]
fn without_rules_the_device_is_named() {
    let Some(net) = Net::new("no rules") else { return };
    let manager = Manager::start(&net, &format!("{BACKUP}[autobind]\nrules = false\n"));
    let process = Assigned::by_network(&manager.socket, "backup");
    let binding = process.binding("192.0.2.1").unwrap();
    assert!(!binding.by_source && binding.interface.as_str() == "eth1");
    assert!(net.ours().is_empty());
    assert_eq!(manager.explain(std::process::id()).by.as_deref(), Some("device"));
}

/// As another process than the test's: prints what its sockets would get, for each line of its input.
#[test]
fn played_by_a_child() {
    let Some(socket) = std::env::var_os("PLAYED_SWITCH") else { return };
    // The test's own process has the first of these.
    let mut family = Family::new();
    family.id = std::array::from_fn(|at| (std::process::id() >> (at % 4 * 8)) as u8);
    let process = Assigned::with(Switch::of_family(socket.as_ref(), family), Name::NONE, Name::NONE);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        println!("answer {:?}", process.way(&line).map(|(interface, _)| interface));
    }
}

struct Played(std::process::Child);

impl Played {
    /// A child of a shell, which is a child of this process.
    fn start(manager: &Manager, setup: &str) -> Self {
        let mut command = Command::new("sh");
        let script = format!("{setup} \"$@\"; true");
        command.args(["-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "played_by_a_child", "--nocapture"]).env("PLAYED_SWITCH", &manager.socket);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn interface(&mut self, to: &str) -> String {
        use std::io::{BufRead, BufReader, Write};
        let input = self.0.stdin.as_mut().unwrap();
        writeln!(input, "{to}").unwrap();
        let output = BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap());
        let answer = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("answer ").map(|(_, answer)| answer.to_owned()));
        answer.expect("an answer")
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn children_inherit_and_strangers_do_not() {
    let Some(net) = Net::new("children") else { return };
    let manager = Manager::start(&net, BACKUP);
    // Asked for by a shell for itself: the program that the shell starts has it, and so has a grandchild.
    let request = format!("TANDEM_POLICYD={} {TANDEM} request backup --required >&2;", manager.socket.display());
    let mut child = Played::start(&manager, &request);
    let mut grandchild = Played::start(&manager, &format!("{request} env"));
    let mut stranger = Played::start(&manager, "");
    let answers = |played: &mut Played, wanted: &str| {
        eventually(&format!("{wanted} is answered"), || played.interface("192.0.2.1") == wanted);
    };
    answers(&mut child, "Some(\"eth1\")");
    answers(&mut grandchild, "Some(\"eth1\")");
    answers(&mut stranger, "None");
    let requests = manager.requests();
    assert_eq!(requests.len(), 2);
    let of_child = requests.iter().find(|request| request.pid == child.0.id()).unwrap();
    let release = tandem_policyd::control::OfRequest { id: of_child.id };
    manager.ask(tandem_policyd::control::Ask::Release(release)).unwrap();
    answers(&mut child, "None");
}

#[test]
fn a_process_of_another_network_namespace_gets_nothing() {
    let Some(net) = Net::new("another namespace") else { return };
    let manager = Manager::start(&net, BACKUP);
    let config = format!("{BACKUP}[[rule]]\nuser = {}\nnetwork = 'backup'\n", nix::unistd::getuid());
    manager.configure(&config);
    manager.signal(nix::sys::signal::Signal::SIGHUP);
    let mut same = Played::start(&manager, "");
    let mut other = Played::start(&manager, &format!("ip netns exec {}", net.far));
    eventually("the same namespace has it", || same.interface("192.0.2.1") == "Some(\"eth1\")");
    assert_eq!(other.interface("192.0.2.1"), "None");
}
