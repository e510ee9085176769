//! The connections of one listener, by where they come from.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use tokio::task::JoinHandle;

/// Connections, the oldest first.
///
/// Where there is no room, the oldest of whoever holds most makes it: whoever opens connections, many of them or one after
/// the other, gets rid of its own, and keeps no probe waiting. The workload would be restarted for that.
#[derive(Debug, Default)]
pub(super) struct Open(VecDeque<(IpAddr, JoinHandle<()>)>);

impl Open {
    /// Takes one in.
    pub(super) fn push(&mut self, source: IpAddr, connection: JoinHandle<()>) {
        let source = source.to_canonical();
        if self.0.len() >= MOST_CONNECTIONS {
            self.0.retain(|(_, connection)| !connection.is_finished());
        }
        self.0.push_back((source, connection));
        if self.0.len() > MOST_CONNECTIONS
            && let Some(at) = first_of_most(self.0.iter().map(|(source, _)| *source))
            && let Some((_, connection)) = self.0.remove(at)
        {
            connection.abort();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, connection)| connection.abort());
    }
}

/// The first of the source that is there most often.
fn first_of_most(sources: impl Iterator<Item = IpAddr> + Clone) -> Option<usize> {
    let mut counts = HashMap::new();
    sources.clone().for_each(|source| *counts.entry(source).or_insert(0) += 1);
    let most = counts.values().copied().max()?;
    sources.into_iter().position(|source| counts[&source] == most)
}

pub(super) const MOST_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_whoever_holds_most_goes() {
        let sources = |text: &str| {
            let last = |c: char| IpAddr::from([10, 0, 0, c as u8]);
            first_of_most(text.chars().map(last).collect::<Vec<_>>().into_iter())
        };
        assert_eq!(sources(""), None);
        assert_eq!(sources("k"), Some(0));
        assert_eq!(sources("kaab"), Some(1));
        assert_eq!(sources("kabab"), Some(1));
        // Among equals, who has been there longest.
        assert_eq!(sources("kab"), Some(0));
    }
}
