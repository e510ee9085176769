//! [`Record`]: what is known of one outbound request, and counted when it is over.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use tokio::time::Instant;

use super::http::Try;
use super::plan::Plan;
use crate::Error;
use crate::http::respond;
use crate::telemetry::metrics::Held;
use crate::telemetry::{Direction, RequestOutcome, RequestSeries, RetryOutcome};
use crate::worker::Worker;

/// One request on its way.
#[derive(Debug)]
pub(super) struct Record {
    /// When its head was there.
    pub(super) start: Instant,
    /// The status of the response that has begun: no other can be sent.
    pub(super) answered: Option<u16>,
    worker: Rc<Worker>,
    address: SocketAddr,
    plan: Rc<Plan>,
    grpc: bool,
    /// Of the endpoint it went to last.
    series: Option<RequestSeries>,
    retried: bool,
    _in_flight: Held,
}

impl Record {
    pub(super) fn new(worker: &Rc<Worker>, address: SocketAddr, plan: &Rc<Plan>, grpc: bool) -> Self {
        Self {
            start: Instant::now(),
            answered: None,
            worker: Rc::clone(worker),
            address,
            plan: Rc::clone(plan),
            grpc,
            series: None,
            retried: false,
            _in_flight: worker.shared.telemetry.metrics.in_flight(Direction::Outbound),
        }
    }

    /// A try begins, on a connection that is open.
    pub(super) fn tried(&mut self, go: &Try<'_>, now: Instant) {
        self.series = Some(go.backend.series(&self.worker, &go.member.endpoint, self.grpc));
        self.worker.shared.telemetry.metrics.overhead(now.saturating_duration_since(self.start));
    }

    /// Another try follows.
    pub(super) fn retried(&mut self) {
        self.retried = true;
    }

    /// The response is out. Only what is known besides is asked for.
    pub(super) fn done(&self, mut outcome: RequestOutcome) {
        outcome.status = self.answered.unwrap_or_default();
        self.observe(outcome, RetryOutcome::Succeeded);
    }

    /// The request failed: everybody is told. Returns the response to send, or to count where one has begun.
    pub(super) fn failed(&self, error: &Error) -> Response<Bytes> {
        let response = respond::response(error, self.grpc);
        let grpc_status = respond::grpc_status(&response);
        let status = self.answered.unwrap_or(response.status().as_u16());
        let shared = &self.worker.shared;
        shared.failed(Direction::Outbound, &shared.labels.principal, &self.address.to_string(), error, status);
        let reason = Some(error.reason());
        self.observe(RequestOutcome { status, grpc_status, reason, ..RequestOutcome::default() }, RetryOutcome::Failed);
        response
    }

    fn observe(&self, mut outcome: RequestOutcome, retry: RetryOutcome) {
        outcome.duration = Instant::now().saturating_duration_since(self.start);
        match &self.series {
            Some(series) => series.observe(&outcome),
            None => self.plan.unmatched(&self.worker, self.grpc).observe(&outcome),
        }
        if self.retried {
            self.worker.shared.telemetry.metrics.retry(retry);
        }
    }
}
