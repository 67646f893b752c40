//! What the gateway counts, in Prometheus' words.
//!
//! Counted once a request, through handles that are kept: no name is looked up on the way of an
//! event. The server merges [`Metrics::encode`] with what the other rooms count.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ack::Known;
use crate::http::Refused;
use crate::rejection::Code;
use crate::route::RouteName;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: RouteName,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    source: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: CodeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

impl EncodeLabelValue for CodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

impl EncodeLabelValue for RouteName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl EncodeLabelValue for Refused {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let reason = match self {
            Self::Full => "all",
            Self::Address => "address",
        };
        EncodeLabelValue::encode(&reason, encoder)
    }
}

/// Statuses that have a kept handle; others are looked up.
const STATUSES: [u16; 14] = [200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 429, 431, 503];

/// From a tenth of a millisecond to the deadline.
const ACK_SECONDS: [f64; 14] =
    [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 4.0];

type Handles = [OnceLock<Counter>; STATUSES.len()];

/// All counters of a gateway.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_handles: [Handles; RouteName::ALL.len()],
    accepted: Family<SourceLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    duplicate: Family<SourceLabels, Counter>,
    id_reused: Family<SourceLabels, Counter>,
    id_collisions: Family<SourceLabels, Counter>,
    body_bytes: Family<SourceLabels, Counter>,
    unreadable: Family<CodeLabels, Counter>,
    ack_seconds: Histogram,
    connections: Gauge,
    connections_refused: Family<ReasonLabels, Counter>,
    handshakes_failed: Counter<u64, AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tracklog_gateway"),
            requests: Family::default(),
            request_handles: Default::default(),
            accepted: Family::default(),
            rejected: Family::default(),
            duplicate: Family::default(),
            id_reused: Family::default(),
            id_collisions: Family::default(),
            body_bytes: Family::default(),
            unreadable: Family::default(),
            ack_seconds: Histogram::new(ACK_SECONDS),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            handshakes_failed: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let help = "Requests by route and status";
        registry.register("requests", help, self.requests.clone());
        let help = "Events stored in the topic of accepted events";
        registry.register("events_accepted", help, self.accepted.clone());
        let help = "Events stored in the topic of rejected events";
        registry.register("events_rejected", help, self.rejected.clone());
        let help = "Events that were stored before, and are not stored again";
        registry.register("events_duplicate", help, self.duplicate.clone());
        let help = "Events stored and marked, as another one has their message id";
        registry.register("events_id_reused", help, self.id_reused.clone());
        let help = "Events looked at that share no more than the hash of a message id";
        registry.register("events_id_collision", help, self.id_collisions.clone());
        let help = "Bytes of bodies as sent";
        registry.register("body_bytes", help, self.body_bytes.clone());
        let help = "Bodies that could not be read as events at all";
        registry.register("bodies_unreadable", help, self.unreadable.clone());
        let help = "From the end of a body to its events being durable";
        registry.register("ack_seconds", help, self.ack_seconds.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        let help = "Connections closed at once for being too many";
        registry.register("connections_refused", help, self.connections_refused.clone());
        let help = "TLS handshakes that failed or took too long";
        registry.register("tls_handshakes_failed", help, self.handshakes_failed.clone());
    }

    /// Appends all metrics as Prometheus text, without the end mark.
    ///
    /// # Errors
    /// Never, into a `String`.
    pub fn encode(&self, out: &mut String) -> fmt::Result {
        text::encode_registry(out, &self.registry)
    }

    pub(crate) fn request(&self, route: RouteName, status: StatusCode) {
        let status = status.as_u16();
        let labels = RequestLabels { route, status };
        match STATUSES.binary_search(&status) {
            Ok(at) => {
                let handle = &self.request_handles[route as usize][at];
                handle.get_or_init(|| self.requests.get_or_create_owned(&labels)).inc();
            }
            Err(_) => {
                self.requests.get_or_create(&labels).inc();
            }
        }
    }

    pub(crate) fn unreadable(&self, code: Code) {
        self.unreadable.get_or_create(&CodeLabels { code: CodeLabel(code) }).inc();
    }

    pub(crate) fn acked(&self, took: Duration) {
        self.ack_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn connection_refused(&self, reason: Refused) {
        self.connections_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Counts an open connection until the guard is dropped.
    pub(crate) fn connection_opened(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// The handles of one source.
    pub(crate) fn of_source(&self, source: &str) -> SourceMetrics {
        let labels = SourceLabels { source: source.to_owned() };
        SourceMetrics {
            accepted: self.accepted.get_or_create_owned(&labels),
            duplicate: self.duplicate.get_or_create_owned(&labels),
            id_reused: self.id_reused.get_or_create_owned(&labels),
            id_collisions: self.id_collisions.get_or_create_owned(&labels),
            body_bytes: self.body_bytes.get_or_create_owned(&labels),
            rejected: self.rejected.clone(),
            source: source.to_owned(),
        }
    }
}

/// See [`Metrics::connection_opened`].
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The counters of one source.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    accepted: Counter,
    duplicate: Counter,
    id_reused: Counter,
    id_collisions: Counter,
    body_bytes: Counter,
    rejected: Family<RejectedLabels, Counter>,
    source: String,
}

impl SourceMetrics {
    pub(crate) fn accepted(&self, events: u64) {
        self.accepted.inc_by(events);
    }

    pub(crate) fn known(&self, known: Known) {
        self.duplicate.inc_by(known.duplicates);
        self.id_reused.inc_by(known.reused);
        self.id_collisions.inc_by(known.collisions);
    }

    /// `code` is one of ours: their number is small.
    pub(crate) fn rejected(&self, code: &str) {
        let labels = RejectedLabels { source: self.source.clone(), code: code.to_owned() };
        self.rejected.get_or_create(&labels).inc();
    }

    pub(crate) fn body_bytes(&self, bytes: usize) {
        self.body_bytes.inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.request(RouteName::Batch, StatusCode::OK);
        metrics.request(RouteName::Batch, StatusCode::OK);
        metrics.request(RouteName::Batch, StatusCode::IM_A_TEAPOT);
        let source = metrics.of_source("shop \"1\"");
        source.accepted(3);
        source.rejected(Code::Schema.as_str());
        metrics.acked(Duration::from_millis(3));
        let connection = metrics.connection_opened();
        let mut text = String::new();
        metrics.encode(&mut text).unwrap();
        for line in [
            r#"tracklog_gateway_requests_total{route="batch",status="200"} 2"#,
            r#"tracklog_gateway_requests_total{route="batch",status="418"} 1"#,
            r#"tracklog_gateway_events_accepted_total{source="shop \"1\""} 3"#,
            r#"tracklog_gateway_events_rejected_total{source="shop \"1\"",code="schema"} 1"#,
            r#"tracklog_gateway_ack_seconds_bucket{le="0.005"} 1"#,
            "tracklog_gateway_connections 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# EOF"), "the server's text goes on");
        drop(connection);
    }

    #[test]
    fn statuses_are_in_order() {
        assert!(STATUSES.is_sorted());
    }
}
