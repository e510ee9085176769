//! How far the facts had come: a position per watch, compared between replicas that read the same source.

use std::collections::BTreeMap;
use std::fmt;

/// Positions by name of the watch. Positions of one watch only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    positions: BTreeMap<String, u64>,
}

impl Progress {
    /// One watch at one position.
    pub fn of(watch: &str, position: u64) -> Self {
        Self { positions: BTreeMap::from([(watch.to_owned(), position)]) }
    }

    /// From the wire; watches beyond a sane number, or with names nobody gives, are left out.
    pub fn from_wire(progress: Option<proto::discovery::Progress>) -> Self {
        let positions = progress.map(|progress| progress.positions).unwrap_or_default();
        let named = positions.into_iter().filter(|(watch, _)| watch.len() <= MAX_NAME);
        Self { positions: named.take(MAX_WATCHES).collect() }
    }

    /// As it goes over the wire.
    pub fn to_wire(&self) -> proto::discovery::Progress {
        proto::discovery::Progress { positions: self.positions.clone() }
    }

    /// Whether any watch both name is at a lower position here than in `mark`.
    pub fn is_behind(&self, mark: &Self) -> bool {
        let shared =
            self.positions.iter().filter_map(|(watch, own)| mark.positions.get(watch).map(|other| (own, other)));
        shared.into_iter().any(|(own, other)| own < other)
    }

    /// The positions of those watches that `other` has too.
    pub fn of_watches_in(&self, other: &Self) -> Self {
        let shared = self.positions.iter().filter(|(watch, _)| other.positions.contains_key(*watch));
        Self { positions: shared.map(|(watch, position)| (watch.clone(), *position)).collect() }
    }

    /// Takes a watch back to `position` if it is further; whether it was.
    pub fn lower(&mut self, watch: &str, position: u64) -> bool {
        let further = self.positions.get_mut(watch).filter(|own| **own > position);
        further.map(|own| *own = position).is_some()
    }

    /// Takes the further position of each watch.
    pub fn advance(&mut self, other: &Self) {
        for (watch, position) in &other.positions {
            let own = self.positions.entry(watch.clone()).or_default();
            *own = (*own).max(*position);
        }
    }

    /// Watches and positions, sorted by name.
    pub fn positions(&self) -> &BTreeMap<String, u64> {
        &self.positions
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (watch, position)) in self.positions.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{watch} {position}")?;
        }
        Ok(())
    }
}

const MAX_WATCHES: usize = 64;
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watches_both_name_are_compared() {
        let at = |position| Progress::of("directory", position);
        assert!(at(1).is_behind(&at(2)));
        assert!(!at(2).is_behind(&at(2)) && !at(3).is_behind(&at(2)));
        assert!(!at(1).is_behind(&Progress::of("services", 9)));
        assert!(!at(1).is_behind(&Progress::default()) && !Progress::default().is_behind(&at(1)));
        let mut both = at(3);
        both.advance(&at(2));
        both.advance(&Progress::of("services", 9));
        assert!(both.is_behind(&at(4)) && both.is_behind(&Progress::of("services", 10)) && !both.is_behind(&at(3)));
        assert_eq!(both.to_string(), "directory 3, services 9");
        assert_eq!(both.of_watches_in(&at(1)).to_string(), "directory 3");
    }
}
