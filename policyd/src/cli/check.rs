//! `tandem check`: what this host can do, what is missing, and what to do about it.

use std::ffi::CStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::Serialize;

use super::Show;
use super::find;
use super::providers;
use super::show::{self, json, print};
use crate::control::client::Control;
use crate::control::{Answer, Ask};
use crate::kernel;
use crate::peers::PeersStatus;
use crate::san::{self, drop_ins, sysfs};

/// What registered memory may need: rings of some hundred connections.
const MEMLOCK: u64 = 64 << 20;
const VERBS: &CStr = c"libibverbs.so.1";
const PLUG_IN: &str = "libtandem_rdma.so";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Args)]
pub struct Check {
    /// The switch [default: libtandem.so beside this command, or in its installation]
    #[arg(long, env = "TANDEM_LIBRARY", value_name = "FILE")]
    library: Option<PathBuf>,
    /// Where devices are looked for, in tests
    #[arg(long, env = "TANDEM_SYSFS", value_name = "FOLDER", default_value = "/sys", hide = true)]
    sysfs: PathBuf,
    #[command(flatten)]
    show: Show,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Finding>,
    /// Nothing is missing for connections within this host.
    local: bool,
    /// Nor for those with other hosts.
    between_hosts: bool,
}

#[derive(Serialize)]
pub struct Finding {
    name: &'static str,
    /// For connections within this host; else only for those with others.
    local: bool,
    ok: bool,
    found: String,
    /// What to do, where it is not as it should be.
    remedy: Option<String>,
}

/// True: what this host is set up for can be done.
pub fn check(check: &Check) -> Result<bool> {
    let status = peers(&check.show);
    let mut checks = vec![switch(check), policyd(&check.show), memory(), namespaces()];
    let local = checks.iter().all(|finding| finding.ok);
    let by_verbs = [device(&check.sysfs), device_files(&check.sysfs), verbs(), plug_in(check), memlock()];
    let by_others = folder(check).map(|beside| providers::findings(&beside, status.as_ref())).unwrap_or_default();
    let links = links(status.as_ref(), &check.sysfs);
    let fine = |findings: &[Finding]| findings.iter().all(|finding| finding.ok);
    // Whoever has another provider may do without RDMA.
    let way = fine(&by_verbs) || by_others.iter().any(|finding| finding.ok);
    let between_hosts = local && way && fine(&by_others) && fine(&links);
    checks.extend(by_verbs.into_iter().chain(by_others).chain(links));
    let report = Report { local, between_hosts, checks };
    if check.show.json {
        json(&report)?
    } else {
        print(&page(&report))?
    }
    let wanted = status.is_some_and(|status| !status.peers.is_empty());
    Ok(report.local && (report.between_hosts || !wanted))
}

pub fn finding(name: &'static str, local: bool, found: std::result::Result<String, (String, &str)>) -> Finding {
    match found {
        Ok(found) => Finding { name, local, ok: true, found, remedy: None },
        Err((found, remedy)) => Finding { name, local, ok: false, found, remedy: Some(remedy.to_owned()) },
    }
}

fn library(check: &Check) -> Option<PathBuf> {
    let own = find::own_folder();
    let named = check.library.clone().filter(|path| path.is_file());
    if check.library.is_some() { named } else { own.as_deref().and_then(find::library) }
}

/// Where the switch is, and so its providers.
fn folder(check: &Check) -> Option<PathBuf> {
    library(check)?.parent().map(Path::to_owned)
}

fn switch(check: &Check) -> Finding {
    let found = library(check);
    let missing = || {
        let looked = check.library.clone().unwrap_or_else(|| PathBuf::from(find::LIBRARY));
        (
            format!("no {}", looked.display()),
            "install it beside this command or in its prefix, or name it by TANDEM_LIBRARY",
        )
    };
    finding("switch", true, found.map(|path| path.display().to_string()).ok_or_else(missing))
}

fn policyd(show: &Show) -> Finding {
    let found = show::find(show).map(|socket| format!("answers at {}", socket.display()));
    let remedy = "systemctl start tandem-policyd, or let `tandem run` start one of your own";
    finding("policyd", true, found.map_err(|error| (format!("{error:#}"), remedy)))
}

fn memory() -> Finding {
    let made = memfd_create(c"tandem-check", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    let remedy = "allow memfd_create in this container's or unit's filter of system calls";
    finding(
        "memfd",
        true,
        made.map(|_| "can be made and sealed".to_owned()).map_err(|error| (error.to_string(), remedy)),
    )
}

fn namespaces() -> Finding {
    let cookie = kernel::own_netns_cookie().map(|_| "the kernel tells them apart".to_owned());
    let remedy = "Linux 5.14 or newer is needed: on an older one nobody can meet";
    finding("network namespaces", true, cookie.map_err(|error| (error.to_string(), remedy)))
}

fn device(root: &Path) -> Finding {
    let (devices, served) = (sysfs::devices(root), sysfs::served(root));
    let found = if devices.is_empty() {
        Err((
            "none".to_owned(),
            "load the adapter's driver, or make a software one: rdma link add rxe0 type rxe netdev eth0",
        ))
    } else if served.is_empty() {
        let remedy = "bring its port up, and give its network interface an address (RoCE v2, IPoIB)";
        Err((format!("{}: no address is served", devices.join(", ")), remedy))
    } else {
        Ok(served.iter().map(|s| format!("{} by {}", s.address, s.by())).collect::<Vec<_>>().join(", "))
    };
    finding("RDMA device", false, found)
}

fn device_files(root: &Path) -> Finding {
    let all: Vec<_> = std::fs::read_dir("/dev/infiniband").into_iter().flatten().flatten().map(|e| e.path()).collect();
    let verbs = all.iter().filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("uverbs")));
    let opens = |path: &&PathBuf| std::fs::File::options().read(true).write(true).open(path).is_ok();
    let (usable, others): (Vec<_>, Vec<_>) = verbs.partition(opens);
    let names = |paths: &[&PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let found = if !usable.is_empty() {
        Ok(format!("{} can be opened", names(&usable)))
    } else if !others.is_empty() {
        Err((
            format!("{} can't be opened by this user", names(&others)),
            "add the user to the device's group, or chmod 666",
        ))
    } else if sysfs::devices(root).is_empty() {
        Err(("none".to_owned(), "they come with a device"))
    } else {
        Err(("none".to_owned(), "modprobe ib_uverbs; in a container pass /dev/infiniband through"))
    };
    finding("device files", false, found)
}

