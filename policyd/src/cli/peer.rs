//! `tandem peer`: this host's key, and the list of other hosts.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde::Serialize;

use super::Show;
use super::show::{self, json, print};
use crate::config::Config;
use crate::control::client::Control;
use crate::control::{Answer, Ask};
use crate::peers::settings::{FOLDER, KEY_FILE, Peer, PeerName, SYSTEM_FOLDER, check, prefix, read_folder};
use crate::peers::{Keypair, PeerStatus, PeersStatus, PublicKey};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub enum Peers {
    /// Show this host's public key; make the key if there is none
    Key(At),
    /// List another host, from now on
    Add(Add),
    /// Show the link to each listed host
    List(At),
    /// List a host no more
    Remove(Remove),
}

#[derive(Args)]
pub struct Add {
    /// Your name for that host
    name: PeerName,
    /// As `tandem peer key` prints it there
    public_key: PublicKey,
    /// Where its policyd listens ([peers] listen) [default: only it dials]
    #[arg(long, value_name = "ADDRESS:PORT")]
    endpoint: Option<SocketAddr>,
    /// What it may speak for: its addresses, of which connections may get companions
    #[arg(long = "address", value_name = "PREFIX", required = true, num_args = 1.., value_parser = prefix)]
    addresses: Vec<IpNet>,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
pub struct Remove {
    name: PeerName,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
pub struct At {
    /// policyd's configuration file [default: the running policyd's, else /etc/tandem/policyd.toml]
    #[arg(long, env = "TANDEM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    show: Show,
}

pub fn main(peers: &Peers) -> Result<()> {
    match peers {
        Peers::Key(at) => key(at),
        Peers::Add(add) => self::add(add),
        Peers::List(at) => list(at),
        Peers::Remove(remove) => self::remove(remove),
    }
}

/// What is where: by the configuration file, and by the policyd that runs with it.
struct Place {
    key: PathBuf,
    folder: PathBuf,
    /// Peers of the configuration file itself.
    fixed: Vec<Peer>,
    running: Option<PathBuf>,
}

impl At {
    fn place(&self) -> Result<Place> {
        let running = self.running();
        let config = match (&self.config, running.as_ref().and_then(|(_, status)| status.folder.clone())) {
            (Some(file), _) => std::path::absolute(file)?,
            (None, Some(folder)) => folder.with_file_name("policyd.toml"),
            (None, None) => Path::new(SYSTEM_FOLDER).join("policyd.toml"),
        };
        let text = if config.exists() || self.config.is_some() { Config::read(&config)? } else { Config::default() };
        let beside = |name: &str| config.with_file_name(name);
        // A policyd that runs with another configuration is not told of this one's changes.
        let of_it =
            |(socket, status): (PathBuf, PeersStatus)| (status.folder == Some(beside(FOLDER))).then_some(socket);
        Ok(Place {
            key: text.peers.key.clone().unwrap_or_else(|| beside(KEY_FILE)),
            folder: beside(FOLDER),
            fixed: text.hosts,
            running: running.and_then(of_it),
        })
    }

    fn running(&self) -> Option<(PathBuf, PeersStatus)> {
        let socket = show::find(&self.show).ok()?;
        match Control::connect(&socket, PATIENCE).ok()?.ask(Ask::Peers) {
            Ok(Answer::Peers(status)) => Some((socket, status)),
            _ => None,
        }
    }
}

impl Place {
    fn reload(&self) -> Result<bool> {
        let Some(socket) = &self.running else { return Ok(false) };
        match Control::connect(socket, PATIENCE)?.ask(Ask::Reload)? {
            Answer::Reloaded(_) => Ok(true),
            _ => bail!("policyd answered something else"),
        }
    }

    fn all(&self) -> Result<Vec<Peer>> {
        let mut all = self.fixed.clone();
        all.extend(read_folder(&self.folder)?);
        Ok(all)
    }

