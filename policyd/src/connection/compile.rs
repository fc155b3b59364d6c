//! From the kernel's routes to the destinations that an interface serves, and with which source address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tandem_protocol::assignment::{MAX_RANGES, MAX_SOURCES, Range};

use super::netlink::{Kernel, Question};
use super::ranges::{Ranges, address};
use super::rules::{Met, Rule};
use super::settings::Autobind;
use super::view::{LOCAL_TABLE, Link, Route, View};

/// Destinations and sources of one interface, as a table has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub v4_sources: Vec<Ipv4Addr>,
    pub v6_sources: Vec<Ipv6Addr>,
    pub v4: Vec<Range<Ipv4Addr>>,
    pub v6: Vec<Range<Ipv6Addr>>,
    /// The source address alone chooses the way to all of them.
    pub by_source: bool,
    /// To some of them only a socket that has the source address finds the way by the interface.
    pub needs_source: bool,
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

/// For whom, and with what.
pub struct Task<'a> {
    pub kernel: &'a Kernel,
    pub view: &'a View,
    pub interface: u32,
    /// Within these; none: everything.
    pub destinations: &'a [IpNet],
    /// The first of a class of users (`View::user_class`).
    pub user: u32,
    /// The interface has rules and a table of ours.
    pub steered: bool,
    pub settings: &'a Autobind,
}

