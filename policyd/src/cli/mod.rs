//! The `tandem` command.
//!
//! `run.rs` starts a program under the switch, `program.rs` says whether that can work, `find.rs` knows where the
//! switch and policyd are installed, `start.rs` sees to it that a policyd is there, `show.rs` prints, `connect.rs` asks for
//! interfaces, `drain.rs` sends connections back to TCP, `peer.rs` lists other hosts, `check.rs` says what this host can do, `providers.rs` of it what others' providers can, `reasons.rs` why a connection is on TCP.

mod check;
mod connect;
mod drain;
mod find;
mod peer;
mod program;
mod providers;
mod reasons;
mod run;
mod show;
mod start;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::connection::request::Priority;

/// Makes unmodified programs use shared memory where both ends run it, and the right interface.
#[derive(Parser)]
#[command(name = "tandem", version)]
struct Tandem {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program under the switch; its exit status and signals are its own
    Run(Run),
    /// List connections as ss does: what carries them, how many bytes, and why not a companion
    Ss(Show),
    /// Show what has been carried altogether
    Status(Show),
    /// Ask for an interface for a process and its children [default: the one this command was started from]
    Request(RequestFor),
    /// End a request
    Release(Release),
    /// Follow what becomes of requests
    Watch(Watch),
    /// List the configured networks and their interfaces
    Networks(Show),
    /// Say which interface a process's sockets get, or why a connection is on TCP, and what to do about it
    Explain(Explain),
    /// Send a process's connections, or those with an address, back to TCP, and keep the process's next ones there
    Drain(Drain),
    /// This host's key, and the hosts whose policyds may speak to this one's
    #[command(subcommand)]
    Peer(peer::Peers),
    /// Say what this host can do, what is missing, and what to do about it
    Check(check::Check),
    /// What one provider's library says of itself
    #[command(hide = true)]
    ProbeProvider(providers::Probe),
}

