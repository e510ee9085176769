//! What a row is to stand for, as kubectl users type it: `deploy`, `deploy/web`, `svc web`, `ns`.

use std::fmt;

use serde::Serialize;

/// What people name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `batch/v1` Job.
    Job,
    /// `batch/v1` CronJob.
    CronJob,
    /// A pod.
    Pod,
    /// A Service.
    Service,
    /// A namespace.
    Namespace,
}

/// One kind, and the names asked for; none stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// Names; empty for all.
    pub names: Vec<String>,
}

/// What was typed makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such kind.
    #[error("{typed:?} is no kind{} (kinds are deploy, sts, ds, job, cronjob, pod, svc, ns)", did_you_mean(.suggestion.as_deref()))]
    Kind {
        /// What was typed.
        typed: String,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// A name is missing, as in `deploy/`.
    #[error("{0:?} names nothing; write {0}NAME, or the kind alone for all of them")]
    NoName(String),
    /// Two kinds at once.
    #[error("{0:?} is of another kind than {1:?}; ask for one kind at a time")]
    Mixed(String, String),
    /// Something that stands for one only.
    #[error("{0:?} names no object; write KIND/NAME, as in deploy/web")]
    NotOne(String),
}

impl Kind {
    /// How kubectl's output names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Namespace => "namespace",
        }
    }

    /// The kind of an ownerReference that can stand for its pods.
    pub fn of_owner(kind: &str) -> Option<Self> {
        [Self::Deployment, Self::StatefulSet, Self::DaemonSet, Self::Job, Self::CronJob]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(kind))
    }

    /// A kind whose pods share a template.
    pub fn is_workload(self) -> bool {
        !matches!(self, Self::Pod | Self::Service | Self::Namespace)
    }

    fn parse(typed: &str) -> Result<Self, TargetError> {
        let lower = typed.to_ascii_lowercase();
        // kubectl takes the group as well: deployments.apps, deployment.v1.apps.
        let plain = lower.split('.').next().unwrap_or_default();
        let found = SPELLINGS.iter().find(|(spellings, _)| spellings.contains(&plain));
        found.map(|(_, kind)| *kind).ok_or_else(|| TargetError::Kind {
            typed: typed.to_owned(),
            suggestion: closest(plain, SPELLINGS.iter().flat_map(|(spellings, _)| spellings.iter().copied()))
                .map(str::to_owned),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Target {
    /// Reads `deploy`, `deploy web api`, `deploy/web deploy/api`; nothing for no words.
    pub fn parse(words: &[String]) -> Result<Option<Self>, TargetError> {
        let Some(first) = words.first() else { return Ok(None) };
        if !first.contains('/') {
            let kind = Kind::parse(first)?;
            return match words[1..].iter().find(|word| word.contains('/') || word.is_empty()) {
                Some(word) => Err(TargetError::Mixed(word.clone(), first.clone())),
                None => Ok(Some(Self { kind, names: words[1..].to_vec() })),
            };
        }
        let mut target: Option<Self> = None;
        for word in words {
            let (kind, name) = word.split_once('/').ok_or_else(|| TargetError::NotOne(word.clone()))?;
            let kind = Kind::parse(kind)?;
            if name.is_empty() {
                return Err(TargetError::NoName(word.clone()));
            }
            let target = target.get_or_insert_with(|| Self { kind, names: Vec::new() });
            if target.kind != kind {
                return Err(TargetError::Mixed(word.clone(), first.clone()));
            }
            target.names.push(name.to_owned());
        }
        Ok(target)
    }

    /// Reads `deploy/web`: one object, as `--from` and `--to` take it.
    pub fn parse_one(word: &str) -> Result<Self, TargetError> {
        match Self::parse(&[word.to_owned()])? {
            Some(target) if target.names.len() == 1 => Ok(target),
            _ => Err(TargetError::NotOne(word.to_owned())),
        }
    }

    /// Whether it stands for this name.
    pub fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// `; did you mean "web"?`, where there is something to suggest.
pub fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!("; did you mean {suggestion:?}?")).unwrap_or_default()
}

/// The known word that differs least from a mistyped one, if it differs little.
pub fn closest<'w>(typed: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let allowed = 1 + typed.chars().count() / 4;
    known.map(|word| (distance(typed, word), word)).filter(|(far, _)| *far <= allowed).min().map(|(_, word)| word)
}

/// How many letters must be changed, added, left out or swapped with their neighbour (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) =
        (one.chars().take(LONGEST).collect(), other.chars().take(LONGEST).collect());
    let first = |row: usize| (row..=row + other.len()).collect::<Vec<usize>>();
    let mut rows: Vec<Vec<usize>> = (0..=one.len()).map(first).collect();
    for row in 1..=one.len() {
        for column in 1..=other.len() {
            let change = usize::from(one[row - 1] != other[column - 1]);
            let mut least =
                (rows[row - 1][column] + 1).min(rows[row][column - 1] + 1).min(rows[row - 1][column - 1] + change);
            let swapped =
                row > 1 && column > 1 && one[row - 1] == other[column - 2] && one[row - 2] == other[column - 1];
            if swapped {
                least = least.min(rows[row - 2][column - 2] + 1);
            }
            rows[row][column] = least;
        }
    }
    rows[one.len()][other.len()]
}

