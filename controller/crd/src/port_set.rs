//! [`PortSet`]: ports as annotations list them.

/// Ports and ranges of ports, as in `3306,6379,9000-9010`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet {
    /// Sorted; no two touch.
    ranges: Vec<(u16, u16)>,
}

impl PortSet {
    /// Reads a list. What is no port is left out: whoever writes the annotation is told so where it is checked, and the
    /// ports beside it are meant all the same.
    pub fn parse(text: &str) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
            (first != 0 && first <= last).then_some((first, last))
        };
        let mut written: Vec<(u16, u16)> = text.split(',').filter_map(range).collect();
        written.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (first, last) in written {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// Whether the port is in one of the ranges.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= port);
        after.checked_sub(1).is_some_and(|index| port <= self.ranges[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_ranges_and_what_is_neither() {
        let set = PortSet::parse(" 3306, 9000-9002,x,0,7-5,70000, ,80-");
        for port in [3306, 9000, 9001, 9002] {
            assert!(set.contains(port), "{port}");
        }
        for port in [0, 5, 6, 7, 80, 8999, 9003] {
            assert!(!set.contains(port), "{port}");
        }
        assert_eq!(PortSet::parse(""), PortSet::default());
        let all = PortSet::parse("7-9,1-65535,9,40000-65535");
        assert_eq!(all, PortSet::parse("1-65535"));
        assert!(all.contains(1) && all.contains(65535) && !all.contains(0));
        let touching = PortSet::parse("5-6,1-2,3,9,20-21,10");
        assert_eq!(touching, PortSet::parse("1-3,5-6,9-10,20-21"));
        assert!([4, 7, 8, 11, 19, 22].iter().all(|port| !touching.contains(*port)));
    }
}
