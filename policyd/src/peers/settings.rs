//! `[peers]` and `[[peer]]` of the configuration, and the folder beside it that `tandem peer add` writes to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::PublicKey;

/// Entries that `tandem peer add` writes stand here, beside the configuration file, a file each.
pub const FOLDER: &str = "peers.d";
pub const KEY_FILE: &str = "peer.key";
/// Where the system's policyd looks for its configuration.
pub const SYSTEM_FOLDER: &str = "/etc/tandem";

/// `[peers]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersText {
    /// None: other policyds are dialled, and nothing listens.
    pub listen: Option<SocketAddr>,
    /// None: `peer.key` beside the configuration file.
    pub key: Option<PathBuf>,
    pub keepalive_seconds: Seconds,
    /// Companions with one peer.
    pub companions: Count,
    /// Claims of one peer that wait for their other end here.
    pub parked: Count,
}

impl Default for PeersText {
    fn default() -> Self {
        Self {
            listen: None,
            key: None,
            keepalive_seconds: Seconds(5),
            companions: Count(65_536),
            parked: Count(16_384),
        }
    }
}

/// `[[peer]]`: another host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub name: PeerName,
    pub public_key: PublicKey,
    /// None: it dials, we don't.
    pub endpoint: Option<SocketAddr>,
    /// What it may speak for.
    #[serde(deserialize_with = "prefixes")]
    pub addresses: Vec<IpNet>,
    /// Another policyd of this host, with the same addresses: RDMA by one device, to itself.
    #[serde(default)]
    pub same_host: bool,
}

fn prefixes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| prefix(text).map_err(serde::de::Error::custom)).collect()
}

/// An address alone is that one.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc()).map_err(|_| format!("{text:?} is no address: give one, or a prefix as 10.0.0.0/24"))
}

/// What policyd runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub listen: Option<SocketAddr>,
    pub key: Option<PathBuf>,
    pub keepalive: Duration,
    pub companions: usize,
    pub parked: usize,
    pub peers: Vec<Peer>,
    /// Where `tandem peer add` writes to.
    pub folder: Option<PathBuf>,
}

/// One file of the folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropIn {
    #[serde(default, rename = "peer")]
    peers: Vec<Peer>,
}

/// The entries of the folder, in the order of their names.
pub fn read_folder(folder: &Path) -> Result<Vec<Peer>> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    let mut files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>).with_context(cannot)?,
    };
    files.retain(|entry| Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "toml"));
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut peers = Vec::new();
    for file in files {
        let path = file.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let entry: DropIn =
            toml::from_str(&text).with_context(|| format!("{} names no peer; correct or remove it", path.display()))?;
        peers.extend(entry.peers);
    }
    Ok(peers)
}

/// That names, keys and addresses are one peer's each.
pub fn check(peers: &[Peer]) -> Result<()> {
    for (index, peer) in peers.iter().enumerate() {
        let name = &peer.name.0;
        if peer.addresses.is_empty() {
            bail!("peer {name} has no address: give what it may speak for, as in addresses = [\"10.0.0.2/32\"]");
        }
        for other in peers.iter().take(index) {
            if other.name == peer.name {
                bail!("a second peer {name}: give it another name, or remove one");
            }
            if other.public_key == peer.public_key {
                bail!("peers {} and {name} have the same public_key: each host has its own", other.name.0);
            }
            let same = |net: &&IpNet| other.addresses.iter().any(|known| known.trunc() == net.trunc());
            if let Some(net) = peer.addresses.iter().find(same) {
                bail!("{net} is given to peer {} and to peer {name}: give it to one", other.name.0);
            }
        }
    }
    Ok(())
}

impl Peer {
    /// As it stands in a configuration file.
    pub fn entry(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(|net| format!("\"{net}\"")).collect();
        let endpoint = self.endpoint.map(|endpoint| format!("endpoint = \"{endpoint}\"\n")).unwrap_or_default();
        let same_host = if self.same_host { "same_host = true\n" } else { "" };
        format!(
            "[[peer]]\nname = \"{}\"\npublic_key = \"{}\"\n{endpoint}addresses = [{}]\n{same_host}",
            self.name.0,
            self.public_key,
            addresses.join(", ")
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct PeerName(pub String);

impl TryFrom<String> for PeerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // It is a file's name too.
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if begins && text.len() <= 63 && text.bytes().all(sound) {
            Ok(Self(text))
        } else {
            Err(format!(
                "{text:?} names no peer: give 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first"
            ))
        }
    }
}

impl std::str::FromStr for PeerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Seconds(pub u64);

impl TryFrom<u64> for Seconds {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        if (1..=60).contains(&number) { Ok(Self(number)) } else { Err(format!("{number}: give 1 to 60")) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Count(pub usize);

impl TryFrom<u64> for Count {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match usize::try_from(number) {
            Ok(count @ 1..=1_000_000) => Ok(Self(count)),
            _ => Err(format!("{number}: give 1 to 1000000")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=";

    fn peer(name: &str, key: &str, address: &str) -> Peer {
        let (name, public_key) = (name.parse().unwrap(), key.parse().unwrap());
        let endpoint = Some("[fd00::2]:7470".parse().unwrap());
        Peer { name, public_key, endpoint, addresses: vec![address.parse().unwrap()], same_host: false }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = Peer { same_host: true, ..peer("east-1", KEY, "10.0.0.2/32") };
        std::fs::write(folder.path().join("east-1.toml"), written.entry()).unwrap();
        std::fs::write(folder.path().join("note.txt"), "no peer").unwrap();
        assert_eq!(read_folder(folder.path()).unwrap(), [written]);
        assert!(read_folder(&folder.path().join("none")).unwrap().is_empty());
        std::fs::write(folder.path().join("wrong.toml"), "[[peer]]\nname = 'x'\n").unwrap();
        let error = format!("{:#}", read_folder(folder.path()).unwrap_err());
        assert!(error.contains("wrong.toml") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn two_peers_share_nothing() {
        let other = super::super::Keypair::generate().unwrap().public.to_string();
        let one = peer("a", KEY, "10.0.0.2/32");
        let said = |second: Peer| check(&[one.clone(), second]).map_err(|error| error.to_string());
        assert!(said(peer("a", &other, "10.0.0.3/32")).unwrap_err().contains("a second peer a"));
        assert!(said(peer("b", KEY, "10.0.0.3/32")).unwrap_err().contains("same public_key"));
        assert!(said(peer("b", &other, "10.0.0.2/32")).unwrap_err().contains("give it to one"));
        said(peer("b", &other, "10.0.0.0/24")).unwrap();
    }

    #[test]
    fn names_are_files() {
        for wrong in ["", "../x", ".x", "a b", "a/b"] {
            assert!(wrong.parse::<PeerName>().is_err(), "{wrong}");
        }
        assert!("host-1.example_org".parse::<PeerName>().is_ok());
    }
}
