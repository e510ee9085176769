//! Certificates as Kubernetes objects hold them: who is the issuer, how long, and do all copies of the bundle agree?

use std::cmp::Reverse;
use std::collections::BTreeMap;

use identity::TrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use proto::names;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::table;

use super::fetch::{Fetched, Replica};
use super::{Lines, some};

/// The issuer: there, valid, and not about to end, as those who sign with it say.
pub fn issuer(secret: &Fetched<bool>, replicas: &[Replica], now_ms: u64, lines: &mut Lines) {
    match secret {
        Err(why) => {
            lines.warning(
                "issuer",
                format!("it is not known whether there is an issuer {SECRET}: {why}"),
                "kubectl auth can-i get secrets -n mesh-system",
            );
        }
        Ok(false) => return lines.failed("issuer", format!("there is no issuer: Secret {SECRET} is missing"), LOGS),
        Ok(true) => {}
    }
    let mut known: Vec<Validity> = replicas.iter().filter_map(|replica| replica.issuer).collect();
    known.sort_unstable_by_key(|issuer| issuer.not_after_ms);
    let Some(issuer) = known.first() else {
        return lines.passing("issuer", "no replica of mesh-identity says how long its issuer lasts", LOGS);
    };
    let text = format!("the issuer's certificate {}", issuer.lasts(now_ms));
    match issuer.end(now_ms) {
        End::Over => lines.failed("issuer", format!("{text}: nobody gets a certificate"), NEW_ISSUER),
        End::NotYet => lines.failed("issuer", text, "look at the clocks: meshctl check --pre"),
        End::Valid if issuer.soon(now_ms) => lines.warning("issuer", text, NEW_ISSUER),
        End::Valid => lines.passed("issuer", text),
    }
}

/// Every namespace with pods of the mesh has the bundle, and all have the same. Returns the bundle.
pub fn bundles(
    config_maps: &Fetched<Vec<ConfigMap>>,
    needed: &[String],
    now_ms: u64,
    lines: &mut Lines,
) -> Option<TrustBundle> {
    let config_maps = match config_maps {
        Err(why) => {
            lines.warning(
                "bundle",
                format!("trust bundles may not be read: {why}"),
                "kubectl auth can-i list configmaps -A",
            );
            return None;
        }
        Ok(config_maps) => config_maps,
    };
    let mut read: BTreeMap<String, TrustBundle> = BTreeMap::new();
    let mut broken = Vec::new();
    for config_map in config_maps {
        let namespace = config_map.namespace().unwrap_or_default();
        let pem = config_map.data.as_ref().and_then(|data| data.get(names::BUNDLE_KEY));
        match pem.map(|pem| TrustBundle::from_pem(pem.as_bytes())) {
            Some(Ok(bundle)) => {
                read.insert(namespace, bundle);
            }
            _ => broken.push(namespace),
        }
    }
    let missing: Vec<String> = needed.iter().filter(|namespace| !read.contains_key(*namespace)).cloned().collect();
    if !missing.is_empty() {
        let what = if missing.iter().any(|namespace| broken.contains(namespace)) { "no readable" } else { "no" };
        lines.failed("bundle", format!("{what} trust bundle in namespace {}", some(&missing)), LOGS);
    }
    // The one in force is what mesh-identity keeps beside itself, else what most have: one namespace that lags is told apart
    // from all others being wrong.
    let current = read.get(names::SYSTEM_NAMESPACE).cloned().or_else(|| most(read.values()))?;
    let other: Vec<String> = read
        .iter()
        .filter(|(_, bundle)| bundle.fingerprint() != current.fingerprint())
        .map(|(name, _)| name.clone())
        .collect();
    if !other.is_empty() {
        lines.failed(
            "bundle",
            format!("the trust bundle of namespace {} is not that of the others", some(&other)),
            LOGS,
        );
    }
    if missing.is_empty() && other.is_empty() {
        let anchors: Vec<Validity> = current.certificates().iter().filter_map(|der| validity(der)).collect();
        anchor_ends(&anchors, read.len(), now_ms, lines);
    }
    Some(current)
}

