//! Addresses that other providers than verbs serve: files `providers.d/NAME.toml` beside the configuration, each with
//! `addresses = [...]`, for the provider NAME. They are read again when the folder changes: whoever installs a provider, or its own
//! service, keeps its file current.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tandem_protocol::ProviderName;

use crate::peers::hosts::Served;

pub const FOLDER: &str = "providers.d";

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropIn {
    addresses: Vec<IpAddr>,
}

/// Beside the folder of peers, which stands beside the configuration.
pub fn folder(peers: Option<&Path>) -> Option<PathBuf> {
    peers.map(|peers| peers.with_file_name(FOLDER))
}

/// What all files say, in the order of their names, and what is wrong with those that say nothing.
pub fn read(folder: &Path) -> (Vec<Served>, Vec<String>) {
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let (mut served, mut faults) = (Vec::<Served>::new(), Vec::new());
    for path in files {
        match of_file(&path) {
            Ok(more) => {
                for new in more {
                    match served.iter().find(|known| known.address == new.address) {
                        Some(known) => faults.push(format!(
                            "{}: {} is given to {} already",
                            path.display(),
                            new.address,
                            known.provider
                        )),
                        None => served.push(new),
                    }
                }
            }
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    (served, faults)
}

fn of_file(path: &Path) -> Result<Vec<Served>> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let Some(name) = ProviderName::new(stem) else {
        bail!(
            "{}: no provider can have this name: give 1 to 15 of a-z, 0-9, '_' and '-', a letter first",
            path.display()
        );
    };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: DropIn = toml::from_str(&text).with_context(|| format!("{} gives no addresses", path.display()))?;
    let served = |address: IpAddr| Served {
        address: address.to_canonical(),
        device: String::new(),
        port: 0,
        provider: name.to_string(),
    };
    Ok(file.addresses.into_iter().map(served).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_give_addresses_to_the_provider_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(read(&folder.path().join("none")), (Vec::new(), Vec::new()));
        put("mine.toml", "addresses = [\"10.0.0.1\", \"::ffff:10.0.0.2\", \"fd00::1\"]\n");
        put("note.txt", "no provider");
        let (served, faults) = read(folder.path());
        let shown: Vec<_> = served.iter().map(|s| format!("{} by {}", s.address, s.by())).collect();
        assert_eq!(shown, ["10.0.0.1 by mine", "10.0.0.2 by mine", "fd00::1 by mine"]);
        assert!(faults.is_empty());
        put("other.toml", "addresses = [\"10.0.0.1\", \"10.0.0.9\"]\n");
        put("wrong.toml", "address = 1\n");
        put("Big.toml", "addresses = []\n");
        let (served, faults) = read(folder.path());
        assert_eq!(served.last().unwrap().provider, "other");
        assert_eq!(served.len(), 4, "what is wrong takes nothing from the others");
        for (fault, word) in
            faults.iter().zip(["Big.toml: no provider", "10.0.0.1 is given to mine", "wrong.toml gives no"])
        {
            assert!(fault.contains(word), "{fault}");
        }
        assert_eq!(faults.len(), 3);
    }
}
