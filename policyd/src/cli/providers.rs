//! `tandem check`'s part on providers that others have written: every library in the folder `tandem-providers` beside the switch. Each is
//! loaded in a process of its own (`tandem probe-provider`, hidden), for one that breaks must break nothing else.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tandem_protocol::ProviderName;
use tandem_provider::{ENTRY, Host, Open, Provider, Served, Table, VERSION};

use super::check::{Finding, finding};
use crate::peers::PeersStatus;
use crate::san::drop_ins;

/// Beside the switch; the switch has the same.
const FOLDER: &str = "tandem-providers";
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_SERVED: usize = 64;

#[derive(Args)]
pub struct Probe {
    file: PathBuf,
}

/// What a provider says of itself.
#[derive(Serialize, Deserialize)]
struct Found {
    name: String,
    version: u32,
    /// What its devices serve, by its own account.
    serves: Vec<IpAddr>,
    /// What it says that is wanting, or only says.
    lines: Vec<String>,
    wanting: bool,
}

/// One finding for each library, for each name that has addresses and no library, and for each file that is wrong.
pub fn findings(beside: &Path, status: Option<&PeersStatus>) -> Vec<Finding> {
    let folder = beside.join(FOLDER);
    let mut libraries: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    libraries.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
    libraries.sort();
    let mut all: Vec<_> = libraries.iter().map(|path| of_library(path, status)).collect();
    let Some(status) = status else { return all };
    let known: Vec<_> = libraries.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    let verbs = ProviderName::VERBS.to_string();
    let named: BTreeSet<_> = status.served.iter().map(|served| served.provider.clone()).collect();
    for name in named.iter().filter(|name| **name != verbs && !known.contains(&name.as_str())) {
        let text = format!("{name}: addresses are given to it, and there is no library");
        all.push(wrong(
            text,
            format!("install {}, or remove providers.d/{name}.toml", folder.join(name).with_extension("so").display()),
        ));
    }
    let faults = drop_ins::folder(status.folder.as_deref()).map(|folder| drop_ins::read(&folder).1).unwrap_or_default();
    all.extend(faults.into_iter().map(|fault| wrong(fault, "correct the file; policyd reads it at once".to_owned())));
    all
}

fn wrong(found: String, remedy: String) -> Finding {
    finding("provider", false, Err((found, &remedy)))
}

fn of_library(path: &Path, status: Option<&PeersStatus>) -> Finding {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("?");
    let found = match asked(path) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "get one that was built for this release from whoever has written it, or remove it";
            return wrong(format!("{stem}: {error:#}"), remedy.to_owned());
        }
    };
    let version = found.version;
    if found.wanting {
        let text = format!("{stem}: ABI version {version}; {}", found.lines.join("; "));
        return wrong(text, "see its own documentation".to_owned());
    }
    let mine = |status: &PeersStatus| -> Vec<IpAddr> {
        status.served.iter().filter(|served| served.provider == stem).map(|served| served.address).collect()
    };
    let given = status.map(mine);
    if given.as_ref().is_some_and(Vec::is_empty) {
        let serves = found.serves.iter().map(|ip| format!("\"{ip}\"")).collect::<Vec<_>>().join(", ");
        let remedy = format!("write addresses = [{serves}] to providers.d/{stem}.toml beside policyd.toml");
        return wrong(format!("{stem}: ABI version {version}; no address of this host is given to it"), remedy);
    }
    let serves: Vec<_> = given.unwrap_or(found.serves).iter().map(IpAddr::to_string).collect();
    let serves = if serves.is_empty() { String::new() } else { format!("; serves {}", serves.join(", ")) };
    finding("provider", false, Ok(format!("{stem}: ABI version {version}{serves}; {}", path.display())))
}

/// By a process of its own.
fn asked(path: &Path) -> Result<Found> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("probe-provider").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("it does not come to an end when it is loaded and asked");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if let Some(signal) = status.signal() {
        bail!("it ends the process that loads it, by signal {signal}");
    }
    let (mut out, mut error) = (String::new(), String::new());
    child.stdout.take().context("no output")?.read_to_string(&mut out)?;
    child.stderr.take().context("no output")?.read_to_string(&mut error)?;
    let said = out.lines().last().and_then(|line| serde_json::from_str::<Found>(line).ok());
    said.ok_or_else(|| anyhow!("{}", error.trim().trim_start_matches("tandem: ").to_owned()))
}

