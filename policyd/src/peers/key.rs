//! Keys: 32 bytes, written as WireGuard writes them. The private one stands in a file that only its owner may read.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Dh;

const BYTES: usize = 32;

/// Names a host, and proves nothing by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey([u8; BYTES]);

/// This host's.
pub struct Keypair {
    private: [u8; BYTES],
    pub public: PublicKey,
}

impl PublicKey {
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub const fn bytes(&self) -> &[u8; BYTES] {
        &self.0
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let remedy =
            || format!("{text:?} is no public key: give the 44 characters that `tandem peer key` prints there");
        let bytes: [u8; BYTES] = STANDARD.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or_else(remedy)?;
        // The one with which every secret is the same.
        if bytes == [0; BYTES] { Err(remedy()) } else { Ok(Self(bytes)) }
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Keypair {
    pub fn generate() -> Result<Self> {
        let mut private = [0; BYTES];
        getrandom::fill(&mut private).context("no random bytes to be had")?;
        Self::of(private)
    }

    fn of(private: [u8; BYTES]) -> Result<Self> {
        let mut dh: Box<dyn Dh> = DefaultResolver.resolve_dh(&DHChoice::Curve25519).context("no Curve25519")?;
        dh.set(&private);
        let public = PublicKey::from_bytes(dh.pubkey()).context("no Curve25519")?;
        Ok(Self { private, public })
    }

    pub const fn private(&self) -> &[u8; BYTES] {
        &self.private
    }

    pub fn read(path: &Path) -> Result<Self> {
        let named = || format!("the key file {}", path.display());
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no key file {}: make one by `tandem peer key`", path.display())
            }
            file => file.with_context(|| format!("cannot read {}", named()))?,
        };
        let metadata = file.metadata().with_context(|| format!("cannot look at {}", named()))?;
        ensure!(
            metadata.mode() & 0o077 == 0,
            "{} has mode {:03o}: others may read or write it; chmod 600 {}, and if somebody else could have read it, make \
             a new one",
            named(),
            metadata.mode() & 0o777,
            path.display()
        );
        let mut text = String::new();
        let whole =
            (&mut file).take(1_024).read_to_string(&mut text).with_context(|| format!("cannot read {}", named()))?;
        let bytes = STANDARD.decode(text.trim_end()).ok().and_then(|bytes| bytes.try_into().ok());
        match bytes {
            Some(private) if whole < 1_024 => Self::of(private),
            _ => {
                bail!("{} holds no key (44 characters in base64): restore it, or remove it and make a new one", named())
            }
        }
    }

    /// Makes a file that was not there before.
    pub fn create(path: &Path) -> Result<Self> {
        let pair = Self::generate()?;
        let cannot = || format!("cannot make the key file {}", path.display());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
        let written = writeln!(file, "{}", STANDARD.encode(pair.private)).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key is worse than none.
            let _ = std::fs::remove_file(path);
            return Err(error).with_context(cannot);
        }
        Ok(pair)
    }
}

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keypair({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_made_once_for_its_owner_alone_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        let none = Keypair::read(&path).unwrap_err().to_string();
        assert!(none.contains("tandem peer key"), "{none}");
        let made = Keypair::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Keypair::read(&path).unwrap().public, made.public);
        assert!(Keypair::create(&path).is_err(), "never overwritten");
        assert_eq!(Keypair::read(&path).unwrap().public, made.public);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = Keypair::read(&path).unwrap_err().to_string();
        assert!(open.contains("mode 640") && open.contains("chmod 600"), "{open}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Keypair::read(&path).unwrap_err().to_string().contains("holds no key"));
    }

    /// What openssl makes of the same private key.
    #[test]
    fn the_public_key_is_curve25519s() {
        let private = std::array::from_fn(|at| at as u8 + 1);
        let public = Keypair::of(private).unwrap().public;
        assert_eq!(public.to_string(), "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=");
    }

    #[test]
    fn texts_are_checked() {
        let text = Keypair::generate().unwrap().public.to_string();
        assert_eq!(text.len(), 44);
        assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
        for wrong in ["", "abc", &text[..43], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            assert!(wrong.parse::<PublicKey>().unwrap_err().contains("tandem peer key"), "{wrong}");
        }
    }
}
