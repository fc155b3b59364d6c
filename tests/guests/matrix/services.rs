//! Servers that want a configuration, a user of their own or a database: nginx, PostgreSQL, OpenSSH.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tandem_tests::artifacts::target;
use tandem_tests::nginx;
use tandem_tests::patience::within;
use tandem_tests::process::system_program;
use tandem_tests::{End, Launch, Outcome};

use super::{Expected, Program, Stage, whole};
use crate::verbs::LONG;

const MIB: u64 = 1 << 20;

pub fn all() -> Vec<Program> {
    let carried =
        |name, attach, least, body| Program { name, attach, expected: Expected::Carried(least), alone: true, body };
    vec![
        // Small answers are over before anybody is asked; one large file is not.
        carried("nginx, curl", "data", [0, MIB], |stage| nginx_and_curl(stage, "on")),
        Program { alone: false, ..carried("nginx, curl", "connect", [0, MIB], |stage| nginx_and_curl(stage, "off")) },
        carried("PostgreSQL, pgbench", "connect", [4_000, 4_000], postgresql),
        Program {
            name: "sshd, scp",
            attach: "connect",
            alone: true,
            // sshd runs itself anew for each connection, and gives it the socket as stdin.
            expected: Expected::OnTcp(&["handed-over", "forked", "seccomp", "option", "unsupported-call"]),
            body: openssh,
        },
    ]
}

fn nginx_and_curl(stage: &Stage, sendfile: &str) -> Vec<String> {
    let files = [("1B", 1), ("1MiB", 1 << 20), ("32MiB", 32 << 20)];
    let server = stage.serve(nginx::launch(&stage.scratch, &stage.place(), sendfile, "", &files));
    let mut seen = fetch(stage, "one", &["1B"]);
    seen.extend(fetch(stage, "keep-alive", &[["1B", "1MiB"]; 3].concat()));
    seen.extend(fetch(stage, "mixed", &["1B", "32MiB", "none", "1MiB"]));
    seen.push(format!("alarming log lines {:?}", nginx::alarms(&stage.scratch)));
    seen.push(stage.stop(server, libc::SIGQUIT));
    seen
}

fn fetch(stage: &Stage, what: &str, files: &[&str]) -> Vec<String> {
    let (launch, outputs) = nginx::fetch(&stage.scratch, &stage.place(), what, files);
    let mut seen = whole(what, &stage.ask(launch));
    seen.push(nginx::sums(&outputs));
    seen
}

fn postgres(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> =
        folders.map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("PostgreSQL's {name} is not installed: scripts/setup installs it"))
}

/// By a user of its own, for it runs as root not at all.
fn as_postgres(name: &str, program: impl AsRef<Path>) -> Launch {
    Launch::new(name, system_program("setpriv"))
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .arg(program.as_ref())
}

/// Where the tests' own database stands, made once: initdb takes minutes in a guest.
fn database() -> PathBuf {
    target().join("test-database")
}

