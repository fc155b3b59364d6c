//! What a row of the matrix is.

/// Lines of shell. All of a row run in one directory that lives as long as the row, with the ports in `PORTS`, this crate's
/// sources in `$SOURCES`, the commands `$TANDEM` and `$TOKIO`, and in `$UNPRIVILEGED` what makes a command not root's.
pub type Shell = &'static str;

pub struct Row {
    /// Natively, once, before all: keys, files, configurations.
    pub once: Shell,
    /// In the order in which they are started; each is waited for at its port: `$PORT`, `$PORT2`, `$PORT3`.
    pub servers: &'static [Shell],
    /// Natively, again and again until it succeeds: the servers listen, and now serve.
    pub serves: Shell,
    /// What it prints, on both outputs, and how it ends is compared.
    pub client: Shell,
    /// How the servers are asked to end; how they do is compared.
    pub stop: i32,
    pub both: Both,
    /// Servers that are each other's clients: these connections are carried in the way `server only` too.
    pub among_servers: bool,
    /// Clients that are each other's peers, or the server's: the same in the way `client only`.
    pub among_clients: bool,
}

pub enum Both {
    /// By companion: at least so many bytes.
    Carried(u64),
    /// By companion or not, as it happens: why.
    Perhaps(&'static str),
    /// It stays on TCP, for this reason.
    Tcp(&'static str),
}

pub const PORTS: [&str; 3] = ["PORT", "PORT2", "PORT3"];

/// What most rows have in common.
pub const ROW: Row = Row {
    once: "",
    servers: &[],
    serves: "",
    client: "",
    stop: libc::SIGTERM,
    both: Both::Carried(1 << 20),
    among_servers: false,
    among_clients: false,
};
