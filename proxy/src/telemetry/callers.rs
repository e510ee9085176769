//! The names callers give themselves, as labels: shared by all connections of a caller, and only so many for each identity.
//!
//! An identity is proven, a name is not. Whoever has a certificate could otherwise call himself something else on each
//! connection, until there was no room for the series of anybody else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use proto::preface::Preface;

use super::PeerLabels;

/// One worker's callers.
#[derive(Debug, Default)]
pub struct Callers {
    by_principal: RefCell<HashMap<Box<str>, Vec<Arc<PeerLabels>>>>,
}

impl Callers {
    /// The labels of a caller: names from its preface, `unknown` where its identity has used too many.
    pub fn labels(&self, namespace: &str, principal: &str, preface: &Preface) -> Arc<PeerLabels> {
        let mut by_principal = self.by_principal.borrow_mut();
        if by_principal.len() >= MOST_PRINCIPALS && !by_principal.contains_key(principal) {
            by_principal.clear();
        }
        let known = by_principal.entry(principal.into()).or_default();
        let find = |known: &[Arc<PeerLabels>], preface: &Preface| {
            known.iter().find(|labels| is_named(labels, preface)).map(Arc::clone)
        };
        if let Some(labels) = find(known, preface) {
            return labels;
        }
        if known.len() >= MOST_NAMES {
            // Names that neither a connection nor a series uses any more: of earlier versions, usually.
            known.retain(|labels| Arc::strong_count(labels) > 1);
        }
        if known.len() < MOST_NAMES {
            known.push(make(namespace, principal, preface));
            return known[known.len() - 1].clone();
        }
        let nameless = Preface::default();
        find(known, &nameless).unwrap_or_else(|| {
            known.push(make(namespace, principal, &nameless));
            known[known.len() - 1].clone()
        })
    }
}

fn is_named(labels: &PeerLabels, preface: &Preface) -> bool {
    *labels.workload == *preface.workload
        && *labels.app == *preface.app
        && *labels.version == *preface.version
        && *labels.cluster == *preface.cluster
}

fn make(namespace: &str, principal: &str, preface: &Preface) -> Arc<PeerLabels> {
    Arc::new(PeerLabels {
        workload: preface.workload.as_str().into(),
        namespace: namespace.into(),
        principal: principal.into(),
        app: preface.app.as_str().into(),
        version: preface.version.as_str().into(),
        cluster: preface.cluster.as_str().into(),
    })
}

/// Workloads and versions that share an account.
const MOST_NAMES: usize = 32;
const MOST_PRINCIPALS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: usize) -> Preface {
        Preface { workload: "web".to_owned(), version: format!("v{number}"), ..Preface::default() }
    }

    #[test]
    fn an_identity_has_so_many_names_at_a_time() {
        let callers = Callers::default();
        let of = |preface: &Preface| callers.labels("shop", "spiffe://a/ns/shop/sa/web", preface);
        let first = of(&version(0));
        assert!(Arc::ptr_eq(&first, &of(&version(0))), "shared");
        let held: Vec<_> = (1..1000).map(|number| of(&version(number))).collect();
        assert_eq!(&*held[MOST_NAMES - 2].version, "v31");
        assert!(held[MOST_NAMES - 1..].iter().all(|labels| labels.workload.is_empty() && labels.version.is_empty()));
        assert!(held.iter().all(|labels| &*labels.principal == "spiffe://a/ns/shop/sa/web"));
        assert_eq!(&*callers.labels("shop", "spiffe://a/ns/shop/sa/cart", &version(1)).version, "v1");
        drop(held);
        assert_eq!(&*of(&version(1001)).version, "v1001", "there is room once the others are gone");
        assert!(Arc::ptr_eq(&first, &of(&version(0))));
    }
}