/// The hidden command.
pub fn probe(probe: &Probe) -> Result<()> {
    let stem = probe.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    ensure!(
        ProviderName::new(stem).is_some(),
        "no provider can have this name: 1 to 15 of a-z, 0-9, '_' and '-', a letter first"
    );
    let provider = load(&probe.file)?;
    ensure!(
        provider.is_called(stem),
        "it calls itself {:?}: its file must have that name",
        provider.name().unwrap_or("?")
    );
    let mut lines = Vec::<String>::new();
    // SAFETY: its own context; the lines are this frame's until the call returns.
    let wanting = unsafe { (provider.check)(provider.context, (&raw mut lines).cast(), take_line) } > 0;
    let found = Found { name: stem.to_owned(), version: provider.version, serves: served(provider), lines, wanting };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn load(file: &Path) -> Result<&'static Provider> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    // SAFETY: a path that ends; whoever asks for this has installed the library. It is never closed.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: the dynamic linker's own text, of this thread.
        let why = unsafe { libc::dlerror() };
        // SAFETY: as above.
        let why = (!why.is_null()).then(|| unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned());
        bail!("it cannot be loaded: {}", why.unwrap_or_default());
    }
    // SAFETY: the handle of a library, and a name that ends.
    let entry = unsafe { libc::dlsym(library, ENTRY.as_ptr()) };
    ensure!(!entry.is_null(), "it is no provider: it has no {}", ENTRY.to_string_lossy());
    let host = Box::leak(Box::new(Host {
        version: VERSION,
        size: size_of::<Host>() as u32,
        context: std::ptr::null_mut(),
        log: say_nothing,
        hide: as_it_is,
        close_hidden,
    }));
    // SAFETY: the boundary says that a symbol of this name has this type; its table outlives the process.
    let table = unsafe { Provider::accept(std::mem::transmute::<*mut c_void, Open>(entry)(host)) };
    table.map_err(|why| anyhow!("it cannot be used: {why}"))
}

fn served(provider: &Provider) -> Vec<IpAddr> {
    // SAFETY: all-zero is a valid entry.
    let mut all: Vec<Served> = vec![unsafe { std::mem::zeroed() }; MOST_SERVED];
    // SAFETY: its own context, and room for so many.
    let count = unsafe { (provider.list)(provider.context, all.as_mut_ptr(), MOST_SERVED as u32) };
    all.truncate(usize::try_from(count).unwrap_or(0));
    let ip = |served: &Served| {
        let [a, b, c, d, ..] = served.address.bytes;
        match i32::from(served.address.family) {
            libc::AF_INET => Some(IpAddr::from(Ipv4Addr::new(a, b, c, d))),
            libc::AF_INET6 => Some(Ipv6Addr::from(served.address.bytes).to_canonical()),
            _ => None,
        }
    };
    all.iter().filter_map(ip).collect()
}

unsafe extern "C" fn take_line(argument: *mut c_void, text: *const c_char, bytes: usize) {
    // SAFETY: by the boundary, what `check` was given, and so many bytes of text.
    let (lines, text) =
        unsafe { (&mut *argument.cast::<Vec<String>>(), std::slice::from_raw_parts(text.cast(), bytes)) };
    lines.push(String::from_utf8_lossy(text).into_owned());
}

unsafe extern "C" fn say_nothing(_: *mut c_void, _: u32, _: *const c_char, _: usize) {}

/// Nobody's descriptors are in the way here.
unsafe extern "C" fn as_it_is(_: *mut c_void, descriptor: i32) -> i32 {
    descriptor
}

unsafe extern "C" fn close_hidden(_: *mut c_void, descriptor: i32) {
    // SAFETY: the provider's own.
    unsafe { libc::close(descriptor) };
}
