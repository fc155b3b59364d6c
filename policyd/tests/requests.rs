//! Requests: who gets which interface, for how long, and who may ask; by the control socket and the `tandem` command.

mod network;
mod switch;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use network::*;
use switch::*;
use tandem_policyd::connection::request::{Priority, Spec, State};
use tandem_policyd::control::client::Watching;
use tandem_policyd::control::{Answer, Ask, OfRequest, Watched};

fn for_pid(pid: u32) -> Spec {
    Spec { pid: Some(pid), ..backup() }
}

#[test]
fn a_request_ends_with_its_process_and_its_number_means_nothing() {
    let Some(net) = Net::new("a request's end") else { return };
    let manager = Manager::start(&net, BACKUP);
    let mut process = Sleeper::new();
    let status = manager.open(for_pid(process.pid())).unwrap();
    manager.until(status.id, State::Connected);
    process.end();
    eventually("the request is gone", || manager.request(status.id).is_none());
    let error = manager.open(for_pid(process.pid())).unwrap_err();
    assert!(error.contains(&format!("there is no process {}", process.pid())), "{error}");
}

#[test]
fn a_successor_by_number_is_not_taken_for_the_process() {
    let Some(net) = Net::new("a successor") else { return };
    let manager = Manager::start(&net, BACKUP);
    // In a pid namespace of its own a number can be chosen: the host's numbers come from ns_last_pid too.
    let mut first = Sleeper::new();
    let pid = first.pid();
    let status = manager.open(for_pid(pid)).unwrap();
    manager.until(status.id, State::Connected);
    manager.signal(nix::sys::signal::Signal::SIGSTOP);
    first.end();
    let mut successor = None;
    for _ in 0..50 {
        if std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
            println!("NOT RUN: ns_last_pid can't be written");
            break;
        }
        let next = Sleeper::new();
        if next.pid() == pid {
            successor = Some(next);
            break;
        }
    }
    manager.signal(nix::sys::signal::Signal::SIGCONT);
    let Some(successor) = successor else { return };
    eventually("the request is gone", || manager.request(status.id).is_none());
    let explanation = manager.explain(successor.pid());
    assert!(explanation.interface.is_none() && explanation.why.contains("nobody has asked"), "{}", explanation.why);
    println!("process {pid} has a successor {}, which has nothing", successor.pid());
}

#[test]
fn a_higher_priority_takes_an_exclusive_interface_and_the_holder_is_told() {
    let Some(net) = Net::new("priorities") else { return };
    let manager = Manager::start(&net, BACKUP);
    let (low, high) = (Sleeper::new(), Sleeper::new());
    let exclusive = |pid, priority| Spec { exclusive: true, priority, ..for_pid(pid) };
    let first = manager.open(exclusive(low.pid(), Priority::Low)).unwrap();
    manager.until(first.id, State::Connected);
    let mut told = Watching::new(manager.socket.clone(), Watched { id: Some(first.id) });
    assert_eq!(told.next().unwrap().unwrap().state, State::Connected);

    let equal = Spec { dry_run: true, ..exclusive(high.pid(), Priority::Low) };
    let tried = manager.open(equal).unwrap();
    assert!(tried.id == 0 && tried.state == State::WaitingForResource, "{tried:?}");
    assert!(tried.reason.contains(&format!("request {} of process {}", first.id, low.pid())), "{}", tried.reason);

    let second = manager.open(exclusive(high.pid(), Priority::High)).unwrap();
    let suspended = told.next().unwrap().unwrap();
    assert_eq!(suspended.state, State::Suspended);
    assert!(suspended.reason.contains(&format!("request {}", second.id)), "{}", suspended.reason);
    assert_eq!(suspended.interface, None);
    manager.until(second.id, State::Connected);

    manager.ask(Ask::Release(OfRequest { id: second.id })).unwrap();
    let states: Vec<State> = told.by_ref().take(2).map(|status| status.unwrap().state).collect();
    assert_eq!(states, [State::Connecting, State::Connected]);
    drop(low);
    let last = told.last().unwrap().unwrap();
    assert_eq!((last.state, last.reason.as_str()), (State::Disconnected, "its process has ended"));
}

