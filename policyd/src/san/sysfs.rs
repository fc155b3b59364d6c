//! The addresses that RDMA devices serve, as sysfs has them: every RoCE v2 entry of an active port's GID table that is an
//! address, IPv4 as v4-mapped. libibverbs is not needed for it, nor a device's own library.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::peers::hosts::Served;

pub const DEVICES: &str = "class/infiniband";

/// Sorted by address; the first device of those that serve one. A file that can't be read is as one that isn't there:
/// devices go while they are looked at.
pub fn served(root: &Path) -> Vec<Served> {
    look(root).0
}

/// What is served, and whether there is a device that serves nothing.
pub fn look(root: &Path) -> (Vec<Served>, bool) {
    let (mut all, mut idle) = (Vec::new(), false);
    for device in entries(&root.join(DEVICES)) {
        let before = all.len();
        for port in entries(&device.join("ports")) {
            if is_active_ethernet(&port) {
                all.extend(of_port(&device, &port));
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

fn is_active_ethernet(port: &Path) -> bool {
    let says = |file: &str, word: &str| text(&port.join(file)).is_some_and(|text| text.contains(word));
    says("state", "ACTIVE") && says("link_layer", "Ethernet")
}

fn of_port(device: &Path, port: &Path) -> Vec<Served> {
    let (Some(device), Some(number)) = (name(device), name(port).and_then(|name| name.parse().ok())) else {
        return Vec::new();
    };
    let types = port.join("gid_attrs/types");
    let entry = |gid: PathBuf| {
        let address = address(&text(&gid)?)?;
        let index = gid.file_name()?;
        (text(&types.join(index))? == "RoCE v2").then(|| Served { address, device: device.clone(), port: number })
    };
    entries(&port.join("gids")).into_iter().filter_map(entry).collect()
}

/// `None`: an empty entry, or one that no connection has: link-local.
fn address(gid: &str) -> Option<IpAddr> {
    let v6: Ipv6Addr = gid.parse().ok()?;
    let address = v6.to_canonical();
    let unused = v6.is_unspecified() || v6.is_unicast_link_local() || address.is_unspecified() || address.is_loopback();
    (!unused).then_some(address)
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
        let by = |address: &str| Served { address: address.parse().unwrap(), device: "rxe0".to_owned(), port: 1 };
        assert_eq!(served(root), [by("10.0.0.1"), by("fd00::1")]);
        assert_eq!(devices(root), ["mlx0", "rxe0", "rxe1", "rxe9"]);
        assert!(look(root).1, "mlx0 and rxe1 serve nothing");
        for idle in ["mlx0", "rxe1"] {
            fs::remove_dir_all(root.join(DEVICES).join(idle)).unwrap();
        }
        assert!(!look(root).1);
    }
}
