//! Unmodified curl, dig, python3, redis-cli and socat under two assignments, witnessed by the peers and by packet counters on the uplinks.

use std::time::{Duration, Instant};

use tandem_tests::process::system_program;
use tandem_tests::{Launch, Outcome};

use crate::peers::{DNS, HTTP, TCP, UDP};
use crate::{Field, field, lines};

/// Programs and their arguments; HOST is a far host, [HOST] in brackets where it is an IPv6 address in a URL.
fn programs() -> Vec<(&'static str, String)> {
    let python = "import socket, sys, urllib.request\n\
        print(urllib.request.urlopen(sys.argv[1]).read().decode().strip())\n\
        for kind, port in ((socket.SOCK_DGRAM, 5001), (socket.SOCK_STREAM, 5000)):\n  \
          family, _, _, _, to = socket.getaddrinfo(sys.argv[2], port, 0, kind)[0]\n  \
          s = socket.socket(family, kind); s.connect(to); s.send(b'x'); print(s.recv(99).decode())\n  \
          if kind == socket.SOCK_DGRAM: s = socket.socket(family, kind); s.sendto(b'x', to); print(s.recv(99).decode())";
    vec![
        ("curl", format!("-sS\n--max-time\n5\nhttp://[HOST]:{HTTP}/")),
        ("dig", format!("+short\n+tries=1\n@HOST\n-p\n{DNS}\nTXT\nwho.test")),
        ("python3", format!("-c\n{}\nhttp://[HOST]:{HTTP}/\nHOST", python.replace('\n', "\r"))),
        ("socat", format!("-T2\n-\nTCP:[HOST]:{TCP}")),
        ("socat", format!("-T1\n-\nUDP:[HOST]:{UDP}")),
    ]
}

fn launch(field: &Field, launch: Launch, arguments: &str, host: &str) -> Outcome {
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.into() };
    let arguments = arguments.replace("[HOST]", &bracketed).replace("HOST", host);
    let arguments = arguments.split('\n').map(|argument| argument.replace('\r', "\n"));
    field.finish(launch.args(arguments))
}

#[test]
fn curl_dig_python_and_socat() {
    let mut field = field!(curl_dig_python_and_socat);
    for (name, arguments) in programs() {
        // With no standard input there is nothing to send by UDP: a line comes from a shell.
        let fed = arguments.contains("UDP:");
        let path = if fed { "/bin/sh".into() } else { system_program(name) };
        let arguments =
            if fed { format!("-c\necho x | exec {name} {}", arguments.replace('\n', " ")) } else { arguments };
        for (host, via) in [("10.79.1.1", ["10.70.0.1", "10.71.0.1"]), ("fd79:2::1", ["fd70::1", "fd71::1"])] {
            field.network.packets();
            let native = launch(&field, field.native(&path), &arguments, host);
            let natively = field.network.packets();
            field.assign("eth1");
            let one = launch(&field, field.tandem(&path), &arguments, host);
            let by_one = field.network.packets();
            field.assign("eth0");
            let zero = launch(&field, field.tandem(&path), &arguments, host);
            let by_zero = field.network.packets();

            let whole = lines(&native);
            assert!(whole.contains(via[0]), "{name} {host}: natively {native}");
            assert_eq!(lines(&one), whole.replace(via[0], via[1]), "{name} {host}, assigned eth1");
            assert_eq!(lines(&zero), whole, "{name} {host}, assigned eth0");
            for (packets, eth1) in [(natively, false), (by_one, true), (by_zero, false)] {
                let (here, there) = if eth1 { (packets.1, packets.0) } else { (packets.0, packets.1) };
                assert!(here > 0 && there == 0, "{name} {host}: {natively:?} {by_one:?} {by_zero:?}");
            }
            field.proof.fact(format!(
                "{name} to {host}: natively and assigned eth0 {} and {} packets by eth0, none by eth1; assigned eth1 {} by eth1, none by eth0",
                natively.0, by_zero.0, by_one.1
            ));
        }
    }
    field.proof.print();
}

/// Its own options win.
#[test]
fn curl_that_chooses_its_own_interface() {
    let mut field = field!(curl_that_chooses_its_own_interface);
    field.assign("eth1");
    for own in ["eth0", "10.70.0.1", "host!10.70.0.1", "if!eth0"] {
        let url = format!("http://10.79.1.1:{HTTP}/");
        let curl = |launch: Launch| field.finish(launch.args(["-sS", "--max-time", "5", "--interface", own, &url]));
        let (native, here) = (curl(field.native(system_program("curl"))), curl(field.tandem(system_program("curl"))));
        assert_eq!((lines(&native), lines(&here)), ("10.70.0.1".into(), "10.70.0.1".into()), "{own}");
        field.proof.fact(format!("curl --interface {own} under an assignment to eth1: by eth0, as natively"));
    }
    field.proof.print();
}

