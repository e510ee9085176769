//! The call itself: judge the token, sign the request, count and log what came of it. Never the token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use controller_runtime::incoming::Peer;
use identity::{InvalidRequest, IssueError, SpiffeId, TokenError, TrustDomain};
use proto::identity::identity_server::Identity;
use proto::identity::{CertifyRequest, CertifyResponse};
use tonic::{Code, Request, Response, Status};

use crate::authenticate::{AuthenticationError, Authenticator, Proven};
use crate::authority::Current;
use crate::dns_names::dns_names;
use crate::limit::{Limits, UsedUp};
use crate::metrics::{Metrics, seconds};

/// The identity service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) authenticator: Authenticator,
    pub(crate) authority: Arc<ArcSwap<Current>>,
    pub(crate) trust_domain: TrustDomain,
    /// Where the control plane lives.
    pub(crate) system_namespace: String,
    pub(crate) leaf_lifetime: Duration,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
}

/// What came of a request; the label of `mesh_identity_certificates_issued_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Issued,
    TokenExpired,
    TokenForeign,
    TokenWrongAudience,
    TokenMalformed,
    TokenRejected,
    TokenUnchecked,
    OtherTrustDomain,
    RequestForOther,
    RequestInvalid,
    IssuerExpired,
    IssuerUnpublished,
    Overloaded,
    Internal,
}

impl Outcome {
    pub(crate) const ALL: [Self; 14] = [
        Self::Issued,
        Self::TokenExpired,
        Self::TokenForeign,
        Self::TokenWrongAudience,
        Self::TokenMalformed,
        Self::TokenRejected,
        Self::TokenUnchecked,
        Self::OtherTrustDomain,
        Self::RequestForOther,
        Self::RequestInvalid,
        Self::IssuerExpired,
        Self::IssuerUnpublished,
        Self::Overloaded,
        Self::Internal,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::TokenExpired => "token_expired",
            Self::TokenForeign => "token_foreign",
            Self::TokenWrongAudience => "token_wrong_audience",
            Self::TokenMalformed => "token_malformed",
            Self::TokenRejected => "token_rejected",
            Self::TokenUnchecked => "token_unchecked",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::RequestForOther => "request_for_other",
            Self::RequestInvalid => "request_invalid",
            Self::IssuerExpired => "issuer_expired",
            Self::IssuerUnpublished => "issuer_unpublished",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }
}

/// A request that got no certificate.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Token(#[from] AuthenticationError),
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain { id: SpiffeId, trust_domain: TrustDomain },
    #[error("{error}")]
    Issue { id: SpiffeId, error: IssueError },
    #[error("the issuer's root is new and still being published: try again in a minute or two, or at another replica")]
    Unpublished { id: SpiffeId },
    #[error("{id} asked for too many certificates, try again in a moment")]
    TooOften { id: SpiffeId },
    #[error(
        "too many requests of this address, try again in a moment; where pods share it, set controlPlane.podsPerAddress"
    )]
    Crowded,
    #[error("too many requests at once, try again in a moment")]
    Overloaded,
}

