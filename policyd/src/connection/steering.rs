//! Rules and tables of our own, one table an interface: a socket with one of its addresses then leaves by it, and nothing
//! is tied to a device.
//!
//! What is there is compared with what should be, each time anew. So what a killed policyd left behind is taken over
//! where it is still wanted and removed where it isn't, and an administrator's rules and tables are never touched:
//! ours bear our protocol number, and an interface whose table number somebody else uses gets none.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use tracing::{info, warn};

use super::netlink::Kernel;
use super::rules::Rule;
use super::settings::Autobind;
use super::view::{LOCAL_TABLE, Route, View};

pub struct Steering {
    /// What an administrator should know is said once.
    told: HashSet<String>,
    /// The kernel has refused: this policyd may not.
    refused: bool,
}

/// A route of ours as it is compared.
type RouteKey = (ipnet::IpNet, u32, u32, String);

impl Steering {
    pub fn new() -> Self {
        Self { told: HashSet::new(), refused: false }
    }

    /// Sees to it that these interfaces, and no others, have their rules and tables. Returns those that do.
    pub async fn reconcile(
        &mut self,
        kernel: &Kernel,
        view: &View,
        settings: &Autobind,
        enabled: bool,
        wanted: &BTreeSet<u32>,
    ) -> HashSet<u32> {
        if !enabled || self.refused {
            return HashSet::new();
        }
        let mut ready: HashSet<u32> =
            wanted.iter().copied().filter(|&interface| self.is_free(view, settings, interface)).collect();
        self.routes(kernel, view, settings, &mut ready).await;
        self.rules(kernel, view, settings, &mut ready).await;
        if self.refused { HashSet::new() } else { ready }
    }

    /// Everything of ours goes.
    pub async fn remove(&mut self, kernel: &Kernel, settings: &Autobind, enabled: bool) {
        match kernel.view().await {
            Ok(view) => drop(self.reconcile(kernel, &view, settings, enabled, &BTreeSet::new()).await),
            Err(error) => warn!("rules and tables of ours may be left behind: {error:#}"),
        }
    }

    /// Nobody else uses this interface's table, or the rules' priority.
    fn is_free(&mut self, view: &View, settings: &Autobind, interface: u32) -> bool {
        let Some(table) = settings.table_of(interface) else { return false };
        let (ours, priority) = (settings.protocol.0, settings.rule_priority.0);
        let foreign_route = view.routes.iter().any(|route| route.table == table && route.protocol != ours);
        let foreign_rule = view.rules.iter().find(|rule| {
            let theirs = rule.protocol != ours || rule.priority != priority;
            theirs && (rule.table == table || rule.priority == priority)
        });
        if foreign_route {
            self.tell(format!(
                "table {table} has routes that are not policyd's: sockets are bound by device instead; set \
                 autobind.table_base to a number above which nothing is used"
            ));
        }
        if let Some(rule) = foreign_rule {
            self.tell(format!(
                "a rule of priority {} to table {} is not policyd's: sockets are bound by device instead; set \
                 autobind.rule_priority or autobind.table_base to a number that nothing else uses",
                rule.priority, rule.table
            ));
        }
        !foreign_route && foreign_rule.is_none()
    }

    async fn routes(&mut self, kernel: &Kernel, view: &View, settings: &Autobind, ready: &mut HashSet<u32>) {
        let ours = |route: &&Route| settings.owns_table(route.table) && route.protocol == settings.protocol.0;
        let mut there: Vec<(RouteKey, &Route)> = view.routes.iter().filter(ours).map(|r| (key(r), r)).collect();
        let mut failed = Vec::new();
        for &interface in ready.iter() {
            for route in copies(view, settings, interface) {
                let wanted = key(&route);
                if let Some(at) = there.iter().position(|(known, _)| *known == wanted) {
                    there.swap_remove(at);
                } else if let Err(error) = kernel.add_route(route.message.clone()).await
                    && !self.may_be_there(&error)
                {
                    warn!(interface, net = %route.net, "cannot add a route to table {}: {error}", route.table);
                    failed.push(interface);
                }
            }
        }
        ready.retain(|interface| !failed.contains(interface));
        for (_, route) in there {
            // With its interface it may be gone already.
            drop(kernel.delete_route(route.message.clone()).await);
        }
    }

