//! The addresses that RDMA devices serve, as sysfs has them. On Ethernet every RoCE v2 entry of an active port's GID table that is an
//! address, IPv4 as v4-mapped; on InfiniBand the addresses of the IP interface (IPoIB) whose hardware address, of twenty bytes, ends with one
//! of the port's GIDs. libibverbs is not needed for it, nor a device's own library.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use tandem_protocol::ProviderName;

use crate::peers::hosts::Served;

pub const DEVICES: &str = "class/infiniband";
const VERBS: ProviderName = ProviderName::VERBS;
const INTERFACES: &str = "class/net";
/// Of an IPoIB interface's hardware address: flags and queue pair number, then the port's GID.
const HARDWARE_BYTES: usize = 20;
const GID_AT: usize = 4;

/// Sorted by address; the first device of those that serve one. A file that can't be read is as one that isn't there:
/// devices go while they are looked at.
pub fn served(root: &Path) -> Vec<Served> {
    look(root).0
}

/// What is served, and whether there is a device that serves nothing.
pub fn look(root: &Path) -> (Vec<Served>, bool) {
    look_with(root, addresses_of)
}

/// `addresses_of`: those of an interface here.
fn look_with(root: &Path, addresses_of: impl Fn(&str) -> Vec<IpAddr>) -> (Vec<Served>, bool) {
    let (mut all, mut idle) = (Vec::new(), false);
    let mut over_infiniband = None;
    for device in entries(&root.join(DEVICES)) {
        let before = all.len();
        for port in entries(&device.join("ports")) {
            match link_of_active(&port) {
                Some(Link::Ethernet) => all.extend(of_port(&device, &port, |index, gid| {
                    let routed = text(&port.join("gid_attrs/types").join(index)).is_some_and(|kind| kind == "RoCE v2");
                    if routed { address(gid).into_iter().collect() } else { Vec::new() }
                })),
                Some(Link::Infiniband) => {
                    let interfaces = over_infiniband.get_or_insert_with(|| interfaces(root));
                    let of = |gid| interfaces.iter().filter(move |(known, _)| *known == gid);
                    all.extend(of_port(&device, &port, |_, gid| {
                        of(gid).flat_map(|(_, name)| addresses_of(name)).filter(|ip| is_used(*ip)).collect()
                    }));
                }
                None => {}
            }
        }
        idle |= all.len() == before;
    }
    all.sort();
    all.dedup_by(|later, first| later.address == first.address);
    (all, idle)
}

/// Every device, whether it serves anything or not.
pub fn devices(root: &Path) -> Vec<String> {
    entries(&root.join(DEVICES)).iter().filter_map(|path| name(path)).collect()
}

enum Link {
    Ethernet,
    Infiniband,
}

fn link_of_active(port: &Path) -> Option<Link> {
    text(&port.join("state")).filter(|state| state.contains("ACTIVE"))?;
    match text(&port.join("link_layer"))?.as_str() {
        "Ethernet" => Some(Link::Ethernet),
        "InfiniBand" => Some(Link::Infiniband),
        _ => None,
    }
}

/// `addresses`: what an entry of the GID table, by its index, serves.
fn of_port(device: &Path, port: &Path, addresses: impl Fn(&OsStr, Ipv6Addr) -> Vec<IpAddr>) -> Vec<Served> {
    let (Some(device), Some(number)) = (name(device), name(port).and_then(|name| name.parse().ok())) else {
        return Vec::new();
    };
    let by = |address| Served { address, device: device.clone(), port: number, provider: VERBS.to_string() };
    let entry = |gid: PathBuf| {
        let index = gid.file_name()?;
        let gid: Ipv6Addr = text(&gid)?.parse().ok()?;
        Some(if gid.is_unspecified() { Vec::new() } else { addresses(index, gid) })
    };
    entries(&port.join("gids")).into_iter().filter_map(entry).flatten().map(by).collect()
}

/// `None`: an empty entry, or one that no connection has: link-local.
fn address(gid: Ipv6Addr) -> Option<IpAddr> {
    Some(gid.to_canonical()).filter(|address| is_used(*address))
}

fn is_used(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !(link_local || address.is_unspecified() || address.is_loopback())
}

/// IP interfaces over InfiniBand, each by the GID that its hardware address ends with.
fn interfaces(root: &Path) -> Vec<(Ipv6Addr, String)> {
    let found = |path: PathBuf| Some((hardware_gid(&text(&path.join("address"))?)?, name(&path)?));
    entries(&root.join(INTERFACES)).into_iter().filter_map(found).collect()
}

fn hardware_gid(text: &str) -> Option<Ipv6Addr> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    let gid: [u8; 16] = bytes.get(GID_AT..)?.try_into().ok()?;
    (bytes.len() == HARDWARE_BYTES).then(|| gid.into())
}

