//! The command that starts pods anew, whole: whoever reads a hint pastes it.

use std::collections::{BTreeMap, BTreeSet};

use crate::target::Kind;

/// Pods to start anew, and what is to be told to do so.
#[derive(Debug, Default)]
pub(crate) struct Restart {
    namespaces: BTreeMap<String, Workloads>,
}

#[derive(Debug, Default)]
struct Workloads {
    /// What `kubectl rollout restart` knows, by kind and name.
    rolled: BTreeSet<(Kind, String)>,
    /// Pods that somebody else makes again when they are gone.
    made_again: BTreeSet<String>,
    /// Pods that nobody makes again.
    alone: BTreeSet<String>,
}

impl Restart {
    /// One more pod: its workload's kind, where that is known, and name, as [`crate::transport::owner::of`] says them.
    pub(crate) fn add(&mut self, namespace: &str, kind: Option<Kind>, workload: &str, pod: &str) {
        // Whoever makes a pod writes what he likes into its ownerReferences, and somebody else pastes it.
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-.".contains(letter);
        let kind = kind.filter(|_| workload.chars().all(is_name));
        let workloads = self.namespaces.entry(namespace.to_owned()).or_default();
        match kind {
            Some(kind @ (Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet)) => {
                workloads.rolled.insert((kind, workload.to_owned()));
            }
            Some(Kind::Pod) => {
                workloads.alone.insert(pod.to_owned());
            }
            _ => {
                workloads.made_again.insert(pod.to_owned());
            }
        }
    }

    /// The commands, one after the other; where they would be too many to paste, those of the first namespaces.
    pub(crate) fn commands(&self) -> String {
        let each = self.namespaces.iter().take(NAMESPACES).flat_map(|(namespace, pods)| pods.commands(namespace));
        each.collect::<Vec<_>>().join("; ")
    }
}

impl Workloads {
    fn commands(&self, namespace: &str) -> Vec<String> {
        let mut commands = Vec::new();
        if self.rolled.len() > NAMED {
            let kinds: BTreeSet<&str> = self.rolled.iter().map(|(kind, _)| kind.as_str()).collect();
            let kinds: Vec<&str> = kinds.into_iter().collect();
            commands.push(format!("kubectl rollout restart {} -n {namespace}", kinds.join(",")));
        } else if !self.rolled.is_empty() {
            let names: Vec<String> = self.rolled.iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
            commands.push(format!("kubectl rollout restart {} -n {namespace}", names.join(" ")));
        }
        if !self.made_again.is_empty() {
            let pods: Vec<&str> = self.made_again.iter().map(String::as_str).take(NAMED).collect();
            commands.push(format!("kubectl delete pod {} -n {namespace}", pods.join(" ")));
        }
        for pod in self.alone.iter().take(NAMED) {
            commands.push(format!("kubectl get pod {pod} -n {namespace} -o yaml | kubectl replace --force -f -"));
        }
        commands
    }
}

/// Names in one command; of more workloads all of their kinds are restarted.
const NAMED: usize = 20;
/// Namespaces in one hint.
const NAMESPACES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(pods: &[(&str, Option<Kind>, &str, &str)]) -> String {
        let mut restart = Restart::default();
        for (namespace, kind, workload, pod) in pods {
            restart.add(namespace, *kind, workload, pod);
        }
        restart.commands()
    }

    #[test]
    fn each_pod_is_started_anew_by_whoever_makes_it() {
        assert_eq!(commands(&[]), "");
        assert_eq!(
            commands(&[
                ("shop", Some(Kind::StatefulSet), "db", "db-0"),
                ("shop", Some(Kind::Deployment), "web", "web-1"),
                ("shop", Some(Kind::Deployment), "web", "web-2"),
                ("bank", Some(Kind::DaemonSet), "agent", "agent-x"),
            ]),
            "kubectl rollout restart daemonset/agent -n bank; \
             kubectl rollout restart deployment/web statefulset/db -n shop"
        );
        assert_eq!(
            commands(&[
                ("shop", Some(Kind::Job), "import", "import-1"),
                ("shop", None, "canary", "canary-1"),
                ("shop", Some(Kind::Pod), "alone", "alone"),
            ]),
            "kubectl delete pod canary-1 import-1 -n shop; \
             kubectl get pod alone -n shop -o yaml | kubectl replace --force -f -"
        );
    }

    #[test]
    fn what_a_pod_says_of_its_owner_is_no_command() {
        let forged = ("shop", Some(Kind::StatefulSet), "db; reboot", "db-0");
        assert_eq!(commands(&[forged]), "kubectl delete pod db-0 -n shop");
    }

    #[test]
    fn a_command_stays_short_enough_to_paste() {
        let names: Vec<String> = (0..30).map(|number| format!("w{number}")).collect();
        let mut restart = Restart::default();
        for name in &names {
            restart.add("shop", Some(Kind::Deployment), name, name);
        }
        restart.add("shop", Some(Kind::StatefulSet), "db", "db-0");
        assert_eq!(restart.commands(), "kubectl rollout restart deployment,statefulset -n shop");
    }
}