#[derive(Args)]
struct Run {
    /// When a connection looks for its other end: at once, when it has shown that it lives on (a second exchange, or eight data calls), or never
    #[arg(long, env = "TANDEM_ATTACH", value_name = "WHEN", default_value = "data")]
    attach: Attach,
    /// The policyd to use [default: the system's if it answers, else your own, started if need be]
    #[arg(long, env = "TANDEM_POLICYD", value_name = "SOCKET")]
    policyd: Option<PathBuf>,
    /// Let the switch write a log: error, warn, info, debug or trace, and the file
    #[arg(long, env = "TANDEM_LOG", value_name = "LEVEL=FILE", value_parser = log_target)]
    log: Option<LogTarget>,
    /// Let its connections leave by this interface
    #[arg(long, env = "TANDEM_INTERFACE", value_name = "NAME", conflicts_with = "network")]
    interface: Option<String>,
    /// Let its connections leave by this network, which policyd's configuration names
    #[arg(long, env = "TANDEM_NETWORK", value_name = "NAME")]
    network: Option<String>,
    /// The switch [default: libtandem.so beside this command, or in its installation]
    #[arg(long, env = "TANDEM_LIBRARY", value_name = "FILE")]
    library: Option<PathBuf>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct RequestFor {
    /// A network of policyd's configuration
    #[arg(required_unless_present_any = ["interface", "destination"], conflicts_with = "interface")]
    network: Option<String>,
    /// An interface instead of a network
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The network must serve this address
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<std::net::IpAddr>,
    /// The process that it is for, with its children
    #[arg(long)]
    pid: Option<u32>,
    /// A higher one can take an exclusive interface from a lower
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
    /// No other request may have the interface meanwhile
    #[arg(long)]
    exclusive: bool,
    /// While there is no interface let connecting fail, rather than take another way
    #[arg(long)]
    required: bool,
    #[arg(long, value_name = "COST")]
    max_cost: Option<u32>,
    #[arg(long, value_name = "MBIT")]
    min_bandwidth: Option<u32>,
    /// It ends then, at the latest
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u32>,
    /// Only say what would become of it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct Release {
    /// As `tandem request` has said
    id: u64,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct Watch {
    /// One request [default: all that you may see]
    id: Option<u64>,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct Explain {
    /// A process, or the address of either end of connections, as in 127.0.0.1:6379 or [::1]:6379
    #[arg(value_name = "PID|ADDRESS:PORT", value_parser = subject)]
    subject: Subject,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct Drain {
    /// Processes, or addresses of either end of connections, as in 127.0.0.1:6379 or [::1]:6379
    #[arg(value_name = "PID|ADDRESS:PORT", value_parser = subject, required = true)]
    subjects: Vec<Subject>,
    /// Let what the process connects from now on be carried again; what was drained stays on TCP
    #[arg(long)]
    undo: bool,
    /// How long connections may take, if their program makes no call
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    wait: u64,
    #[command(flatten)]
    show: Show,
}

#[derive(Clone, Copy)]
enum Subject {
    Process(u32),
    Connections(std::net::SocketAddr),
}

fn subject(text: &str) -> Result<Subject, String> {
    let process = text.parse().map(Subject::Process);
    process
        .or_else(|_| text.parse().map(Subject::Connections))
        .map_err(|_| "give a process by its number, or an address as in 127.0.0.1:6379 or [::1]:6379".to_owned())
}

#[derive(Args)]
struct Show {
    /// For programs
    #[arg(long)]
    json: bool,
    /// The policyd to ask [default: the system's if it answers, else your own]
    #[arg(long, env = "TANDEM_POLICYD", value_name = "SOCKET")]
    policyd: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Attach {
    Connect,
    Data,
    Off,
}

impl Attach {
    fn text(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Data => "data",
            Self::Off => "off",
        }
    }
}

#[derive(Clone)]
struct LogTarget {
    level: String,
    /// Absolute: the program may go elsewhere.
    file: PathBuf,
}

fn log_target(text: &str) -> Result<LogTarget, String> {
    let (level, file) = text.split_once('=').ok_or("give LEVEL=FILE, as in info=/tmp/tandem.log")?;
    if !["error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(format!("'{level}' is no level: give error, warn, info, debug or trace"));
    }
    if file.is_empty() {
        return Err("no file: give LEVEL=FILE, as in info=/tmp/tandem.log".to_owned());
    }
    let file = std::path::absolute(file).map_err(|error| error.to_string())?;
    Ok(LogTarget { level: level.to_owned(), file })
}

/// Runs the command line; returns the exit status.
pub fn main(arguments: Vec<OsString>) -> i32 {
    let result = match Tandem::try_parse_from(arguments) {
        Ok(tandem) => match tandem.command {
            Command::Run(run) => return run::run(run),
            Command::Ss(show) => show::ss(&show),
            Command::Status(show) => show::status(&show),
            Command::Request(request) => connect::request(&request),
            Command::Release(release) => connect::release(&release),
            Command::Watch(watch) => connect::watch(&watch),
            Command::Networks(show) => connect::networks(&show),
            Command::Explain(explain) => connect::explain(&explain),
            Command::Drain(drain) => drain::drain(&drain),
            Command::Peer(peers) => peer::main(&peers),
            Command::ProbeProvider(probe) => providers::probe(&probe),
            Command::Check(check) => match check::check(&check) {
                Ok(true) => Ok(()),
                // It has said what is missing.
                Ok(false) => return 1,
                Err(error) => Err(error),
            },
        },
        Err(error) => {
            drop(error.print());
            return error.exit_code();
        }
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("tandem: {error:#}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Tandem::command().debug_assert();
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        let tandem = Tandem::try_parse_from(["tandem", "run", "--attach", "off", "ls", "--attach", "-l"]).unwrap();
        let Command::Run(run) = tandem.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "--attach", "-l"]);
        let tandem = Tandem::try_parse_from(["tandem", "run", "--", "ls", "--", "x"]).unwrap();
        let Command::Run(run) = tandem.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "--", "x"]);
    }

    #[test]
    fn a_process_or_an_address_is_explained() {
        assert!(matches!(subject("71"), Ok(Subject::Process(71))));
        assert!(matches!(subject("127.0.0.1:80"), Ok(Subject::Connections(_))));
        assert!(matches!(subject("[::1]:80"), Ok(Subject::Connections(_))));
        assert!(subject("localhost:80").is_err() && subject("127.0.0.1").is_err() && subject("-1").is_err());
    }

    #[test]
    fn a_log_is_a_level_and_a_file() {
        assert_eq!(log_target("info=/tmp/x").unwrap().file, PathBuf::from("/tmp/x"));
        assert!(log_target("info=x").unwrap().file.is_absolute());
        assert!(log_target("loud=/x").err().unwrap().contains("'loud' is no level"));
        assert!(log_target("info").is_err() && log_target("info=").is_err());
    }
}