#[test]
fn link_loss_is_told() {
    let Some(net) = Net::new("link loss") else { return };
    let manager = Manager::start(&net, BACKUP);
    let process = Sleeper::new();
    let status = manager.open(for_pid(process.pid())).unwrap();
    manager.until(status.id, State::Connected);
    let mut told = Watching::new(manager.socket.clone(), Watched { id: Some(status.id) });
    told.next().unwrap().unwrap();
    net.near("ip link set eth1 down");
    let suspended = told.next().unwrap().unwrap();
    assert_eq!((suspended.state, suspended.reason.as_str()), (State::Suspended, "eth1 is down"));
    net.near("ip link set eth1 up");
    assert_eq!(told.next().unwrap().unwrap().state, State::Connecting);
    assert_eq!(told.next().unwrap().unwrap().state, State::Connected);
}

#[test]
fn cost_bandwidth_lifetime_destination_and_cache() {
    let Some(net) = Net::new("terms") else { return };
    let manager = Manager::start(
        &net,
        "[[network]]\nname = 'backup'\ninterfaces = ['eth1', 'eth0']\n[[network]]\nname = 'lab'\ninterfaces = ['eth1']\n\
         destinations = ['10.9.0.0/16']\n[[interface]]\nname = 'eth1'\ncost = 10\nbandwidth_mbit = 50\n\
         [[interface]]\nname = 'eth0'\ncost = 20\nbandwidth_mbit = 1000\n[autobind]\ncache_seconds = 1\n",
    );
    let process = Sleeper::new();
    let tried = |spec: Spec| manager.open(Spec { dry_run: true, ..spec }).unwrap();
    let own = || for_pid(process.pid());
    // The network has to be known first.
    eventually("eth1 is up", || tried(own()).interface.as_deref() == Some("eth1"));
    assert_eq!(tried(Spec { min_bandwidth_mbit: Some(100), ..own() }).interface.as_deref(), Some("eth0"));
    let none = tried(Spec { min_bandwidth_mbit: Some(100), max_cost: Some(10), ..own() });
    assert!(none.state == State::WaitingForResource && none.reason.contains("costs too much"), "{none:?}");

    let to = |to: &str| Spec { network: None, destination: Some(to.parse().unwrap()), ..own() };
    assert_eq!(tried(to("10.9.1.1")).network.as_deref(), Some("backup"));
    let lab = Spec { network: Some("lab".to_owned()), ..to("10.8.1.1") };
    assert!(manager.open(lab).unwrap_err().contains("network lab is not for 10.8.1.1"));

    let status = manager.open(Spec { lifetime_seconds: Some(1), ..own() }).unwrap();
    manager.until(status.id, State::Connected);
    let last = Watching::new(manager.socket.clone(), Watched { id: Some(status.id) }).last().unwrap().unwrap();
    assert_eq!((last.state, last.reason.as_str()), (State::Disconnected, "its lifetime is over"));

    let status = manager.open(own()).unwrap();
    manager.until(status.id, State::Connected);
    manager.ask(Ask::Release(OfRequest { id: status.id })).unwrap();
    assert!(net.ours().contains("from 10.2.0.1"), "what a released request held is kept ready");
    eventually("and goes after its time", || net.ours().is_empty());
}

