//! Networks, interfaces and rules, as the configuration file names them.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use tandem_protocol::assignment::{InterfaceName, Mode, NetworkName, PortBind};
use toml::Spanned;

/// `[[network]]`: what a process asks for by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub name: Spanned<NetworkText>,
    /// In order of preference.
    pub interfaces: Vec<InterfaceText>,
    /// None: whatever the interface has a route to.
    #[serde(default)]
    pub destinations: Vec<IpNet>,
    #[serde(default)]
    pub mode: ModeText,
    #[serde(default)]
    pub port_bind: PortBindText,
    #[serde(default)]
    pub when_gone: WhenGone,
    #[serde(default)]
    pub existing: Existing,
    /// Who may ask for it: none says everybody.
    #[serde(default)]
    pub users: Vec<UserText>,
}

/// `[[interface]]`: what the kernel does not know of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub name: InterfaceText,
    #[serde(default)]
    pub cost: u32,
    /// Else what its driver says, if anything.
    pub bandwidth_mbit: Option<u32>,
}

/// `[[rule]]`: for programs that ask for nothing. All that is said must hold; the first rule that does is taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRule {
    /// The executable.
    pub program: Option<AbsolutePath>,
    pub user: Option<UserText>,
    pub group: Option<GroupText>,
    /// A control group and what is below it, as `/proc/PID/cgroup` says it.
    pub cgroup: Option<AbsolutePath>,
    pub network: Spanned<NetworkText>,
}

/// `[autobind]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Autobind {
    /// Make `from ADDRESS` rules and tables. None: the system's policyd does, a user's own does not.
    pub rules: Option<bool>,
    pub rule_priority: RulePriority,
    /// Interface number n gets the table `table_base + n`.
    pub table_base: TableBase,
    /// Marks our rules and routes, as `ip route show proto` has it.
    pub protocol: Protocol,
    /// How long what a released request held stays ready.
    pub cache_seconds: u32,
    /// Who may name an interface (`tandem run --interface`, `TANDEM_INTERFACE`): none says everybody.
    pub interface_users: Vec<UserText>,
    /// Who may make requests for other users' processes, beside root.
    pub on_behalf: Vec<UserText>,
}

impl Default for Autobind {
    fn default() -> Self {
        Self {
            rules: None,
            rule_priority: RulePriority(10_000),
            table_base: TableBase(7_200_000),
            protocol: Protocol(84),
            cache_seconds: 30,
            interface_users: Vec::new(),
            on_behalf: Vec::new(),
        }
    }
}

impl Autobind {
    /// Interfaces have numbers up to this in the range of our tables.
    pub const TABLES: u32 = 1_000_000;

    pub fn owns_table(&self, table: u32) -> bool {
        (self.table_base.0..self.table_base.0.saturating_add(Self::TABLES)).contains(&table)
    }

    /// `None`: an interface with a number that no host's has.
    pub fn table_of(&self, interface: u32) -> Option<u32> {
        (interface < Self::TABLES).then(|| self.table_base.0.saturating_add(interface))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeText {
    #[default]
    Auto,
    Device,
    Address,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortBindText {
    #[default]
    Leave,
    Device,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenGone {
    #[default]
    Unbound,
    Enetdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    #[default]
    Kept,
    Failed,
}

impl From<ModeText> for Mode {
    fn from(text: ModeText) -> Self {
        match text {
            ModeText::Auto => Self::Auto,
            ModeText::Device => Self::Device,
            ModeText::Address => Self::Address,
        }
    }
}

impl From<PortBindText> for PortBind {
    fn from(text: PortBindText) -> Self {
        match text {
            PortBindText::Leave => Self::Leave,
            PortBindText::Device => Self::Device,
        }
    }
}

// Values are checked where they are read, so that an error has the file's line and column.

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct NetworkText(pub String);

impl TryFrom<String> for NetworkText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match NetworkName::new(text.as_bytes()) {
            Some(_) => Ok(Self(text)),
            None => {
                Err(format!("{text:?} names no network: give 1 to 31 printable characters without blank and slash"))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfaceText(pub String);

impl TryFrom<String> for InterfaceText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match InterfaceName::new(text.as_bytes()) {
            Some(_) => Ok(Self(text)),
            None => {
                Err(format!("{text:?} names no interface: give 1 to 15 printable characters without blank and slash"))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct AbsolutePath(pub PathBuf);

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        if path.is_absolute() { Ok(Self(path)) } else { Err(format!("{} does not begin with '/'", path.display())) }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum NameOrNumber {
    Number(u32),
    Name(String),
}

impl NameOrNumber {
    fn number(self, what: &str, find: impl Fn(&str) -> Option<u32>) -> Result<u32, String> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Name(name) => {
                find(&name).ok_or_else(|| format!("no {what} is called {name:?}: give another name, or a number"))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NameOrNumber")]
pub struct UserText(pub u32);

impl TryFrom<NameOrNumber> for UserText {
    type Error = String;

    fn try_from(text: NameOrNumber) -> Result<Self, String> {
        let find = |name: &str| Some(nix::unistd::User::from_name(name).ok()??.uid.as_raw());
        text.number("user", find).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NameOrNumber")]
pub struct GroupText(pub u32);

impl TryFrom<NameOrNumber> for GroupText {
    type Error = String;

    fn try_from(text: NameOrNumber) -> Result<Self, String> {
        let find = |name: &str| Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw());
        text.number("group", find).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct RulePriority(pub u32);

impl TryFrom<u32> for RulePriority {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        // 0 is the table of this host's own addresses, 32766 the main table.
        if (1..=32_765).contains(&number) { Ok(Self(number)) } else { Err(format!("{number}: give 1 to 32765")) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct TableBase(pub u32);

impl TryFrom<u32> for TableBase {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        let most = u32::MAX - Autobind::TABLES;
        if (256..=most).contains(&number) { Ok(Self(number)) } else { Err(format!("{number}: give 256 to {most}")) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Protocol(pub u8);

impl TryFrom<u8> for Protocol {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        // Up to 4 are the kernel's, ip's and boot scripts'.
        if number > 4 { Ok(Self(number)) } else { Err(format!("{number}: give 5 to 255")) }
    }
}
