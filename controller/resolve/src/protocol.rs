//! What a port speaks, as its owner declared it.

use policy::Protocol;

/// Protocol of a Service's port: `appProtocol`, else the prefix of its name up to a dash (Istio's convention).
pub fn declared(app_protocol: Option<&str>, name: &str) -> Protocol {
    let by_name = || from_word(name.split('-').next().unwrap_or_default());
    match app_protocol.map(from_word) {
        Some(protocol) if protocol != Protocol::Undeclared => protocol,
        _ if name.starts_with("grpc-web") => Protocol::Http1,
        _ => by_name(),
    }
}

/// A word as `appProtocol` or a port's name has it; case does not matter. Server-first databases are declared as bytes.
fn from_word(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "kubernetes.io/ws" | "ws" | "grpc-web" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" | "wss" | "kubernetes.io/tls" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "mariadb" | "postgres" | "postgresql" | "redis" | "kafka" | "amqp" | "smtp" => {
            Protocol::Tcp
        }
        _ => Protocol::Undeclared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_first_then_the_name() {
        let cases = [
            (None, "", Protocol::Undeclared),
            (None, "web", Protocol::Undeclared),
            (None, "httpish", Protocol::Undeclared),
            (None, "http", Protocol::Http1),
            (None, "http-web", Protocol::Http1),
            (None, "http2-api", Protocol::Http2),
            (None, "grpc-api", Protocol::Grpc),
            (None, "grpc-web-api", Protocol::Http1),
            (None, "tcp-db", Protocol::Tcp),
            (None, "mysql", Protocol::Tcp),
            (None, "https", Protocol::Tls),
            (None, "tls-x", Protocol::Tls),
            (Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (Some("kubernetes.io/ws"), "", Protocol::Http1),
            (Some("kubernetes.io/wss"), "", Protocol::Tls),
            (Some("HTTP"), "tcp", Protocol::Http1),
            (Some("TCP"), "http", Protocol::Tcp),
            (Some("example.com/own"), "", Protocol::Undeclared),
            (Some("example.com/own"), "http-x", Protocol::Http1),
        ];
        for (app_protocol, name, expected) in cases {
            assert_eq!(declared(app_protocol, name), expected, "{app_protocol:?} {name}");
        }
    }
}
