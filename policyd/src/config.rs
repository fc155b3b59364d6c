//! policyd's configuration: a TOML file, each value of which has a flag or a default. Unknown keys are refused, and an
//! error names the value, the place and the remedy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

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
}

impl Default for Quotas {
    fn default() -> Self {
        Self { clients: 4_096, parked: 16_384, pairs: 4_096, companions: 65_536 }
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
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read the configuration {}; name another by --config or TANDEM_CONFIG", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("{} is not a configuration; correct or remove it", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let seconds = [
            ("park_seconds", self.park_seconds, 1, 3_600),
            ("remember_seconds", self.remember_seconds, 0, 3_600),
            ("linger_seconds", self.linger_seconds, 0, 86_400),
        ];
        for (key, value, least, most) in seconds {
            if let Some(value) = value.filter(|v| !(least..=most).contains(v)) {
                bail!("{key} = {value}: give {least} to {most}");
            }
        }
        let quotas = &self.quotas;
        let each = [
            ("clients", quotas.clients),
            ("parked", quotas.parked),
            ("pairs", quotas.pairs),
            ("companions", quotas.companions),
        ];
        for (key, value) in each {
            if !(1..=10_000_000).contains(&value) {
                bail!("quotas.{key} = {value}: give 1 to 10000000");
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
        })
    }
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
        assert!(error("[quotas]\nparked = 0").contains("quotas.parked = 0"));
        assert!(error("park_seconds = 'x'").contains("line 1"));
        assert!(error("[quotas]\nparkd = 1").contains("parkd"));
        let missing = format!("{:#}", Config::read(Path::new("/nonexistent/x.toml")).unwrap_err());
        assert!(missing.contains("/nonexistent/x.toml") && missing.contains("--config"), "{missing}");
    }
}
