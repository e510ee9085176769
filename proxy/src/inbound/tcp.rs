//! Bytes to the application: one connection of its own for each that came.

use std::rc::Rc;

use crate::Error;
use crate::drain::Phase;
use crate::inbound::{Caller, Port, dial_app};
use crate::net::copy::{self, Direction as Way};
use crate::net::prefixed::Prefixed;
use crate::outbound::tcp::service_labels;
use crate::stream::Stream;
use crate::telemetry::labels::{EdgeLabels, Reporter, SecurityPolicy};
use crate::tls::write_answer;
use crate::worker::Worker;

/// Relays what needs no answer of ours.
pub async fn forward(worker: &Rc<Worker>, client: Prefixed<Stream>, caller: &Caller, port: &Port) -> Result<(), Error> {
    match dial_app(worker, port.address).await {
        Ok(server) => {
            relay(worker, client, Prefixed::new(Vec::new(), server), caller, port).await;
            Ok(())
        }
        Err(error) => {
            client.inner().reset_on_drop();
            Err(error)
        }
    }
}

/// Dials the application for `mesh/tcp`: the client's proxy is told first whether the application took the connection.
pub async fn dial_answered(worker: &Rc<Worker>, client: &mut Prefixed<Stream>, port: &Port) -> Result<Stream, Error> {
    let app = dial_app(worker, port.address).await;
    let reason = app.as_ref().err().map(Error::reason);
    // Where the answer does not get through, the client's proxy knows as much: nothing reached the application.
    let told = write_answer(client, reason).await;
    let server = app?;
    told.map_err(|_| Error::ClientClosed)?;
    Ok(server)
}

/// Copies until both sides are done, the caller is not trusted any more, or one side fails.
pub async fn relay(
    worker: &Worker,
    mut client: Prefixed<Stream>,
    mut server: Prefixed<Stream>,
    caller: &Caller,
    port: &Port,
) {
    let labels = EdgeLabels {
        reporter: Reporter::Destination,
        source: caller.labels.clone(),
        destination: worker.shared.labels.clone(),
        service: port.declared().and_then(|port| port.service.as_ref()).map(service_labels).unwrap_or_default().into(),
        security: if caller.id.is_some() { SecurityPolicy::MutualTls } else { SecurityPolicy::None },
    };
    let open = worker.shared.telemetry.metrics.tcp(&labels).open();
    drop(labels);
    let distrusted = worker.tls.until_distrusted(&worker.shared, client.inner().peer());
    let count = |way, bytes| match way {
        Way::Forward => open.received(bytes as u64),
        Way::Back => open.sent(bytes as u64),
    };
    // Our SIGTERM comes when the application is gone: a peer that holds a connection which the application has ended is not waited
    // for any longer.
    let gone = worker.shared.drain.reached(Phase::Closing);
    let copied = copy::relay_until(&mut client, &mut server, count, gone);
    let orderly = tokio::select! {
        copied = copied => copied.is_ok(),
        () = distrusted => false,
    };
    if !orderly {
        client.inner().reset_on_drop();
        server.inner().reset_on_drop();
    }
}
