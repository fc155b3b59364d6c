//! policyd's configuration: a TOML file, each value of which has a flag or a default. Unknown keys are refused, and an
//! error names the value, the place and the remedy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::connection::settings::{Autobind, Interface, Network, StaticRule};
use crate::peers;
use crate::peers::settings::{FOLDER, Peer, PeersText};

/// As the file says it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The switches' socket; the control socket stands beside it.
    pub socket: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug` or `trace`, and optionally `=FILE`.
    pub log: Option<String>,
    /// How long a meet waits for the other end's.
    pub park_seconds: Option<u64>,
    /// How long a meet that nobody met is remembered.
    pub remember_seconds: Option<u64>,
    /// Leave when the last client has been gone for so long; 0: never.
    pub linger_seconds: Option<u64>,
    #[serde(default)]
    pub quotas: Quotas,
    #[serde(default)]
    pub autobind: Autobind,
    #[serde(default, rename = "network")]
    pub networks: Vec<Network>,
    #[serde(default, rename = "interface")]
    pub interfaces: Vec<Interface>,
    #[serde(default, rename = "rule")]
    pub rules: Vec<StaticRule>,
    #[serde(default)]
    pub peers: PeersText,
    #[serde(default, rename = "peer")]
    pub hosts: Vec<Peer>,
    /// Where `tandem peer add` writes to.
    #[serde(skip)]
    pub peers_folder: Option<PathBuf>,
}

/// What one user may have here at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Processes connected.
    pub clients: usize,
    /// Meets waiting or remembered; the oldest goes when one more comes.
    pub parked: usize,
    /// Pairs of processes with companions.
    pub pairs: usize,
    /// Companion ends.
    pub companions: usize,
    /// Requests for interfaces.
    pub requests: usize,
    /// Connections of `tandem` and other programs that ask.
    pub commands: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { clients: 4_096, parked: 16_384, pairs: 4_096, companions: 65_536, requests: 1_024, commands: 64 }
    }
}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    pub park: Duration,
    pub remember: Duration,
    /// `None`: stay for ever.
    pub linger: Option<Duration>,
    pub quotas: Quotas,
    pub networking: Networking,
    pub peers: peers::settings::Settings,
    /// Where devices are looked for; another place in tests.
    pub sysfs: PathBuf,
}

/// What the connection manager goes by.
#[derive(Clone, Debug)]
pub struct Networking {
    pub autobind: Autobind,
    pub networks: Vec<Network>,
    pub interfaces: Vec<Interface>,
    pub rules: Vec<StaticRule>,
    pub requests_per_user: usize,
    /// Root's: it may make rules.
    pub is_system: bool,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read the configuration {}; name another by --config or TANDEM_CONFIG", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("{} is not a configuration; correct or remove it", path.display()))
    }

    /// With the entries that stand in the folder beside the configuration file.
    pub fn with_peers_of(mut self, folder: &Path) -> Result<Self> {
        let folder = folder.join(FOLDER);
        self.hosts.extend(peers::settings::read_folder(&folder)?);
        peers::settings::check(&self.hosts)
            .with_context(|| format!("with what stands in the folder {}", folder.display()))?;
        self.peers_folder = Some(folder);
        Ok(self)
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check().map_err(|fault| fault.located(text))?;
        config.check_names(text)?;
        peers::settings::check(&config.hosts)?;
        Ok(config)
    }

    /// That every network is named once, has an interface, and that rules name one that there is.
    fn check_names(&self, text: &str) -> Result<()> {
        let known: Vec<_> = self.networks.iter().map(|network| network.name.get_ref()).collect();
        for (index, network) in self.networks.iter().enumerate() {
            let (name, at) = (&network.name.get_ref().0, place(text, network.name.span().start));
            if known.iter().take(index).any(|other| other.0 == *name) {
                bail!("{at}: a second network {name}: give it another name");
            }
            if network.interfaces.is_empty() {
                bail!("{at}: network {name} has no interface: give it one at least, as in interfaces = [\"eth1\"]");
            }
        }
        for rule in &self.rules {
            let (name, at) = (rule.network.get_ref(), place(text, rule.network.span().start));
            if !known.contains(&name) {
                let known: Vec<_> = known.iter().map(|name| name.0.as_str()).collect();
                bail!("{at}: no network is called {:?}: give one of: {}", name.0, known.join(", "));
            }
            if rule.program.is_none() && rule.user.is_none() && rule.group.is_none() && rule.cgroup.is_none() {
                bail!("{at}: a rule for nobody: give program, user, group or cgroup");
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), OutOfRange> {
        let seconds = [
            ("park_seconds", self.park_seconds, 1, 3_600),
            ("remember_seconds", self.remember_seconds, 0, 3_600),
            ("linger_seconds", self.linger_seconds, 0, 86_400),
        ];
        for (key, value, least, most) in seconds {
            if let Some(value) = value.filter(|v| !(least..=most).contains(v)) {
                return Err(OutOfRange { key, value, least, most });
            }
        }
        let quotas = &self.quotas;
        let each = [
            ("quotas.clients", quotas.clients),
            ("quotas.parked", quotas.parked),
            ("quotas.pairs", quotas.pairs),
            ("quotas.companions", quotas.companions),
            ("quotas.requests", quotas.requests),
            ("quotas.commands", quotas.commands),
        ];
        for (key, value) in each {
            if !(1..=10_000_000).contains(&value) {
                return Err(OutOfRange { key, value: value as u64, least: 1, most: 10_000_000 });
            }
        }
        Ok(())
    }

    /// With the defaults for what is not said.
    pub fn settings(&self, socket: PathBuf) -> Result<Settings> {
        self.check()?;
        Ok(Settings {
            socket,
            park: Duration::from_secs(self.park_seconds.unwrap_or(5)),
            remember: Duration::from_secs(self.remember_seconds.unwrap_or(60)),
            linger: self.linger_seconds.filter(|&s| s > 0).map(Duration::from_secs),
            quotas: self.quotas,
            networking: Networking {
                autobind: self.autobind.clone(),
                networks: self.networks.clone(),
                interfaces: self.interfaces.clone(),
                rules: self.rules.clone(),
                requests_per_user: self.quotas.requests,
                is_system: nix::unistd::geteuid().is_root(),
            },
            peers: peers::settings::Settings {
                listen: self.peers.listen,
                key: self.peers.key.clone(),
                keepalive: Duration::from_secs(self.peers.keepalive_seconds.0),
                companions: self.peers.companions.0,
                parked: self.peers.parked.0,
                peers: self.hosts.clone(),
                folder: self.peers_folder.clone(),
            },
            sysfs: PathBuf::from("/sys"),
        })
    }
}

/// A number that no setting may have.
#[derive(Debug)]
struct OutOfRange {
    /// With its table.
    key: &'static str,
    value: u64,
    least: u64,
    most: u64,
}

impl std::error::Error for OutOfRange {}

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}: give {} to {}", self.key, self.value, self.least, self.most)
    }
}

impl OutOfRange {
    fn located(self, text: &str) -> anyhow::Error {
        let at = toml::de::DeTable::parse(text).ok().and_then(|file| {
            let file = file.into_inner();
            let value = match self.key.split_once('.') {
                Some((table, key)) => file.get(table)?.get_ref().as_table()?.get(key)?,
                None => file.get(self.key)?,
            };
            Some(place(text, value.span().start))
        });
        match at {
            Some(at) => anyhow::anyhow!("{at}: {self}"),
            None => self.into(),
        }
    }
}

/// As compilers say it.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let settings = Config::parse("").unwrap().settings("/x".into()).unwrap();
        assert_eq!(settings.park, Duration::from_secs(5));
        assert_eq!(settings.linger, None);
        assert_eq!(settings.quotas, Quotas::default());
    }

    #[test]
    fn a_part_of_the_quotas_keeps_the_rest() {
        let config = Config::parse("linger_seconds = 3\n[quotas]\nparked = 7\n").unwrap();
        assert_eq!(config.quotas, Quotas { parked: 7, ..Quotas::default() });
        assert_eq!(config.settings("/x".into()).unwrap().linger, Some(Duration::from_secs(3)));
    }

    #[test]
    fn errors_name_the_value_the_place_and_the_remedy() {
        let unknown = error("park_seconds = 5\nparc = 3\n");
        assert!(
            unknown.contains("parc") && unknown.contains("line 2") && unknown.contains("park_seconds"),
            "{unknown}"
        );
        assert!(error("park_seconds = 0").contains("park_seconds = 0: give 1 to 3600"));
        assert!(error("[quotas]\nparked = 0").contains("line 2, column 10: quotas.parked = 0"));
        assert!(error("park_seconds = 'x'").contains("line 1"));
        assert!(error("[quotas]\nparkd = 1").contains("parkd"));
        let missing = format!("{:#}", Config::read(Path::new("/nonexistent/x.toml")).unwrap_err());
        assert!(missing.contains("/nonexistent/x.toml") && missing.contains("--config"), "{missing}");
    }

    #[test]
    fn networks_and_rules() {
        let config = Config::parse(
            "[[network]]\nname = 'backup'\ninterfaces = ['eth1', 'wwan0']\ndestinations = ['10.0.0.0/8', 'fd00::/8']\n\
             mode = 'device'\nwhen_gone = 'enetdown'\n[[interface]]\nname = 'wwan0'\ncost = 5\n\
             [[rule]]\nuser = 'root'\nprogram = '/usr/bin/curl'\nnetwork = 'backup'\n[autobind]\ntable_base = 5000\n",
        )
        .unwrap();
        assert_eq!(config.networks[0].interfaces.len(), 2);
        assert_eq!(config.rules[0].user.unwrap().0, 0);
        assert_eq!(config.autobind.table_of(3), Some(5_003));
    }

    #[test]
    fn a_wrong_peer_is_named_with_line_and_column() {
        let key = "public_key = 'B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw='\n";
        let peer = format!("[[peer]]\nname = 'a'\n{key}addresses = ['10.0.0.2']\n");
        assert_eq!(Config::parse(&peer).unwrap().hosts[0].addresses, ["10.0.0.2/32".parse().unwrap()]);
        let cases = [
            ("[peers]\nlisten = 'here'\n".to_owned(), "line 2, column 10"),
            ("[peers]\nkeepalive_seconds = 0\n".to_owned(), "0: give 1 to 60"),
            ("[[peer]]\nname = 'a/b'\n".to_owned(), "names no peer"),
            ("[[peer]]\nname = 'a'\npublic_key = 'x'\n".to_owned(), "line 3, column 14"),
            (format!("[[peer]]\nname = 'a'\n{key}addresses = ['10.0.0.2/33']\n"), "is no address"),
            (format!("[[peer]]\nname = 'a'\n{key}addresses = []\n"), "peer a has no address"),
            (format!("{peer}endpoint = 'east'\n"), "line 5, column 12"),
            (format!("{peer}{peer}"), "a second peer a"),
        ];
        for (text, expected) in cases {
            let error = error(&text);
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_wrong_network_is_named_with_line_and_column() {
        let network = "[[network]]\nname = 'a'\ninterfaces = ['eth0']\n";
        let cases = [
            (format!("{network}{network}"), "line 5, column 8: a second network a"),
            ("[[network]]\nname = 'a'\ninterfaces = []\n".to_owned(), "line 2, column 8: network a has no interface"),
            (format!("{network}[[rule]]\nuser = 0\nnetwork = 'b'\n"), "line 6, column 11: no network is called \"b\""),
            (format!("{network}[[rule]]\nnetwork = 'a'\n"), "line 5, column 11: a rule for nobody"),
            ("[[network]]\nname = 'a b'\ninterfaces = ['eth0']\n".to_owned(), "line 2, column 8"),
            (format!("{network}destinations = ['10.0.0.0/33']\n"), "line 4, column 17"),
            (format!("{network}[[rule]]\nuser = 'nobody-of-that-name'\nnetwork = 'a'"), "line 5, column 8"),
            ("[autobind]\nrule_priority = 40000\n".to_owned(), "line 2, column 17"),
            ("[[network]]\nname = 'a'\ninterfaces = ['a-very-long-interface-name']\n".to_owned(), "line 3, column 14"),
        ];
        for (text, expected) in cases {
            let error = error(&text);
            assert!(error.contains(expected), "{error}");
        }
    }

    /// The sample says what holds, and each of its examples is one.
    #[test]
    fn the_sample_explains_itself() {
        let sample = include_str!("../policyd.toml");
        assert_eq!(Config::parse(sample).unwrap(), Config::default());
        let example = |line: &str| line.starts_with('#') && !line.starts_with("# ") && !line.starts_with("#  ");
        let uncommented: Vec<String> = sample
            .lines()
            .map(|line| if example(line) { line.trim_start_matches('#').to_owned() } else { line.to_owned() })
            .map(|line| line.replace("\"alice\"", "1000").replace("\"backup\"   ", "\"backup\""))
            .filter(|line| !line.starts_with("user = ") && !line.starts_with("group = "))
            .collect();
        let config = Config::parse(&uncommented.join("\n")).unwrap();
        let defaults = Autobind { rules: Some(true), ..Autobind::default() };
        assert_eq!((config.quotas, config.autobind), (Quotas::default(), defaults));
        assert_eq!((config.park_seconds, config.remember_seconds), (Some(5), Some(60)));
        assert_eq!((config.networks.len(), config.interfaces.len(), config.rules.len()), (1, 1, 1));
        let said = PeersText { listen: config.peers.listen, key: config.peers.key.clone(), ..PeersText::default() };
        assert!(config.peers == said && said.listen.is_some() && said.key.is_some());
        assert_eq!((config.hosts.len(), config.hosts[0].addresses.len()), (1, 2));
    }
}