    async fn rules(&mut self, kernel: &Kernel, view: &View, settings: &Autobind, ready: &mut HashSet<u32>) {
        let ours = |rule: &&Rule| {
            settings.owns_table(rule.table)
                && rule.protocol == settings.protocol.0
                && rule.priority == settings.rule_priority.0
        };
        let mut there: Vec<&Rule> = view.rules.iter().filter(ours).collect();
        let mut failed = Vec::new();
        for &interface in ready.iter() {
            let Some(table) = settings.table_of(interface) else { continue };
            for source in view.sources(interface) {
                let known = there.iter().position(|rule| rule.table == table && rule.is_from(source));
                if let Some(at) = known {
                    there.swap_remove(at);
                    continue;
                }
                match kernel.add_rule(rule(source, table, settings)).await {
                    Ok(()) => info!(%source, table, "made a rule"),
                    Err(error) if self.may_be_there(&error) => {}
                    Err(error) => {
                        warn!(%source, "cannot add a rule to table {table}: {error}");
                        failed.push(interface);
                    }
                }
            }
        }
        ready.retain(|interface| !failed.contains(interface));
        for rule in there {
            info!(table = rule.table, "removed a rule");
            drop(kernel.delete_rule(rule.message.clone()).await);
        }
    }

    /// Whether an error only says that it was made in the meantime. One that says we may not is remembered.
    fn may_be_there(&mut self, error: &rtnetlink::Error) -> bool {
        let rtnetlink::Error::NetlinkError(message) = error else { return false };
        let code = message.raw_code().abs();
        if code == libc::EPERM || code == libc::EACCES {
            self.refused = true;
            self.tell("rules and tables need CAP_NET_ADMIN: sockets are bound by device instead".to_owned());
        }
        code == libc::EEXIST
    }

    fn tell(&mut self, text: String) {
        if !self.told.contains(&text) {
            warn!("{text}");
            self.told.insert(text);
        }
    }
}

/// The routes by one interface, for its own table.
fn copies(view: &View, settings: &Autobind, interface: u32) -> Vec<Route> {
    let Some(table) = settings.table_of(interface) else { return Vec::new() };
    let fit = |route: &&Route| {
        route.unicast
            && route.legs.contains(&interface)
            && route.table != LOCAL_TABLE
            && !settings.owns_table(route.table)
            && !route.net.addr().is_multicast()
            && !is_link_local(&route.net)
    };
    let mut copies: Vec<Route> = Vec::new();
    for route in view.routes.iter().filter(fit) {
        let Some(copy) = copy(route, interface, table, settings.protocol.0) else { continue };
        if !copies.iter().any(|known| key(known) == key(&copy)) {
            copies.push(copy);
        }
    }
    // A gateway must be known to be on-link before a route goes by it.
    copies.sort_by_key(|route| std::cmp::Reverse(route.net.prefix_len()));
    copies
}

fn copy(route: &Route, interface: u32, table: u32, protocol: u8) -> Option<Route> {
    let mut message = RouteMessage::default();
    let from = &route.message.header;
    message.header = RouteHeader {
        address_family: from.address_family,
        destination_prefix_length: from.destination_prefix_length,
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::from(protocol),
        scope: from.scope,
        kind: RouteType::Unicast,
        flags: from.flags & RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    let mut attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(interface)];
    for attribute in &route.message.attributes {
        match attribute {
            RouteAttribute::Destination(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Metrics(_) => attributes.push(attribute.clone()),
            RouteAttribute::MultiPath(hops) => {
                let leg = hops.iter().find(|hop| hop.interface_index == interface)?;
                attributes.extend(leg.attributes.iter().filter(|a| !matches!(a, RouteAttribute::Oif(_))).cloned());
                if leg.flags.contains(RouteNextHopFlags::Onlink) {
                    message.header.flags |= RouteFlags::Onlink;
                }
            }
            // It needs more than can be copied: that destination is not for this table.
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    message.attributes = attributes;
    Route::read(message)
}

/// What makes two routes of ours the same.
fn key(route: &Route) -> RouteKey {
    let gateways = route.message.attributes.iter().filter(|attribute| {
        matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::PrefSource(_))
    });
    let mut gateways: Vec<_> = gateways.map(|attribute| format!("{attribute:?}")).collect();
    gateways.sort();
    let interface = route.legs.first().copied().unwrap_or(0);
    let way = format!(
        "{interface} {} {}",
        u8::from(route.message.header.flags.contains(RouteFlags::Onlink)),
        gateways.join(" ")
    );
    (route.net, route.table, route.metric, way)
}

fn rule(source: IpAddr, table: u32, settings: &Autobind) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if source.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.src_len = if source.is_ipv6() { 128 } else { 32 };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(source),
        RuleAttribute::Table(table),
        RuleAttribute::Priority(settings.rule_priority.0),
        RuleAttribute::Protocol(RouteProtocol::from(settings.protocol.0)),
    ];
    message
}

fn is_link_local(net: &ipnet::IpNet) -> bool {
    matches!(net, ipnet::IpNet::V6(net) if net.network().is_unicast_link_local())
}
