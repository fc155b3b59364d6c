//! The kernel's rules, and which of them a socket meets that an assignment is for: made on this host, without a mark (one
//! that has a mark is left alone), bound to one of the interface's addresses, of one user.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::view::{Link, View};

#[derive(Clone, Debug)]
pub struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub table: u32,
    pub protocol: u8,
    pub lookup: bool,
    /// Only routes with longer prefixes than this count (`suppress_prefixlength`).
    pub longer_than: Option<u8>,
    invert: bool,
    from: Option<IpNet>,
    to: Option<IpNet>,
    mark: u32,
    mask: Option<u32>,
    /// First and last.
    users: Option<(u32, u32)>,
    /// Of packets that come in: `lo` are those made here.
    incoming: Option<String>,
    outgoing: Option<String>,
    /// By what nobody knows before the socket is used: ports, the protocol, the type of service.
    uncertain: bool,
    pub message: RuleMessage,
}

/// Whether a rule is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Never,
    Always,
    /// On the way to destinations in this prefix; with `false` to all others.
    To(IpNet, bool),
    Perhaps,
}

impl Rule {
    pub fn read(message: RuleMessage) -> Option<Self> {
        let header = &message.header;
        let v6 = match header.family {
            AddressFamily::Inet => false,
            AddressFamily::Inet6 => true,
            _ => return None,
        };
        let mut rule = Self {
            v6,
            priority: 0,
            table: header.table.into(),
            protocol: 0,
            lookup: header.action == RuleAction::ToTable,
            longer_than: None,
            invert: header.flags.contains(RuleFlags::Invert),
            from: None,
            to: None,
            mark: 0,
            mask: None,
            users: None,
            incoming: None,
            outgoing: None,
            uncertain: header.tos != 0,
            message: RuleMessage::default(),
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(number) => rule.priority = *number,
                RuleAttribute::Table(number) => rule.table = *number,
                RuleAttribute::Protocol(number) => rule.protocol = (*number).into(),
                RuleAttribute::Source(ip) => rule.from = IpNet::new(*ip, header.src_len).ok(),
                RuleAttribute::Destination(ip) => rule.to = IpNet::new(*ip, header.dst_len).ok().map(|net| net.trunc()),
                RuleAttribute::FwMark(mark) => rule.mark = *mark,
                RuleAttribute::FwMask(mask) => rule.mask = Some(*mask),
                RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
                RuleAttribute::Iifname(name) => rule.incoming = Some(name.clone()),
                RuleAttribute::Oifname(name) => rule.outgoing = Some(name.clone()),
                // -1: nothing is suppressed.
                RuleAttribute::SuppressPrefixLen(length) => rule.longer_than = u8::try_from(*length).ok(),
                RuleAttribute::SuppressIfGroup(u32::MAX) | RuleAttribute::L3MDev(false) | RuleAttribute::Realm(_) => {}
                _ => rule.uncertain = true,
            }
        }
        rule.message = message;
        Some(rule)
    }

    /// With one of these source addresses, which are of the rule's family, by one of this interface's sockets.
    pub fn met(&self, sources: &[IpAddr], interface: &Link, user: u32) -> Met {
        let per_source = |source: &IpAddr| self.met_from(*source, interface, user);
        // Of several addresses the one that it matters for.
        sources.iter().map(per_source).find(|met| *met != Met::Never).unwrap_or(Met::Never)
    }

    fn met_from(&self, source: IpAddr, interface: &Link, user: u32) -> Met {
        let matches = self.from.is_none_or(|net| net.contains(&source))
            && self.mark & self.mask.unwrap_or(u32::MAX) == 0
            && self.users.is_none_or(|(first, last)| (first..=last).contains(&user))
            && self.incoming.as_deref().is_none_or(|name| name == "lo")
            && self.outgoing.as_deref().is_none_or(|name| name == interface.name);
        match (matches, self.uncertain, self.to) {
            (false, ..) if self.invert => Met::Always,
            (false, ..) => Met::Never,
            (true, true, _) => Met::Perhaps,
            (true, false, Some(net)) => Met::To(net, !self.invert),
            (true, false, None) if self.invert => Met::Never,
            (true, false, None) => Met::Always,
        }
    }

    /// Whether it is `from SOURCE` and nothing else.
    pub fn is_from(&self, source: IpAddr) -> bool {
        let nothing_else = self.to.is_none()
            && (self.mark, self.mask.unwrap_or(0)) == (0, 0)
            && self.users.is_none()
            && self.incoming.is_none()
            && self.outgoing.is_none()
            && self.longer_than.is_none()
            && !self.invert
            && !self.uncertain;
        nothing_else && self.from == Some(source.into())
    }
}