fn anchor_ends(anchors: &[Validity], namespaces: usize, now_ms: u64, lines: &mut Lines) {
    let hint = "put a new ca.crt into Secret mesh-system/mesh-issuer well before; proxies follow without a restart";
    let over = anchors.iter().filter(|anchor| anchor.end(now_ms) != End::Valid).count();
    let Some(last) = anchors.iter().max_by_key(|anchor| anchor.not_after_ms) else { return };
    if over == anchors.len() {
        lines.failed("bundle", format!("no trust anchor is valid, the last {}", last.lasts(now_ms)), hint);
    } else if last.soon(now_ms) {
        lines.warning("bundle", format!("the last trust anchor {}", last.lasts(now_ms)), hint);
    } else {
        let text = format!(
            "{} with the same trust bundle, whose last anchor {}",
            super::many(namespaces, "namespace"),
            last.lasts(now_ms)
        );
        lines.passed("bundle", text);
    }
}

/// The bundle in force as far as these tell.
pub fn current(config_maps: &[ConfigMap]) -> Option<TrustBundle> {
    let read = |map: &ConfigMap| TrustBundle::from_pem(map.data.as_ref()?.get(names::BUNDLE_KEY)?.as_bytes()).ok();
    let own = config_maps.iter().find(|map| map.namespace().as_deref() == Some(names::SYSTEM_NAMESPACE));
    own.and_then(read).or_else(|| most(config_maps.iter().filter_map(read).collect::<Vec<_>>().iter()))
}

/// What most have; of several that as many have, that of the first, so that a tie is answered alike each time.
fn most<'b>(bundles: impl Iterator<Item = &'b TrustBundle>) -> Option<TrustBundle> {
    let mut counts: Vec<(usize, &TrustBundle)> = Vec::new();
    for bundle in bundles {
        match counts.iter_mut().find(|(_, known)| known.fingerprint() == bundle.fingerprint()) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, bundle)),
        }
    }
    let (_, bundle) = counts.into_iter().min_by_key(|(count, _)| Reverse(*count))?;
    Some(bundle.clone())
}

/// When a certificate is valid, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    not_before_ms: u64,
    not_after_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Valid,
    NotYet,
    Over,
}

impl Validity {
    /// Both in milliseconds since 1970.
    pub fn new(not_before_ms: u64, not_after_ms: u64) -> Self {
        Self { not_before_ms, not_after_ms }
    }

    fn end(self, now_ms: u64) -> End {
        match now_ms {
            now if now < self.not_before_ms => End::NotYet,
            now if now >= self.not_after_ms => End::Over,
            _ => End::Valid,
        }
    }

    /// Less than 30 days left, or less than a quarter of a short life.
    fn soon(self, now_ms: u64) -> bool {
        let life = self.not_after_ms.saturating_sub(self.not_before_ms);
        self.not_after_ms.saturating_sub(now_ms) < (life / 4).min(SOON_MS)
    }

    fn lasts(self, now_ms: u64) -> String {
        match self.end(now_ms) {
            End::Valid => format!("ends in {}", table::span(self.not_after_ms - now_ms)),
            End::NotYet => format!("begins in {} only", table::span(self.not_before_ms - now_ms)),
            End::Over => format!("ended {} ago", table::span(now_ms - self.not_after_ms)),
        }
    }
}

fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let milliseconds = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    Some(Validity {
        not_before_ms: milliseconds(certificate.validity().not_before.timestamp()),
        not_after_ms: milliseconds(certificate.validity().not_after.timestamp()),
    })
}

const SECRET: &str = "mesh-system/mesh-issuer";
const SOON_MS: u64 = 30 * 24 * 3_600_000;
const LOGS: &str = "kubectl -n mesh-system logs deploy/mesh-identity";
const NEW_ISSUER: &str = "put a new tls.crt, tls.key and ca.crt into Secret mesh-system/mesh-issuer";
