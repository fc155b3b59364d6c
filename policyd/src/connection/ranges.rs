//! Destinations as ranges: prefixes painted over each other, the more specific ones last.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Disjoint ranges of addresses of one family, each of one owner.
#[derive(Debug, Default)]
pub struct Ranges {
    /// First address -> last address and owner.
    spans: BTreeMap<u128, (u128, usize)>,
}

impl Ranges {
    /// `owner` has this range now, or nobody.
    pub fn paint(&mut self, first: u128, last: u128, owner: Option<usize>) {
        self.split(first);
        if let Some(next) = last.checked_add(1) {
            self.split(next);
        }
        let covered: Vec<u128> = self.spans.range(first..=last).map(|(&start, _)| start).collect();
        for start in covered {
            self.spans.remove(&start);
        }
        if let Some(owner) = owner {
            self.spans.insert(first, (last, owner));
        }
    }

    pub fn paint_net(&mut self, net: &IpNet, owner: Option<usize>) {
        let (first, last) = bounds(net);
        self.paint(first, last, owner);
    }

    /// No range begins before `at` and ends at or after it.
    fn split(&mut self, at: u128) {
        let Some((&start, &(last, owner))) = self.spans.range(..at).next_back() else { return };
        if last >= at {
            self.spans.insert(start, (at - 1, owner));
            self.spans.insert(at, (last, owner));
        }
    }

    /// No range lies across a bound of this prefix.
    pub fn cut(&mut self, net: &IpNet) {
        let (first, last) = bounds(net);
        self.split(first);
        if let Some(next) = last.checked_add(1) {
            self.split(next);
        }
    }

    /// What also lies in one of `within`, which are disjoint.
    pub fn intersect(&mut self, within: &[IpNet]) {
        let mut kept = BTreeMap::new();
        for net in within {
            let (first, last) = bounds(net);
            self.cut(net);
            kept.extend(self.spans.range(first..=last).map(|(&start, &span)| (start, span)));
        }
        self.spans = kept;
    }

    pub fn iter(&self) -> impl Iterator<Item = (u128, u128, usize)> {
        self.spans.iter().map(|(&first, &(last, owner))| (first, last, owner))
    }

    /// By another owner for each range, told by its first address and its owner (`None`: drop it); neighbours of one owner
    /// are joined.
    pub fn renamed(&self, name: impl Fn(u128, usize) -> Option<usize>) -> Vec<(u128, u128, usize)> {
        let mut joined: Vec<(u128, u128, usize)> = Vec::new();
        for (first, last, owner) in self.iter() {
            let Some(owner) = name(first, owner) else { continue };
            match joined.last_mut() {
                Some((_, end, same)) if *same == owner && end.checked_add(1) == Some(first) => *end = last,
                _ => joined.push((first, last, owner)),
            }
        }
        joined
    }
}

pub fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

pub fn address(number: u128, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::from_bits(number).into() } else { Ipv4Addr::from_bits(number as u32).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ranges: &Ranges) -> Vec<(u128, u128, usize)> {
        ranges.iter().collect()
    }

    #[test]
    fn a_cut_range_has_two_owners_where_they_differ() {
        let mut ranges = Ranges::default();
        ranges.paint_net(&"10.0.0.0/8".parse().unwrap(), Some(1));
        ranges.cut(&"10.64.0.0/16".parse().unwrap());
        let [first, last] = ["10.64.0.0", "10.64.255.255"].map(|ip| number(ip.parse().unwrap()));
        assert_eq!(ranges.iter().count(), 3);
        let within = |at: u128| (first..=last).contains(&at);
        assert_eq!(ranges.renamed(|at, _| within(at).then_some(7)), [(first, last, 7)]);
        assert_eq!(ranges.renamed(|_, owner| Some(owner)).len(), 1);
    }

    #[test]
    fn the_last_painter_has_it() {
        let mut ranges = Ranges::default();
        ranges.paint(0, 99, Some(1));
        ranges.paint(10, 19, Some(2));
        ranges.paint(15, 15, None);
        assert_eq!(shown(&ranges), [(0, 9, 1), (10, 14, 2), (16, 19, 2), (20, 99, 1)]);
        ranges.paint(5, 50, Some(3));
        assert_eq!(shown(&ranges), [(0, 4, 1), (5, 50, 3), (51, 99, 1)]);
        ranges.paint(0, u128::MAX, None);
        assert_eq!(shown(&ranges), []);
        ranges.paint(7, u128::MAX, Some(1));
        ranges.paint(u128::MAX, u128::MAX, Some(2));
        assert_eq!(shown(&ranges), [(7, u128::MAX - 1, 1), (u128::MAX, u128::MAX, 2)]);
    }

    #[test]
    fn joined_and_cut() {
        let mut ranges = Ranges::default();
        ranges.paint(0, 9, Some(1));
        ranges.paint(10, 19, Some(2));
        ranges.paint(20, 29, Some(3));
        assert_eq!(ranges.renamed(|_, owner| (owner != 3).then_some(0)), [(0, 19, 0)]);
        let mut ranges = Ranges::default();
        ranges.paint_net(&"0.0.0.0/0".parse().unwrap(), Some(1));
        ranges.intersect(&["10.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()]);
        assert_eq!(shown(&ranges), [(0x0a00_0000, 0x0aff_ffff, 1), (0xc0a8_0000, 0xc0a8_ffff, 1)]);
    }
}