/// On this host, before there is a guest.
pub fn prepare_database() {
    let folder = database();
    if folder.join("data/complete").exists() {
        return;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for the database");
    let shell = |line: &str| {
        let output = Command::new("sh").args(["-ec", line]).current_dir(&folder).output().expect("sh");
        assert!(output.status.success(), "{line}:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let (initdb, serve, bench) = (postgres("initdb"), postgres("postgres"), postgres("pgbench"));
    shell("chown postgres .");
    let run = "setpriv --reuid=postgres --regid=postgres --clear-groups --";
    shell(&format!("{run} {} -D data -U bench -A trust --no-sync --wal-segsize=1", initdb.display()));
    shell(
        "echo \"listen_addresses = ''\" >>data/postgresql.conf; echo host all all 0.0.0.0/0 trust >>data/pg_hba.conf",
    );
    let socket = "-h \"$PWD\" -U bench";
    shell(&format!(
        "{run} {serve} -D data -k \"$PWD\" -F >log 2>&1 & server=$!
         for i in $(seq 300); do {ready} -q {socket} && break; sleep 0.1; done
         {create} {socket} bench; {bench} {socket} -i -q -s 1 bench 2>/dev/null; kill -INT $server; wait $server || true; touch data/complete",
        serve = serve.display(),
        ready = postgres("pg_isready").display(),
        create = postgres("createdb").display(),
        bench = bench.display(),
    ));
}

fn postgresql(stage: &Stage) -> Vec<String> {
    prepare_database();
    let folder = stage.scratch.path();
    let data = folder.join("data");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("chmod of the scratch directory");
    let copied = Command::new("cp").args(["-a"]).arg(database().join("data")).arg(&data).status().expect("cp");
    assert!(copied.success(), "no copy of {:?}", database());
    let port = stage.port.to_string();
    let launch = as_postgres("postgres", postgres("postgres")).arg("-D").arg(&data);
    let words = ["-p", &port, "-h", stage.address(), "-F", "-c", "unix_socket_directories=", "-c", "autovacuum=off"];
    let server = stage.serve(launch.args(words));
    let at = |launch: Launch| launch.args(["-h", stage.address(), "-p", &port, "-U", "bench"]);
    let bench = |words: &[&str]| {
        let launch = at(Launch::new("pgbench", postgres("pgbench"))).args(words).arg("bench");
        stage.ask(launch).succeeded()
    };
    serves(stage);
    let mut seen = counted(&bench(&["-S", "-n", "-c", "2", "-T", "6"]));
    seen.extend(counted(&bench(&["-n", "-c", "2", "-t", "10", "-M", "extended"])));
    let sum = "select count(*), sum(aid), md5(string_agg(filler, '')) from pgbench_accounts where aid < 3000";
    let launch = at(Launch::new("psql", system_program("psql"))).args(["-A", "-t", "-c", sum, "-d", "bench"]);
    seen.extend(whole("psql", &stage.ask(launch)));
    seen.push(stage.stop(server, libc::SIGINT));
    seen
}

/// It listens before it serves.
#[track_caller]
fn serves(stage: &Stage) {
    let place = ["-q", "-h", stage.address(), "-p", &stage.port.to_string()].map(str::to_owned);
    let ready = || {
        let launch = Launch::new("pg_isready", postgres("pg_isready")).args(&place);
        let launch = launch.in_namespace(stage.between.hosts[0].namespace.as_ref());
        launch.run(&stage.scratch, LONG).end == End::Exit(0)
    };
    let log = || fs::read_to_string(stage.scratch.file("postgres.stderr")).unwrap_or_default();
    assert!(within(LONG, Duration::from_millis(200), ready), "PostgreSQL does not serve: {}", log());
}

/// Without the rates.
fn counted(outcome: &Outcome) -> Vec<String> {
    let text = outcome.text();
    text.lines()
        .filter(|line| {
            line.starts_with("number of clients")
                || line.starts_with("number of failed")
                || line.starts_with("query mode")
        })
        .map(str::to_owned)
        .collect()
}

fn openssh(stage: &Stage) -> Vec<String> {
    let file = |name: &str| stage.scratch.file(name);
    for name in ["host", "user"] {
        let key = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(name)).status();
        assert!(key.is_ok_and(|status| status.success()), "ssh-keygen");
    }
    fs::copy(file("user.pub"), file("allowed")).expect("the user's key");
    let configuration = format!(
        "Port {}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n\
         PidFile none\nSubsystem sftp internal-sftp\n",
        stage.port,
        stage.address(),
        file("host").display(),
        file("allowed").display()
    );
    let path = stage.scratch.write("sshd_config", configuration);
    fs::create_dir_all("/run/sshd").expect("/run/sshd");
    let server = stage.serve(Launch::new("sshd", system_program("sshd")).args(["-D", "-e", "-f"]).arg(path));
    let content: Vec<u8> = (0..2 * MIB).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8).collect();
    let sent = stage.scratch.write("sent", &content);
    let words = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "LogLevel=ERROR", "BatchMode=yes"];
    let as_user = |name: &str, program: &str, port: &str| {
        let launch = Launch::new(name, system_program(program)).args(words.iter().flat_map(|word| ["-o", word]));
        launch.args([port, &stage.port.to_string(), "-i"]).arg(file("user"))
    };
    let target = format!("root@{}", stage.address());
    let copy = |from: &str, to: &str| whole("scp", &stage.ask(as_user("scp", "scp", "-P").args([from, to])));
    let (there, back) = (file("there"), file("back"));
    let mut seen = copy(sent.to_str().expect("a path"), &format!("{target}:{}", there.display()));
    seen.extend(copy(&format!("{target}:{}", there.display()), back.to_str().expect("a path")));
    seen.push(format!("the same: {}", fs::read(&back).unwrap_or_default() == content));
    let remote = as_user("ssh", "ssh", "-p").args([target.as_str(), "echo out; echo err >&2; exit 7"]);
    seen.extend(whole("ssh", &stage.ask(remote)));
    seen.push(stage.stop(server, libc::SIGTERM));
    seen
}
