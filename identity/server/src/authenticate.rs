//! Who is asking: the one place that turns a token into an identity.

use std::time::SystemTime;

use identity::{SpiffeId, TokenError, TokenVerifier};

/// What vouches for those who ask.
#[derive(Debug)]
pub enum Authenticator {
    /// Join tokens, where there is no Kubernetes.
    JoinToken(TokenVerifier),
}

impl Authenticator {
    /// The identity a token proves. Async because others than join tokens have to ask somebody.
    pub(crate) async fn authenticate(&self, token: &str, now: SystemTime) -> Result<SpiffeId, TokenError> {
        match self {
            Self::JoinToken(verifier) => verifier.verify(token, now),
        }
    }

    /// Whether a certificate that still lives is as good as a token. With join tokens it must be: they are good for
    /// minutes, and nobody writes new ones for a machine that runs for months.
    pub(crate) fn accepts_certificates(&self) -> bool {
        match self {
            Self::JoinToken(_) => true,
        }
    }
}
