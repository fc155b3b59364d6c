//! Asking the kernel, and hearing of its changes.
//!
//! Whatever a notice says, everything is read again: so a notice that was lost (ENOBUFS) or is not understood costs
//! nothing but what any other does. Notices that come together are one.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion, MulticastGroup};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::rules::Rule;
use super::view::{Address, Link, Route, View, ip};

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];
/// Changes come in bursts: an interface that goes takes its addresses and routes along.
const GATHER: Duration = Duration::from_millis(4);
const AGAIN: Duration = Duration::from_millis(200);

/// The kernel's answers.
#[derive(Clone)]
pub struct Kernel {
    handle: Handle,
}

/// A question where packets go.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub to: IpAddr,
    /// By this interface, as for a socket that is bound to it.
    pub by: Option<u32>,
    pub from: Option<IpAddr>,
    pub user: u32,
    /// The kernel says which route that is and does not guess that anything is on-link; else, which source address it
    /// would take.
    pub matched: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub source: Option<IpAddr>,
    /// Interfaces that the route leaves by.
    pub legs: Vec<u32>,
}

impl Kernel {
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket to be had")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub async fn view(&self) -> Result<View> {
        let mut view = View::default();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("cannot list the addresses")? {
            view.addresses.extend(Address::read(&message));
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            let family = match version {
                IpVersion::V4 => AddressFamily::Inet,
                IpVersion::V6 => AddressFamily::Inet6,
            };
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let mut routes = self.handle.route().get(all).execute();
            while let Some(message) = routes.try_next().await.context("cannot list the routes")? {
                view.routes.extend(Route::read(message));
            }
            let mut rules = self.handle.rule().get(version).execute();
            while let Some(message) = rules.try_next().await.context("cannot list the rules")? {
                view.rules.extend(Rule::read(message));
            }
        }
        view.rules.sort_by_key(|rule| rule.priority);
        // Last: an interface that goes is down before its routes go, so what lacks routes here for that is seen to be down.
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.context("cannot list the interfaces")? {
            view.links.extend(Link::read(&message).map(|link| (link.index, link)));
        }
        Ok(view)
    }

    /// `None`: nowhere, or not to a host elsewhere.
    pub async fn way(&self, question: Question) -> Option<Way> {
        let to = question.to;
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        header.destination_prefix_length = if to.is_ipv6() { 128 } else { 32 };
        header.flags = if question.matched { RouteFlags::FibMatch } else { RouteFlags::empty() };
        if let Some(from) = question.from {
            header.source_prefix_length = header.destination_prefix_length;
            message.attributes.push(RouteAttribute::Source(from.into()));
        }
        message.attributes.push(RouteAttribute::Destination(to.into()));
        message.attributes.push(RouteAttribute::Uid(question.user));
        message.attributes.extend(question.by.map(RouteAttribute::Oif));
        let mut answers = Box::pin(self.handle.route().get(message).execute());
        let answer = answers.next().await?.ok()?;
        if answer.header.kind != RouteType::Unicast {
            return None;
        }
        let source = answer.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(address) => ip(address),
            _ => None,
        });
        Some(Way { source, legs: Route::read(answer).map(|route| route.legs).unwrap_or_default() })
    }

    pub async fn add_route(&self, route: RouteMessage) -> Result<(), rtnetlink::Error> {
        self.handle.route().add(route).execute().await
    }

    pub async fn delete_route(&self, route: RouteMessage) -> Result<(), rtnetlink::Error> {
        self.handle.route().del(route).execute().await
    }

    pub async fn add_rule(&self, rule: RuleMessage) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule;
        request.execute().await
    }

    pub async fn delete_rule(&self, rule: RuleMessage) -> Result<(), rtnetlink::Error> {
        self.handle.rule().del(rule).execute().await
    }
}

/// Tells of every change, for ever.
pub async fn listen(changed: Rc<Notify>) {
    loop {
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, _handle, mut notices)) => {
                let connection = tokio::spawn(connection);
                // What happened before this socket heard anything.
                changed.notify_one();
                while notices.next().await.is_some() {
                    tokio::time::sleep(GATHER).await;
                    while notices.try_recv().is_ok() {}
                    debug!("the network has changed");
                    changed.notify_one();
                }
                connection.abort();
                warn!("the kernel's notices of network changes have ended; listening anew");
            }
            Err(error) => warn!("no notices of network changes to be had: {error}; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