/// What an interface serves.
pub async fn compile(task: &Task<'_>) -> Compiled {
    let view = task.view;
    let mut compiled = Compiled { by_source: task.steered, ..Compiled::default() };
    let Some(link) = view.links.get(&task.interface) else { return compiled };
    for v6 in [false, true] {
        let usable: Vec<IpAddr> = view.sources(task.interface).filter(|source| source.is_ipv6() == v6).collect();
        let met = met(task, link, &usable, v6);
        // A rule that nobody can foresee may come before ours.
        let priority = task.settings.rule_priority.0;
        compiled.by_source &= !met.iter().any(|(rule, met)| *met == Met::Perhaps && rule.priority <= priority);
        let mut served = served(task, &met, v6);
        restrict(&mut served, task.destinations, v6);
        let bounds = bounds(view, &met, v6);
        bounds.iter().for_each(|bound| served.cut(bound));
        let mut sources: Vec<IpAddr> = Vec::new();
        let mut answers = HashMap::new();
        // One question a route and part of it that rules tell apart, at the first of its destinations that are left.
        for (first, _, route) in served.iter() {
            let part = (route, part(&bounds, first, v6));
            if answers.contains_key(&part) || answers.len() >= MAX_RANGES {
                continue;
            }
            let source = source(task, &usable, view.routes.get(route), address(first, v6)).await;
            let known = source.and_then(|found| {
                let known = index_of(&mut sources, found.address)?;
                compiled.by_source &= found.by_source;
                compiled.needs_source |= found.needed;
                Some(known)
            });
            answers.insert(part, known);
        }
        let ranges = served.renamed(|first, route| answers.get(&(route, part(&bounds, first, v6))).copied().flatten());
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
        compiled.take(v6, &[nowhere], &all.renamed(|_, owner| Some(owner)));
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

/// The rules of a family that a socket of the task's may meet, in the kernel's order.
fn met<'a>(task: &Task<'a>, link: &Link, usable: &[IpAddr], v6: bool) -> Vec<(&'a Rule, Met)> {
    let rules = task.view.rules.iter().filter(|rule| rule.v6 == v6);
    let met = rules.map(|rule| (rule, rule.met(usable, link, task.user)));
    met.filter(|(_, met)| *met != Met::Never).collect()
}

/// A look into a table.
struct Lookup {
    table: u32,
    to: Option<IpNet>,
    longer_than: Option<u8>,
}

fn lookups(task: &Task, met: &[(&Rule, Met)]) -> Vec<Lookup> {
    let always = |table| Lookup { table, to: None, longer_than: None };
    let mut lookups = vec![always(MAIN), always(DEFAULT)];
    let named = met.iter().filter(|(rule, met)| {
        let own = task.settings.owns_table(rule.table);
        rule.lookup && rule.table != LOCAL_TABLE && !own && *met != Met::Perhaps
    });
    lookups.extend(named.map(|(rule, met)| Lookup {
        table: rule.table,
        to: if let Met::To(net, true) = met { Some(*net) } else { None },
        longer_than: rule.longer_than,
    }));
    lookups
}

impl Lookup {
    /// What of a route it finds.
    fn finds(&self, route: &Route) -> Option<IpNet> {
        let counts = route.table == self.table && self.longer_than.is_none_or(|least| route.net.prefix_len() > least);
        match self.to.filter(|_| counts) {
            None => counts.then_some(route.net),
            Some(to) if to.contains(&route.net) => Some(route.net),
            Some(to) => route.net.contains(&to).then_some(to),
        }
    }
}

/// Routes by this interface, less what another one has a more specific route to. Owners are indices into the view's routes.
fn served(task: &Task, met: &[(&Rule, Met)], v6: bool) -> Ranges {
    let view = task.view;
    let lookups = lookups(task, met);
    let of_family = view.routes.iter().enumerate().filter(|(_, route)| route.net.addr().is_ipv6() == v6);
    let mut found: Vec<(IpNet, usize, &Route)> = of_family
        .flat_map(|(index, route)| lookups.iter().filter_map(move |lookup| Some((lookup.finds(route)?, index, route))))
        .collect();
    let ours = |route: &Route| route.unicast && route.legs.contains(&task.interface);
    // Of two routes to one prefix ours is taken: that is what an assignment is. Of two of ours the more specific one, then
    // the lower metric.
    found.sort_by_key(|(net, _, route)| (rank(net), ours(route), net.prefix_len(), std::cmp::Reverse(route.metric)));
    let mut ranges = Ranges::default();
    for (net, index, route) in found {
        ranges.paint_net(&net, ours(route).then_some(index));
    }
    exclude(&mut ranges, view, v6);
    ranges
}

/// How specific a prefix is. Parts of the address space so large are a default route in pieces, as VPNs make them to win
/// over the one that is there.
fn rank(net: &IpNet) -> u8 {
    if is_vast(net) { 0 } else { net.prefix_len() }
}

fn is_vast(net: &IpNet) -> bool {
    net.prefix_len() <= if net.addr().is_ipv6() { 4 } else { 1 }
}

/// Where the answer for one route may change: at the destinations of rules, and at the pieces of default routes.
fn bounds(view: &View, met: &[(&Rule, Met)], v6: bool) -> Vec<IpNet> {
    let of_rules = met.iter().filter_map(|(_, met)| if let Met::To(net, _) = met { Some(*net) } else { None });
    let pieces = view.routes.iter().map(|route| route.net).filter(|net| net.prefix_len() > 0 && is_vast(net));
    let mut bounds: Vec<IpNet> = of_rules.chain(pieces).filter(|net| net.addr().is_ipv6() == v6).collect();
    bounds.sort();
    bounds.dedup();
    bounds
}

/// Which of the bounded prefixes an address is in.
fn part(bounds: &[IpNet], first: u128, v6: bool) -> Vec<bool> {
    let address = address(first, v6);
    bounds.iter().map(|bound| bound.contains(&address)).collect()
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

/// A source address, and what it means to the kernel.
struct Source {
    address: IpAddr,
    /// Alone, without the interface, it leads there.
    by_source: bool,
    /// The interface alone doesn't.
    needed: bool,
}

/// The source address for a route, if the kernel agrees that a socket with it that is bound to the interface leaves by it.
/// `None`: another rule is in the way.
async fn source(task: &Task<'_>, usable: &[IpAddr], route: Option<&Route>, to: IpAddr) -> Option<Source> {
    let Task { kernel, interface, user, .. } = *task;
    let leads = async |question: Question| {
        let way = kernel.way(Question { matched: true, ..question }).await;
        way.is_some_and(|way| way.legs.contains(&interface))
    };
    let bound = Question { to, by: Some(interface), from: None, user, matched: false };
    let needed = !leads(bound).await;
    let preferred = route.and_then(|route| route.source).filter(|source| usable.contains(source));
    let address = match preferred {
        Some(source) => source,
        None => {
            let chosen = kernel.way(bound).await.and_then(|way| way.source);
            chosen.filter(|source| usable.contains(source)).or(usable.first().copied())?
        }
    };
    let bound = Question { from: Some(address), ..bound };
    // IPv6 takes the interface of a question that has a source for a wish; of a socket that is bound to it for an order.
    let settled = to.is_ipv6() && !needed;
    if !settled && !leads(bound).await {
        return None;
    }
    let by_source = task.steered && leads(Question { by: None, ..bound }).await;
    Some(Source { address, by_source, needed })
}

fn index_of(sources: &mut Vec<IpAddr>, source: IpAddr) -> Option<usize> {
    let known = sources.iter().position(|&known| known == source);
    if known.is_none() && sources.len() < MAX_SOURCES {
        sources.push(source);
        return Some(sources.len() - 1);
    }
    known
}