#[test]
fn only_its_own_user_asks_for_a_process_and_sees_it() {
    let Some(net) = Net::new("users") else { return };
    let config =
        format!("{BACKUP}users = [65534]\n[autobind]\non_behalf = [65533]\n[quotas]\nrequests = 3\ncommands = 4\n");
    let manager = Manager::start(&net, &config);
    let mine = Sleeper::new();
    let as_user = |uid: u32, arguments: &[&str]| {
        let mut command = Command::new(TANDEM);
        command.env("TANDEM_POLICYD", &manager.socket).args(arguments);
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let pid = mine.pid().to_string();
    let refused = as_user(65_534, &["request", "backup", "--pid", &pid]);
    assert!(!refused.0 && refused.1.contains("is user 0's, and user 65534 may not"), "{}", refused.1);
    let refused = as_user(65_532, &["request", "backup"]);
    assert!(!refused.0 && refused.1.contains("may not ask for it"), "its parent is root's: {}", refused.1);
    let refused = as_user(65_533, &["request", "backup", "--pid", &pid]);
    assert!(!refused.0 && refused.1.contains("user 65533 may not use network backup"), "{}", refused.1);

    // Who may, by the configuration, and for whom nobody else asks: still only what he may use himself.
    manager.configure(&with_an_open_network(&config));
    manager.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("user 65533 asks on behalf", || as_user(65_533, &["request", "open", "--pid", &pid]).0);
    let refused = as_user(65_532, &["request", "open", "--pid", &pid]);
    assert!(!refused.0 && refused.1.contains("is user 0's, and user 65532 may not"), "{}", refused.1);
    let seen = as_user(65_533, &["networks"]).1;
    assert!(seen.contains("open  by eth1, 1 requests"), "who asked sees it: {seen}");

    let theirs = Command::new("sleep").arg("100").uid_of(65_534);
    let pid = theirs.pid().to_string();
    for round in 0..3 {
        let asked = as_user(65_534, &["request", "backup", "--pid", &pid]);
        assert!(asked.0, "{round}: {}", asked.1);
    }
    let refused = as_user(65_534, &["request", "backup", "--pid", &pid]);
    assert!(!refused.0 && refused.1.contains("3 requests already (quotas.requests)"), "{}", refused.1);
    // Root is another user; and what it has is not theirs to release or explain.
    let roots = manager.open(for_pid(mine.pid())).unwrap();
    let id = roots.id.to_string();
    let refused = as_user(65_534, &["release", &id]);
    assert!(!refused.0 && refused.1.contains(&format!("no request {id} of yours")), "{}", refused.1);
    let refused = as_user(65_534, &["explain", &mine.pid().to_string()]);
    assert!(!refused.0 && refused.1.contains("another user's"), "{}", refused.1);
    let explained = as_user(65_534, &["explain", &pid]);
    assert!(explained.0 && explained.1.contains("eth1") && explained.1.contains("request "), "{}", explained.1);
    assert_eq!(manager.requests().len(), 5);
}

/// One more network, for everybody.
fn with_an_open_network(config: &str) -> String {
    format!("[[network]]\nname = 'open'\ninterfaces = ['eth1']\n{config}")
}

trait AsUser {
    fn uid_of(&mut self, uid: u32) -> Sleeper;
}

impl AsUser for Command {
    fn uid_of(&mut self, uid: u32) -> Sleeper {
        Sleeper(std::os::unix::process::CommandExt::uid(self, uid).spawn().unwrap())
    }
}

#[test]
fn the_commands_as_a_user_sees_them() {
    let Some(net) = Net::new("commands") else { return };
    let mut manager = Manager::start(&net, BACKUP);
    let tandem = |arguments: &[&str]| {
        let mut command = Command::new(TANDEM);
        command.env("TANDEM_POLICYD", &manager.socket).args(arguments);
        command
    };
    let text = |arguments: &[&str]| {
        let output = tandem(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let sleeper = Sleeper::new();
    let first = manager.open(for_pid(sleeper.pid())).unwrap();
    manager.until(first.id, State::Connected);
    let mut watch = tandem(&["watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    // What it lists first shows that it watches.
    assert!(seen.next().unwrap().contains(&format!("request {}", first.id)));
    eventually("eth1 is up", || text(&["networks"]).contains("backup  by eth1, 1 requests"));
    let asked = text(&["request", "backup", "--priority", "high"]);
    let id = asked.split_whitespace().nth(1).unwrap().to_owned();
    assert!(asked.contains(&format!("process {}/", std::process::id())), "for the caller: {asked}");
    let explained = text(&["explain", &std::process::id().to_string()]);
    assert!(explained.contains(&format!("request {id} (connected: by eth1)")), "{explained}");
    assert!(explained.contains("10.2.0.1") && explained.contains("policyd's rules"), "{explained}");
    assert!(text(&["release", &id]).contains("disconnected: released"));
    let lines: Vec<String> = seen.by_ref().take(3).collect();
    for (line, state) in lines.iter().zip(["connecting", "connected", "disconnected: released"]) {
        assert!(line.contains(&format!("request {id}")) && line.contains(state), "{line}");
    }
    let unknown = tandem(&["request", "nowhere"]).output().unwrap();
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert!(error.contains("network nowhere is not configured (backup)"), "{error}");

    // The watcher finds the next policyd by itself.
    manager.kill();
    manager.launch();
    let status = manager.open(for_pid(std::process::id())).unwrap();
    let line = seen.find(|line| line.contains(&format!("request {}", status.id))).unwrap();
    println!("after a restart of policyd: {line}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn nothing_is_lost_by_a_restart() {
    let Some(net) = Net::new("a restart") else { return };
    let mut manager = Manager::start(&net, BACKUP);
    let (process, mut ended) = (Sleeper::new(), Sleeper::new());
    let spec = Spec { priority: Priority::High, lifetime_seconds: Some(1_000), ..for_pid(process.pid()) };
    let kept = manager.open(spec).unwrap();
    let lost = manager.open(for_pid(ended.pid())).unwrap();
    manager.until(kept.id, State::Connected);
    manager.until(lost.id, State::Connected);
    for hard in [true, false] {
        if hard {
            manager.kill()
        } else {
            manager.stop()
        }
        ended.end();
        manager.launch();
        manager.until(kept.id, State::Connected);
        let again = manager.request(kept.id).unwrap();
        assert_eq!((again.pid, again.priority), (process.pid(), Priority::High));
        assert!(again.expires_in_seconds.is_some_and(|seconds| (900..=1_000).contains(&seconds)));
        assert!(manager.request(lost.id).is_none());
    }
    let next = manager.open(for_pid(process.pid())).unwrap();
    assert!(next.id > lost.id, "no number is given twice");
    drop(process);
    eventually("and it still ends with its process", || manager.request(kept.id).is_none());
}

#[test]
fn a_watcher_that_reads_nothing_is_no_burden() {
    let Some(net) = Net::new("a slow reader") else { return };
    let manager = Manager::start(&net, BACKUP);
    let slow = std::os::unix::net::UnixStream::connect(tandem_policyd::control::path(&manager.socket)).unwrap();
    std::io::Write::write_all(&mut &slow, b"{\"version\":1,\"request\":{\"watch\":{}}}\n").unwrap();
    let before = resident_kb(&manager);
    for _ in 0..500 {
        let status = manager.open(for_pid(std::process::id())).unwrap();
        manager.ask(Ask::Release(OfRequest { id: status.id })).unwrap();
    }
    let grown = resident_kb(&manager).saturating_sub(before);
    assert!(grown < 4_096, "policyd has grown by {grown} KiB");
    // It is told that it missed some, and how things are.
    slow.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let lines = BufReader::new(&slow).lines().map_while(Result::ok);
    let answers = lines.map(|line| serde_json::from_str::<tandem_policyd::control::Reply>(&line).unwrap().answer);
    let mut events = 0;
    let missed = answers.inspect(|_| events += 1).find_map(|answer| match answer {
        Answer::Missed(count) => Some(count),
        _ => None,
    });
    println!("{events} lines read, then {missed:?} missed; policyd grew by {grown} KiB");
    assert!(missed.is_some_and(|missed| missed > 0));
}

fn resident_kb(manager: &Manager) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", manager.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// As fast as they can be asked: the first hundred are granted, the others refused. 41 s without optimization on two cores that
/// had much else to do.
#[test]
fn a_million_requests_from_one_user_stay_few() {
    const MILLION: usize = 1_000_000;
    const BLOCK: usize = 1_000;
    let Some(net) = Net::new("many requests") else { return };
    // SAFETY: a plain number. This process and its policyd give way to the tests beside it.
    unsafe { nix::libc::nice(10) };
    let manager = Manager::start(&net, &format!("{BACKUP}[quotas]\nrequests = 100\ncommands = 5\n"));
    for _ in 0..100 {
        manager.open(for_pid(std::process::id())).unwrap();
    }
    let stream = std::os::unix::net::UnixStream::connect(tandem_policyd::control::path(&manager.socket)).unwrap();
    let line = format!(r#"{{"version":1,"request":{{"open":{{"network":"backup","pid":{}}}}}}}"#, std::process::id());
    let block = format!("{line}\n").repeat(BLOCK);
    let (start, mut resident, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    std::thread::scope(|threads| {
        threads.spawn(|| (0..MILLION / BLOCK).for_each(|_| (&stream).write_all(block.as_bytes()).unwrap()));
        let mut answers = BufReader::new(&stream);
        let mut answer = String::new();
        for refused in 0..MILLION {
            answer.clear();
            answers.read_line(&mut answer).unwrap();
            assert!(answer.contains("100 requests already (quotas.requests)"), "{answer}");
            if refused == BLOCK {
                resident = resident_kb(&manager);
            }
            if refused % (MILLION / 50) == 0 {
                let asked = Instant::now();
                manager.ask(Ask::Status).unwrap();
                slowest = slowest.max(asked.elapsed());
            }
        }
    });
    let grown = resident_kb(&manager).saturating_sub(resident);
    println!(
        "{MILLION} refused in {:?}, others answered within {slowest:?}; policyd grew by {grown} KiB after the first {BLOCK}",
        start.elapsed()
    );
    assert_eq!(manager.requests().len(), 100);
    assert!(grown < 2_048, "grown by {grown} KiB");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", manager.child.id())).unwrap().count();
    assert!(descriptors < 150, "{descriptors}");
}

#[test]
fn connections_of_one_user_are_few() {
    let Some(net) = Net::new("many connections") else { return };
    let manager = Manager::start(&net, &format!("{BACKUP}[quotas]\ncommands = 5\n"));
    let full: Vec<_> = (0..5)
        .map(|_| std::os::unix::net::UnixStream::connect(tandem_policyd::control::path(&manager.socket)).unwrap())
        .collect();
    eventually("one connection too many is told so", || {
        manager.ask(Ask::Status).is_err_and(|error| error.contains("quotas.commands"))
    });
    drop(full);
    eventually("and served when others have gone", || manager.ask(Ask::Status).is_ok());
}

#[test]
fn run_by_interface_or_network_says_beforehand_what_cannot_be_had() {
    let Some(net) = Net::new("tandem run") else { return };
    let manager = Manager::start(&net, BACKUP);
    let library = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library =
        library.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("libgcc_s"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(TANDEM);
        command.arg("run").args(arguments).args(["--", "sh", "-c", "echo $TANDEM_INTERFACE,$TANDEM_NETWORK"]);
        command.env("TANDEM_POLICYD", &manager.socket).env("TANDEM_LIBRARY", library.unwrap());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(run(&["--interface", "eth1"]), (Some(0), "eth1,\n".to_owned()));
    assert_eq!(run(&["--network", "backup"]), (Some(0), ",backup\n".to_owned()));
    for (arguments, expected) in [
        (["--interface", "eth7"], "interface eth7 cannot be had: policyd says: eth7 is not there"),
        (["--network", "nowhere"], "network nowhere is not configured (backup)"),
        (["--interface", "lo"], "lo is a loopback"),
    ] {
        let (status, text) = run(&arguments);
        assert!(status == Some(125) && text.contains(expected), "{text}");
    }
    net.near("ip link set eth1 down");
    let text = || run(&["--network", "backup"]).1;
    eventually("it is known", || text().contains("eth1 is down"));
}

#[test]
fn an_exclusive_request_takes_the_interface_from_those_who_only_prefer_it() {
    let Some(net) = Net::new("exclusive") else { return };
    let manager = Manager::start(&net, "[[network]]\nname = 'backup'\ninterfaces = ['eth1', 'eth0']\n");
    let preferring = Assigned::by_network(&manager.socket, "backup");
    preferring.until_by(Some("eth1"));
    let other = Sleeper::new();
    let request = manager.open(Spec { exclusive: true, ..for_pid(other.pid()) }).unwrap();
    manager.until(request.id, State::Connected);
    preferring.until_by(Some("eth0"));
    drop(other);
    preferring.until_by(Some("eth1"));
}

#[test]
fn the_own_request_goes_before_the_environment_and_a_child_makes_its_own() {
    let Some(net) = Net::new("order") else { return };
    let config = format!("{BACKUP}[[network]]\nname = 'main'\ninterfaces = ['eth0']\n");
    let manager = Manager::start(&net, &config);
    let process = Assigned::by_network(&manager.socket, "main");
    process.until_by(Some("eth0"));
    let own = std::process::id();
    let request = manager.open(for_pid(own)).unwrap();
    process.until_by(Some("eth1"));
    assert!(manager.explain(own).why.contains(&format!("request {} (connected: by eth1)", request.id)));
    // Of several the higher priority decides.
    let urgent = Spec { network: Some("main".to_owned()), priority: Priority::Critical, ..for_pid(own) };
    let urgent = manager.open(urgent).unwrap();
    process.until_by(Some("eth0"));
    manager.ask(Ask::Release(OfRequest { id: urgent.id })).unwrap();
    process.until_by(Some("eth1"));
    manager.ask(Ask::Release(OfRequest { id: request.id })).unwrap();
    process.until_by(Some("eth0"));
    assert!(manager.explain(own).why.contains("its environment names network main"));
}
