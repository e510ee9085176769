//! Clients and servers for the tests and the benchmark. They run as a program (`src/bin/traffic.rs`), because a
//! test has to place them inside a pod's network namespace.
//!
//! - [`load`]: requests at a fixed rate, whatever the answers: an open loop, so that a stall is seen and not hidden.
//!   [`client`] speaks HTTP/1, gRPC or Redis' protocol for it.
//! - [`serve`]: HTTP/1 and HTTP/2 (gRPC as well); on SIGTERM it closes its listener at once and finishes its work.
//! - [`bytes`]: opaque TCP: echo, sink, blast, forwarding, and connections that are only held open.
//! - [`door`]: a port that listens or not, as it is told.

pub mod bytes;
pub mod client;
pub mod door;
pub mod load;
mod response;
pub mod serve;

use tokio::signal::unix::{SignalKind, signal};

/// Ends with the first SIGTERM or SIGINT.
pub async fn told_to_stop() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    fn options(target: String, path: &str) -> load::LoadOptions {
        load::LoadOptions {
            target: vec![target],
            except: None,
            protocol: client::Protocol::Http,
            host: "test".into(),
            path: path.into(),
            headers: vec!["x-who: a test".into()],
            rate: 200,
            fresh: 50,
            seconds: Some(1),
            stay: false,
        }
    }

    async fn server() -> (String, oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, told) = oneshot::channel();
        tokio::spawn(serve::serve(listener, "one".into(), async { drop(told.await) }));
        (address, stop)
    }

    #[tokio::test]
    async fn answers_are_counted_by_server() {
        let (address, _stop) = server().await;
        let report = load::run(&options(address, "/?size=100000")).await.unwrap();
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        assert_eq!(report.served["one"].count, report.sent);
        assert!((150..=210).contains(&report.sent), "{}", report.sent);
        assert!(report.connections > report.sent / 3, "half of the requests open a connection: {}", report.connections);
        assert!(report.max_us >= report.p99_us && report.p99_us >= report.p50_us && report.p50_us > 0);
    }

    #[tokio::test]
    async fn calls_are_answered_and_clients_leave_themselves_out() {
        let (address, _stop) = server().await;
        let target = vec!["me.invalid:1".to_owned(), address];
        let grpc = load::LoadOptions {
            target,
            except: Some("me.".into()),
            protocol: client::Protocol::Grpc,
            ..options(String::new(), "/shop.Stock/Reserve")
        };
        let report = load::run(&grpc).await.unwrap();
        assert_eq!((report.failed(), report.served["one"].count), (0, report.sent), "{:?}", report.failures);
        let broken = load::LoadOptions { path: "/?status=503".into(), ..grpc };
        assert_eq!(load::run(&broken).await.unwrap().succeeded, 0);
    }

    #[tokio::test]
    async fn other_answers_and_none_are_failures() {
        let (address, _stop) = server().await;
        let report = load::run(&options(address, "/?status=503")).await.unwrap();
        assert_eq!((report.succeeded, report.failures["503 "]), (0, report.sent));
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let report = load::run(&options(unused.to_string(), "/")).await.unwrap();
        assert_eq!((report.succeeded, report.failures.len()), (0, 1));
        assert_eq!(report.failed(), report.sent);
    }

    #[tokio::test]
    async fn a_server_told_to_stop_finishes_what_is_in_flight() {
        let (address, stop) = server().await;
        let mut idle = response::Connection::open(&address).await.unwrap();
        let first = idle.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        assert!(first.reusable && idle.is_usable());
        let mut busy = response::Connection::open(&address).await.unwrap();
        let request = b"GET /?delay_ms=300 HTTP/1.1\r\nHost: test\r\n\r\n";
        let (last, ()) = tokio::join!(busy.exchange(request), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            stop.send(()).unwrap();
        });
        assert_eq!(last.unwrap().status, 200);
        assert!(!idle.is_usable());
        assert!(response::Connection::open(&address).await.is_err());
    }
}
