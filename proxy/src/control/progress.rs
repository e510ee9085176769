//! How far a source of facts had come, compared.
//!
//! A progress names watches and how far each had come. Two replicas may read different sets of watches, so only those
//! both name can be compared.

use proto::discovery::Progress;

/// The first watch at which `progress` is behind `mark`, for messages; `None` where it is not behind.
pub fn behind<'p>(progress: &'p Progress, mark: &Progress) -> Option<&'p str> {
    let lower = |(watch, position): &(&String, &u64)| mark.positions.get(*watch).is_some_and(|mark| *position < mark);
    progress.positions.iter().find(lower).map(|(watch, _)| watch.as_str())
}

/// Moves `mark` on to whatever in `progress` is further.
pub fn merge(mark: &mut Progress, progress: &Progress) {
    for (watch, position) in &progress.positions {
        if let Some(marked) = mark.positions.get_mut(watch) {
            *marked = (*marked).max(*position);
        } else if mark.positions.len() < WATCHES {
            // What a controller may name is bounded by what it watches; this bounds one that is broken.
            mark.positions.insert(watch.clone(), *position);
        }
    }
}

const WATCHES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(positions: &[(&str, u64)]) -> Progress {
        Progress { positions: positions.iter().map(|(watch, at)| ((*watch).to_owned(), *at)).collect() }
    }

    #[test]
    fn only_common_watches_count() {
        let mark = progress(&[("pods", 5), ("services", 9)]);
        assert_eq!(behind(&progress(&[("pods", 5), ("routes", 1)]), &mark), None);
        assert_eq!(behind(&progress(&[("pods", 6), ("services", 8)]), &mark), Some("services"));
        assert_eq!(behind(&progress(&[]), &mark), None);
    }

    #[test]
    fn a_mark_only_goes_forward() {
        let mut mark = progress(&[("pods", 5)]);
        merge(&mut mark, &progress(&[("pods", 3), ("routes", 1)]));
        merge(&mut mark, &progress(&[("pods", 7)]));
        assert_eq!(mark, progress(&[("pods", 7), ("routes", 1)]));
    }
}