impl View {
    /// The first of the users that no rule tells apart from this one.
    pub fn user_class(&self, user: u32) -> u32 {
        let ranges = self.rules.iter().filter_map(|rule| rule.users);
        let bounds = ranges.flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten();
        bounds.filter(|&bound| bound <= user).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::rule::RuleUidRange;

    use super::*;

    fn rule(attributes: Vec<RuleAttribute>, invert: bool, to: u8) -> Rule {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.header.dst_len = to;
        if invert {
            message.header.flags = RuleFlags::Invert;
        }
        message.attributes = attributes;
        Rule::read(message).unwrap()
    }

    fn met(rule: &Rule) -> Met {
        let interface = Link { index: 2, name: "eth0".to_owned(), up: true, loopback: false };
        rule.met(&["10.1.0.1".parse().unwrap()], &interface, 1_000)
    }

    #[test]
    fn what_a_socket_without_a_mark_meets() {
        use RuleAttribute::*;
        let net: IpNet = "10.5.0.0/16".parse().unwrap();
        let users = |start, end| UidRange(RuleUidRange { start, end });
        let to = || Destination(net.addr());
        for (attributes, prefix, plain, inverted) in [
            (vec![], 0, Met::Always, Met::Never),
            (vec![FwMark(51_820), FwMask(u32::MAX)], 0, Met::Never, Met::Always),
            (vec![FwMark(0), FwMask(0xff)], 0, Met::Always, Met::Never),
            (vec![users(1_000, 1_001)], 0, Met::Always, Met::Never),
            (vec![users(0, 999)], 0, Met::Never, Met::Always),
            (vec![Iifname("lo".to_owned())], 0, Met::Always, Met::Never),
            (vec![Iifname("eth0".to_owned())], 0, Met::Never, Met::Always),
            (vec![Oifname("eth0".to_owned())], 0, Met::Always, Met::Never),
            (vec![to()], 16, Met::To(net, true), Met::To(net, false)),
            (vec![to(), users(0, 0)], 16, Met::Never, Met::Always),
            (vec![TunId(7)], 0, Met::Perhaps, Met::Perhaps),
            (vec![SuppressPrefixLen(0)], 0, Met::Always, Met::Never),
        ] {
            let shown = format!("{attributes:?}");
            assert_eq!(met(&rule(attributes.clone(), false, prefix)), plain, "{shown}");
            assert_eq!(met(&rule(attributes, true, prefix)), inverted, "not {shown}");
        }
        assert_eq!(rule(vec![SuppressPrefixLen(0)], false, 0).longer_than, Some(0));
        assert_eq!(rule(vec![SuppressPrefixLen(u32::MAX)], false, 0).longer_than, None);
    }

    #[test]
    fn users_that_no_rule_tells_apart() {
        let mut view = View::default();
        assert_eq!(view.user_class(1_000), 0);
        let range = RuleAttribute::UidRange(netlink_packet_route::rule::RuleUidRange { start: 500, end: 999 });
        view.rules.push(rule(vec![range], false, 0));
        assert_eq!([0, 499, 500, 999, 1_000, 5_000].map(|user| view.user_class(user)), [0, 0, 500, 500, 1_000, 1_000]);
    }
}