fn addresses_of(interface: &str) -> Vec<IpAddr> {
    let of = |entry: InterfaceAddress| {
        let address = entry.address.filter(|_| entry.interface_name == interface)?;
        let v4 = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    };
    getifaddrs().into_iter().flatten().filter_map(of).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim_end().to_owned())
}

fn name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, content: &str) {
        let path = root.join(DEVICES).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }

    fn port(root: &Path, port: &str, state: &str, layer: &str, gids: &[(&str, &str)]) {
        put(root, &format!("{port}/state"), state);
        put(root, &format!("{port}/link_layer"), layer);
        for (index, (gid, kind)) in gids.iter().enumerate() {
            put(root, &format!("{port}/gids/{index}"), gid);
            put(root, &format!("{port}/gid_attrs/types/{index}"), kind);
        }
    }

    #[test]
    fn active_ports_serve_their_routable_entries() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(served(root).is_empty() && devices(root).is_empty());
        let gids = [
            ("fe80:0000:0000:0000:5054:00ff:fe00:0001", "RoCE v2"),
            ("0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1"),
            ("0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2"),
            ("fd00:0000:0000:0000:0000:0000:0000:0001", "RoCE v2"),
            ("0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2"),
            ("0000:0000:0000:0000:0000:ffff:0a00:0002", "IB/RoCE v1"),
            ("nonsense", "RoCE v2"),
        ];
        port(root, "rxe0/ports/1", "4: ACTIVE", "Ethernet", &gids);
        port(root, "rxe1/ports/1", "1: DOWN", "Ethernet", &[("::ffff:10.0.0.9", "RoCE v2")]);
        port(root, "mlx0/ports/2", "4: ACTIVE", "InfiniBand", &[("::ffff:10.0.0.8", "RoCE v2")]);
        // The same address by another device.
        port(root, "rxe9/ports/1", "4: ACTIVE", "Ethernet", &[("::ffff:10.0.0.1", "RoCE v2")]);
        let by = |address: &str| Served {
            address: address.parse().unwrap(),
            device: "rxe0".to_owned(),
            port: 1,
            provider: "verbs".to_owned(),
        };
        assert_eq!(served(root), [by("10.0.0.1"), by("fd00::1")]);
        assert_eq!(devices(root), ["mlx0", "rxe0", "rxe1", "rxe9"]);
        assert!(look(root).1, "mlx0 and rxe1 serve nothing");
        for idle in ["mlx0", "rxe1"] {
            fs::remove_dir_all(root.join(DEVICES).join(idle)).unwrap();
        }
        assert!(!look(root).1);
    }

    /// As a host channel adapter with two ports has it, made by hand: none was there to try.
    #[test]
    fn over_infiniband_an_interface_is_found_by_its_ports_gid() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let [first, second] = ["fe80:0000:0000:0000:0002:c903:0000:1491", "fe80:0000:0000:0000:0002:c903:0000:1492"];
        port(root, "mlx4_0/ports/1", "4: ACTIVE", "InfiniBand", &[(first, "IB/RoCE v1")]);
        let more = ("fec0:0000:0000:0001:0002:c903:0000:1492", "IB/RoCE v1");
        port(root, "mlx4_0/ports/2", "4: ACTIVE", "InfiniBand", &[(second, "IB/RoCE v1"), more]);
        port(root, "mlx4_1/ports/1", "2: INIT", "InfiniBand", &[("fe80::2:c903:0:1500", "IB/RoCE v1")]);
        let interface = |name: &str, hardware: &str| {
            let path = root.join(INTERFACES).join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("address"), format!("{hardware}\n")).unwrap();
        };
        interface("ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:14:91");
        interface("ib1", "80:00:02:09:fe:c0:00:00:00:00:00:01:00:02:c9:03:00:00:14:92");
        interface("ib2", "80:00:02:0a:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:15:00");
        interface("eth0", "52:54:00:00:00:01");
        interface("lo", "00:00:00:00:00:00");
        let addresses = |name: &str| -> Vec<IpAddr> {
            let all: &[&str] = match name {
                "ib0" => &["10.1.0.1", "fe80::2:c903:0:1491", "fd01::1"],
                "ib1" => &["10.2.0.1"],
                _ => &["10.9.9.9"],
            };
            all.iter().map(|text| text.parse().unwrap()).collect()
        };
        let shown =
            |served: &Served| format!("{} {}/{} {}", served.address, served.device, served.port, served.provider);
        let (served, idle) = look_with(root, addresses);
        let all: Vec<_> = served.iter().map(shown).collect();
        assert_eq!(all, ["10.1.0.1 mlx4_0/1 verbs", "10.2.0.1 mlx4_0/2 verbs", "fd01::1 mlx4_0/1 verbs"]);
        assert!(idle, "mlx4_1's port is not active");
        assert_eq!(hardware_gid("80:00"), None);
    }

    #[test]
    fn the_hosts_own_interfaces_have_their_addresses() {
        assert!(addresses_of("lo").contains(&IpAddr::from([127, 0, 0, 1])) && addresses_of("none").is_empty());
    }
}
