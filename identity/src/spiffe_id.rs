//! SPIFFE ids of workloads, as the SPIFFE ID standard (§2) writes them and Kubernetes meshes use them:
//! `spiffe://<trust-domain>/ns/<namespace>/sa/<service account>`.
//!
//! The parser refuses what the standard refuses (upper case in the trust domain, ports, queries, percent-encoding,
//! empty and dot segments), so two spellings of one identity can't exist, and equality of text is equality of identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The identity of a workload. Cheap to clone; ordered and compared as its text.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

impl SpiffeId {
    /// The identity of a service account of a namespace.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}").parse()
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.trust_domain_end) + NAMESPACE.len()..usize::from(self.namespace_end)]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + SERVICE_ACCOUNT.len()..]
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').ok_or(InvalidSpiffeId::NotAWorkload)?);
        check_trust_domain(trust_domain)?;
        let (namespace, service_account) = path
            .strip_prefix(NAMESPACE)
            .and_then(|names| names.split_once(SERVICE_ACCOUNT))
            .ok_or(InvalidSpiffeId::NotAWorkload)?;
        check_segment(namespace)?;
        check_segment(service_account)?;
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        let offset = |end: usize| u16::try_from(end).map_err(|_| InvalidSpiffeId::TooLong);
        Ok(Self {
            text: text.into(),
            trust_domain_end: offset(trust_domain_end)?,
            namespace_end: offset(namespace_end)?,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a trust domain, such as `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(name: &str) -> Result<Self, InvalidSpiffeId> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not the SPIFFE id of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Over 2048 bytes (SPIFFE ID §2.3).
    #[error("a SPIFFE id has at most {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("a SPIFFE id begins with spiffe:// in lower case")]
    Scheme,
    /// Empty, over 255 bytes, or with characters that are not allowed.
    #[error("a trust domain has 1 to {MAX_TRUST_DOMAIN_BYTES} characters of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// Another shape than `/ns/<namespace>/sa/<service account>`.
    #[error("a workload's SPIFFE id has the path /ns/<namespace>/sa/<service account>")]
    NotAWorkload,
    /// Empty, `.` or `..`, or with characters that are not allowed.
    #[error("a path segment of a SPIFFE id has characters of a-z, A-Z, 0-9, '.', '-' and '_', and is not '.' or '..'")]
    Segment,
}

fn check_trust_domain(name: &str) -> Result<(), InvalidSpiffeId> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if name.is_empty() || name.len() > MAX_TRUST_DOMAIN_BYTES || !name.bytes().all(allowed) {
        return Err(InvalidSpiffeId::TrustDomain);
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(allowed) {
        return Err(InvalidSpiffeId::Segment);
    }
    Ok(())
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";
const MAX_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        let made = SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", "cart").unwrap();
        assert_eq!(made, id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
    }

    #[test]
    fn namespaces_called_like_the_markers() {
        let id: SpiffeId = "spiffe://td/ns/sa/sa/ns".parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), ("sa", "ns"));
    }

    #[test]
    fn refusals() {
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(2048));
        let wide = format!("spiffe://{}/ns/a/sa/b", "t".repeat(256));
        for (text, error) in [
            ("", InvalidSpiffeId::Scheme),
            ("https://td/ns/a/sa/b", InvalidSpiffeId::Scheme),
            ("SPIFFE://td/ns/a/sa/b", InvalidSpiffeId::Scheme),
            ("spiffe:///ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://Td/ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://td:80/ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://user@td/ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://td", InvalidSpiffeId::NotAWorkload),
            ("spiffe://td/", InvalidSpiffeId::NotAWorkload),
            ("spiffe://td/ns/a", InvalidSpiffeId::NotAWorkload),
            ("spiffe://td/workload", InvalidSpiffeId::NotAWorkload),
            ("spiffe://td//ns/a/sa/b", InvalidSpiffeId::NotAWorkload),
            ("spiffe://td/ns/a/sa/", InvalidSpiffeId::Segment),
            ("spiffe://td/ns//sa/b", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/../sa/b", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b/", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b/sa/c", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b?x=1", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b#x", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/%62", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/bä", InvalidSpiffeId::Segment),
            (long.as_str(), InvalidSpiffeId::TooLong),
            (wide.as_str(), InvalidSpiffeId::TrustDomain),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text}");
        }
    }
}
