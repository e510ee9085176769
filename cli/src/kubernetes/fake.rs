//! An API server for tests: real HTTP on loopback, and a function that answers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Cluster;

/// Serves what `answer` says to method, path with query, and body: status and body.
pub(crate) async fn serve(answer: impl Fn(&str, &str, Value) -> (u16, Value) + Send + Sync + 'static) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap_or_default();
                    let (code, body) = answer(head.method.as_str(), &head.uri.to_string(), body);
                    let response = Response::builder().status(code).header("content-type", "application/json");
                    Ok::<_, hyper::Error>(response.body(Full::<Bytes>::from(body.to_string())).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let client = Client::try_from(kube::Config::new(server.parse().unwrap())).unwrap();
    let version = Info { git_version: "v1.34.4".to_owned(), ..Info::default() };
    Cluster { client, server, namespace: "default".to_owned(), version }
}

/// What an API server says of what is not there.
pub(crate) fn not_found() -> (u16, Value) {
    (
        404,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404}),
    )
}
