//! Who is asking: the one place that turns a token into an identity.

use std::time::SystemTime;

use identity::{SpiffeId, TokenError, TokenVerifier};

use crate::token_review::TokenReviewer;

/// What vouches for those who ask.
#[derive(Debug)]
pub enum Authenticator {
    /// Join tokens, where there is no Kubernetes.
    JoinToken(TokenVerifier),
    /// The API server, for its ServiceAccounts' tokens.
    TokenReview(TokenReviewer),
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    /// Whose it is.
    pub(crate) id: SpiffeId,
    /// The pod it is bound to, where that is known.
    pub(crate) pod: Option<Pod>,
}

/// A pod as the API server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// For people: pods of other namespaces may have the same.
    pub(crate) name: String,
    /// What no other pod has, in this namespace or another, now or later.
    pub(crate) uid: Option<String>,
}

impl Proven {
    /// Who asks, as no other workload is called: nobody may use up what is another's by taking its name.
    pub(crate) fn workload(&self) -> Workload {
        match &self.pod {
            Some(Pod { uid: Some(uid), .. }) => Workload::Pod(uid.clone()),
            Some(Pod { name, uid: None }) => Workload::Named(self.id.namespace().to_owned(), name.clone()),
            None => Workload::Account(self.id.clone()),
        }
    }
}

/// Whose share of the certificates a request counts towards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Workload {
    /// A pod, by its uid.
    Pod(String),
    /// A pod whose uid is not known, by namespace and name.
    Named(String, String),
    /// All that is known is the identity.
    Account(SpiffeId),
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// A join token that is refused.
    #[error(transparent)]
    JoinToken(#[from] TokenError),
    /// Not a ServiceAccount token by its looks.
    #[error("the token is not a ServiceAccount token")]
    Malformed,
    /// The API server says no.
    #[error("the API server does not accept the token: {0}")]
    Rejected(String),
    /// It is meant for others.
    #[error("the token is for another audience; the pod's token volume must name {}", proto::names::TOKEN_AUDIENCE)]
    WrongAudience,
    /// A token of a user or a node.
    #[error("the token is not of a ServiceAccount whose names fit a SPIFFE id")]
    NotAServiceAccount,
    /// There is no answer; not the asker's fault.
    #[error("the API server could not be asked about the token, try again: {0}")]
    CannotAsk(String),
}

impl Authenticator {
    /// The identity a token proves.
    pub(crate) async fn authenticate(&self, token: &str, now: SystemTime) -> Result<Proven, AuthenticationError> {
        match self {
            Self::JoinToken(verifier) => Ok(Proven { id: verifier.verify(token, now)?, pod: None }),
            Self::TokenReview(reviewer) => reviewer.review(token).await,
        }
    }

    /// Whether a certificate that still lives is as good as a token. With join tokens it must be: they are good for
    /// minutes, and nobody writes new ones for a machine that runs for months. Kubernetes renews its tokens, and knows
    /// when their pod or account is gone.
    pub(crate) fn accepts_certificates(&self) -> bool {
        match self {
            Self::JoinToken(_) => true,
            Self::TokenReview(_) => false,
        }
    }
}
