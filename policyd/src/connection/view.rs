//! What the kernel says of interfaces, addresses and routes (and rules: `rules.rs`), at one moment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType,
};

use super::rules::Rule;

pub const LOCAL_TABLE: u32 = 255;

#[derive(Clone, Debug, Default)]
pub struct View {
    pub links: BTreeMap<u32, Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Administratively up, with a carrier.
    pub up: bool,
    pub loopback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub ip: IpAddr,
    /// Of more than link scope, and neither on trial, refused nor on its way out.
    pub usable: bool,
}

#[derive(Clone, Debug)]
pub struct Route {
    pub net: IpNet,
    pub table: u32,
    pub protocol: u8,
    pub metric: u32,
    pub unicast: bool,
    pub source: Option<IpAddr>,
    /// Interfaces that it leaves by: several for a multipath route. Dead ones are not here; whether there is a carrier is
    /// for the link to say, which knows it earlier.
    pub legs: Vec<u32>,
    pub message: RouteMessage,
}

impl View {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses that a socket on this interface may have.
    pub fn sources(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(move |address| address.index == index && address.usable).map(|address| address.ip)
    }

    /// Whether anything can be sent by it.
    pub fn is_usable(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up && !link.loopback) && self.sources(index).next().is_some()
    }
}

impl Link {
    pub fn read(message: &LinkMessage) -> Option<Self> {
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
        let flags = message.header.flags;
        Some(Self {
            index: message.header.index,
            name,
            // Running comes up to a second after the carrier.
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp) && !flags.contains(LinkFlags::Dormant),
            loopback: flags.contains(LinkFlags::Loopback),
        })
    }
}

impl Address {
    pub fn read(message: &AddressMessage) -> Option<Self> {
        let (mut address, mut local) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                // Of a point-to-point link, `Address` is the other end's.
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let unfit = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        let optimistic = flags.contains(AddressFlags::Optimistic);
        let usable = (!flags.intersects(unfit) || optimistic && !flags.contains(AddressFlags::Dadfailed))
            && matches!(message.header.scope, AddressScope::Universe | AddressScope::Site);
        Some(Self { index: message.header.index, ip: local.or(address)?, usable })
    }
}

impl Route {
    /// `None`: nothing to do with IP destinations.
    pub fn read(message: RouteMessage) -> Option<Self> {
        let any: IpAddr = match message.header.address_family {
            AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        // Copies in the v6 route cache; and v6 routes by source, which no list of destinations can hold.
        if message.header.flags.contains(RouteFlags::Cloned) || message.header.source_prefix_length != 0 {
            return None;
        }
        let mut destination = any;
        let mut table = u32::from(message.header.table);
        let (mut metric, mut source) = (0, None);
        let mut legs = Vec::new();
        let dead = message.header.flags.contains(RouteFlags::Dead);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => metric = *number,
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Oif(index) if !dead => legs.push(*index),
                RouteAttribute::MultiPath(hops) => {
                    let alive = hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                    legs.extend(alive.map(|hop| hop.interface_index));
                }
                _ => {}
            }
        }
        Some(Self {
            net: IpNet::new(destination, message.header.destination_prefix_length).ok()?.trunc(),
            table,
            protocol: message.header.protocol.into(),
            metric,
            unicast: message.header.kind == RouteType::Unicast,
            source,
            legs,
            message,
        })
    }
}

pub fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
