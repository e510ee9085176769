//! What starts pods anew: whoever reads a hint pastes it, so it may do no harm to anything but what it names.
//!
//! Only workloads that Kubernetes itself rolls, pod by pod, are restarted by a command: a few, by name, of one namespace. What
//! becomes of a deleted pod is up to its owner, or up to nobody, so no command deletes one.

use std::collections::BTreeSet;

use crate::target::Kind;

use super::{many, some};

/// Pods to start anew, and what is to be told to do so.
#[derive(Debug, Default)]
pub(crate) struct Restart {
    /// What `kubectl rollout restart` knows, by namespace, kind and name.
    rolled: BTreeSet<(String, Kind, String)>,
    /// Jobs and CronJobs whose pods end by themselves, by namespace and name.
    ending: BTreeSet<(String, String)>,
    /// Pods of owners that are unknown here, by namespace and name.
    owned: BTreeSet<(String, String)>,
    /// Pods that nobody makes again, by namespace and name.
    alone: BTreeSet<(String, String)>,
}

impl Restart {
    /// One more pod: its workload's kind, where that is known, and name, as [`crate::transport::owner::of`] says them.
    pub(crate) fn add(&mut self, namespace: &str, kind: Option<Kind>, workload: &str, pod: &str) {
        // Whoever makes a pod writes what he likes into its ownerReferences, and somebody else pastes it.
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-.".contains(letter);
        let kind = kind.filter(|_| workload.chars().all(is_name));
        let (namespace, workload, pod) = (namespace.to_owned(), workload.to_owned(), pod.to_owned());
        match kind {
            Some(kind @ (Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet)) => {
                self.rolled.insert((namespace, kind, workload));
            }
            Some(Kind::Job | Kind::CronJob) => {
                self.ending.insert((namespace, workload));
            }
            Some(Kind::Pod) => {
                self.alone.insert((namespace, pod));
            }
            _ => {
                self.owned.insert((namespace, pod));
            }
        }
    }

    /// What to do first: a command, or else words.
    pub(crate) fn hint(&self) -> String {
        self.command().unwrap_or_else(|| "nothing to do: they end by themselves".to_owned())
    }

    /// One command, which starts anew what it names, or else shows a pod. Jobs need none.
    pub(crate) fn command(&self) -> Option<String> {
        if let Some((namespace, _, _)) = self.rolled.first() {
            let names: Vec<String> = self.now().map(|(_, kind, name)| format!("{kind}/{name}")).collect();
            return Some(format!("kubectl rollout restart {} -n {namespace}", names.join(" ")));
        }
        let (namespace, pod) = self.owned.first().or(self.alone.first())?;
        Some(format!("kubectl get pod {pod} -n {namespace} -o yaml"))
    }

    /// What else there is to do, to be added to a sentence; empty where the command does it all.
    pub(crate) fn rest(&self) -> String {
        let mut text = String::new();
        let later = self.rolled.len() - self.now().count();
        if later > 0 {
            text.push_str(&format!("; the command leaves {} for the next check", many(later, "workload")));
        }
        if !self.owned.is_empty() {
            text.push_str(&format!("; restart through its owner, one pod after the other: {}", listed(&self.owned)));
        }
        if !self.alone.is_empty() {
            let alone = listed(&self.alone);
            text.push_str(&format!("; nobody makes it again, start it anew from its own manifest: {alone}"));
        }
        if !self.ending.is_empty() {
            text.push_str(&format!("; leave a Job to its next run: {}", listed(&self.ending)));
        }
        text
    }

    /// Those that the command restarts.
    fn now(&self) -> impl Iterator<Item = &(String, Kind, String)> {
        let first = self.rolled.first();
        self.rolled
            .iter()
            .take_while(move |(namespace, _, _)| first.is_some_and(|(of, _, _)| of == namespace))
            .take(NAMED)
    }
}

fn listed(names: &BTreeSet<(String, String)>) -> String {
    some(&names.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect::<Vec<_>>())
}

/// Workloads in one command: as many as somebody still reads, and may miss at the same moment.
const NAMED: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The hint, and what else is to do.
    fn said(pods: &[(&str, Option<Kind>, &str, &str)]) -> (String, String) {
        let mut restart = Restart::default();
        for (namespace, kind, workload, pod) in pods {
            restart.add(namespace, *kind, workload, pod);
        }
        (restart.hint(), restart.rest())
    }

    fn expect(pods: &[(&str, Option<Kind>, &str, &str)], hint: &str, rest: &str) {
        assert_eq!(said(pods), (hint.to_owned(), rest.to_owned()));
    }

    #[test]
    fn workloads_of_one_namespace_are_rolled_by_name() {
        let of_shop = [
            ("shop", Some(Kind::StatefulSet), "db", "db-0"),
            ("shop", Some(Kind::Deployment), "web", "web-1"),
            ("shop", Some(Kind::Deployment), "web", "web-2"),
        ];
        expect(&of_shop, "kubectl rollout restart deployment/web statefulset/db -n shop", "");
        let with_bank = [of_shop.as_slice(), &[("bank", Some(Kind::DaemonSet), "agent", "agent-x")]].concat();
        let rest = "; the command leaves 2 workloads for the next check";
        expect(&with_bank, "kubectl rollout restart daemonset/agent -n bank", rest);
    }

    #[test]
    fn nothing_that_runs_is_deleted() {
        let job = ("shop", Some(Kind::Job), "import", "import-1");
        let schedule = ("shop", Some(Kind::CronJob), "nightly", "nightly-2");
        let (canary, other) = (("shop", None, "canary", "canary-1"), ("shop", None, "canary", "canary-2"));
        let alone = ("shop", Some(Kind::Pod), "alone", "alone");
        let runs = "; leave a Job to its next run: shop/import, shop/nightly";
        expect(&[job, schedule], "nothing to do: they end by themselves", runs);
        let rest = "; restart through its owner, one pod after the other: shop/canary-1, shop/canary-2";
        expect(&[canary, other], "kubectl get pod canary-1 -n shop -o yaml", rest);
        let rest = "; nobody makes it again, start it anew from its own manifest: shop/alone";
        expect(&[alone], "kubectl get pod alone -n shop -o yaml", rest);
        let (hint, rest) = said(&[job, canary, alone, ("bank", Some(Kind::Deployment), "web", "web-1")]);
        assert_eq!(hint, "kubectl rollout restart deployment/web -n bank");
        assert!(["shop/import", "shop/canary-1", "shop/alone"].iter().all(|name| rest.contains(name)), "{rest}");
    }

    #[test]
    fn what_a_pod_says_of_its_owner_is_no_command() {
        let forged = ("shop", Some(Kind::StatefulSet), "db; reboot", "db-0");
        let rest = "; restart through its owner, one pod after the other: shop/db-0";
        expect(&[forged], "kubectl get pod db-0 -n shop -o yaml", rest);
    }

    /// Never all of a kind, of which most may have nothing to do with the mesh.
    #[test]
    fn of_many_workloads_a_few_are_named() {
        let names: Vec<String> = (10..40).map(|number| format!("w{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| ("shop", Some(Kind::Deployment), name.as_str(), "p")).collect();
        let (hint, rest) = said(&many);
        assert!(hint.starts_with("kubectl rollout restart deployment/w10 deployment/w11 "), "{hint}");
        assert!(hint.ends_with(" deployment/w19 -n shop"), "{hint}");
        assert_eq!(rest, "; the command leaves 20 workloads for the next check");
    }
}
