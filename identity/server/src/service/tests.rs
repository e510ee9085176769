//! The service behind an API server that vouches for whatever pod a token names.

use identity::{Issuer, KeyAndRequest};
use kube::Client;
use kube::client::Body;
use proto::names::TOKEN_AUDIENCE;
use serde_json::{Value, json, to_vec};

use super::*;
use crate::token_review::TokenReviewer;

/// What stands for a token: `namespace.pod.uid-`.
fn reviewed(token: &str) -> Value {
    let [namespace, pod, uid] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let user = json!({
        "username": format!("system:serviceaccount:{namespace}:redis"),
        "extra": {
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [uid.trim_end_matches('-')],
        },
    });
    json!({"spec": {}, "status": {"authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": user}})
}

fn service() -> Service {
    let answer = tower::service_fn(|request: http::Request<Body>| async move {
        let review: Value = serde_json::from_slice(&request.into_body().collect_bytes().await?)?;
        let body = Body::from(to_vec(&reviewed(review["spec"]["token"].as_str().unwrap()))?);
        Ok::<_, tower::BoxError>(http::Response::builder().status(201).body(body)?)
    });
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let reviewer = TokenReviewer::new(Client::new(answer, "mesh-system"), trust_domain.clone());
    let issuer = Issuer::create(&trust_domain, SystemTime::now()).unwrap().0;
    let bundle = Arc::new(issuer.bundle().clone());
    let current = Current { issuer: Arc::new(issuer), bundle, bundle_pem: String::new(), may_sign: true };
    Service {
        authenticator: Authenticator::TokenReview(reviewer),
        authority: Arc::new(ArcSwap::from_pointee(current)),
        trust_domain,
        system_namespace: "mesh-system".to_owned(),
        leaf_lifetime: Duration::from_secs(3600),
        limits: Limits::new(Some(1), Instant::now()),
        metrics: Metrics::default(),
    }
}

impl Service {
    /// What a pod at an address is answered.
    async fn asked(&self, address: [u8; 4], namespace: &str, pod: &str, uid: &str) -> Outcome {
        let id: SpiffeId = format!("spiffe://cluster.local/ns/{namespace}/sa/redis").parse().unwrap();
        let csr = KeyAndRequest::new(&id).unwrap().csr().to_vec();
        let request = CertifyRequest { csr: csr.into(), token: format!("{namespace}.{pod}.{uid}-") };
        match self.answer(&request, ("", Some(address.into())), None).await {
            Ok(_) => Outcome::Issued,
            Err(refusal) => refusal.outcome(),
        }
    }
}

#[tokio::test]
async fn a_pod_of_the_same_name_uses_up_nobody_elses_certificates() {
    let service = service();
    let mut evil = Vec::new();
    while evil.last() != Some(&Outcome::Overloaded) && evil.len() < 100 {
        evil.push(service.asked([10, 0, 0, 1], "evil", "redis-0", "1f0e").await);
    }
    assert!((10..20).contains(&evil.len()), "{evil:?}");
    assert_eq!(service.asked([10, 0, 0, 2], "shop", "redis-0", "2f0e").await, Outcome::Issued);
    // Nor does the pod that comes after it under its name, or one whose uid an API server does not tell.
    assert_eq!(service.asked([10, 0, 0, 3], "evil", "redis-0", "3f0e").await, Outcome::Issued);
    assert_eq!(service.asked([10, 0, 0, 4], "shop", "redis-0", "").await, Outcome::Issued);
}

#[tokio::test]
async fn a_hundred_namespaces_that_run_the_same_are_served_at_once() {
    let service = service();
    for n in 0..100 {
        let (namespace, uid) = (format!("tenant-{n}"), format!("{n:04x}"));
        assert_eq!(service.asked([10, 0, 1, n], &namespace, "redis-0", &uid).await, Outcome::Issued, "{namespace}");
        assert_eq!(service.asked([10, 0, 2, n], &namespace, "redis-0", "").await, Outcome::Issued, "{namespace}");
    }
}
