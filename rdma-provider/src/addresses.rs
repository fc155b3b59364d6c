//! Which addresses the host's devices serve, as sysfs says it: without opening a device, and in every network namespace.
//!
//! On Ethernet a port's GIDs are its addresses (routed RoCE alone). On Infiniband a port serves the addresses of the IP interface
//! whose hardware address ends with one of its GIDs.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tandem_provider::Address;

use crate::errors::{Errno, Result};

const CLASS: &str = "/sys/class/infiniband";

/// One address that one port serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    pub address: Address,
    pub device: String,
    pub port: u8,
    pub gid: [u8; 16],
    pub active: bool,
    pub mtu: u32,
}

impl Served {
    /// As the boundary has it.
    pub fn told(&self) -> tandem_provider::Served {
        let mut device = [0; 56];
        let name = format!("{}/{}", self.device, self.port);
        // The last one stays zero.
        device.iter_mut().take(55).zip(name.bytes()).for_each(|(to, from)| *to = from);
        tandem_provider::Served { address: self.address, usable: u32::from(self.active), mtu: self.mtu, device }
    }
}

/// The port that serves this address; of several, one that is active.
pub fn find(address: &Address) -> Result<Served> {
    let wanted = canonical(address);
    let fits = |served: &&Served| served.address == wanted;
    if let Some(near) = look(Depth::Beginning).iter().filter(fits).find(|served| served.active) {
        return Ok(near.clone());
    }
    let all = recent();
    let active = all.iter().filter(fits).find(|served| served.active);
    active.or(all.iter().find(fits)).cloned().ok_or(Errno(libc::ENODEV))
}

/// How far tables of GIDs are read. One has a thousand places, each a file, and mostly the first few are taken: to read them all takes
/// milliseconds, and seconds where processors are emulated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Until so many places in a row are empty.
    Beginning,
    Whole,
}

const EMPTY_PLACES: u32 = 8;

/// How long an answer is good for. Whoever needs the very latest hears of changes by `CHANGED`, which forgets it.
const FRESH: Duration = Duration::from_secs(1);
static RECENT: Mutex<Option<(Instant, Vec<Served>)>> = Mutex::new(None);

/// Never waits for the lock: a forked child may have inherited it held.
fn recent() -> Vec<Served> {
    let Ok(mut recent) = RECENT.try_lock() else { return list() };
    match &*recent {
        Some((at, served)) if at.elapsed() < FRESH => served.clone(),
        _ => {
            let served = list();
            *recent = Some((Instant::now(), served.clone()));
            served
        }
    }
}

pub fn forget() {
    if let Ok(mut recent) = RECENT.try_lock() {
        *recent = None;
    }
}

/// Everything that is served now.
pub fn list() -> Vec<Served> {
    look(Depth::Whole)
}

fn look(depth: Depth) -> Vec<Served> {
    let interfaces = interfaces();
    let mut all = Vec::new();
    for device in names(Path::new(CLASS)) {
        let ports = Path::new(CLASS).join(&device).join("ports");
        for (number, folder) in
            names(&ports).into_iter().filter_map(|name| Some((name.parse().ok()?, ports.join(name))))
        {
            let port = PortFolder { device: &device, number, folder };
            all.extend(port.served(&interfaces, depth));
        }
    }
    all
}

/// The names of the devices that there are.
pub fn devices() -> Vec<String> {
    names(Path::new(CLASS))
}

struct PortFolder<'a> {
    device: &'a str,
    number: u8,
    folder: PathBuf,
}

