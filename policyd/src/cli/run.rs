//! `tandem run`: the switch in front of a program, and then the program itself in this process: its exit status, its
//! signals, its place in the process tree are its own.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::execve;

use crate::connection::request::Net;
use crate::control::Ask;
use crate::control::client::Control;

use super::{LogTarget, Run, find, program, start};

/// Our own failure, as env and timeout have it; the program has not been run.
const FAILED: i32 = 125;
const CANNOT: i32 = 126;
const NOT_FOUND: i32 = 127;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Returns only if the program could not be run: the exit status.
pub fn run(run: Run) -> i32 {
    let library = match library(run.library.as_deref()) {
        Ok(library) => library,
        Err(error) => return failed(FAILED, &format!("{error:#}")),
    };
    let search_path = std::env::var_os("PATH");
    let Some(command) = run.command.first() else { return failed(FAILED, "no command") };
    let checked = program::resolve(command, search_path.as_deref())
        .and_then(|path| program::check(&path, &library, search_path.as_deref()).map(|()| path));
    let path = match checked {
        Ok(path) => path,
        Err(refusal) => return failed(refusal.status(), &refusal.to_string()),
    };
    let policyd = start::policyd(run.policyd.as_deref());
    if let Some((trouble, log)) = policyd.trouble.as_ref().zip(run.log.as_ref()) {
        warn(log, &format!("no policyd, so everything stays on TCP: {trouble:#}"));
    }

    let wish = match (&run.interface, &run.network) {
        (Some(name), _) => Some(("TANDEM_INTERFACE", Net::Interface(name.clone()))),
        (None, Some(name)) => Some(("TANDEM_NETWORK", Net::Network(name.clone()))),
        (None, None) => None,
    };
    if let Some((_, net)) = &wish
        && let Err(error) = prepare(policyd.socket.as_deref(), net)
    {
        return failed(FAILED, &format!("{net} cannot be had: {error:#}"));
    }

    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    let preload = preload(&library, environment.get(OsStr::new("LD_PRELOAD")).map(OsString::as_os_str));
    environment.insert("LD_PRELOAD".into(), preload);
    environment.insert("TANDEM_ATTACH".into(), run.attach.text().into());
    if let Some(socket) = policyd.socket {
        environment.insert("TANDEM_POLICYD".into(), socket.into());
    }
    if let Some((variable, Net::Interface(name) | Net::Network(name))) = wish {
        environment.insert(variable.into(), name.into());
    }
    if let Some(LogTarget { level, file }) = &run.log {
        let mut value = OsString::from(format!("{level}="));
        value.push(file);
        environment.insert("TANDEM_LOG".into(), value);
    }
    exec(&path, run.command, environment)
}

/// Who asked for an interface is not served by another: that it can't be had is said before the program is run.
fn prepare(socket: Option<&Path>, net: &Net) -> Result<()> {
    let socket = socket.context("no policyd answers")?;
    Control::connect(socket, PATIENCE)?.ask(Ask::Prepare(net.clone())).map(drop)
}

fn exec(path: &Path, command: Vec<OsString>, environment: BTreeMap<OsString, OsString>) -> i32 {
    let entries = environment.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let (Some(file), Some(mut arguments), Some(environment)) =
        (c_string(path.as_os_str().to_owned()), c_strings(command), c_strings(entries))
    else {
        return failed(FAILED, "a zero byte in the command or its environment");
    };
    let Err(mut error) = execve(&file, &arguments, &environment);
    if error == nix::Error::ENOEXEC {
        // A script that doesn't name its interpreter, as shells and execvp run it.
        let shell = c"/bin/sh".to_owned();
        arguments.splice(..1, [shell.clone(), file]);
        let Err(of_shell) = execve(&shell, &arguments, &environment);
        error = of_shell;
    }
    let status = if error == nix::Error::ENOENT { NOT_FOUND } else { CANNOT };
    failed(status, &format!("{}: cannot be executed: {}", path.display(), error.desc()))
}

fn library(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) if path.is_file() => std::path::absolute(path)?,
        Some(path) => bail!("{}: no such library; leave --library (TANDEM_LIBRARY) away, or mend it", path.display()),
        None => {
            let own = find::own_folder().context("cannot tell where this command is")?;
            find::library(&own).with_context(|| {
                let folders: Vec<_> = find::library_folders(&own).iter().map(|f| f.display().to_string()).collect();
                format!(
                    "no {} in {}; build it (cargo build -p tandem-shim) or name it by --library",
                    find::LIBRARY,
                    folders.join(", ")
                )
            })?
        }
    };
    if path.as_os_str().as_bytes().iter().any(|b| b.is_ascii_whitespace() || *b == b':' || *b == b'$') {
        bail!("{}: the dynamic loader takes no preloaded library with a blank, ':' or '$' in its path", path.display());
    }
    Ok(path)
}

/// Ours first: its hooks must see a call before another library's.
fn preload(library: &Path, existing: Option<&OsStr>) -> OsString {
    let mut preload = library.as_os_str().to_owned();
    let existing = existing.map(OsStrExt::as_bytes).unwrap_or_default();
    let others = existing.split(|b| *b == b':' || b.is_ascii_whitespace());
    for other in others.filter(|other| !other.is_empty() && *other != library.as_os_str().as_bytes()) {
        preload.push(":");
        preload.push(OsStr::from_bytes(other));
    }
    preload
}

/// To the switch's log: nothing of ours is on the program's stderr unless asked.
fn warn(log: &LogTarget, text: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log.file);
    if let (Ok(mut file), true) = (file, log.level != "error") {
        drop(writeln!(file, "warn {} tandem run: {text}", std::process::id()));
    }
}

fn failed(status: i32, text: &str) -> i32 {
    eprintln!("tandem run: {text}");
    status
}

fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

fn c_strings(list: impl IntoIterator<Item = OsString>) -> Option<Vec<CString>> {
    list.into_iter().map(c_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_first_and_once() {
        let ours = Path::new("/x/libtandem.so");
        assert_eq!(preload(ours, None), "/x/libtandem.so");
        assert_eq!(preload(ours, Some(OsStr::new(""))), "/x/libtandem.so");
        assert_eq!(preload(ours, Some(OsStr::new("/a.so:/b.so"))), "/x/libtandem.so:/a.so:/b.so");
        assert_eq!(preload(ours, Some(OsStr::new("/a.so /x/libtandem.so"))), "/x/libtandem.so:/a.so");
    }
}
