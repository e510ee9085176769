//! Kubernetes' word on a ServiceAccount token: TokenReview (authentication.k8s.io/v1), asked for every certificate.
//!
//! Nothing is remembered. A pod asks a few times a day, so a memory would save nothing, and a token of a deleted pod
//! would go on proving what is no longer true. What is plainly no token is refused without asking, and only so many
//! questions are open at once: a crowd must not become the API server's crowd.

use std::time::Duration;

use controller_runtime::kubernetes::describe;
use identity::{SpiffeId, TrustDomain};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use proto::names::TOKEN_AUDIENCE;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::authenticate::{AuthenticationError, Pod, Proven};

/// Asks the API server.
pub struct TokenReviewer {
    api: Api<TokenReview>,
    trust_domain: TrustDomain,
    open: Semaphore,
}

impl TokenReviewer {
    /// Identities get `trust_domain`: Kubernetes knows namespace and account only.
    pub fn new(client: Client, trust_domain: TrustDomain) -> Self {
        Self { api: Api::all(client), trust_domain, open: Semaphore::new(OPEN_REVIEWS) }
    }

    pub(crate) async fn review(&self, token: &str) -> Result<Proven, AuthenticationError> {
        let token = token.trim_ascii();
        if !looks_like_a_token(token) {
            return Err(AuthenticationError::Malformed);
        }
        let reviewed = timeout(PATIENCE, async {
            let _permit = self.open.acquire().await;
            self.api.create(&PostParams::default(), &question(token)).await
        });
        let review = match reviewed.await {
            Ok(Ok(review)) => review,
            Ok(Err(error)) => return Err(AuthenticationError::CannotAsk(describe(&error))),
            Err(_) => return Err(AuthenticationError::CannotAsk("it took too long to answer".to_owned())),
        };
        judge(review.status.unwrap_or_default(), &self.trust_domain)
    }
}

impl std::fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviewer").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

fn question(token: &str) -> TokenReview {
    let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
    TokenReview { spec, ..TokenReview::default() }
}

/// A JWT in compact form (RFC 7515 §3.1), judged by its looks.
fn looks_like_a_token(token: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3 && token.split('.').all(part)
}

/// What the API server's answer proves.
fn judge(status: TokenReviewStatus, trust_domain: &TrustDomain) -> Result<Proven, AuthenticationError> {
    if status.authenticated != Some(true) {
        // The server's words name the reason (expired, another audience, the pod is gone), never the token.
        let words = status.error.unwrap_or_default();
        let words: String = words.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_WORDS).collect();
        return Err(AuthenticationError::Rejected(if words.is_empty() { "no reason given".to_owned() } else { words }));
    }
    // A server that knows nothing of audiences answers none: then the token may be meant for anybody.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(AuthenticationError::WrongAudience);
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix(ACCOUNT_PREFIX).and_then(|account| account.split_once(':'));
    let id = account.and_then(|(namespace, account)| SpiffeId::new(trust_domain, namespace, account).ok());
    let id = id.ok_or(AuthenticationError::NotAServiceAccount)?;
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty()).cloned();
    let pod = first(POD_NAME).map(|name| Pod { name, uid: first(POD_UID) });
    Ok(Proven { id, pod })
}

const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const OPEN_REVIEWS: usize = 64;
/// Less than the caller waits, so that it hears the reason.
const PATIENCE: Duration = Duration::from_secs(6);
const MAX_TOKEN_BYTES: usize = 16 << 10;
const MAX_SHOWN_WORDS: usize = 512;

#[cfg(test)]
mod tests;