impl PortFolder<'_> {
    fn served(&self, interfaces: &[Interface], depth: Depth) -> Vec<Served> {
        let active = self.text("state").is_some_and(|state| state.contains("ACTIVE"));
        let infiniband = self.text("link_layer").is_some_and(|layer| layer == "InfiniBand");
        let mut all = Vec::new();
        for (index, gid) in self.gids(depth) {
            let (addresses, mtu) = if infiniband {
                let mine = interfaces.iter().filter(|interface| interface.gid == Some(gid));
                (mine.flat_map(|interface| interface.addresses.clone()).collect(), 0)
            } else if self.text(&format!("gid_attrs/types/{index}")).is_some_and(|kind| kind == "RoCE v2") {
                let mtu = self.text(&format!("gid_attrs/ndevs/{index}")).and_then(|name| mtu_of(&name)).unwrap_or(0);
                (of_gid(&gid).into_iter().collect::<Vec<_>>(), mtu)
            } else {
                continue;
            };
            let served =
                |address| Served { address, device: self.device.to_owned(), port: self.number, gid, active, mtu };
            all.extend(addresses.into_iter().map(served));
        }
        all
    }

    fn gids(&self, depth: Depth) -> Vec<(u32, [u8; 16])> {
        let folder = self.folder.join("gids");
        let (mut all, mut empty) = (Vec::new(), 0);
        for index in 0.. {
            let Ok(text) = fs::read_to_string(folder.join(index.to_string())) else { break };
            match text.trim().parse::<std::net::Ipv6Addr>() {
                Ok(gid) if !gid.is_unspecified() => {
                    all.push((index, gid.octets()));
                    empty = 0;
                }
                _ => empty += 1,
            }
            if depth == Depth::Beginning && empty == EMPTY_PLACES {
                break;
            }
        }
        all
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok().map(|text| text.trim().to_owned())
    }
}

/// Its interface may be another namespace's: then nobody can say.
fn mtu_of(interface: &str) -> Option<u32> {
    fs::read_to_string(Path::new("/sys/class/net").join(interface).join("mtu")).ok()?.trim().parse().ok()
}

/// By libc's own calls: std's panics where a program that closes a number twice has closed this folder's meanwhile.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return names };
    // SAFETY: a path that ends with a zero; a directory that only this function has; names that end with a zero, copied at once.
    unsafe {
        let directory = libc::opendir(path.as_ptr());
        if directory.is_null() {
            return names;
        }
        while let Some(entry) = libc::readdir(directory).as_ref() {
            let name = CStr::from_ptr(entry.d_name.as_ptr()).to_str().unwrap_or_default();
            if !name.starts_with('.') {
                names.push(name.to_owned());
            }
        }
        libc::closedir(directory);
    }
    names
}

/// An IP interface over InfiniBand.
struct Interface {
    gid: Option<[u8; 16]>,
    addresses: Vec<Address>,
}

const HARDWARE_BYTES: usize = 20;

fn interfaces() -> Vec<Interface> {
    let mut found: Vec<(Vec<u8>, Interface)> = Vec::new();
    let mut list = ptr::null_mut();
    // SAFETY: the list is given back below; its entries end with a null pointer, and an address is as long as its family says.
    unsafe {
        if libc::getifaddrs(&mut list) != 0 {
            return Vec::new();
        }
        let mut entry = list;
        while let Some(this) = entry.as_ref() {
            entry = this.ifa_next;
            let (Some(address), false) = (this.ifa_addr.as_ref(), this.ifa_name.is_null()) else { continue };
            let name = CStr::from_ptr(this.ifa_name).to_bytes().to_vec();
            let at = found.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                found.push((name, Interface { gid: None, addresses: Vec::new() }));
                found.len() - 1
            });
            let Some((_, interface)) = found.get_mut(at) else { continue };
            match i32::from(address.sa_family) {
                libc::AF_PACKET => interface.gid = hardware_gid(&*this.ifa_addr.cast()),
                libc::AF_INET => {
                    let four: &libc::sockaddr_in = &*this.ifa_addr.cast();
                    interface.addresses.push(four_bytes(four.sin_addr.s_addr.to_ne_bytes()));
                }
                libc::AF_INET6 => {
                    let six: &libc::sockaddr_in6 = &*this.ifa_addr.cast();
                    interface.addresses.extend(of_gid(&six.sin6_addr.s6_addr));
                }
                _ => {}
            }
        }
        libc::freeifaddrs(list);
    }
    found.into_iter().map(|(_, interface)| interface).filter(|interface| interface.gid.is_some()).collect()
}