/// A real server says which client address it has; two clients at once with two assignments.
#[test]
fn two_clients_of_redis_with_two_assignments() {
    let mut field = field!(two_clients_of_redis_with_two_assignments);
    let arguments = ["--port", "6399", "--save", "", "--protected-mode", "no", "--bind", "*", "-::*"];
    let mut server = Launch::new("redis", system_program("redis-server"))
        .args(arguments)
        .current_dir(field.scratch.path())
        .in_namespace(Some(&field.network.one))
        .spawn(&field.scratch);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.stdout().contains("Ready to accept") {
        assert!(!server.ended() && Instant::now() < deadline, "redis-server does not start: {}", server.stdout());
        std::thread::sleep(Duration::from_millis(10));
    }
    for (host, via) in [("10.79.1.1", ["10.70.0.1", "10.71.0.1"]), ("fd79:1::1", ["fd70::1", "fd71::1"])] {
        // Each says its own address, then goes on for a while, so that both are there at once.
        let client = |launch: Launch| {
            launch.args(["-h", host, "-p", "6399", "-r", "40", "-i", "0.02", "CLIENT", "INFO"]).spawn(&field.scratch)
        };
        field.network.packets();
        field.stand_in.assign(None);
        let (mut one, mut zero) =
            (client(field.tandem(system_program("redis-cli"))), client(field.tandem(system_program("redis-cli"))));
        let native =
            field.finish(field.native(system_program("redis-cli")).args(["-h", host, "-p", "6399", "CLIENT", "INFO"]));
        assert!(native.text().contains(&format!("addr={}", bracketed(via[0]))), "{native}");
        for client in [&mut one, &mut zero] {
            let outcome = client.wait(Duration::from_secs(20)).succeeded();
            assert_eq!(outcome.text().matches(&format!(" addr={}", bracketed(via[0]))).count(), 40, "{outcome}");
        }
        let before = field.network.packets();
        assert_eq!(before.1, 0, "nothing by eth1 without an assignment: {before:?}");

        // Two processes that wait at a gate get an assignment each, then become redis-cli.
        let ask = format!("while [ ! -e {}/NAME ]; do sleep 0.01; done", field.scratch.path().display());
        let run = format!("exec redis-cli -h {host} -p 6399 -r 40 -i 0.02 CLIENT INFO");
        let mut clients: Vec<_> = ["eth1", "eth0"]
            .into_iter()
            .enumerate()
            .map(|(table, interface)| {
                let gate = ask.replace("NAME", &format!("{interface}-{}", host.len()));
                let running = field.tandem("/bin/sh").args(["-c", &format!("{gate}; {run}")]).spawn(&field.scratch);
                field.stand_in.promise(running.pid(), table + 1, &field.uplink(interface));
                field.scratch.write(&format!("{interface}-{}", host.len()), "");
                (running, interface)
            })
            .collect();
        for (client, interface) in &mut clients {
            let outcome = client.wait(Duration::from_secs(20)).succeeded();
            let address = if *interface == "eth1" { via[1] } else { via[0] };
            assert_eq!(
                outcome.text().matches(&format!(" addr={}", bracketed(address))).count(),
                40,
                "{interface}: {outcome}"
            );
        }
        let (eth0, eth1) = field.network.packets();
        assert!(eth0 > 40 && eth1 > 40, "{eth0} {eth1}");
        field.proof.fact(format!("redis-cli to {host}, two pids, two assignments at once: {eth0} packets by eth0, {eth1} by eth1, each seen under its address"));
    }
    drop(server);
    field.proof.print();
}

/// A limit, stated: getaddrinfo's own sockets are made inside libc, past every hook. What they ask follows the routing table, and
/// the connection to what they answer leaves by the interface.
#[test]
fn names_are_looked_up_by_the_routing_table() {
    let mut field = field!(names_are_looked_up_by_the_routing_table);
    field.assign("eth1");
    let servers = field.scratch.write("resolv.conf", "nameserver 10.79.1.1\noptions timeout:2 attempts:2\n");
    let python = "import socket; print(socket.getaddrinfo('who.test', 1, socket.AF_INET)[0][4][0]); s = socket.create_connection(('10.79.1.1', 5000)); print(s.recv(99).decode())";
    let shell = format!(
        "mount --bind {} /etc/resolv.conf && exec {} -c \"{python}\"",
        servers.display(),
        system_program("python3").display()
    );
    let arguments = ["-m", "/bin/sh", "-c", &shell];
    let native = field.finish(field.native(system_program("unshare")).args(arguments));
    let here = field.finish(field.tandem(system_program("unshare")).args(arguments));
    assert_eq!((lines(&native), lines(&here)), ("10.70.0.1; 10.70.0.1".into(), "10.70.0.1; 10.71.0.1".into()));
    field.proof.fact("the look-up by eth0 as natively, the connection by eth1");
    field.proof.print();
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]:") } else { format!("{host}:") }
}
