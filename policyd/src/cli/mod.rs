//! The `tandem` command.
//!
//! `run.rs` starts a program under the switch, `program.rs` says whether that can work, `find.rs` knows where the
//! switch and policyd are installed, `start.rs` sees to it that a policyd is there, `show.rs` prints.

mod find;
mod program;
mod run;
mod show;
mod start;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Makes unmodified programs use shared memory where both ends run it.
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
}

#[derive(Args)]
struct Run {
    /// When a connection looks for its other end: at once, at its third data call, or never
    #[arg(long, env = "TANDEM_ATTACH", value_name = "WHEN", default_value = "data")]
    attach: Attach,
    /// The policyd to use [default: the system's if it answers, else your own, started if need be]
    #[arg(long, env = "TANDEM_POLICYD", value_name = "SOCKET")]
    policyd: Option<PathBuf>,
    /// Let the switch write a log: error, warn, info, debug or trace, and the file
    #[arg(long, env = "TANDEM_LOG", value_name = "LEVEL=FILE", value_parser = log_target)]
    log: Option<LogTarget>,
    /// The switch [default: libtandem.so beside this command, or in its installation]
    #[arg(long, env = "TANDEM_LIBRARY", value_name = "FILE")]
    library: Option<PathBuf>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
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
    fn a_log_is_a_level_and_a_file() {
        assert_eq!(log_target("info=/tmp/x").unwrap().file, PathBuf::from("/tmp/x"));
        assert!(log_target("info=x").unwrap().file.is_absolute());
        assert!(log_target("loud=/x").err().unwrap().contains("'loud' is no level"));
        assert!(log_target("info").is_err() && log_target("info=").is_err());
    }
}