    fn file(&self, name: &PeerName) -> PathBuf {
        self.folder.join(format!("{}.toml", name.0))
    }
}

#[derive(Serialize)]
struct OwnKey<'a> {
    public_key: String,
    file: &'a Path,
    made: bool,
}

/// Never overwritten: whoever wants another removes the file.
fn key(at: &At) -> Result<()> {
    let place = at.place()?;
    let file = &place.key;
    let made = !file.exists();
    let pair = if made {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let pair = Keypair::create(file)?;
        eprintln!("tandem: made this host's key: {}, for its owner alone", file.display());
        place.reload()?;
        pair
    } else {
        Keypair::read(file)?
    };
    let public_key = pair.public.to_string();
    if at.show.json { json(&OwnKey { public_key, file, made }) } else { print(&format!("{public_key}\n")) }
}

fn add(add: &Add) -> Result<()> {
    let place = add.at.place()?;
    let Add { name, public_key, endpoint, addresses, .. } = add;
    if let Ok(own) = Keypair::read(&place.key) {
        ensure!(own.public != *public_key, "{public_key} is this host's own key: give the other host's");
    }
    let peer = Peer {
        name: name.clone(),
        public_key: *public_key,
        endpoint: *endpoint,
        addresses: addresses.clone(),
        same_host: false,
    };
    let mut all = place.all()?;
    all.push(peer.clone());
    check(&all)?;
    let file = place.file(name);
    write(&file, &peer.entry())?;
    match place.reload() {
        Ok(true) => {}
        Ok(false) => eprintln!("tandem: {} is written; no policyd runs with it yet", file.display()),
        Err(error) => {
            fs::remove_file(&file).with_context(|| format!("cannot remove {} again", file.display()))?;
            return Err(error.context(format!("{} was written and removed again", file.display())));
        }
    }
    if add.at.show.json { json(&Changed { name, file: &file, listed: true }) } else { Ok(()) }
}

#[derive(Serialize)]
struct Changed<'a> {
    name: &'a PeerName,
    file: &'a Path,
    listed: bool,
}

/// Whole or not at all, and never in another's place.
fn write(file: &Path, text: &str) -> Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    let folder = file.parent().with_context(cannot)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let fresh = file.with_extension("new");
    let mut out =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh).with_context(cannot)?;
    let written =
        out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).and_then(|()| fs::hard_link(&fresh, file));
    fs::remove_file(&fresh).with_context(cannot)?;
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already: `tandem peer remove` it first", file.display())
        }
        written => written.with_context(cannot),
    }
}

fn remove(remove: &Remove) -> Result<()> {
    let place = remove.at.place()?;
    let name = &remove.name;
    let file = place.file(name);
    if place.fixed.iter().any(|peer| peer.name == *name) {
        bail!("peer {} stands in the configuration file itself: remove its [[peer]] there, and reload policyd", name.0);
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let known: Vec<_> = place.all()?.into_iter().map(|peer| peer.name.0).collect();
            let known =
                if known.is_empty() { "none is listed".to_owned() } else { format!("listed: {}", known.join(", ")) };
            bail!("there is no {}: give a listed peer's name ({known})", file.display());
        }
        removed => removed.with_context(|| format!("cannot remove {}", file.display()))?,
    }
    place.reload().context("it is removed, but the running policyd has not been told")?;
    if remove.at.show.json { json(&Changed { name, file: &file, listed: false }) } else { Ok(()) }
}

fn list(at: &At) -> Result<()> {
    let Answer::Peers(status) = show::ask(&at.show, Ask::Peers)? else { bail!("policyd answered something else") };
    if at.show.json {
        return json(&status);
    }
    if let Some(fault) = &status.fault {
        eprintln!("tandem: no link can be: {fault}");
    }
    print(&table(&status.peers))
}

fn table(peers: &[PeerStatus]) -> String {
    let head = ["Name", "Link", "Since", "Endpoint", "Addresses", "Served there", "Companions", "Last error"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(peers.iter().map(|peer| {
        let served: Vec<_> = peer.served.iter().map(ToString::to_string).collect();
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        [
            peer.name.clone(),
            if peer.up { "up" } else { "down" }.to_owned(),
            age(peer.seconds),
            peer.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            peer.addresses.join(","),
            or_none(served.join(",")),
            peer.companions.to_string(),
            or_none(peer.error.clone().unwrap_or_default()),
        ]
    }));
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
