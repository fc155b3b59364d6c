//! The policy daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tandem_policyd::config::{Config, Settings};
use tandem_policyd::daemon::background::{self, Readiness};
use tandem_policyd::daemon::{self, OCCUPIED, Occupied};
use tandem_policyd::peers::settings::SYSTEM_FOLDER;
use tandem_protocol::socket_path;

const SYSTEM_CONFIG: &str = "policyd.toml";

/// Tandem's policy daemon: it lets two switches of one host meet, and knows what they carry.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file [default: /etc/tandem/policyd.toml, if it is there]
    #[arg(long, env = "TANDEM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The switches' socket; the control socket is SOCKET.control [default: root: /run/tandem/policyd.sock; others:
    /// $XDG_RUNTIME_DIR/tandem/policyd.sock or /tmp/tandem-UID/policyd.sock]
    #[arg(long, env = "TANDEM_POLICYD", value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Leave when the last client has been gone for so long; 0: never [default: 0]
    #[arg(long, env = "TANDEM_LINGER", value_name = "SECONDS")]
    linger: Option<u64>,
    /// How long a switch's request waits for the other end's [default: 5]
    #[arg(long, env = "TANDEM_PARK", value_name = "SECONDS")]
    park: Option<u64>,
    /// off, error, warn, info, debug or trace, to stderr or a file [default: warn]
    #[arg(long, env = "TANDEM_POLICYD_LOG", value_name = "LEVEL[=FILE]")]
    log: Option<String>,
    /// Go into the background as soon as it listens
    #[arg(long)]
    background: bool,
    /// Where devices are looked for, in tests
    #[arg(long, env = "TANDEM_SYSFS", value_name = "FOLDER", default_value = "/sys", hide = true)]
    sysfs: PathBuf,
    /// Only read the configuration, and say what is wrong with it
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem-policyd: {error:#}");
            if error.is::<Occupied>() { ExitCode::from(OCCUPIED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let config = read(&arguments)?;
    if arguments.check {
        check(file(&arguments).as_deref(), &config);
        return Ok(());
    }
    let named = arguments.socket.clone().or_else(|| config.socket.clone());
    let socket = socket(named)?;
    let settings = settings(&arguments, config.clone(), socket.clone())?;
    let readiness = if arguments.background {
        background::enter(&settings.socket.with_extension("log"))?
    } else {
        Readiness::default()
    };
    let log = arguments.log.clone().or(config.log);
    tandem_policyd::log::start(log.as_deref().unwrap_or("warn"))?;
    let reread = move || settings_anew(&arguments, socket.clone());
    daemon::run(settings, readiness, Box::new(reread))
}

/// The system's may come, and go, while policyd runs.
fn file(arguments: &Arguments) -> Option<PathBuf> {
    let system = || Some(Path::new(SYSTEM_FOLDER).join(SYSTEM_CONFIG)).filter(|path| path.exists());
    arguments.config.clone().or_else(system)
}

/// Peers may be configured without a configuration file, for root's policyd.
fn read(arguments: &Arguments) -> Result<Config> {
    match file(arguments) {
        Some(file) => {
            let file = std::path::absolute(file)?;
            Config::read(&file)?.with_peers_of(file.parent().unwrap_or(Path::new("/")))
        }
        None if nix::unistd::geteuid().is_root() => Config::default().with_peers_of(Path::new(SYSTEM_FOLDER)),
        None => Ok(Config::default()),
    }
}

fn settings_anew(arguments: &Arguments, socket: PathBuf) -> Result<Settings> {
    let config = read(arguments)?;
    let socket = arguments.socket.clone().or_else(|| config.socket.clone()).unwrap_or(socket);
    settings(arguments, config, std::path::absolute(socket)?)
}

/// What the command line says goes before the file.
fn settings(arguments: &Arguments, mut config: Config, socket: PathBuf) -> Result<Settings> {
    config.linger_seconds = arguments.linger.or(config.linger_seconds);
    config.park_seconds = arguments.park.or(config.park_seconds);
    let settings = config.settings(socket)?;
    Ok(Settings { sysfs: arguments.sysfs.clone(), ..settings })
}

fn check(file: Option<&Path>, config: &Config) {
    let name = file.map_or("no configuration file: the defaults".to_owned(), |file| file.display().to_string());
    let (networks, rules, peers) = (config.networks.len(), config.rules.len(), config.hosts.len());
    println!("{name}: sound; {networks} networks, {rules} rules, {peers} peers");
}

/// Where to serve, in a folder that is there. A place of one's own must be nobody else's: who may write there could
/// put another policyd in its place.
fn socket(named: Option<PathBuf>) -> Result<PathBuf> {
    let uid = nix::unistd::geteuid().as_raw();
    let candidates = tandem_policyd::search(named.as_deref());
    let root = |path: &&socket_path::SocketPath| uid == 0 && path.as_bytes() == socket_path::SYSTEM;
    let Some(place) = candidates.iter().find(root).or(candidates.last()) else {
        bail!("{}: too long for a socket; name another by --socket", named.unwrap_or_default().display());
    };
    let path = std::path::absolute(tandem_policyd::path_of(place)).context("no working directory")?;
    if let Some(folder) = path.parent() {
        daemon::make_folder(folder).with_context(|| {
            format!("cannot make the folder {}; name another socket by --socket or TANDEM_POLICYD", folder.display())
        })?;
        if !place.is_trusted(uid) {
            bail!(
                "{} is not yours alone (it must be yours, mode 0700, no symbolic link); mend it, or name another \
                 socket by --socket",
                folder.display()
            );
        }
    }
    Ok(path)
}
