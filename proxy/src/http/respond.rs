//! The one place where an [`Error`] becomes a response, for HTTP/1, HTTP/2 and gRPC.
//!
//! Each such response says in `Proxy-Status` (RFC 9209) who made it and why, in the word that logs and metrics use. The
//! same field is how a proxy learns that its peer refused a request before the application saw it ([`told`]).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use proto::Reason;
use proto::names::PROXY_STATUS_NAME;

use super::h1::connection::Connection;
use super::h1::parse::Request;
use super::h1::write::status_line;
use super::head::ResponseHead;
use crate::Error;
use crate::stream::Stream;

/// The response an error makes. `grpc`: as a trailers-only gRPC response, which is what gRPC clients understand.
pub fn response(error: &Error, grpc: bool) -> Response<Bytes> {
    let reason = error.reason();
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    if let Ok(status) = HeaderValue::try_from(proxy_status(reason)) {
        headers.insert(PROXY_STATUS, status);
    }
    if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_code(reason)));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&error.to_string())) {
            headers.insert("grpc-message", message);
        }
        return response;
    }
    let body = Bytes::from(format!("{reason}: {error}\n"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = body;
    *response.status_mut() = error.status();
    response
}

/// The gRPC status of such a response, if it has one.
pub fn grpc_status(response: &Response<Bytes>) -> Option<u16> {
    response.headers().get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Sends such a response to an HTTP/1 client, and says whether its next request can be read. If not the connection was ended: the
/// body of a request that was not forwarded is still to come, or there was no request that could be read.
pub async fn answer(response: &Response<Bytes>, request: Option<&Request>, client: &mut Connection<Stream>) -> bool {
    let keep = request.is_some_and(|request| request.is_followed_by_another(&client.input));
    let is_head = request.is_some_and(|request| request.head.method() == "HEAD");
    write(response, is_head, !keep, &mut client.output);
    if keep {
        return client.write().await.is_ok();
    }
    client.write_and_close().await;
    false
}

/// As HTTP/1.1. `head`: the request was HEAD. `close`: no other request is read.
fn write(response: &Response<Bytes>, head: bool, close: bool, out: &mut BytesMut) {
    status_line(response.status(), out);
    for (name, value) in response.headers() {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    if close {
        out.put_slice(b"connection: close\r\n");
    }
    if response.body().is_empty() {
        out.put_slice(b"content-length: 0\r\n");
    }
    out.put_slice(b"\r\n");
    if !head {
        out.put_slice(response.body());
    }
}

/// What the peer's proxy says of a response it made itself. Only asked of peers in the mesh.
pub fn told(head: &ResponseHead) -> Option<Reason> {
    let text = std::str::from_utf8(head.header(PROXY_STATUS)?).ok()?;
    // A list: the entry nearest to us is the last one.
    let entry = text.rsplit(',').next()?.trim_start();
    let parameters = entry.strip_prefix(PROXY_STATUS_NAME)?;
    let details = parameters.split(';').find_map(|part| part.trim().strip_prefix("details="))?;
    details.trim_matches('"').parse().ok()
}

/// Makes sure that a response which the application passes on from somewhere else is not taken for one of this proxy.
///
/// An application may itself be a proxy, and what its own upstream refused it may have done half of the work for.
pub fn disown(head: &mut ResponseHead) {
    if told(head).is_none() {
        return;
    }
    let received = head.header(PROXY_STATUS).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_bytes(&[received, b", ", PROXY_STATUS_NAME.as_bytes()].concat()) {
        head.edits.set(HeaderName::from_static(PROXY_STATUS), value);
    }
}

/// `mesh-proxy; error=connection_refused; details="app_refused"`.
pub fn proxy_status(reason: Reason) -> String {
    format!("{PROXY_STATUS_NAME}; error={}; details=\"{reason}\"", reason.proxy_error())
}

/// gRPC's status code for a reason: `UNAVAILABLE` (14) where trying again can help.
fn grpc_code(reason: Reason) -> u16 {
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    match StatusCode::from_u16(reason.status()) {
        Ok(StatusCode::GATEWAY_TIMEOUT) if reason != Reason::ConnectTimeout => DEADLINE_EXCEEDED,
        Ok(StatusCode::FORBIDDEN) => PERMISSION_DENIED,
        Ok(StatusCode::NOT_FOUND) => UNIMPLEMENTED,
        Ok(StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED) => INTERNAL,
        _ => UNAVAILABLE,
    }
}

/// gRPC's encoding of messages: everything but printable ASCII, and `%`, as `%XX`.
fn percent_encoded(message: &str) -> String {
    message.bytes().fold(String::with_capacity(message.len()), |mut text, byte| {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

const PROXY_STATUS: &str = "proxy-status";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::AppRefused("10.0.0.7:80".parse().unwrap())
    }

    #[test]
    fn an_error_names_its_reason_and_the_peer_reads_it_back() {
        let response = response(&refused(), false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["proxy-status"], "mesh-proxy; error=connection_refused; details=\"app_refused\"");
        let head = ResponseHead::from_parts(response.into_parts().0);
        assert_eq!(told(&head), Some(Reason::AppRefused));
    }

    #[test]
    fn only_the_meshs_own_word_counts() {
        for value in ["nginx; details=\"draining\"", "mesh-proxy; details=\"x\"", "mesh-proxy; details=draining, app"] {
            let response = Response::builder().header("proxy-status", value).body(()).unwrap();
            assert_eq!(told(&ResponseHead::from_parts(response.into_parts().0)), None, "{value}");
        }
    }

    #[test]
    fn what_an_application_passes_on_is_not_ours() {
        let passed_on = response(&refused(), false);
        let mut head = ResponseHead::from_parts(passed_on.into_parts().0);
        disown(&mut head);
        let head = ResponseHead::from_parts(head.to_parts().into_parts().0);
        assert!(head.header("proxy-status").unwrap().ends_with(b"\"app_refused\", mesh-proxy"));
        assert_eq!(told(&head), None);
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let response = response(&Error::NoEndpoints("shop/café:80".to_owned()), true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "shop/caf%C3%A9:80 has no ready endpoint");
        assert!(response.body().is_empty());
    }

    #[test]
    fn http_1_gets_a_length() {
        let mut out = BytesMut::new();
        write(&response(&refused(), false), false, true, &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\nproxy-status: mesh-proxy;"), "{text}");
        assert!(text.ends_with("\r\n\r\napp_refused: the application does not listen at 10.0.0.7:80\n"), "{text}");
        assert!(text.contains("content-length: 60\r\nconnection: close\r\n"), "{text}");
    }
}
