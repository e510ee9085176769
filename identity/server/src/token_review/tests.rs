//! Answers of API servers, good and odd, and an API server that can't be asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::client::Body;
use serde_json::{Value, from_value, json, to_vec};

use super::*;

const TOKEN: &str = "aGVhZGVy.cGF5bG9hZA.c2lnbmF0dXJl";

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": [TOKEN_AUDIENCE],
        "user": {
            "username": "system:serviceaccount:shop:cart",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["cart-7d4b"],
                "authentication.kubernetes.io/pod-uid": ["1f0e"],
            },
        },
    })
}

fn judged(status: Value) -> Result<Proven, AuthenticationError> {
    judge(from_value(status).unwrap(), &trust_domain())
}

fn without(key: &str, value: Value) -> Value {
    let mut status = good();
    status[key] = value;
    status
}

/// A reviewer whose API server answers so; also counts the questions.
fn reviewer(code: u16, answer: Value) -> (TokenReviewer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (count, answer) = (count.clone(), answer.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let review: TokenReview = serde_json::from_slice(&request.into_body().collect_bytes().await?)?;
            assert_eq!(review.spec, question(TOKEN).spec);
            let body = Body::from(to_vec(&answer)?);
            Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
        }
    });
    (TokenReviewer::new(Client::new(service, "mesh-system"), trust_domain()), asked)
}

#[test]
fn a_good_answer_names_account_and_pod() {
    let proven = judged(good()).unwrap();
    assert_eq!(proven.id.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(proven.pod, Some(Pod { name: "cart-7d4b".to_owned(), uid: Some("1f0e".to_owned()) }));
    assert_eq!(judged(without("user", json!({"username": "system:serviceaccount:a:b"}))).unwrap().pod, None);
}

#[test]
fn anything_less_proves_nothing() {
    let rejected = judged(json!({"authenticated": false, "error": "token has expired\n"})).unwrap_err();
    assert!(matches!(&rejected, AuthenticationError::Rejected(words) if words == "token has expired"), "{rejected}");
    assert!(matches!(judged(json!({})).unwrap_err(), AuthenticationError::Rejected(_)));
    for audiences in [json!(null), json!([]), json!(["https://kubernetes.default.svc"])] {
        let error = judged(without("audiences", audiences)).unwrap_err();
        assert!(matches!(error, AuthenticationError::WrongAudience), "{error}");
    }
    for name in ["", "admin", "system:node:a", "system:serviceaccount:a", "system:serviceaccount::b"] {
        let error = judged(without("user", json!({"username": name}))).unwrap_err();
        assert!(matches!(error, AuthenticationError::NotAServiceAccount), "{name}: {error}");
    }
    let sly = without("user", json!({"username": "system:serviceaccount:shop/sa/admin:x"}));
    assert!(matches!(judged(sly).unwrap_err(), AuthenticationError::NotAServiceAccount));
}

#[tokio::test]
async fn the_api_server_is_asked_about_tokens_and_nothing_else() {
    let (reviewer, asked) = reviewer(201, json!({"spec": {}, "status": good()}));
    reviewer.review(&format!("{TOKEN}\n")).await.unwrap();
    let huge = format!("a.b.{}", "c".repeat(MAX_TOKEN_BYTES));
    for junk in ["", "junk", "a.b", "a..c", "a.b.c.d", "a.b.c d", "a.b.\u{e9}", &huge] {
        assert!(matches!(reviewer.review(junk).await.unwrap_err(), AuthenticationError::Malformed), "{junk:.20}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_api_server_that_refuses_is_not_the_clients_fault() {
    let forbidden = json!({"kind": "Status", "status": "Failure", "code": 403, "message": "tokenreviews is forbidden"});
    let (reviewer, _) = reviewer(403, forbidden);
    let error = reviewer.review(TOKEN).await.unwrap_err();
    assert!(matches!(&error, AuthenticationError::CannotAsk(words) if words.contains("RBAC")), "{error}");
}