const SPELLINGS: [(&[&str], Kind); 8] = [
    (&["deploy", "deployment", "deployments"], Kind::Deployment),
    (&["sts", "statefulset", "statefulsets"], Kind::StatefulSet),
    (&["ds", "daemonset", "daemonsets"], Kind::DaemonSet),
    (&["job", "jobs"], Kind::Job),
    (&["cj", "cronjob", "cronjobs"], Kind::CronJob),
    (&["po", "pod", "pods"], Kind::Pod),
    (&["svc", "service", "services"], Kind::Service),
    (&["ns", "namespace", "namespaces"], Kind::Namespace),
];
/// Names in Kubernetes are no longer than this.
const LONGEST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Target>, TargetError> {
        Target::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn as_kubectl_takes_it() {
        let cases = [
            ("deploy", Kind::Deployment, &[][..]),
            ("deployments.apps", Kind::Deployment, &[]),
            ("Deploy/web", Kind::Deployment, &["web"]),
            ("sts web db", Kind::StatefulSet, &["web", "db"]),
            ("svc/web svc/api", Kind::Service, &["web", "api"]),
            ("po", Kind::Pod, &[]),
            ("ns/shop", Kind::Namespace, &["shop"]),
        ];
        for (text, kind, names) in cases {
            let target = parse(text).unwrap().unwrap();
            assert_eq!((target.kind, target.names), (kind, names.iter().map(|name| (*name).to_owned()).collect()));
        }
        assert_eq!(parse("").unwrap(), None);
    }

    #[test]
    fn mistakes_get_a_suggestion() {
        for (text, said) in [
            ("deplyo/web", "\"deplyo\" is no kind; did you mean \"deploy\"? (kinds are deploy, sts"),
            ("service", ""),
            ("servcie", "did you mean \"service\"?"),
            ("zebra", "\"zebra\" is no kind (kinds are"),
            ("deploy/", "write deploy/NAME"),
            ("deploy/web svc/web", "ask for one kind at a time"),
            ("deploy web svc/web", "ask for one kind at a time"),
            ("deploy/web api", "\"api\" names no object"),
        ] {
            match parse(text) {
                Ok(_) => assert!(said.is_empty(), "{text}"),
                Err(error) => assert!(!said.is_empty() && error.to_string().contains(said), "{text}: {error}"),
            }
        }
        assert!(Target::parse_one("deploy").is_err());
        assert_eq!(Target::parse_one("pod/a").unwrap().names, ["a"]);
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let known = || ["payments", "catalog", "cart"].into_iter();
        assert_eq!(closest("paymnets", known()), Some("payments"));
        assert_eq!(closest("crat", known()), Some("cart"));
        assert_eq!(closest("zebra", known()), None);
        assert_eq!(closest("", known()), None);
    }
}