fn verbs() -> Finding {
    // SAFETY: a well-known library of the system; nothing of it is called.
    let library = unsafe { libc::dlopen(VERBS.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    let name = VERBS.to_string_lossy();
    let missing = || (format!("no {name}"), "apt install libibverbs1 ibverbs-providers");
    finding("libibverbs", false, if library.is_null() { Err(missing()) } else { Ok(format!("{name} can be loaded")) })
}

fn plug_in(check: &Check) -> Finding {
    let beside = check.library.as_ref().and_then(|path| Some(path.parent()?.to_owned()));
    let folders = find::own_folder().map(|own| find::library_folders(&own)).unwrap_or_default();
    let found = beside.into_iter().chain(folders).map(|folder| folder.join(PLUG_IN)).find(|path| path.is_file());
    let missing = || (format!("no {PLUG_IN}"), "install it beside libtandem.so");
    finding("verbs provider", false, found.map(|path| path.display().to_string()).ok_or_else(missing))
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(soft, _)| soft).unwrap_or(0);
    let root = nix::unistd::geteuid().is_root();
    let found = match limit {
        RLIM_INFINITY => Ok("unlimited".to_owned()),
        limit if limit >= MEMLOCK => Ok(format!("{} MiB", limit >> 20)),
        limit if root => Ok(format!("{} KiB; not applied to root", limit >> 10)),
        limit => {
            Err((format!("{} KiB", limit >> 10), "raise it: LimitMEMLOCK=infinity in the service's unit, or ulimit -l"))
        }
    };
    finding("RLIMIT_MEMLOCK", false, found)
}

fn peers(show: &Show) -> Option<PeersStatus> {
    let socket = show::find(show).ok()?;
    match Control::connect(&socket, PATIENCE).ok()?.ask(Ask::Peers) {
        Ok(Answer::Peers(status)) => Some(status),
        _ => None,
    }
}

fn links(status: Option<&PeersStatus>, root: &Path) -> Vec<Finding> {
    let Some(status) = status else {
        let remedy = "ask as root, or as the user that policyd runs as";
        return vec![finding("peers", false, Err(("policyd does not say".to_owned(), remedy)))];
    };
    if let Some(fault) = &status.fault {
        return vec![finding("peers", false, Err((fault.clone(), "mend it, then systemctl reload tandem-policyd")))];
    }
    if status.peers.is_empty() {
        return vec![finding(
            "peers",
            false,
            Err(("none is listed".to_owned(), "tandem peer add NAME PUBLIC-KEY ...")),
        )];
    }
    let mut all = vec![agreed(status, root)];
    all.extend(status.peers.iter().map(|peer| {
        let down = || {
            let error = peer.error.clone().unwrap_or_else(|| "it has not dialled yet".to_owned());
            (
                format!("{}: down: {error}", peer.name),
                "see that its policyd runs, and that its port is open to this host",
            )
        };
        let unserved = || {
            let remedy = "run `tandem check` there, and compare its addresses with those that are listed here";
            (format!("{}: up, but no device serves an address of its", peer.name), remedy)
        };
        let served: Vec<_> = peer.served.iter().map(IpAddr::to_string).collect();
        let found = match (peer.up, served.is_empty()) {
            (false, _) => Err(down()),
            (true, true) => Err(unserved()),
            (true, false) => Ok(format!("{}: up; devices serve {}", peer.name, served.join(", "))),
        };
        finding("peer", false, found)
    }));
    all
}

/// What policyd knows of the devices is what there is.
fn agreed(status: &PeersStatus, root: &Path) -> Finding {
    let (here, ..) = san::served(root, drop_ins::folder(status.folder.as_deref()).as_deref());
    let unknown: Vec<_> = status.served.iter().filter(|served| !here.contains(served)).collect();
    let found = match unknown.first() {
        None => Ok(format!("{} addresses that devices serve here", status.served.len())),
        Some(served) => {
            let text = format!("policyd still takes {} for served by {}", served.address, served.by());
            Err((text, "systemctl reload tandem-policyd"))
        }
    };
    finding("policyd's table", false, found)
}

fn page(report: &Report) -> String {
    let mut text = String::new();
    for (local, title) in [(true, "Within this host:"), (false, "Between hosts:")] {
        text.push_str(title);
        text.push('\n');
        for finding in report.checks.iter().filter(|finding| finding.local == local) {
            let state = if finding.ok { "ok" } else { "missing" };
            text.push_str(&format!("  {state:<8} {:<19} {}\n", finding.name, finding.found));
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("  {:<8} {:<19} -> {remedy}\n", "", ""));
            }
        }
    }
    text
}
