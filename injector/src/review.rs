//! AdmissionReview (`admission.k8s.io/v1`): the question as far as we read it, and our answer.
//!
//! Read leniently where it does not matter, so that an API server of another version is understood; what can't be
//! understood gets an answer that says so.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::quoted::quoted;

/// What the API server asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Answered with the same.
    pub uid: String,
    /// What the object is.
    pub kind: Kind,
    /// Its namespace; empty for objects without one.
    #[serde(default)]
    pub namespace: String,
    /// What happens to it: `CREATE`, `UPDATE` …
    #[serde(default)]
    pub operation: String,
    /// The object as it would be stored; null when it goes.
    #[serde(default)]
    pub object: Value,
    /// Nothing outside of the answer may come of it.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// Where it came from: not for itself to say.
    #[serde(skip)]
    pub source: Option<IpAddr>,
}

/// Group, version and kind.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Kind {
    /// Empty for the oldest kinds.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
}

/// What we answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Why the object is refused, as HTTP status and sentence; nothing where it is not.
    pub refusal: Option<(u16, String)>,
    /// What to change.
    pub patch: Option<json_patch::Patch>,
    /// Sentences that kubectl shows.
    pub warnings: Vec<String>,
    /// A word for the audit log.
    pub outcome: &'static str,
}

/// Why there is no question in a body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or fields of other types.
    #[error("the body is not an AdmissionReview: {0}")]
    Json(String),
    /// Something else, or another version.
    #[error("the body is {found}, and not an AdmissionReview of {API_VERSION}")]
    Other {
        /// What it says it is.
        found: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

impl Question {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Review {
            #[serde(default)]
            api_version: String,
            #[serde(default)]
            kind: String,
            #[serde(default)]
            request: Option<Value>,
        }
        let json = |error: serde_json::Error| Malformed::Json(error.to_string());
        let review: Review = serde_json::from_slice(body).map_err(json)?;
        if review.kind != KIND || review.api_version != API_VERSION {
            let found = format!("{} of {}", quoted(&review.kind), quoted(&review.api_version));
            return Err(Malformed::Other { found });
        }
        serde_json::from_value(review.request.ok_or(Malformed::NoRequest)?).map_err(json)
    }

    /// Whether nothing but the answer may come of it.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run == Some(true)
    }
}

impl Answer {
    /// The object may go on as it is.
    pub fn unchanged(outcome: &'static str) -> Self {
        Self { outcome, ..Self::default() }
    }

    /// The object may not be stored.
    pub fn refused(outcome: &'static str, status: u16, message: impl Into<String>) -> Self {
        Self { outcome, refusal: Some((status, message.into())), ..Self::default() }
    }

    /// The review to send back.
    pub fn review(&self, uid: &str) -> Value {
        let mut response = json!({
            "uid": uid,
            "allowed": self.refusal.is_none(),
            "auditAnnotations": {"outcome": self.outcome},
        });
        if let Some((code, message)) = &self.refusal {
            response["status"] = json!({"code": code, "message": message});
        }
        if let Some(patch) = self.patch.as_ref().filter(|patch| !patch.0.is_empty()) {
            let patch = serde_json::to_vec(patch).expect("operations made of JSON always encode");
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch).into();
        }
        if !self.warnings.is_empty() {
            response["warnings"] = self.warnings.clone().into();
        }
        json!(Review { api_version: API_VERSION, kind: KIND, response })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: &'static str,
    kind: &'static str,
    response: Value,
}

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
