//! [`PortSet`]: ports as annotations list them.

/// Ports and ranges of ports, as in `3306,6379,9000-9010`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet {
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
        Self { ranges: text.split(',').filter_map(range).collect() }
    }

    /// Whether the port is in one of the ranges.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
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
    }
}
