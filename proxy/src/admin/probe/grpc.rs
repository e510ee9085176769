//! gRPC probes: `grpc.health.v1.Health/Check` must answer `SERVING`.

use std::net::SocketAddr;

use ::http::header::{CONTENT_TYPE, TE, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use tokio::net::TcpStream;

use crate::http as codecs;

/// Asks about one service, or about the whole server where its name is empty.
pub(super) async fn check(
    tcp: TcpStream,
    address: SocketAddr,
    service: &str,
    agent: &HeaderValue,
) -> Result<(), String> {
    let failed = |error: h2::Error| format!("{address} does not answer gRPC: {error}");
    let (sender, connection) = codecs::h2::client(LARGEST_ANSWER).handshake::<_, Bytes>(tcp).await.map_err(failed)?;
    let calling = async {
        let mut sender = sender.ready().await.map_err(failed)?;
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, agent)
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
        body.send_data(framed(&HealthCheckRequest { service: service.to_owned() }), true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        if head.status != 200 {
            return Err(format!("{address} answers {} and not gRPC", head.status.as_u16()));
        }
        let mut answer = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(failed)?;
            if answer.len() + chunk.len() > LARGEST_ANSWER as usize {
                return Err(format!("{address} answers more than a health check has to say"));
            }
            let _ = body.flow_control().release_capacity(chunk.len());
            answer.extend_from_slice(&chunk);
        }
        // An error comes with the head alone.
        let trailers = body.trailers().await.map_err(failed)?.unwrap_or(head.headers);
        verdict(address, &trailers, &answer)
    };
    tokio::select! {
        outcome = calling => outcome,
        Err(error) = connection => Err(failed(error)),
    }
}

fn verdict(address: SocketAddr, trailers: &HeaderMap, answer: &[u8]) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => {}
        "12" => return Err(format!("{address} does not implement grpc.health.v1.Health")),
        status => return Err(format!("{address} answers grpc-status {status:?}: {}", text("grpc-message"))),
    }
    // One byte for compression and four for the length stand before a message.
    let status = answer.get(5..).and_then(|message| HealthCheckResponse::decode(message).ok()).map(|it| it.status);
    match status {
        Some(SERVING) => Ok(()),
        Some(status) => Err(format!("{address} answers {}", STATUSES.get(status as usize).unwrap_or(&"UNKNOWN"))),
        None => Err(format!("{address} answers something else than a HealthCheckResponse")),
    }
}

pub(super) fn framed(message: &impl prost::Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(encoded.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    frame.put_slice(&encoded);
    frame.freeze()
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

const SERVING: i32 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const LARGEST_ANSWER: u32 = 16 * 1024;