impl Refusal {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Token(error) => token_outcome(error),
            Self::TrustDomain { .. } => Outcome::OtherTrustDomain,
            Self::Issue { error: IssueError::Request(InvalidRequest::OtherIdentity { .. }), .. } => {
                Outcome::RequestForOther
            }
            Self::Issue { error: IssueError::Request(_), .. } => Outcome::RequestInvalid,
            Self::Issue { error: IssueError::IssuerExpired { .. } | IssueError::IssuerNotYetValid, .. } => {
                Outcome::IssuerExpired
            }
            Self::Issue { error: IssueError::Signing(_), .. } => Outcome::Internal,
            Self::Unpublished { .. } => Outcome::IssuerUnpublished,
            Self::TooOften { .. } | Self::Crowded | Self::Overloaded => Outcome::Overloaded,
        }
    }

    fn code(&self) -> Code {
        match self.outcome() {
            Outcome::TokenExpired
            | Outcome::TokenForeign
            | Outcome::TokenWrongAudience
            | Outcome::TokenMalformed
            | Outcome::TokenRejected => Code::Unauthenticated,
            Outcome::TokenUnchecked | Outcome::IssuerUnpublished => Code::Unavailable,
            Outcome::OtherTrustDomain | Outcome::RequestForOther => Code::PermissionDenied,
            Outcome::RequestInvalid => Code::InvalidArgument,
            Outcome::IssuerExpired => Code::FailedPrecondition,
            Outcome::Overloaded => Code::ResourceExhausted,
            Outcome::Issued | Outcome::Internal => Code::Internal,
        }
    }

    fn is_the_clients_fault(&self) -> bool {
        matches!(self.code(), Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument)
    }

    /// Who asked, as far as it is known.
    fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::TrustDomain { id, .. }
            | Self::Issue { id, .. }
            | Self::Unpublished { id }
            | Self::TooOften { id } => Some(id),
            Self::Token(_) | Self::Crowded | Self::Overloaded => None,
        }
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let ip = peer.as_ref().map(|peer| peer.address.ip());
        let (peer, certificate) = peer.map(|peer| (peer.address.to_string(), peer.id)).unwrap_or_default();
        let token = self.limits.token(&request.get_ref().token);
        if self.limits.is_shut_out(ip, token, Instant::now()) {
            self.metrics.outcome(Outcome::Overloaded);
            return Err(Status::resource_exhausted("too many requests of yours were refused, try again in a moment"));
        }
        match self.answer(&request.into_inner(), (&peer, ip), certificate).await {
            Ok(response) => {
                self.metrics.outcome(Outcome::Issued);
                Ok(Response::new(response))
            }
            Err(refusal) => {
                let (outcome, id) = (refusal.outcome(), refusal.id().map(SpiffeId::as_str).unwrap_or_default());
                self.metrics.outcome(outcome);
                if refusal.is_the_clients_fault() {
                    self.limits.failed(ip, token, Instant::now());
                }
                if self.limits.take_line(Instant::now()) {
                    tracing::warn!(peer, id, result = outcome.as_str(), error = %refusal, "certificate refused");
                }
                Err(Status::new(refusal.code(), refusal.to_string()))
            }
        }
    }
}

impl Service {
    async fn answer(
        &self,
        request: &CertifyRequest,
        (peer, ip): (&str, Option<IpAddr>),
        certificate: Option<SpiffeId>,
    ) -> Result<CertifyResponse, Refusal> {
        self.limits.take(ip, Instant::now()).map_err(|used_up| match used_up {
            UsedUp::Address => Refusal::Crowded,
            UsedUp::All => Refusal::Overloaded,
        })?;
        let now = SystemTime::now();
        let certificate = certificate.filter(|_| self.authenticator.accepts_certificates());
        let (proven, proof) = match (self.authenticator.authenticate(&request.token, now).await, certificate) {
            (Ok(proven), _) => (proven, "token"),
            (Err(_), Some(id)) => (Proven { id, pod: None }, "certificate"),
            (Err(error), None) => return Err(error.into()),
        };
        let workload = proven.workload();
        let Proven { id, pod } = proven;
        if id.trust_domain() != self.trust_domain.as_str() {
            return Err(Refusal::TrustDomain { id, trust_domain: self.trust_domain.clone() });
        }
        if !self.limits.take_for(workload, Instant::now()) {
            return Err(Refusal::TooOften { id });
        }
        let current = self.authority.load();
        if !current.may_sign {
            return Err(Refusal::Unpublished { id });
        }
        let names = dns_names(&id, &self.trust_domain, &self.system_namespace);
        let issued = match current.issuer.issue_named(&request.csr, &id, &names, self.leaf_lifetime, now) {
            Ok(issued) => issued,
            Err(error) => return Err(Refusal::Issue { id, error }),
        };
        let not_after = seconds(issued.not_after);
        let pod = pod.as_ref().map(|pod| pod.name.as_str());
        tracing::info!(peer, id = id.as_str(), pod, proof, not_after, "certificate issued");
        Ok(CertifyResponse {
            chain: issued.chain.into_iter().map(|certificate| certificate.to_vec().into()).collect(),
            not_after,
            bundle: current.bundle_pem.clone(),
        })
    }
}

fn token_outcome(error: &AuthenticationError) -> Outcome {
    match error {
        AuthenticationError::JoinToken(TokenError::Expired) => Outcome::TokenExpired,
        AuthenticationError::JoinToken(TokenError::ForeignKey) => Outcome::TokenForeign,
        AuthenticationError::JoinToken(TokenError::WrongAudience) | AuthenticationError::WrongAudience => {
            Outcome::TokenWrongAudience
        }
        AuthenticationError::JoinToken(TokenError::Malformed | TokenError::Subject)
        | AuthenticationError::Malformed
        | AuthenticationError::NotAServiceAccount => Outcome::TokenMalformed,
        AuthenticationError::Rejected(_) => Outcome::TokenRejected,
        AuthenticationError::CannotAsk(_) => Outcome::TokenUnchecked,
    }
}

#[cfg(test)]
mod tests;