/// The last sixteen of twenty bytes; glibc gives more room there than the type says.
unsafe fn hardware_gid(link: &libc::sockaddr_ll) -> Option<[u8; 16]> {
    if usize::from(link.sll_halen) != HARDWARE_BYTES {
        return None;
    }
    let mut gid = [0; 16];
    // SAFETY: getifaddrs keeps as many bytes behind the header as the length says, twenty here.
    unsafe { ptr::copy_nonoverlapping(link.sll_addr.as_ptr().add(4), gid.as_mut_ptr(), gid.len()) };
    Some(gid)
}

/// The address that a GID is; link-local ones are nobody's connection's.
fn of_gid(gid: &[u8; 16]) -> Option<Address> {
    let address = canonical(&Address { family: libc::AF_INET6 as u16, port: 0, scope: 0, bytes: *gid });
    let link_local = matches!(gid, [0xfe, second, ..] if second & 0xc0 == 0x80);
    (!link_local).then_some(address)
}

fn four_bytes(bytes: [u8; 4]) -> Address {
    let mut all = [0; 16];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    Address { family: libc::AF_INET as u16, port: 0, scope: 0, bytes: all }
}

/// IPv4 as IPv4, however it was written; without port and scope.
pub fn canonical(address: &Address) -> Address {
    let six = std::net::Ipv6Addr::from(address.bytes);
    match six.to_ipv4_mapped() {
        Some(four) if i32::from(address.family) == libc::AF_INET6 => four_bytes(four.octets()),
        _ => Address { port: 0, scope: 0, ..*address },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_gids_is_read_as_far_as_it_is_asked_for() {
        let folder = std::env::temp_dir().join(format!("tandem-gids-{}", std::process::id()));
        fs::create_dir_all(folder.join("gids")).unwrap();
        let set = [(0, "fe80::1"), (1, "::ffff:10.0.0.1"), (7, "2001:db8::1"), (40, "::ffff:10.0.0.2")];
        for index in 0..64 {
            let gid = set.iter().find(|(at, _)| *at == index).map_or("::", |(_, gid)| gid);
            fs::write(folder.join("gids").join(index.to_string()), format!("{gid}\n")).unwrap();
        }
        let port = PortFolder { device: "x", number: 1, folder: folder.clone() };
        let indices = |depth| port.gids(depth).into_iter().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(indices(Depth::Beginning), [0, 1, 7]);
        assert_eq!(indices(Depth::Whole), [0, 1, 7, 40]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn over_infiniband_an_interface_is_found_by_its_ports_gid() {
        let folder = std::env::temp_dir().join(format!("tandem-ib-{}", std::process::id()));
        fs::create_dir_all(folder.join("gids")).unwrap();
        let gid = "fe80::2:c903:0:1491";
        for (file, text) in [("state", "4: ACTIVE"), ("link_layer", "InfiniBand"), ("gids/0", gid)] {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        let port = PortFolder { device: "mlx4_0", number: 1, folder: folder.clone() };
        let of = |text: &str| Some(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let [mine, other] = [four_bytes([10, 1, 0, 1]), four_bytes([10, 9, 9, 9])];
        let interfaces = [
            Interface { gid: of(gid), addresses: vec![mine] },
            Interface { gid: of("fe80::2:c903:0:1500"), addresses: vec![other] },
        ];
        let served = port.served(&interfaces, Depth::Whole);
        let all: Vec<_> = served.iter().map(|served| (served.address, served.port, Some(served.gid))).collect();
        assert_eq!(all, [(mine, 1, of(gid))]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_gid_is_an_address() {
        let mapped: std::net::Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(of_gid(&mapped.octets()), Some(four_bytes([10, 0, 0, 1])));
        let six: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(of_gid(&six.octets()).unwrap().bytes, six.octets());
        assert_eq!(of_gid(&"fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets()), None);
    }

    #[test]
    fn without_devices_there_is_nothing() {
        if !Path::new(CLASS).exists() {
            assert_eq!(list(), []);
            assert_eq!(find(&four_bytes([127, 0, 0, 1])), Err(Errno(libc::ENODEV)));
        }
    }
}
