//! From the kernel's routes to the destinations that an interface serves, and with which source address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tandem_protocol::assignment::{MAX_RANGES, MAX_SOURCES, Range};

use super::netlink::Kernel;
use super::ranges::{Ranges, address};
use super::view::{LOCAL_TABLE, Route, View};

/// Destinations and sources of one interface, as a table has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub v4_sources: Vec<Ipv4Addr>,
    pub v6_sources: Vec<Ipv6Addr>,
    pub v4: Vec<Range<Ipv4Addr>>,
    pub v6: Vec<Range<Ipv6Addr>>,
}

/// Tables of the kernel that are no administrator's.
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

/// Never bound, whatever is routed where.
const NEVER: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/127",
    "fe80::/10",
    "ff00::/8",
    "::ffff:0.0.0.0/96",
];

impl Compiled {
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4_sources.iter().map(|&source| IpAddr::V4(source));
        v4.chain(self.v6_sources.iter().map(|&source| IpAddr::V6(source)))
    }
}

/// What this interface serves, within `destinations` (none: everything). `own` tells policyd's own tables.
pub async fn compile(
    kernel: &Kernel,
    view: &View,
    interface: u32,
    destinations: &[IpNet],
    own: impl Fn(u32) -> bool,
) -> Compiled {
    let mut compiled = Compiled::default();
    for v6 in [false, true] {
        let mut served = served(view, interface, v6, &own);
        restrict(&mut served, destinations, v6);
        let mut sources: Vec<IpAddr> = Vec::new();
        let mut by_route = std::collections::HashMap::new();
        // One question a route, at the first of its destinations that are left.
        for (first, _, route) in served.iter() {
            if by_route.contains_key(&route) || by_route.len() >= MAX_RANGES {
                continue;
            }
            let to = address(first, v6);
            let source = source(kernel, view, interface, view.routes.get(route), to).await;
            let known = source.and_then(|source| index_of(&mut sources, source));
            by_route.insert(route, known);
        }
        let ranges = served.renamed(|route| by_route.get(&route).copied().flatten());
        compiled.take(v6, &sources, &ranges);
    }
    compiled
}

/// Everything that is not this host's own, for an assignment that must not leave by anything else and has nothing yet.
pub fn everything(view: &View, destinations: &[IpNet]) -> Compiled {
    let mut compiled = Compiled::default();
    for v6 in [false, true] {
        let mut all = Ranges::default();
        all.paint(0, if v6 { u128::MAX } else { u32::MAX.into() }, Some(0));
        exclude(&mut all, view, v6);
        restrict(&mut all, destinations, v6);
        // No socket is ever bound to it: the table says that the interface is gone.
        let nowhere = address(0, v6);
        compiled.take(v6, &[nowhere], &all.renamed(Some));
    }
    compiled
}

impl Compiled {
    fn take(&mut self, v6: bool, sources: &[IpAddr], ranges: &[(u128, u128, usize)]) {
        for source in sources {
            match source {
                IpAddr::V4(v4) => self.v4_sources.push(*v4),
                IpAddr::V6(v6) => self.v6_sources.push(*v6),
            }
        }
        for &(first, last, source) in ranges {
            if v6 {
                let (first, last) = (Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last));
                self.v6.push(Range { first, last, source });
            } else {
                let (first, last) = (Ipv4Addr::from_bits(first as u32), Ipv4Addr::from_bits(last as u32));
                self.v4.push(Range { first, last, source });
            }
        }
    }
}

/// Routes by this interface, less what another one has a more specific route to. Owners are indices into the view's routes.
fn served(view: &View, interface: u32, v6: bool, own: impl Fn(u32) -> bool) -> Ranges {
    let tables = tables(view, interface, v6);
    let looked_at = |route: &&(usize, &Route)| {
        let (_, route) = **route;
        route.net.addr().is_ipv6() == v6 && tables.contains(&route.table) && !own(route.table)
    };
    let all: Vec<(usize, &Route)> = view.routes.iter().enumerate().collect();
    let mut routes: Vec<_> = all.iter().filter(looked_at).copied().collect();
    let ours = |route: &Route| route.unicast && route.legs.contains(&interface);
    // Of two routes to one prefix ours is taken: that is what an assignment is. Of two of ours the lower metric.
    routes.sort_by_key(|(_, route)| (route.net.prefix_len(), ours(route), std::cmp::Reverse(route.metric)));
    let mut ranges = Ranges::default();
    for (index, route) in routes {
        ranges.paint_net(&route.net, ours(route).then_some(index));
    }
    exclude(&mut ranges, view, v6);
    ranges
}

/// Tables that a socket with one of this interface's addresses is looked up in.
fn tables(view: &View, interface: u32, v6: bool) -> Vec<u32> {
    let mut tables = vec![MAIN, DEFAULT];
    let sources: Vec<IpAddr> = view.sources(interface).collect();
    for rule in view.rules.iter().filter(|rule| rule.v6 == v6 && rule.lookup && !rule.selective) {
        let applies = rule.source.is_none_or(|net| sources.iter().any(|source| net.contains(source)));
        if applies && rule.table != LOCAL_TABLE && !tables.contains(&rule.table) {
            tables.push(rule.table);
        }
    }
    tables
}

/// This host's own addresses, broadcast, multicast, link-local.
fn exclude(ranges: &mut Ranges, view: &View, v6: bool) {
    for route in view.routes.iter().filter(|route| route.table == LOCAL_TABLE && route.net.addr().is_ipv6() == v6) {
        ranges.paint_net(&route.net, None);
    }
    for address in view.addresses.iter().filter(|address| address.ip.is_ipv6() == v6) {
        ranges.paint_net(&address.ip.into(), None);
    }
    let never = NEVER.iter().filter_map(|net| net.parse::<IpNet>().ok());
    for net in never.filter(|net| net.addr().is_ipv6() == v6) {
        ranges.paint_net(&net, None);
    }
}

fn restrict(ranges: &mut Ranges, destinations: &[IpNet], v6: bool) {
    if !destinations.is_empty() {
        let within: Vec<IpNet> = destinations.iter().filter(|net| net.addr().is_ipv6() == v6).copied().collect();
        ranges.intersect(&IpNet::aggregate(&within));
    }
}

/// The source address for a route, if the kernel agrees that the route serves: `None` where another rule is in the way.
async fn source(kernel: &Kernel, view: &View, interface: u32, route: Option<&Route>, to: IpAddr) -> Option<IpAddr> {
    let usable: Vec<IpAddr> = view.sources(interface).filter(|source| source.is_ipv6() == to.is_ipv6()).collect();
    kernel.way(to, interface, None, true).await?;
    let preferred = route.and_then(|route| route.source);
    let source = match preferred.filter(|source| usable.contains(source)) {
        Some(source) => source,
        None => {
            let chosen = kernel.way(to, interface, None, false).await?.source;
            chosen.filter(|source| usable.contains(source)).or(usable.first().copied())?
        }
    };
    kernel.way(to, interface, Some(source), true).await.map(|_| source)
}

fn index_of(sources: &mut Vec<IpAddr>, source: IpAddr) -> Option<usize> {
    let known = sources.iter().position(|&known| known == source);
    if known.is_none() && sources.len() < MAX_SOURCES {
        sources.push(source);
        return Some(sources.len() - 1);
    }
    known
}
